"""The target daemon: iSCSI in, one replicated order of writes out."""
