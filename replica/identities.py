"""What a daemon checks of a volume's identity and of a promise before it believes them."""

from __future__ import annotations

import uuid
from collections.abc import Collection

from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.limits import SIZE_BYTES_MAX
from cstor_core.units import BLOCK_BYTES

EPOCH_MAX = (1 << 32) - 1
"""A version has 32 bits for the epoch."""


def check_identity(identity: volume_pb2.VolumeIdentity) -> None:
    """Raise InputError where an identity could not be one of a volume."""
    try:
        proper = str(uuid.UUID(identity.volume_uuid)) == identity.volume_uuid
    except ValueError:
        proper = False
    if not proper:
        raise InputError(f"{identity.volume_uuid!r} is not a UUID as RFC 4122 writes it")
    if not identity.name:
        raise InputError("a volume needs a name")
    if not 0 < identity.size_bytes <= SIZE_BYTES_MAX or identity.size_bytes % BLOCK_BYTES:
        raise InputError(
            f"a volume of {identity.size_bytes} bytes cannot be: "
            f"write a multiple of {BLOCK_BYTES} up to {SIZE_BYTES_MAX}"
        )


def names_of(
    volume: str, reports: Collection[replica_pb2.ReplicaReport], with_parents: bool
) -> frozenset[str]:
    """All names of a volume that a daemon has, of which one is given: UUID and name; where that is
    asked for, with those of the parent of a clone that was never opened.
    """
    found = frozenset[str]()
    for report in reports:
        identity, origin = report.identity, report.origin
        if volume and volume in (identity.volume_uuid, identity.name):
            found |= {identity.volume_uuid, identity.name}
            reigns = report.history.reigns
            is_opened = bool(reigns) and reigns[-1].last_seq > origin.snapshot_seq
            if with_parents and origin.volume_uuid and not is_opened:
                parent = origin.volume_uuid
                found |= {parent} | names_of(parent, reports, with_parents)
    return found


def check_promise(request: replica_pb2.PromiseRequest) -> None:
    """Raise InputError where nobody can be promised that."""
    if not 0 < request.epoch <= EPOCH_MAX or not request.target_instance:
        raise InputError(f"a promise needs an epoch from 1 to {EPOCH_MAX} and an instance")
