"""What a certificate says its holder is: roles, as names of the subject (RFC 5280, 4.2.1.6).

A role is a URI among the alternative names: `cstor:target/VOLUME`, where VOLUME is the name or the
UUID of a volume or `*` for all of them, `cstor:replica/NAME` and `cstor:operator/NAME`.  A
certificate may have several.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from cstor_core.errors import InputError

SCHEME = "cstor"
ALL_VOLUMES = "*"
_URI = re.compile(rf"{SCHEME}:([a-z]+)/(\*|[A-Za-z0-9][A-Za-z0-9._-]{{0,127}})")


class Role(StrEnum):
    """What a peer can be."""

    TARGET = "target"
    REPLICA = "replica"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a peer is, as its certificate says."""

    names: tuple[tuple[Role, str], ...]

    def __str__(self) -> str:
        return ", ".join(f"{role} {name}" for role, name in self.names)

    def has(self, roles: Iterable[Role]) -> bool:
        """Whether it has one of these roles."""
        return any(role in roles for role, _ in self.names)

    def volumes(self) -> frozenset[str]:
        """The volumes whose target it is, as the certificate names them."""
        return frozenset(name for role, name in self.names if role is Role.TARGET)


def role_uri(role: Role, name: str) -> str:
    """The URI of a role.  Raises InputError where nobody can be called so."""
    uri = f"{SCHEME}:{role}/{name}"
    if not _URI.fullmatch(uri) or (name == ALL_VOLUMES and role is not Role.TARGET):
        raise InputError(
            f"{name!r} cannot name the {role} of a certificate: write up to 128 of a-z, A-Z, "
            "0-9, '.', '_' and '-', a letter or digit first"
        )
    return uri


def identity_of(uris: Iterable[str]) -> Identity:
    """Who has these URIs in its certificate; those of no role that is known here are passed over,
    as a later version may have more of them.
    """
    return Identity(tuple(_roles(uris)))


def identity_in(certificate: Mapping[str, object]) -> Identity:
    """Who has a certificate, in the form in which `ssl.SSLSocket.getpeercert` tells it."""
    names = certificate.get("subjectAltName", ())
    assert isinstance(names, tuple)
    return identity_of(value for kind, value in names if kind == "URI")


def _roles(uris: Iterable[str]) -> Iterator[tuple[Role, str]]:
    known = set(Role)
    for uri in uris:
        found = _URI.fullmatch(uri)
        if found is None or found[1] not in known:
            continue
        role, name = Role(found[1]), found[2]
        if role is Role.TARGET or name != ALL_VOLUMES:
            yield role, name
