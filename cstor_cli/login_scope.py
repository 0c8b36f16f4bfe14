"""Options that say where rules about logins are in force."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import control_pb2

ScopeOption = Annotated[
    str,
    typer.Option(
        "--volume", help="For this volume; without it, for all that have no rules of their own."
    ),
]
DiscoveryOption = Annotated[
    bool, typer.Option("--discovery", help="For discovery, rather than for volumes.")
]


def scope_of(volume: str, *, discovery: bool) -> control_pb2.LoginScope:
    """Where a rule is in force; InputError where both are named."""
    if volume and discovery:
        raise InputError("name a volume with --volume or --discovery, not both")
    return control_pb2.LoginScope(volume=volume, discovery=discovery)


def scope_words(scope: control_pb2.LoginScope) -> str:
    """For a person."""
    if scope.discovery:
        return "discovery"
    return scope.volume or "all volumes without their own"


def scope_document(scope: control_pb2.LoginScope) -> dict[str, Any]:
    """For a script; no volume and no discovery: all volumes without rules of their own."""
    return {"volume": scope.volume or None, "discovery": scope.discovery}
