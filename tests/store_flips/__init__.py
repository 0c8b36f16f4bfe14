"""The store on a disk that changes what was written, one bit at a time."""
