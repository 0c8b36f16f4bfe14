"""The page of the settings: from the models that read them and the flags of the daemons."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, get_args, get_origin

from pydantic_core import PydanticUndefined
from typer.models import ParameterInfo

from cstor_core.settings import Address, DaemonSettings
from cstor_core.units import MIB, format_size
from cstor_target.main import serve as target_command
from cstor_target.settings import TargetSettings
from reference.tables import table
from replica.main import replica as replica_command
from replica.settings import ReplicaSettings

HEAD = """# Settings

A setting is a flag, else an environment variable, else a key of the TOML file that `--config`
names, else its default. Several values of one setting are several flags, stand in one variable with
commas between them, and are a list in TOML. Sizes are bytes, or `64MiB`; times are seconds, or
`12h`; rates are `64MiB/s`.
"""
DAEMONS: dict[str, tuple[type[DaemonSettings], Callable[..., None]]] = {
    "cstor-target": (TargetSettings, target_command),
    "cstor-replica": (ReplicaSettings, replica_command),
}


def settings_page() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for daemon, (model, command) in DAEMONS.items():
        words = _help_of(command)
        prefix = str(model.model_config.get("env_prefix"))
        rows = [
            (
                f"`{name}`",
                f"`{prefix}{name.upper()}`",
                _default(field.get_default(call_default_factory=True), field.is_required()),
                words[name],
            )
            for name, field in model.model_fields.items()
        ]
        head = ("key", "environment", "default", "meaning")
        parts.append(f"## {daemon}\n\n{table(head, rows)}")
    parts.append("The flag of a key is `--` and the key with hyphens; the directory has none.\n")
    return "\n".join(parts)


def _help_of(command: Callable[..., None]) -> dict[str, str]:
    """What each flag of a daemon says of itself."""
    found = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        assert get_origin(parameter.annotation) is Annotated
        (info,) = (one for one in get_args(parameter.annotation) if isinstance(one, ParameterInfo))
        found[name] = info.help or ""
    return found


def _default(value: Any, is_required: bool) -> str:
    if is_required or value is PydanticUndefined:
        return "must be given"
    if value is None or value == ():
        return "none"
    if isinstance(value, Address):
        return value.host
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and value >= MIB:
        return format_size(value)
    return str(value.value) if isinstance(value, Enum) else str(value)
