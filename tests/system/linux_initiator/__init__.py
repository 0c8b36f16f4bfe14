"""A Linux kernel with open-iscsi, as an initiator that a test can boot in three seconds.

The machine's own kernel need not have any iSCSI module.  A throw-away guest is booted as User
Mode Linux: Debian's kernel with its iscsi_tcp module and Debian's open-iscsi, unpacked from
packages and never installed.  It logs in to a target on this host and runs a script that finds the
disk in `$DISK`.

`availability`  whether that works here, and why not
`packages`, `image`  from Debian's packages to a root file system and a kernel in the cache
`network`, `hook`  how the guest reaches this host, and how its script asks for something here
`guest`  one run, from boot to the files that it leaves behind
`__main__`  the same by hand: `python -m tests.system.linux_initiator --help`
"""
