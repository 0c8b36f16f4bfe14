"""The `cstor` command, for people and scripts.

It starts and stops the daemons of a volume on one machine, founds volumes on daemons anywhere,
shows their state and compares their copies.  It holds no part of the data path: everything here
may stop at any moment and the volume goes on.
"""
