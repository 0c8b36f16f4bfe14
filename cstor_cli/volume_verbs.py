"""`cstor volume set` and `cstor volume delete`."""

from __future__ import annotations

import contextlib
import enum
from typing import Annotated

import typer

from cstor_cli.addresses import parse_address
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
from cstor_cli.printing import print_document
from cstor_cli.replica_client import GrpcReplicaClient
from cstor_cli.status import properties_document
from cstor_core.errors import CstorError, InputError, UnknownVolumeError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.units import format_size


class Property(enum.StrEnum):
    """What can be set of a volume."""

    DELETE_PROTECTION = "delete-protection"
    WRITE_CACHE = "write-cache"
    READ_ONLY = "read-only"
    REMOVABLE = "removable"
    THIN = "thin"


class Switch(enum.StrEnum):
    """What it can be set to."""

    ON = "on"
    OFF = "off"


def set_property(
    name: Annotated[Property, typer.Argument(help="What is set.", metavar="PROPERTY")],
    value: Annotated[Switch, typer.Argument(help="on or off.", metavar="on|off")],
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set a property of a volume while it is used.

    delete-protection: `cstor volume delete` is refused.  write-cache: an acknowledged write may not
    be on stable storage until the initiator flushes, as with a disk; off makes every write wait for
    it.  read-only: initiators may not write.  removable: they may eject the medium, and load it
    again.  thin: they may discard blocks.  They see the last four after a rescan.
    """

    setting = volume_pb2.PropertySetting(**{name.replace("-", "_"): value is Switch.ON})
    with target_of(directory, target) as client:
        named = client.named(volume)
        properties = client.set_property(named, setting)
    if output is not Output.TABLE:
        print_document({"name": named, **properties_document(properties)}, output)
    else:
        typer.echo(f"{named}: {name} is {value}")


def delete(
    volume: Annotated[str, typer.Argument(help="Name or UUID of the volume.", metavar="VOLUME")],
    replica: Annotated[
        str | None,
        typer.Option(
            "--replica",
            help="HOST:PORT of a replica daemon: delete only what it has of a volume that is gone.",
        ),
    ] = None,
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Although initiators are logged in.")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Delete a volume for ever, with its snapshots; clones of it stay.

    What is lost is said first.  A replica whose daemon does not answer is named: it can open
    nothing by itself, and --replica deletes it there later.
    """

    if replica is not None:
        if directory is not None or target is not None or force:
            raise InputError("with --replica only the volume is named, and perhaps --yes")
        _delete_leftover(volume, str(parse_address(replica)), yes=yes)
        return
    with target_of(directory, target) as client:
        said = client.delete_volume(volume, confirmed=False, in_use=force)
        agree(said.sentence, yes=yes)
        done = client.delete_volume(volume, confirmed=True, in_use=force)
    typer.echo(f"{volume} is deleted")
    for one in done.left_replicas:
        typer.echo(
            f"  but for its replica at {one.member.address} ({one.reason}): when its daemon runs, "
            f"cstor volume delete {volume} --replica {one.member.address}"
        )


def sanitize(
    volume: Annotated[str, typer.Argument(help="Name or UUID of the volume.", metavar="VOLUME")],
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Although initiators are logged in.")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Erase all that a volume holds: every block reads as zeros then, and takes no space.

    It is what initiators ask for with SANITIZE.  Until it is over they are refused everything.  A
    volume with snapshots is refused: they would keep what is to be gone.
    """

    with target_of(directory, target) as client:
        agree(client.sanitize(volume, confirmed=False, in_use=force), yes=yes)
        client.sanitize(volume, confirmed=True, in_use=force)
    typer.echo(f"{volume} is being erased: 'cstor volume show' says when that is over")


def _delete_leftover(volume: str, address: str, *, yes: bool) -> None:
    """Delete what a daemon has of a volume that cannot be opened any more."""
    with contextlib.closing(GrpcReplicaClient(address)) as client:
        found = client.inquire(volume)
        _check_gone(found, address)
        agree(
            f"what {address} has of volume {found.identity.name} "
            f"({format_size(found.used_bytes)}) is destroyed for ever",
            yes=yes,
        )
        client.delete_replica(found.identity.volume_uuid, found.replica_uuid)
    typer.echo(f"the replica of {volume} at {address} is deleted")


def _check_gone(found: replica_pb2.ReplicaReport, address: str) -> None:
    """Raise InputError where so many members have the volume that it can be opened."""
    members = found.configuration.members
    holders = [address]
    for member in members:
        if member.replica_uuid == found.replica_uuid:
            continue
        with contextlib.closing(GrpcReplicaClient(member.address)) as client:
            try:
                there = client.inquire(found.identity.volume_uuid)
            except UnknownVolumeError:
                continue
            except CstorError as error:
                raise InputError(
                    f"whether volume {found.identity.name} is gone cannot be told: {error}; start "
                    "the daemon of that replica first"
                ) from error
        if there.replica_uuid == member.replica_uuid:
            holders.append(member.address)
    if members and len(holders) > len(members) // 2:
        raise InputError(
            f"volume {found.identity.name} is not gone: its replicas at {', '.join(holders)} can "
            "open it; delete the volume through its target"
        )
