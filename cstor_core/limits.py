"""How large a volume may be, and how many copies it may have."""

from __future__ import annotations

from cstor_core.units import MIB

REPLICAS_MAX = 9
SIZE_BYTES_MIN = MIB
SIZE_BYTES_MAX = 1 << 50
