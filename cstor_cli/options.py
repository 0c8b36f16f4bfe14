"""Options that several commands share."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_DIRECTORY = Path("cstor-data")
DEFAULT_CONTROL = "127.0.0.1:7777"


class Output(enum.StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="For people, or for scripts.")]
AnyDirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        help="A directory of cstor up; its target is asked.  Without this and --target it is that "
        "of ./cstor-data, or else the one at 127.0.0.1:7777.",
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option("--target", "--control", help="HOST:PORT of a target's control service."),
]
VolumeOption = Annotated[
    str, typer.Option("--volume", help="Name or UUID; without it, the target's only one.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
