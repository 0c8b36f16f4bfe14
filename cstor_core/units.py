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

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)?", re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
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


def parse_rate(text: str) -> int:
    """Bytes a second for `100MiB/s`, `100MiB` or `1000000`.

    Raises InputError when the text is none.
    """
    return parse_size(text.strip().removesuffix("/s"))


def parse_duration(text: str) -> float:
    """Seconds for `7d`, `12h`, `30min`, `90s` or `90`.

    Raises InputError when the text is none.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{text!r} is not a duration: write a number and s, min, h, d or w")
    return float(match[1]) * _SECONDS[(match[2] or "").lower()]


def format_duration(duration_s: float) -> str:
    """A duration for people, to two units: `3h 5min`, `42s`."""
    left = round(duration_s)
    words: list[str] = []
    for unit in ("d", "h", "min", "s"):
        count, left = divmod(left, _SECONDS[unit])
        if count or (unit == "s" and not words):
            words.append(f"{count}{unit}")
    return " ".join(words[:2])


def format_size(size_bytes: int) -> str:
    """A size for people, exact where it is a whole number of units: `1GiB`, `1.5MiB`, `17B`."""
    for unit in "PTGMK":
        scale = _UNITS[unit]
        if size_bytes >= scale:
            text = f"{size_bytes / scale:.2f}".rstrip("0").rstrip(".")
            return f"{text}{unit}iB"
    return f"{size_bytes}B"
