"""The iSCSI protocol (RFC 7143) without I/O: bytes and answers in, events and bytes out."""
