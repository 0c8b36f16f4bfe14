"""Where rules about logins are in force: one volume, all that have none of their own, discovery."""

from __future__ import annotations

from cstor_target.served_volume import IQN_PREFIX

ALL_VOLUMES = ""
DISCOVERY = "@discovery"
"""Beside the names of volumes: no volume is called so."""


def scopes_of(target_name: str) -> list[str]:
    """Whose rules hold for a target node, or for discovery where the name is empty: those of the
    first one that has any.
    """
    of_volume = [target_name.removeprefix(IQN_PREFIX), ALL_VOLUMES]
    return of_volume if target_name else [DISCOVERY]


def words(scope: str) -> str:
    """For sentences."""
    if scope == DISCOVERY:
        return "discovery"
    return f"volume {scope}" if scope else "all volumes without their own"
