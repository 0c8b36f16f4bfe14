"""Bounds that target, replicas and command line have to agree on."""

from __future__ import annotations

from cstor_core.units import MIB

REPLICAS_MAX = 9
SIZE_BYTES_MIN = MIB
SIZE_BYTES_MAX = 1 << 50
REGISTRATIONS_MAX = 1000
"""Of initiator ports with one volume."""
SNAPSHOTS_MAX = 4096
COPY_BLOCKS_MAX = 256
"""So many blocks are copied within a volume by one entry."""
SNAPSHOT_NAME_BYTES_MAX = 255
LEASE_S = 4.0
"""So long, on its own clock, a member lets no other target serve."""
STANDBY_KNOWN_S = 3.0
"""So long a member believes that a target stands by which said so; it says so more often."""
STANDBYS_MAX = 8
