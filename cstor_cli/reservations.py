"""`cstor reservation`: who has registered with a volume and reserved it, and how that is undone."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cstor_cli.asking import agree
from cstor_cli.events import target_of
from cstor_cli.options import (
    AnyDirectoryOption,
    Output,
    OutputOption,
    TargetOption,
    YesOption,
)
from cstor_cli.printing import print_document
from cstor_cli.status import reservation_word
from cstor_core.generated.cstor.v1 import volume_pb2

app = typer.Typer(
    help="List and clear the persistent reservations of initiators.", no_args_is_help=True
)

VolumeArgument = Annotated[
    str, typer.Argument(help="Name or UUID of the volume; may be left out where there is one.")
]
_console = Console(width=1000, soft_wrap=True)


@app.command("list")
def list_reservations(
    volume: VolumeArgument = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the initiators that have registered, their keys, and which of them has reserved."""

    with target_of(directory, target) as client:
        named = client.named(volume)
        found = client.list_reservations(named)
    if output is not Output.TABLE:
        print_document(document(named, found), output)
    else:
        print_reservations(named, found)


@app.command()
def clear(
    volume: VolumeArgument = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    yes: YesOption = False,
) -> None:
    """Take all registrations and the reservation away, for initiators that are gone for good.

    Those that are there are told, and may register again.  Nothing is fenced any more: make sure
    that whoever was kept from writing does not write now.
    """

    with target_of(directory, target) as client:
        named = client.named(volume)
        found = client.list_reservations(named)
        if not found.registrations:
            typer.echo(f"{named}: no initiator has registered")
            return
        count = len(found.registrations)
        agree(
            f"{named}: {count} registrations are taken away, and nothing keeps any initiator from "
            "writing then",
            yes=yes,
        )
        before = client.clear_reservations(named)
    typer.echo(f"{named}: {len(before.registrations)} registrations are taken away")


def print_reservations(volume: str, found: volume_pb2.Reservations) -> None:
    """The registrations for a person."""
    word = reservation_word(found.type)
    if not found.registrations:
        typer.echo(f"{volume}: no initiator has registered")
        return
    typer.echo(f"{volume}: {'reserved, ' + word.replace('-', ' ') if word else 'not reserved'}")
    table = Table("initiator port", "target port", "key", "holds", box=box.SIMPLE)
    for one in found.registrations:
        table.add_row(
            Text(one.initiator_port),
            str(one.target_port),
            f"0x{one.key:016x}",
            "yes" if _is_holder(found, one) else "",
        )
    _console.print(table)


def document(volume: str, found: volume_pb2.Reservations) -> dict[str, Any]:
    """The same for a script; keys are hexadecimal numbers of 16 digits."""
    return {
        "volume": volume,
        "generation": found.generation,
        "reservation": reservation_word(found.type),
        "registrations": [
            {
                "initiator_port": one.initiator_port,
                "target_port": one.target_port,
                "key": f"0x{one.key:016x}",
                "is_holder": _is_holder(found, one),
            }
            for one in found.registrations
        ],
    }


def _is_holder(found: volume_pb2.Reservations, one: volume_pb2.Registration) -> bool:
    """Whether one of them holds the reservation: all do, where it is of all registrants."""
    return one.is_holder or found.type in (
        volume_pb2.RESERVATION_TYPE_WRITE_EXCLUSIVE_ALL_REGISTRANTS,
        volume_pb2.RESERVATION_TYPE_EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
    )
