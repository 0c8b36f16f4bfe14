"""The page of the commands: what `--help` says, of each command and subcommand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from typer import Typer
from typer.testing import CliRunner

from cstor_cli.main import app as cstor
from cstor_core.health import Reached, health_command
from cstor_core.settings import Address
from cstor_target.main import application as cstor_target
from cstor_target.settings import CONTROL_PORT
from replica.main import app as cstor_replica
from replica.settings import LISTEN_PORT
from replica.tools import tools as cstor_replica_tools

COLUMNS = "96"
HEAD = """# Commands

What `--help` says of each command. `cstor` is for people and scripts; `cstor-target` and
`cstor-replica` are the daemons, whose [settings](settings.md) can also come from elsewhere.
"""


def _nowhere(_flags: dict[str, object], _config: Path | None) -> Reached:
    """Where nobody listens who only asks for help."""
    return Reached(Address("", None), None)


PROGRAMS = (
    ("cstor", cstor),
    ("cstor-target", cstor_target),
    ("cstor-target health", health_command("cstor-target", CONTROL_PORT, _nowhere)),
    ("cstor-replica", cstor_replica),
    ("cstor-replica", cstor_replica_tools),
    ("cstor-replica health", health_command("cstor-replica", LISTEN_PORT, _nowhere)),
)


def commands_page() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for program, app in PROGRAMS:
        for path in _paths(app):
            heading = " ".join((program, *path))
            depth = "##" if len(path) < 2 else "###"
            parts.append(f"{depth} {heading}\n\n```text\n{_help(app, program, path)}\n```\n")
    return "\n".join(parts)


def _paths(app: Typer) -> Iterator[tuple[str, ...]]:
    """The words behind the program's name, for it and for each of its commands."""
    if app is not cstor_replica_tools:  # which are commands beside the daemon's own
        yield ()
    if len(app.registered_commands) == 1 and not app.registered_groups:
        return  # typer makes such a command the program itself
    for name in _names(app):
        yield (name,)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        assert group.name
        yield (group.name,)
        for name in _names(group.typer_instance):
            yield (group.name, name)


def _names(app: Typer) -> list[str]:
    """The commands of a program or group."""
    found = []
    for command in app.registered_commands:
        assert command.callback is not None
        found.append(command.name or command.callback.__name__.replace("_", "-"))
    return found


def _help(app: Typer, program: str, path: tuple[str, ...]) -> str:
    """Raises RuntimeError where a command does not say it."""
    environment = {"COLUMNS": COLUMNS, "TERMINAL_WIDTH": COLUMNS, "NO_COLOR": "1"}
    result = CliRunner().invoke(app, [*path, "--help"], prog_name=program, env=environment)
    if result.exit_code != 0:
        raise RuntimeError(f"{program} {' '.join(path)} --help: {result.output}")
    return result.output.rstrip()
