"""`cstor replica`: which there are, and more, fewer or other ones."""

from __future__ import annotations

import enum
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from cstor_cli import rebuilding
from cstor_cli.addresses import parse_address
from cstor_cli.asking import agree
from cstor_cli.control_client import control
from cstor_cli.events import finder, target_of
from cstor_cli.interrupts import interruptible
from cstor_cli.options import (
    AnyDirectoryOption,
    Output,
    OutputOption,
    TargetOption,
    VolumeOption,
    YesOption,
)
from cstor_cli.printing import console, print_document, rebuilt
from cstor_cli.status import member_document
from cstor_core.generated.cstor.v1 import control_pb2

app = typer.Typer(help="Add, remove, move and replace replicas of a volume.", no_args_is_help=True)

AddressArgument = Annotated[
    str, typer.Argument(help="HOST:PORT of a replica daemon.", metavar="ADDRESS")
]
ReplicaArgument = Annotated[
    str, typer.Argument(help="UUID or HOST:PORT of a replica.", metavar="REPLICA")
]


class Pace(enum.StrEnum):
    """How fast replicas that come back copy."""

    GENTLE = "gentle"
    FULL = "full"


PACES = {
    None: control_pb2.REBUILD_PACE_UNSPECIFIED,
    Pace.GENTLE: control_pb2.REBUILD_PACE_GENTLE,
    Pace.FULL: control_pb2.REBUILD_PACE_FULL,
}
SameHostOption = Annotated[
    bool,
    typer.Option(
        "--same-host",
        help="Although another replica of the volume is on that host; of `cstor up` all are.",
    ),
]


@app.command("list")
def list_replicas(
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the replicas of a volume, and those that are on their way to be some."""

    with target_of(directory, target) as client:
        members = client.show_volume(client.named(volume)).members
    documents: list[dict[str, Any]] = [
        member_document(member) | {"address": member.member.address} for member in members
    ]
    if output is not Output.TABLE:
        print_document(documents, output)
        return
    table = Table("replica", "address", "status", "applied", "rebuilt", "", box=box.SIMPLE)
    for found in documents:
        table.add_row(
            found["uuid"],
            found["address"],
            found["status"],
            str(found["applied_seq"]),
            rebuilt(found["rebuild"]),
            found["reason"],
        )
    console.print(table)


@app.command()
def add(
    address: AddressArgument,
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    same_host: SameHostOption = False,
) -> None:
    """Have a daemon keep one more copy of the volume; returns when it counts.

    The daemon of a witness becomes the witness of a volume with two replicas.  If it is broken off,
    or the target ends, the same command goes on where it was.
    """

    with interruptible(), target_of(directory, target) as client:
        named = client.named(volume)
        is_near = _may_be_near(same_host=same_host, target=target)
        uuid = client.add_replica(named, str(parse_address(address)), same_host=is_near)
    typer.echo(f"{named}: replica {uuid} at {address} is a member")


@app.command()
def remove(
    replica: ReplicaArgument,
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    yes: YesOption = False,
) -> None:
    """Let a replica go: from then on it counts for nothing, and can be deleted."""

    with target_of(directory, target) as client:
        named = client.named(volume)
        members = client.show_volume(named).members
        leaving = [
            one.member
            for one in members
            if replica in (one.member.replica_uuid, one.member.address)
        ]
        copies = sum(not one.member.witness for one in members)
        copies -= sum(not one.witness for one in leaving)
        without = " and no witness" if any(one.witness for one in leaving) else ""
        agree(f"{named}: it has {copies} replicas{without} then", yes=yes)
        client.remove_replica(named, replica)
    typer.echo(f"{named}: replica {replica} is no member any more")


@app.command()
def move(
    replica: ReplicaArgument,
    address: Annotated[
        str, typer.Option("--address", help="HOST:PORT where its daemon is.", metavar="ADDRESS")
    ],
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
) -> None:
    """Find a replica at another address, at once and whenever the volume is opened."""

    with target_of(directory, target) as client:
        named = client.named(volume)
        uuid = client.move_replica(named, replica, str(parse_address(address)))
    typer.echo(f"{named}: replica {uuid} is at {address}")


@app.command()
def delete(
    address: AddressArgument,
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    yes: YesOption = False,
) -> None:
    """Delete a replica that is no member any more, with what it holds."""

    with target_of(directory, target) as client:
        named = client.named(volume)
        agree(f"{named}: what the replica at {address} holds is given up", yes=yes)
        uuid = client.delete_replica(named, str(parse_address(address)))
    typer.echo(f"{named}: replica {uuid} at {address} is deleted")


@app.command()
def rebuild(
    replica: Annotated[
        str, typer.Argument(help="UUID or HOST:PORT; without it, all.", metavar="[REPLICA]")
    ] = "",
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    pace: Annotated[
        Pace | None,
        typer.Option(
            help="How fast all replicas of the volume copy from now on: gently, so that initiators "
            "hardly notice it, or as fast as they can."
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show how they come back until they are in sync.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Bring replicas back at once that wait for another try; what comes back already goes on.

    With --watch there is a bar for each, with its rate and the time that is left; with --output
    json or yaml there is a document for each change.
    """

    find = finder(directory, target)
    with interruptible():
        with control(find()) as client:
            named = client.named(volume)
            meant = client.rebuild_replicas(named, replica, PACES[pace])
        if watch:
            rebuilding.watch(find, named, replica, _complain, output)
            return
    documents = [{"address": one.member.address} | member_document(one) for one in meant]
    if output is not Output.TABLE:
        print_document(documents, output)
        return
    for found in documents:
        typer.echo(f"{named}: replica {found['uuid']} at {found['address']} is {found['status']}")
    if not documents:
        typer.echo(f"{named}: all replicas are in sync")


def _complain(line: str) -> None:
    typer.echo(f"cstor: {line}", err=True)


@app.command()
def replace(
    old: ReplicaArgument,
    address: AddressArgument,
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    same_host: SameHostOption = False,
    yes: YesOption = False,
) -> None:
    """Put a new replica in the place of one that is lost: add, then remove.

    A volume with a witness has two replicas at most: there it is remove, then add.  Before anything
    is given up it is seen to that the new daemon answers, takes a replica, and is on no host that
    has another one.
    """

    with interruptible(), target_of(directory, target) as client:
        named = client.named(volume)
        agree(f"{named}: what replica {old} holds is given up", yes=yes)
        is_near = _may_be_near(same_host=same_host, target=target)
        uuid = client.replace_replica(named, old, str(parse_address(address)), same_host=is_near)
    typer.echo(f"{named}: replica {uuid} at {address} has taken the place of {old}")


def _may_be_near(*, same_host: bool, target: str | None) -> bool:
    """Whether replicas may be on one host: all daemons of `cstor up`, which is meant where no
    target is named, are.
    """
    return same_host or target is None
