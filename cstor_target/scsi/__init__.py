"""SCSI (SPC-4, SBC-3) without I/O: a CDB in, a request to the volume or an outcome out."""
