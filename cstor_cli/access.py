"""`cstor access`: which initiators may log in, by their names and networks."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cstor_cli.events import target_of
from cstor_cli.login_scope import (
    DiscoveryOption,
    ScopeOption,
    scope_document,
    scope_of,
    scope_words,
)
from cstor_cli.options import AnyDirectoryOption, Output, OutputOption, TargetOption
from cstor_cli.printing import print_document
from cstor_core.generated.cstor.v1 import control_pb2

app = typer.Typer(
    help="Say which initiators may log in, by their names and networks.", no_args_is_help=True
)

EVERYBODY = "everybody"
InitiatorsArgument = Annotated[
    list[str] | None,
    typer.Argument(help="iSCSI names of initiators.", metavar="[INITIATOR]..."),
]
NetworkOption = Annotated[
    list[str] | None,
    typer.Option("--network", help="10.0.0.0/24, 10.0.0.7, fd00::/64; give it once for each."),
]
_console = Console(width=1000, soft_wrap=True)


@app.command()
def allow(
    initiators: InitiatorsArgument = None,
    network: NetworkOption = None,
    everybody: Annotated[
        bool, typer.Option("--everybody", help="Take the rule away: all may log in.")
    ] = False,
    volume: ScopeOption = "",
    discovery: DiscoveryOption = False,
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
) -> None:
    """Let initiators log in: from the first name on no others, and the same of networks.

    Sessions that are there go on: `cstor session drop` ends them.
    """

    request = control_pb2.AllowAccessRequest(
        scope=scope_of(volume, discovery=discovery),
        initiators=initiators or (),
        networks=network or (),
        everybody=everybody,
    )
    with target_of(directory, target) as client:
        print_rule(client.allow_access(request))


@app.command()
def deny(
    initiators: InitiatorsArgument = None,
    network: NetworkOption = None,
    volume: ScopeOption = "",
    discovery: DiscoveryOption = False,
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
) -> None:
    """Take back that initiators may log in; when nobody is left, nobody may."""

    request = control_pb2.DenyAccessRequest(
        scope=scope_of(volume, discovery=discovery),
        initiators=initiators or (),
        networks=network or (),
    )
    with target_of(directory, target) as client:
        print_rule(client.deny_access(request))


@app.command("list")
def list_rules(
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List who may log in, wherever not everybody may."""

    with target_of(directory, target) as client:
        rules = client.list_access()
    if output is not Output.TABLE:
        print_document([document(rule) for rule in rules], output)
        return
    table = Table("where", "initiators", "networks", box=box.SIMPLE)
    for rule in rules:
        names, networks = _who(rule)
        table.add_row(scope_words(rule.scope), Text(names), networks)
    _console.print(table)


def print_rule(rule: control_pb2.AccessRule) -> None:
    """What is in force now, for a person."""
    names, networks = _who(rule)
    typer.echo(f"{scope_words(rule.scope)}: {names} may log in, from {networks}")


def document(rule: control_pb2.AccessRule) -> dict[str, Any]:
    """One of them for a script; null: all initiators, or all networks."""
    return scope_document(rule.scope) | {
        "initiators": list(rule.initiators) if rule.by_initiator else None,
        "networks": list(rule.networks) if rule.by_network else None,
    }


def _who(rule: control_pb2.AccessRule) -> tuple[str, str]:
    names = ", ".join(rule.initiators) or "nobody"
    networks = ", ".join(rule.networks) or "nowhere"
    return (
        names if rule.by_initiator else EVERYBODY,
        networks if rule.by_network else "everywhere",
    )
