"""What the target and the replica daemons share.

The words of the volume's order (blocks, versions, histories), the packed tables and frames that
travel between the daemons and lie in the journal, checksums, generated protobuf stubs, and the
seams (clock, files, dialling) through which everything outside is handed in.
"""
