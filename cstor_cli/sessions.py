"""`cstor session`: which initiators are logged in, and how one is sent away."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    VolumeOption,
    YesOption,
)
from cstor_cli.printing import local_time, print_document
from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import control_pb2

app = typer.Typer(help="List, drop and redirect the sessions of initiators.", no_args_is_help=True)

TSIH = re.compile("[0-9]{1,5}")
TSIH_MAX = 0xFFFF
HERE = "here"
TYPES_OF_NAMES = ("iqn.", "eui.", "naa.")
"""How an iSCSI name begins (RFC 7143, 4.2.7.4)."""

_console = Console(width=1000, soft_wrap=True)
"""As wide as the longest names need it: half a name of an initiator is of no use."""


@app.command("list")
def list_sessions(
    volume: Annotated[
        str, typer.Argument(help="Name or UUID of a volume; without it, all of the target's.")
    ] = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the initiators that are logged in, from where, and what they wait for."""

    with target_of(directory, target) as client:
        sessions = client.list_sessions(volume)
    if output is not Output.TABLE:
        print_document([_document(session) for session in sessions], output)
    else:
        print_sessions(sessions)


@app.command()
def drop(
    which: Annotated[
        str,
        typer.Argument(
            help="TSIH of a session, or the name of an initiator, all of whose sessions with the "
            "volume are dropped.",
            metavar="TSIH|INITIATOR",
        ),
    ],
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Close a session of an initiator, which may log in again.

    Commands that are outstanding end without an answer; what they write may be written.
    """

    request = asked_for(which)
    with target_of(directory, target) as client:
        request.volume = client.named(volume)
        request.dry_run = True
        agree("\n".join(map(_warning, client.drop_session(request))), yes=yes)
        request.dry_run = False
        dropped = client.drop_session(request)
    if output is not Output.TABLE:
        print_document([_document(session) for session in dropped], output)
        return
    for session in dropped:
        typer.echo(f"{session.volume}: session {session.tsih} of {_initiator(session)} is dropped")


@app.command()
def redirect(
    address: Annotated[
        str,
        typer.Argument(help="HOST:PORT of a portal, or 'here'.", metavar="HOST:PORT|here"),
    ],
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
) -> None:
    """Have initiators log in at another portal for now, or here again.

    Sessions that there are stay: `cstor session drop` ends them, and they come back there.
    """

    with target_of(directory, target) as client:
        named = client.named(volume)
        client.redirect_logins(named, "" if address == HERE else address)
    where = "here again" if address == HERE else f"at {address}"
    typer.echo(f"{named}: initiators log in {where}")


def print_sessions(sessions: Sequence[control_pb2.Session]) -> None:
    """A table of sessions for a person."""
    headings = ("volume", "tsih", "initiator", "isid", "from", "since", "outstanding")
    table = Table(*headings, box=box.SIMPLE)
    for session in sessions:
        table.add_row(
            session.volume,
            str(session.tsih),
            Text(_initiator(session)),
            _isid(session),
            Text(_peers(session)),
            local_time(session.since_unix_s),
            str(session.commands_outstanding),
        )
    _console.print(table)


def asked_for(which: str) -> control_pb2.DropSessionRequest:
    """What is asked for with a TSIH or the name of an initiator.

    Raises InputError where it is neither.
    """
    if TSIH.fullmatch(which) and 0 < int(which) <= TSIH_MAX:
        return control_pb2.DropSessionRequest(tsih=int(which))
    if which.lower().startswith(TYPES_OF_NAMES):
        return control_pb2.DropSessionRequest(initiator_name=which)
    raise InputError(
        f"{which!r} is neither a TSIH (1 to {TSIH_MAX}) nor the name of an initiator "
        f"({', '.join(f'{kind}…' for kind in TYPES_OF_NAMES)}): cstor session list shows both"
    )


def _warning(session: control_pb2.Session) -> str:
    """What is lost, for somebody to agree to."""
    count = session.commands_outstanding
    commands = "1 command is" if count == 1 else f"{count} commands are"
    return (
        f"{session.volume}: {commands} outstanding in session {session.tsih} of "
        f"{_initiator(session)} at {_peers(session)}"
    )


def _initiator(session: control_pb2.Session) -> str:
    """Its name as a terminal can be given it: it is what somebody has sent over a network."""
    return "".join(letter if letter.isprintable() else "?" for letter in session.initiator_name)


def _isid(session: control_pb2.Session) -> str:
    return f"0x{session.isid.hex()}"


def _peers(session: control_pb2.Session) -> str:
    return ", ".join(found.peer_address for found in session.connections) or "-"


def _document(session: control_pb2.Session) -> dict[str, Any]:
    return {
        "volume": session.volume,
        "initiator": session.initiator_name,
        "isid": _isid(session),
        "tsih": session.tsih,
        "connections": [
            {"cid": found.cid, "peer": found.peer_address} for found in session.connections
        ],
        "since_unix_s": session.since_unix_s,
        "commands_outstanding": session.commands_outstanding,
    }
