"""`cstor target`: leaving volumes to a target that stands by."""

from __future__ import annotations

from typing import Annotated

import typer

from cstor_cli.events import target_of
from cstor_cli.options import AnyDirectoryOption, TargetOption

app = typer.Typer(help="Leave volumes to a target that stands by.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Leave volumes to a target that stands by."""


@app.command()
def drain(
    successor: Annotated[
        str,
        typer.Option("--to", help="Portal of the target that is to follow; without it, any."),
    ] = "",
    redirect: Annotated[
        bool,
        typer.Option(
            "--redirect",
            help="Send whoever logs in here to the other target's portal: for initiators that know "
            "no other way there.",
        ),
    ] = False,
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
) -> None:
    """Leave all volumes of a target to another one that stands by, and have it stand by itself.

    Initiators are asked to log out, what is in flight ends, and the other target serves at once.
    """

    with target_of(directory, target) as client:
        portal = client.drain(successor, redirect=redirect)
    typer.echo(f"the volumes are left to the target with the portal {portal}")
