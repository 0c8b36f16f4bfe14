"""What can be set of a logical unit while it is used: properties of its volume."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of one logical unit."""

    write_cache: bool = True
    """WCE: GOOD for a write does not mean that it is on stable storage."""
    read_only: bool = False
    """It is write protected (SBC-3, 4.12)."""
    is_removable: bool = False
    """RMB: it has a medium that may be ejected."""
    is_thin: bool = True
    """LBPME: blocks may be unmapped (SBC-3, 4.7)."""


DEFAULTS = Parameters()
