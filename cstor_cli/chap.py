"""`cstor chap`: which initiators have to prove who they are, and as whom the target does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cstor_cli.asking import agree
from cstor_cli.events import target_of
from cstor_cli.login_scope import (
    DiscoveryOption,
    ScopeOption,
    scope_document,
    scope_of,
    scope_words,
)
from cstor_cli.options import AnyDirectoryOption, Output, OutputOption, TargetOption, YesOption
from cstor_cli.printing import print_document
from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import control_pb2

app = typer.Typer(
    help="Set, clear and list the CHAP secrets of initiators and of the target.",
    no_args_is_help=True,
)

SECRET_FILE_BYTES_MAX = 1024
_console = Console(width=1000, soft_wrap=True)


@app.command("set")
def set_secret(
    name: Annotated[str, typer.Argument(help="The CHAP name; it need not be an iSCSI name.")],
    file: Annotated[
        Path,
        typer.Option(
            help="The secret is in this file, in one line of 12 to 255 bytes; - is stdin."
        ),
    ],
    of_target: Annotated[
        bool,
        typer.Option(
            "--of-target", help="With which the target proves itself to those that ask for it."
        ),
    ] = False,
    volume: ScopeOption = "",
    discovery: DiscoveryOption = False,
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
) -> None:
    """Let an initiator log in with a secret; from the first one on nobody logs in without.

    Sessions that are there go on: `cstor session drop` ends them.
    """

    request = control_pb2.SetChapRequest(
        scope=scope_of(volume, discovery=discovery),
        name=name,
        secret=secret_in(file),
        of_target=of_target,
    )
    with target_of(directory, target) as client:
        client.set_chap(request)
    typer.echo(f"{scope_words(request.scope)}: the secret of {name} is set")


@app.command()
def clear(
    name: Annotated[str, typer.Argument(help="Whose secret; without it, all of them.")] = "",
    volume: ScopeOption = "",
    discovery: DiscoveryOption = False,
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    yes: YesOption = False,
) -> None:
    """Take secrets away; where the last initiator's goes, everybody may log in."""

    scope = scope_of(volume, discovery=discovery)
    agree(
        f"{scope_words(scope)}: {name or 'nobody'} can log in with a secret any more; where no "
        "initiator has one left, everybody may log in without, unless the target requires CHAP",
        yes=yes,
    )
    with target_of(directory, target) as client:
        taken = client.clear_chap(control_pb2.ClearChapRequest(scope=scope, name=name))
    gone = f"the secret of {', '.join(taken)} is gone" if taken else "there was none"
    typer.echo(f"{scope_words(scope)}: {gone}")


@app.command("list")
def list_names(
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List who has a secret where; secrets are shown to nobody."""

    with target_of(directory, target) as client:
        realms = client.list_chap()
    if output is not Output.TABLE:
        print_document([document(realm) for realm in realms], output)
        return
    table = Table("where", "initiators", "target", box=box.SIMPLE)
    for realm in realms:
        names = Text(", ".join(realm.initiators))
        table.add_row(scope_words(realm.scope), names, Text(realm.target))
    _console.print(table)


def secret_in(file: Path) -> str:
    """The one line of a file; a line break at its end does not belong to it.

    Raises InputError where it cannot be read, or is no line; no error repeats what is in it.
    """
    try:
        if str(file) == "-":
            read = typer.get_binary_stream("stdin").read(SECRET_FILE_BYTES_MAX + 1)
        else:
            with file.open("rb") as opened:
                read = opened.read(SECRET_FILE_BYTES_MAX + 1)
        secret = read.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise InputError(f"the secret cannot be read from {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the secret in {file} is no text") from error
    if "\n" in secret or len(read) > SECRET_FILE_BYTES_MAX:
        raise InputError(f"{file} has more than one line: write the secret alone into it")
    return secret


def document(realm: control_pb2.ChapRealm) -> dict[str, Any]:
    """One of them for a script."""
    return scope_document(realm.scope) | {
        "initiators": list(realm.initiators),
        "target": realm.target or None,
    }
