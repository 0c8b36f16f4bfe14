"""`cstor-replica check` and `cstor-replica show`: a pool that no daemon serves, for people and
scripts.

Exit codes of both: 0 the pool is what was written (also after a crash), 1 it is damaged, 2 the
directory is not a pool or is in use; nothing was touched then.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from cstor_core.errors import InputError
from cstor_core.files import File, OsFilesystem
from cstor_core.units import BLOCK_BYTES, format_size
from replica.daemon import boot_id
from replica.store.kept_look import KeptLook
from replica.store.look import PoolLook, ReplicaLook, look_at_pool
from replica.store.repair import repair

tools = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Output(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"


PoolArgument = Annotated[Path, typer.Argument(help="The pool directory.", metavar="DIR")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="For people, or for scripts.")]


@tools.command()
def check(
    pool: PoolArgument,
    *,
    repairing: Annotated[
        bool,
        typer.Option(
            "--repair", help="Put in order what needs no other replica, then check again."
        ),
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Read and verify everything in a stopped pool; nothing is changed without --repair.

    Exit code 0 where the pool is what was written, also with what a crash leaves behind; 1 where
    it is damaged; 2 where the directory is not a pool or is in use.
    """
    look, repaired = _looked(pool, is_verifying=True, repairing=repairing)
    if output is Output.JSON:
        typer.echo(json.dumps(document(look) | {"repaired": repaired}, indent=2))
    else:
        for what in repaired:
            typer.echo(f"repaired  {what}")
        for finding in look.all_findings():
            hint = " (--repair can put it in order)" if finding.is_repairable else ""
            typer.echo(f"{finding.severity:8}  {finding.what}{hint}")
        verified = sum(replica.verified_blocks for replica in look.replicas)
        typer.echo(
            f"{pool}: {len(look.replicas)} replicas, {format_size(verified * BLOCK_BYTES)} of data "
            f"verified: {'DAMAGED' if look.is_damaged else 'ok'}"
        )
    raise typer.Exit(1 if look.is_damaged else 0)


@tools.command()
def show(pool: PoolArgument, *, output: OutputOption = Output.TABLE) -> None:
    """List what a stopped pool holds: volumes, positions, epochs, configurations and space."""
    look, _ = _looked(pool, is_verifying=False, repairing=False)
    if output is Output.JSON:
        typer.echo(json.dumps(document(look), indent=2))
    else:
        _print(look)
    raise typer.Exit(1 if look.is_damaged else 0)


def _looked(pool: Path, *, is_verifying: bool, repairing: bool) -> tuple[PoolLook, list[str]]:
    """What is in the pool, after a repair if one is asked for, and what that did."""
    filesystem = OsFilesystem(threads=1)
    path = pool.absolute()
    lock: File | None = None
    try:
        if filesystem.exists(path / "lock"):
            lock = filesystem.lock(path / "lock")
        look = look_at_pool(filesystem, path, boot_id(), is_verifying=is_verifying)
        repaired = []
        if repairing:
            repaired = asyncio.run(repair(filesystem, look, lambda: str(uuid.uuid4())))
        if repaired:
            look = look_at_pool(filesystem, path, boot_id(), is_verifying=is_verifying)
    except BlockingIOError as error:
        typer.echo(f"cstor-replica: the pool {pool} is in use: stop its daemon first", err=True)
        raise typer.Exit(2) from error
    except (InputError, OSError) as error:
        typer.echo(f"cstor-replica: {error}", err=True)
        raise typer.Exit(2) from error
    finally:
        if lock is not None:
            lock.close()
    return look, repaired


def document(look: PoolLook) -> dict[str, Any]:
    """The look as JSON."""
    return {
        "pool": str(look.path),
        "pool_uuid": look.pool_uuid,
        "damaged": look.is_damaged,
        "total_bytes": look.total_bytes,
        "available_bytes": look.available_bytes,
        "findings": [
            {
                "severity": finding.severity,
                "what": finding.what,
                "repairable": finding.is_repairable,
            }
            for finding in look.all_findings()
        ],
        "replicas": [_replica_document(replica) for replica in look.replicas],
    }


def _plain(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)


def _replica_document(look: ReplicaLook) -> dict[str, Any]:
    found: dict[str, Any] = {
        "directory": str(look.directory),
        "replica_uuid": look.replica_uuid,
        "findings": [
            {"severity": finding.severity, "what": finding.what} for finding in look.findings
        ],
    }
    if look.identity is not None:
        found |= {
            "volume": look.identity.name,
            "volume_uuid": look.identity.volume_uuid,
            "size_bytes": look.identity.size_bytes,
            "logical_block_bytes": look.identity.logical_block_bytes,
            "write_cache": look.identity.write_cache,
        }
    if look.origin is not None:
        found["clone_of"] = {
            "volume_uuid": look.origin.volume_uuid,
            "snapshot": look.origin.snapshot,
            "snapshot_seq": look.origin.snapshot_seq,
        }
    if look.state is not None:
        found |= {
            "promised_epoch": look.state.promised_epoch,
            "promised_instance": look.state.promised_instance,
            "cleanly_stopped": look.state.clean,
            "short": look.state.short,
            "will_be_short": look.will_be_short,
            "failed_reason": look.state.failed_reason,
        }
    if look.recovery is not None:
        standing = look.recovery.standing
        found |= {
            "epoch": standing.history.end.epoch,
            "seq": standing.applied_seq,
            "history": [
                {"epoch": reign.epoch, "last_seq": reign.last_seq}
                for reign in standing.history.reigns
            ],
            "rebuilding": standing.rebuilding,
            "configuration": _configuration_document(look),
            "properties": _plain(standing.operations.properties),
            "reservations": _plain(standing.operations.reservations),
            "sanitization": _plain(standing.operations.sanitization),
            "deleted": standing.operations.deleted,
            "snapshots": _snapshot_documents(look),
            "current_size_bytes": standing.operations.size_bytes,
            "step": _step_document(look),
            "used_bytes": look.used_blocks * BLOCK_BYTES,
            "shared_bytes": look.shared_blocks * BLOCK_BYTES,
            "file_bytes": look.file_bytes,
            "verified_blocks": look.verified_blocks,
            "bad_block_count": look.bad_block_count,
            "bad_blocks": look.bad_blocks,
        }
    return found


def _snapshot_documents(look: ReplicaLook) -> list[dict[str, Any]]:
    snapshots = look.recovery.standing.operations.snapshots if look.recovery is not None else {}
    return [
        {
            "name": snapshot.name,
            "seq": snapshot.seq,
            "created_unix_s": snapshot.created_unix_s,
        }
        for snapshot in snapshots.values()
    ]


def _step_line(look: KeptLook) -> str:
    pieces = look.kept.pieces
    if not look.good_bytes or not pieces:
        return "one broke off, and nothing of it can be gone on with"
    since = pieces[-1].since
    return (
        f"one broke off: {format_size(look.blocks * BLOCK_BYTES)} are kept, of the blocks below "
        f"{pieces[-1].end_block}, as a peer had them at {since.epoch}:{since.last_seq}"
    )


def _step_document(look: ReplicaLook) -> dict[str, Any] | None:
    """What is kept of a step that broke off."""
    if look.kept is None:
        return None
    kept = look.kept.kept
    return {
        "file_bytes": kept.file_bytes,
        "good_bytes": look.kept.good_bytes,
        "held_bytes": look.kept.blocks * BLOCK_BYTES,
        "pieces": [
            {
                "end_block": piece.end_block,
                "epoch": piece.since.epoch,
                "seq": piece.since.last_seq,
            }
            for piece in kept.pieces
        ],
    }


def _configuration_document(look: ReplicaLook) -> dict[str, Any] | None:
    configuration = look.recovery.standing.configuration if look.recovery is not None else None
    if configuration is None:
        return None
    return {
        "number": configuration.number,
        "forced_openings": configuration.forced_openings,
        "members": [
            {
                "replica_uuid": member.replica_uuid,
                "address": member.address,
                "witness": member.witness,
                "out_of_date": member.out_of_date,
            }
            for member in configuration.members
        ],
    }


def _print(look: PoolLook) -> None:
    typer.echo(
        f"pool {look.pool_uuid or '?'} in {look.path}: {format_size(look.available_bytes)} of "
        f"{format_size(look.total_bytes)} are free"
    )
    for replica in look.replicas:
        for line in _lines(replica):
            typer.echo(line)
    for finding in look.all_findings():
        typer.echo(f"{finding.severity:8}  {finding.what}")


def _lines(look: ReplicaLook) -> Iterator[str]:
    identity, state = look.identity, look.state
    if identity is None:
        yield f"{look.directory.name}: damaged"
        return
    yield f"{identity.name} (volume {identity.volume_uuid})"
    yield f"  replica        {look.replica_uuid}"
    if look.origin is not None:
        yield f"  clone of       {look.origin.snapshot} of volume {look.origin.volume_uuid}"
    if state is not None:
        stopped = "cleanly stopped" if state.clean else "not cleanly stopped"
        yield f"  state          {stopped}{', short' if state.short else ''}"
        yield f"  promised       epoch {state.promised_epoch} {state.promised_instance}".rstrip()
    if look.recovery is None:
        return
    standing = look.recovery.standing
    rebuilding = ", rebuilding" if standing.rebuilding else ""
    yield f"  position       {standing.history.end.epoch}:{standing.applied_seq}{rebuilding}"
    reigns = ", ".join(f"{reign.epoch}:{reign.last_seq}" for reign in standing.history.reigns)
    yield f"  history        {reigns or 'none'}"
    if standing.configuration is not None:
        yield f"  configuration  {standing.configuration.number}"
        for member in standing.configuration.members:
            yield f"    {member.replica_uuid} at {member.address}"
    if standing.operations.deleted:
        yield "  deleted        the volume has been deleted: a target destroys what is left of it"
    for field, value in standing.operations.properties.ListFields():
        yield f"  set            {field.name.replace('_', '-')} {'on' if value else 'off'}"
    registered = len(standing.operations.reservations.registrations)
    if registered:
        word = "reserved" if standing.operations.reservations.type else "not reserved"
        yield f"  reservations   {word}, {registered} registered"
    for snapshot in standing.operations.snapshots.values():
        created = datetime.fromtimestamp(snapshot.created_unix_s, UTC)
        yield f"  snapshot       {snapshot.name} at {snapshot.seq}, {created:%Y-%m-%d %H:%M:%S} UTC"
    if look.kept is not None:
        yield f"  step           {_step_line(look.kept)}"
    used, size = look.used_blocks * BLOCK_BYTES, standing.operations.size_bytes
    yield (
        f"  space          {format_size(used)} used of {format_size(size)}, "
        f"{format_size(look.shared_blocks * BLOCK_BYTES)} of it shared, "
        f"{format_size(look.file_bytes)} in the data file"
    )
