"""The finished product, driven from outside as its users drive it.

Everything here speaks to cStor through its commands, its iSCSI portal and signals to its
processes, with initiators that others wrote: QEMU, libiscsi and the Linux kernel's.  Nothing here
imports the product's insides, except the root of its errors.
"""
