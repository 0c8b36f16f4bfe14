"""`cstor volume recover`: what pool directories hold, and a volume opened from the best of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cstor_cli.exit_codes import ExitCode
from cstor_cli.foreground import stay
from cstor_cli.interrupts import interruptible
from cstor_cli.options import DEFAULT_DIRECTORY, Output, OutputOption, YesOption
from cstor_cli.printing import print_document
from cstor_cli.recovering import (
    check_all_looked_into,
    lines_of,
    lines_of_plan,
    look_into,
    open_with,
    plan_document,
    vacant,
)
from cstor_cli.recovery_plan import Plan, of_volume, plan
from cstor_core.errors import CstorError, InputError


def recover(
    directories: Annotated[
        list[Path],
        typer.Argument(help="Pool directories whose daemons do not run.", metavar="DIR..."),
    ],
    volume: Annotated[
        str, typer.Option("--volume", help="Name or UUID, where they hold several volumes.")
    ] = "",
    directory: Annotated[
        Path,
        typer.Option("--dir", help="An empty directory for state and logs; for cstor up later."),
    ] = DEFAULT_DIRECTORY,
    portal: Annotated[
        str | None, typer.Option(help="HOST:PORT for initiators; 127.0.0.1:3260 if it is free.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read and verify all data first.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Only say what there is.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once initiators can log in.")
    ] = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what pool directories hold, and open a volume with the best of them.

    For when machines are lost and their disks are left.  Nothing is written anywhere before it has
    been agreed to.  The pools stay where they are; --dir gets links to them, the state and the
    logs, and can be started and stopped with cstor up and cstor down from then on.
    """

    looks = [look_into(each, is_verifying=verify) for each in dict.fromkeys(directories)]
    found: Plan | None = None
    wrong: CstorError | None = None
    try:
        check_all_looked_into(looks)
        found = plan(of_volume([held for look in looks for held in look.replicas], volume))
    except CstorError as error:
        wrong = error
    if output is not Output.TABLE:
        print_document(plan_document(looks, found, str(wrong or "")), output)
    else:
        for look in looks:
            for line in lines_of(look):
                typer.echo(line)
    if wrong is not None or found is None:
        raise wrong or InputError("nothing can be opened")
    if output is Output.TABLE:
        for line in lines_of_plan(found):
            typer.echo(line)
    if show or (output is not Output.TABLE and not yes):
        raise typer.Exit(ExitCode.OK)
    home = vacant(directory)
    if not (yes or typer.confirm("Open it?", err=True)):
        raise InputError("nothing was done")
    with interruptible():
        result = open_with(home, found, portal, _say)
        code = stay(home.path, result, _say, _complain, detach=detach)
    raise typer.Exit(code)


def _say(line: str) -> None:
    typer.echo(line)


def _complain(line: str) -> None:
    typer.echo(f"cstor: {line}", err=True)
