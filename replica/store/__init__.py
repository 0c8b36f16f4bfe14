"""The store of a replica: copy-on-write data, a journal, a map and a checksum for every block."""
