"""Numbers with names: blocks, epochs, places in the order, and sizes that people write.

A block is 4096 bytes, the unit of versions and checksums.  Its number counts from the start of
the volume.  A logical block (a SCSI sector, 512 or 4096 bytes) is a matter of `cstor_target.scsi`.
"""

from __future__ import annotations

import re
from typing import NewType

from cstor_core.errors import InputError

Block = NewType("Block", int)
Epoch = NewType("Epoch", int)
Seq = NewType("Seq", int)

BLOCK_BYTES = 4096
KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_UNITS = {"": 1, "B": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1024 * GIB, "P": 1024 * 1024 * GIB}
_SIZE = re.compile(r"(\d+)\s*(?:([KMGTP])(?:iB)?|B)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes for `1GiB`, `512M` or `4096`; the units are powers of 1024.

    Raises InputError when the text is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{text!r} is not a size: write bytes, or a number and KiB, MiB, GiB, TiB")
    return int(match[1]) * _UNITS[(match[2] or "").upper()]


def format_size(size_bytes: int) -> str:
    """A size for people, exact where it is a whole number of units: `1GiB`, `1.5MiB`, `17B`."""
    for unit in "PTGMK":
        scale = _UNITS[unit]
        if size_bytes >= scale:
            text = f"{size_bytes / scale:.2f}".rstrip("0").rstrip(".")
            return f"{text}{unit}iB"
    return f"{size_bytes}B"
