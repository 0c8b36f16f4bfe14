"""Which initiators may log in, by their names and by the networks that they are in.

Each restricts by itself: where names are given, nobody with another one may, and where networks
are given, nobody from elsewhere may.  Where neither is, everybody may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from cstor_core.errors import InputError
from cstor_target.iscsi.login import ISCSI_NAME
from cstor_target.login_scopes import scopes_of, words
from cstor_target.private_file import Kept, read, write

FILE_NAME = "access.json"
Network = IPv4Network | IPv6Network
T = TypeVar("T")


class _Scope(Kept):
    initiators: list[str] | None = None
    networks: list[str] | None = None


class _File(Kept):
    format: Literal[1] = 1
    scopes: dict[str, _Scope] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may log in somewhere; None where all may."""

    initiators: frozenset[str] | None = None
    networks: frozenset[Network] | None = None


class AccessRules:
    """Of one target.  `load` comes before anybody is let in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rules: dict[str, Access] = {}

    def load(self) -> None:
        """Read the file, if there is one; raises InputError where it cannot be believed."""
        kept = read(self._path, _File, "remove it, and allow initiators anew (cstor access allow)")
        try:
            self._rules = {
                scope: Access(
                    None if one.initiators is None else frozenset(map(_initiator, one.initiators)),
                    None if one.networks is None else frozenset(map(_network, one.networks)),
                )
                for scope, one in kept.scopes.items()
            }
        except InputError as error:
            raise InputError(f"{self._path} is damaged: {error}") from error

    def admits(self, target_name: str, initiator_name: str, peer: str) -> bool:
        """Whether an initiator at HOST:PORT may log in to a target node, or discover where that
        name is empty.
        """
        rules = [self._rules.get(scope, Access()) for scope in scopes_of(target_name)]
        names = next((one.initiators for one in rules if one.initiators is not None), None)
        networks = next((one.networks for one in rules if one.networks is not None), None)
        if names is not None and initiator_name not in names:
            return False
        return networks is None or _is_in(peer, networks)

    def scopes(self) -> dict[str, Access]:
        """All that is set."""
        return dict(sorted(self._rules.items()))

    def allow(self, scope: str, initiators: Iterable[str], networks: Iterable[str]) -> Access:
        """Let these log in; what is the rule then.

        The first name keeps all others out, and so does the first network.
        """
        rule = self._rules.get(scope, Access())
        names, nets = frozenset(map(_initiator, initiators)), frozenset(map(_network, networks))
        if not names and not nets:
            raise InputError("say who: the name of an initiator, or --network")
        return self._keep(
            scope, Access(_joined(rule.initiators, names), _joined(rule.networks, nets))
        )

    def deny(self, scope: str, initiators: Iterable[str], networks: Iterable[str]) -> Access:
        """Take back that these may; what is the rule then, which may be that nobody may.

        Raises InputError where one of them was not allowed by itself.
        """
        rule = self._rules.get(scope, Access())
        return self._keep(
            scope,
            Access(
                _without(rule.initiators, initiators, _initiator, scope),
                _without(rule.networks, networks, _network, scope),
            ),
        )

    def allow_everybody(self, scope: str) -> Access:
        """Take the rule away."""
        return self._keep(scope, Access())

    def _keep(self, scope: str, rule: Access) -> Access:
        """Write the file, and only then go by it."""
        rules = {**self._rules, scope: rule}
        if rule == Access():
            del rules[scope]
        if rules != self._rules:
            kept = {scope: _as_kept(one) for scope, one in rules.items()}
            write(self._path, _File(scopes=kept))
            self._rules = rules
        return rule


def _as_kept(rule: Access) -> _Scope:
    return _Scope(
        initiators=None if rule.initiators is None else sorted(rule.initiators),
        networks=None if rule.networks is None else sorted(map(str, rule.networks)),
    )


def _joined(before: frozenset[T] | None, more: frozenset[T]) -> frozenset[T] | None:
    return before if not more else more | (before or frozenset())


def _without(
    before: frozenset[T] | None, names: Iterable[str], parse: Callable[[str], T], scope: str
) -> frozenset[T] | None:
    left = before
    for name in names:
        one = parse(name)
        if before is None or one not in before:
            raise InputError(
                f"{name} was not allowed by itself for {words(scope)}: cstor access list shows who "
                "is; where nobody is, everybody may log in until somebody is allowed"
            )
        left = (left or frozenset()) - {one}
    return left


def _initiator(name: str) -> str:
    if ISCSI_NAME.fullmatch(name.lower()) is None:
        raise InputError(f"{name[:80]!r} is no iSCSI name: they begin with iqn., eui. or naa.")
    return name.lower()


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise InputError(f"{error}: write it like 10.0.0.0/24, 10.0.0.7 or fd00::/64") from error


def _is_in(peer: str, networks: Iterable[Network]) -> bool:
    host = peer.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return False  # nobody knows where it is
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)
