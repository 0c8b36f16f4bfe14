"""What others' programs say of the target: libiscsi's suite over profiles, tshark of the wire."""
