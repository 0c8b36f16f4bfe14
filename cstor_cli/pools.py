"""`cstor pool`: what the pools hold that the replicas of a volume are in."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cstor_cli.events import target_of
from cstor_cli.options import AnyDirectoryOption, Output, OutputOption, TargetOption, VolumeOption
from cstor_cli.printing import console, print_document
from cstor_core.errors import InputError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2
from cstor_core.units import format_size

app = typer.Typer(help="Show the pools of a volume's replicas.", no_args_is_help=True)


@app.command("list")
def list_pools(
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the pools of a volume's replicas: where they are, and what is in use and free."""

    with target_of(directory, target) as client:
        pools = client.list_pools(client.named(volume))
    documents = [_pool_document(pool) for pool in pools]
    if output is not Output.TABLE:
        print_document(documents, output)
        return
    for pool in documents:
        _print_pool(pool)


@app.command()
def show(
    replica: Annotated[
        str,
        typer.Argument(help="UUID or HOST:PORT of a replica of the volume.", metavar="REPLICA"),
    ],
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the pool that a replica is in, and all replicas in it, of other volumes too."""

    with target_of(directory, target) as client:
        named = client.named(volume)
        members = client.list_pools(named)
    found = next((pool for pool in members if replica in _names(pool)), None)
    if found is None:
        addresses = ", ".join(pool.member.address for pool in members)
        raise InputError(f"{named} has no replica {replica}: they are at {addresses}")
    if found.reason:
        raise UnavailableError(f"the pool at {found.member.address} is not known: {found.reason}")
    pool = _pool_document(found)
    if output is not Output.TABLE:
        print_document(pool, output)
        return
    _print_pool(pool)
    for held in pool["volumes"]:
        size, used = format_size(held["size_bytes"]), format_size(held["used_bytes"])
        reason = f": {held['reason']}" if held["reason"] else ""
        console.print(
            f"  {held['name'] or held['uuid']} {held['state']}, {size}, {used} used, snapshots "
            f"{held['snapshot_count']}, replica {held['replica'] or '?'}{reason}",
            markup=False,
        )


def _print_pool(pool: dict[str, Any]) -> None:
    """Where it is and how full, or why that is not known."""
    if pool["reason"]:
        console.print(f"{pool['address']} NOT KNOWN: {pool['reason']}", markup=False)
        return
    size, free = format_size(pool["size_bytes"]), format_size(pool["free_bytes"])
    reserve, used = format_size(pool["reserve_bytes"]), format_size(pool["used_bytes"])
    console.print(
        f"{pool['address']} {pool['path']}\n"
        f"  {size} in all, {free} free, {reserve} of that in reserve; {used} used, "
        f"volumes {len(pool['volumes'])}, snapshots {pool['snapshot_count']}",
        markup=False,
    )


def _names(pool: control_pb2.PoolReport) -> set[str]:
    """What a person may call the replica of the volume in a pool."""
    return {pool.member.address, pool.member.replica_uuid} - {""}


def _pool_document(pool: control_pb2.PoolReport) -> dict[str, Any]:
    return {
        "address": pool.member.address,
        "replica": pool.member.replica_uuid,
        "reason": pool.reason,
        "pool": pool.pool_uuid,
        "path": pool.path,
        "size_bytes": pool.capacity_bytes,
        "used_bytes": pool.used_bytes,
        "free_bytes": pool.available_bytes,
        "reserve_bytes": pool.reserved_bytes,
        "snapshot_count": sum(held.snapshot_count for held in pool.replicas),
        "volumes": [_held_document(held) for held in pool.replicas],
    }


def _held_document(held: control_pb2.PooledReplica) -> dict[str, Any]:
    state = replica_pb2.ReplicaState.Name(held.state).removeprefix("REPLICA_STATE_").lower()
    return {
        "name": held.volume,
        "uuid": held.volume_uuid,
        "replica": held.replica_uuid,
        "state": state,
        "size_bytes": held.size_bytes,
        "used_bytes": held.used_bytes,
        "snapshot_count": held.snapshot_count,
        "reason": held.reason,
    }
