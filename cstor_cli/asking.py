"""Asking before anything that loses data."""

from __future__ import annotations

import typer

from cstor_core.errors import InputError


def agree(sentence: str, *, yes: bool) -> None:
    """Say what will be lost, and have somebody agree; `yes` has agreed before.

    Raises InputError where he does not.
    """
    typer.echo(sentence, err=True)
    if not (yes or typer.confirm("Go on?", err=True)):
        raise InputError("nothing was done")
