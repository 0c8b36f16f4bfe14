"""Founding a volume: every daemon makes its replica, then all store who the members are.

Looking comes first, and nothing is changed where something is wrong.  Making a replica is
idempotent until it is founded, and the configuration is stored only after all replicas exist; so a
founding that broke off anywhere is completed by asking for the same volume again.  What is left
to do is decided by `plan_founding`, a pure function of what the pools report.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cstor_cli.addresses import parse_address
from cstor_cli.replica_client import Dial, ReplicaClient
from cstor_core.errors import CstorError, InputError, UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.limits import REPLICAS_MAX, SIZE_BYTES_MAX, SIZE_BYTES_MIN
from cstor_core.names import check_volume_name
from cstor_core.units import BLOCK_BYTES, format_size

LOGICAL_BLOCK_BYTES = (512, 4096)
COPIES_WITH_WITNESS = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """The volume that was asked for."""

    name: str
    size_bytes: int
    logical_block_bytes: int


@dataclass(frozen=True, slots=True)
class Founded:
    """A volume whose members all know of each other."""

    identity: volume_pb2.VolumeIdentity
    configuration: volume_pb2.Configuration
    completed: bool
    """False where all of it was there before."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a founding goes on from."""

    identity: volume_pb2.VolumeIdentity | None
    """None: there is nothing of the volume yet."""
    configuration: volume_pb2.Configuration | None
    """The founding configuration, where one member stored it before a founding broke off."""
    unfounded: tuple[int, ...]
    """Indices of the pools that have not stored the configuration."""


def check_wanted(wanted: Wanted) -> None:
    """Raise InputError where no such volume can be made."""
    check_volume_name(wanted.name)
    if wanted.logical_block_bytes not in LOGICAL_BLOCK_BYTES:
        raise InputError(f"a logical block of {wanted.logical_block_bytes} bytes: 512 or 4096 is")
    if wanted.size_bytes % BLOCK_BYTES or not (
        SIZE_BYTES_MIN <= wanted.size_bytes <= SIZE_BYTES_MAX
    ):
        raise InputError(
            f"a volume of {wanted.size_bytes} bytes cannot be made: it is a multiple of "
            f"{BLOCK_BYTES} bytes, from {format_size(SIZE_BYTES_MIN)} to "
            f"{format_size(SIZE_BYTES_MAX)}"
        )


def check_replica_count(count: int, *, has_witness: bool = False) -> None:
    """Raise InputError where a volume cannot have so many replicas."""
    if has_witness and count != COPIES_WITH_WITNESS:
        raise InputError(f"a witness is for {COPIES_WITH_WITNESS} replicas, and these are {count}")
    if not 1 <= count <= REPLICAS_MAX:
        raise InputError(f"{count} replicas: a volume has from 1 to {REPLICAS_MAX}")


def plan_founding(
    wanted: Wanted, addresses: Sequence[str], pools: Sequence[replica_pb2.DescribePoolResponse]
) -> Plan:
    """What is there of the volume in these pools, in the order of `addresses`.

    Raises InputError where the pools cannot become this volume's members.
    """
    _check_pools_differ(addresses, pools)
    held = [_replica_of(wanted.name, pool) for pool in pools]
    present = [(at, replica) for at, replica in zip(addresses, held, strict=True) if replica]
    if not present:
        return Plan(None, None, tuple(range(len(pools))))
    first_at, first = present[0]
    for at, replica in present:
        if replica.identity.volume_uuid != first.identity.volume_uuid:
            raise InputError(
                f"{first_at} and {at} hold two different volumes named {wanted.name}: "
                "choose another name"
            )
        _check_same_volume(wanted, replica.identity, at)
    founded = [(at, replica) for at, replica in present if _is_founded(replica)]
    if not founded:
        return Plan(first.identity, None, tuple(range(len(pools))))
    at, member = founded[0]
    ours = {replica.replica_uuid for _, replica in present}
    named = {replica.replica_uuid for replica in member.configuration.members}
    if len(present) != len(pools) or ours != named:
        raise InputError(
            f"a volume {wanted.name} exists already, and its members, as {at} knows them, are not "
            f"these {len(pools)} daemons: choose another name"
        )
    unfounded = tuple(i for i, replica in enumerate(held) if replica and not _is_founded(replica))
    return Plan(first.identity, member.configuration, unfounded)


def found(
    wanted: Wanted,
    addresses: Sequence[str],
    dial: Dial,
    new_uuid: Callable[[], str],
    new_salt: Callable[[], int],
    witness: str = "",
) -> Founded:
    """Found the volume on the daemons at these addresses, or complete its founding; `witness` is
    where its witness is, if it has one.

    Raises InputError where something is wrong, and nothing was changed then; another CstorError
    where a daemon failed on the way: asking again goes on from there.
    """
    check_wanted(wanted)
    check_replica_count(len(addresses), has_witness=bool(witness))
    if witness:
        addresses = [*addresses, witness]
    for address in addresses:
        parse_address(address)
    with contextlib.ExitStack() as stack:
        clients = [dial(address) for address in addresses]
        for client in clients:
            stack.callback(client.close)
        pools = [_describe(client) for client in clients]
        for address, pool in zip(addresses, pools, strict=True):
            _check_kind(address, pool, is_witness=address == witness)
        plan = plan_founding(wanted, addresses, pools)
        identity = plan.identity or volume_pb2.VolumeIdentity(
            volume_uuid=new_uuid(),
            name=wanted.name,
            size_bytes=wanted.size_bytes,
            logical_block_bytes=wanted.logical_block_bytes,
            physical_block_bytes=BLOCK_BYTES,
            checksum_salt=new_salt(),
            write_cache=True,
        )
        configuration = plan.configuration
        if configuration is None:
            configuration = _create(identity, clients, witness)
        for index in plan.unfounded:
            clients[index].found_replica(identity.volume_uuid, configuration)
    return Founded(identity, configuration, bool(plan.unfounded))


def _create(
    identity: volume_pb2.VolumeIdentity, clients: Sequence[ReplicaClient], witness: str
) -> volume_pb2.Configuration:
    """Make the replicas, and the witness; returns the founding configuration."""
    members = []
    for client in clients:
        report = client.create_replica(identity)
        members.append(
            volume_pb2.Member(
                replica_uuid=report.replica_uuid,
                address=client.address,
                witness=client.address == witness,
            )
        )
    return volume_pb2.Configuration(number=1, members=members)


def _describe(client: ReplicaClient) -> replica_pb2.DescribePoolResponse:
    try:
        return client.describe_pool()
    except UnavailableError as error:
        raise InputError(
            f"{error}; nothing was changed: start it with cstor-replica, or name another"
        ) from error
    except CstorError as error:
        raise InputError(f"{error}; nothing was changed") from error


def _check_kind(address: str, pool: replica_pb2.DescribePoolResponse, *, is_witness: bool) -> None:
    """Raise InputError where a daemon has data and should be a witness, or the other way round."""
    if pool.witness and not is_witness:
        raise InputError(
            f"the daemon at {address} is that of a witness, which has no data: name it with "
            "--witness, or another one; nothing was changed"
        )
    if is_witness and not pool.witness:
        raise InputError(
            f"the daemon at {address} is no witness: start it with cstor-replica --witness on a "
            "directory of its own; nothing was changed"
        )


def _check_pools_differ(
    addresses: Sequence[str], pools: Sequence[replica_pb2.DescribePoolResponse]
) -> None:
    seen: dict[str, str] = {}
    for address, pool in zip(addresses, pools, strict=True):
        if pool.pool_uuid in seen:
            raise InputError(
                f"{seen[pool.pool_uuid]} and {address} are the same pool, and two copies in one "
                "place are one: name different daemons"
            )
        seen[pool.pool_uuid] = address


def _check_same_volume(wanted: Wanted, identity: volume_pb2.VolumeIdentity, address: str) -> None:
    there = (identity.size_bytes, identity.logical_block_bytes)
    if there != (wanted.size_bytes, wanted.logical_block_bytes):
        raise InputError(
            f"{address} holds a volume {wanted.name} of {identity.size_bytes} bytes in logical "
            f"blocks of {identity.logical_block_bytes}, not of {wanted.size_bytes} in blocks of "
            f"{wanted.logical_block_bytes}: choose another name"
        )


def _replica_of(
    name: str, pool: replica_pb2.DescribePoolResponse
) -> replica_pb2.ReplicaReport | None:
    return next((replica for replica in pool.replicas if replica.identity.name == name), None)


def _is_founded(replica: replica_pb2.ReplicaReport) -> bool:
    return replica.state != replica_pb2.REPLICA_STATE_UNFOUNDED
