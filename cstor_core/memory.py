"""How a daemon deals with memory: it keeps what it has used, and looks for garbage seldom.

A message with a mebibyte of data is memory that comes and goes with it.  The C library would give
it back to the kernel each time, which then has to find, clear and map it anew, page by page: a
third of what a long read cost a target.  So an allocation that is freed stays with the process, as
long as no more than that is free.
"""

from __future__ import annotations

import ctypes
import gc

import numpy as np

from cstor_core.units import MIB

GARBAGE_THRESHOLD = 20_000
"""Allocations between two looks for cycles: the data path makes few."""
KEPT_BYTES = 16 * MIB
"""So much free memory stays with the process; a piece that is as long is given back by itself."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""mallopt(3)."""


def uncleared(size: int) -> memoryview:
    """So many bytes, whatever is in them: pages that are never reached are never made."""
    return np.empty(size, np.uint8).data


def settle_in() -> None:
    """To be called once what is there will stay: when all is imported, before anything is served.

    Where the C library is not glibc, it deals with memory as it likes.
    """
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
