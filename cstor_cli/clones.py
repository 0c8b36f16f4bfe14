"""`cstor clone`: a volume of its own that begins with what a snapshot holds."""

from __future__ import annotations

from typing import Annotated

import typer

from cstor_cli.events import target_of
from cstor_cli.interrupts import interruptible
from cstor_cli.options import AnyDirectoryOption, Output, OutputOption, TargetOption
from cstor_cli.printing import print_document
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.units import format_size


def clone(
    snapshot: Annotated[str, typer.Argument(help="Name of the snapshot.", metavar="SNAPSHOT")],
    volume: Annotated[
        str,
        typer.Argument(help="Name of the new volume: a-z, 0-9, '.' and '-'.", metavar="VOLUME"),
    ],
    parent: Annotated[
        str,
        typer.Option(
            "--from",
            help="Name or UUID of the volume that the snapshot is of; without it, the target's "
            "only one.",
        ),
    ] = "",
    read_only: Annotated[
        bool,
        typer.Option(
            "--read-only", help="Initiators may not write it: it is the snapshot, as a volume."
        ),
    ] = False,
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a volume of a snapshot, which shares its data until one of the two is written.

    Both may be written, snapshotted, enlarged and deleted without the other.  If it breaks off, the
    same command goes on; a clone that is there already is found.
    """

    with interruptible(), target_of(directory, target) as client:
        named = client.named(parent)
        made = client.clone(named, snapshot, volume, read_only=read_only)
    if output is not Output.TABLE:
        print_document(_document(made), output)
        return
    size = format_size(made.clone.size_bytes)
    typer.echo(f"{volume} holds what snapshot {snapshot} of {named} holds, {size}")
    for member in made.members:
        typer.echo(f"  replica {member.replica_uuid} at {member.address}")
    for member in made.left_out_members:
        typer.echo(
            f"  none at {member.address}, which was not in sync: "
            f"cstor replica add {member.address} --volume {volume}"
        )
    if made.iqn:
        typer.echo(f"it is served as {made.iqn} on {made.portal}")
        return
    addresses = " ".join(f"--replica {member.address}" for member in made.members)
    typer.echo("serve it with")
    typer.echo(f"  cstor-target STATE_DIR --volume {volume} {addresses} --portal HOST:3260")


def _document(made: control_pb2.CloneVolumeResponse) -> dict[str, object]:
    return {
        "name": made.clone.name,
        "uuid": made.clone.volume_uuid,
        "size_bytes": made.clone.size_bytes,
        "members": [
            {"uuid": member.replica_uuid, "address": member.address} for member in made.members
        ],
        "left_out": [member.address for member in made.left_out_members],
        "iqn": made.iqn,
        "portal": made.portal,
    }
