"""`cstor snapshot`: taken, listed, compared, deleted and gone back to."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from cstor_cli.asking import agree
from cstor_cli.events import target_of
from cstor_cli.options import (
    AnyDirectoryOption,
    Output,
    OutputOption,
    TargetOption,
    VolumeOption,
    YesOption,
)
from cstor_cli.printing import console, local_time, print_document
from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import control_pb2, volume_pb2
from cstor_core.units import format_size

app = typer.Typer(help="Take snapshots of a volume, and go back to them.", no_args_is_help=True)

EXTENT_WORDS = {False: "changed", True: "hole"}
"""What an extent is called that is a hole, or is none."""
NameArgument = Annotated[str, typer.Argument(help="Name of the snapshot.", metavar="NAME")]


@app.command()
def create(
    name: NameArgument,
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take a snapshot of a volume while it goes on; one of that name is found."""

    with target_of(directory, target) as client:
        named = client.named(volume)
        snapshot = client.create_snapshot(named, name)
    if output is not Output.TABLE:
        print_document(_document(snapshot), output)
    else:
        typer.echo(f"{named}: snapshot {name} holds everything up to entry {snapshot.seq}")


@app.command("list")
def list_snapshots(
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the snapshots of a volume, in the order in which they were taken."""

    with target_of(directory, target) as client:
        snapshots = client.list_snapshots(client.named(volume))
    if output is not Output.TABLE:
        print_document([_document(snapshot) for snapshot in snapshots], output)
        return
    table = Table("snapshot", "taken", "size", "entry", box=box.SIMPLE)
    for snapshot in snapshots:
        size = format_size(snapshot.size_bytes)
        table.add_row(snapshot.name, local_time(snapshot.created_unix_s), size, str(snapshot.seq))
    console.print(table)


@app.command()
def diff(
    older: Annotated[str, typer.Argument(help="Name of a snapshot.", metavar="OLDER")],
    newer: Annotated[
        str | None,
        typer.Argument(
            help="Name of another; without it, the volume as it is now.", metavar="[NEWER]"
        ),
    ] = None,
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say which parts of the volume differ between two snapshots, or one and the volume as it is.

    A changed part is written in the newer one, and not so in the older one; a hole is written in
    the older one alone.  Parts are of whole blocks of 4 KiB.
    """

    if newer == "":
        raise InputError("the name of the newer snapshot is empty: leave it out for the volume")
    with target_of(directory, target) as client:
        extents = list(client.compare_snapshots(client.named(volume), older, newer or ""))
    if output is not Output.TABLE:
        print_document([_extent_document(extent) for extent in extents], output)
        return
    table = Table("offset", "length", "", box=box.SIMPLE)
    sums = dict.fromkeys(EXTENT_WORDS.values(), 0)
    for extent in extents:
        word = EXTENT_WORDS[extent.hole]
        sums[word] += extent.length_bytes
        table.add_row(str(extent.offset_bytes), format_size(extent.length_bytes), word)
    if extents:
        console.print(table)
    changed, holes = (format_size(sums[word]) for word in EXTENT_WORDS.values())
    console.print(f"{len(extents)} parts differ: {changed} changed, {holes} of holes")


@app.command()
def delete(
    name: NameArgument,
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    yes: YesOption = False,
) -> None:
    """Delete a snapshot; what only it holds is lost, and its space is given back."""

    with target_of(directory, target) as client:
        named = client.named(volume)
        agree(f"{named}: what only snapshot {name} holds is lost", yes=yes)
        client.delete_snapshot(named, name)
    typer.echo(f"{named}: snapshot {name} is deleted")


@app.command()
def revert(
    name: NameArgument,
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Although initiators are logged in.")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Go back to a snapshot; what was written to the volume since is lost, snapshots stay."""

    with target_of(directory, target) as client:
        named = client.named(volume)
        agree(f"{named}: what was written since snapshot {name} is lost", yes=yes)
        client.revert(named, name, in_use=force)
    typer.echo(f"{named} holds again what snapshot {name} holds")


def _document(snapshot: volume_pb2.Snapshot) -> dict[str, Any]:
    return {
        "name": snapshot.name,
        "seq": snapshot.seq,
        "created_unix_s": snapshot.created_unix_s,
        "size_bytes": snapshot.size_bytes,
    }


def _extent_document(extent: control_pb2.SnapshotExtent) -> dict[str, Any]:
    return {
        "offset_bytes": extent.offset_bytes,
        "length_bytes": extent.length_bytes,
        "kind": EXTENT_WORDS[extent.hole],
    }
