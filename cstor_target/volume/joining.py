"""Who may be a member of a volume, as pure functions of its configuration.

`leaving` is the UUID of a member whose place is taken; empty where nobody leaves.
"""

from __future__ import annotations

from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.limits import REPLICAS_MAX
from cstor_target.volume.witness import COPIES, witness_of


def check_place(
    configuration: volume_pb2.Configuration, address: str, *, same_host: bool, leaving: str = ""
) -> None:
    """Raise InputError where no replica may be added at an address."""
    members = configuration.members
    if len(members) >= REPLICAS_MAX:
        raise InputError(
            f"the volume has {len(members)} replicas, and no more may be: remove one first"
        )
    host = address.rpartition(":")[0]
    beside = [
        member.address
        for member in members
        if member.replica_uuid != leaving
        and member.address.rpartition(":")[0] == host
        and member.address != address
    ]
    if beside and not same_host:
        raise InputError(
            f"the replica at {beside[0]} is on the same host, and would be lost with it: name "
            "another host, or say that it may be"
        )


def check_count(
    configuration: volume_pb2.Configuration, *, is_witness: bool, leaving: str = ""
) -> None:
    """Raise InputError where there would be too many replicas, or too few, beside a witness."""
    members = [one for one in configuration.members if one.replica_uuid != leaving]
    witness = witness_of(configuration) not in ("", leaving)
    copies = len(members) - witness
    if is_witness and witness:
        raise InputError("the volume has a witness: remove that one first")
    if is_witness and copies != COPIES:
        raise InputError(
            f"the volume has {copies} replicas, and a witness is for two: add or remove "
            "replicas first"
        )
    if witness and copies >= COPIES:
        raise InputError(
            "a volume with a witness has two replicas: remove the one that this one replaces "
            "first, or the witness, where there are to be more"
        )


def check_replaced(
    configuration: volume_pb2.Configuration, replica: str, *, is_witness: bool
) -> None:
    """Raise InputError where nobody of the name can have left to be replaced by what is new.

    A volume with a witness lets one go before the next is added, and a command that broke off in
    between may be asked for again.
    """
    copies = sum(not one.witness for one in configuration.members)
    has_witness = bool(witness_of(configuration))
    may_have_left = (
        is_witness and not has_witness if copies == COPIES else has_witness and not is_witness
    )
    if not may_have_left:
        raise InputError(
            f"the volume has no replica {replica!r}: `cstor replica list` shows those it has"
        )
