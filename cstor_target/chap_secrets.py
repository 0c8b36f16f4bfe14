"""The CHAP secrets of a target: in one file of its directory, which only its owner can read.

They are set for one volume, for all that have none of their own, or for discovery.  Where names of
initiators are set, whoever logs in there has to be one of them; where none are, everybody may,
unless the target was told to require CHAP.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from cstor_core.errors import InputError
from cstor_target.iscsi.chap import Credential, Realm
from cstor_target.login_scopes import scopes_of
from cstor_target.private_file import Kept, read, write

FILE_NAME = "chap.json"
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 12, 255
"""96 bits, below which a secret can be found out from what travels (RFC 7143, 12.1.3)."""
NAME_BYTES_MAX = 255


class _Side(Kept):
    name: str
    secret: str


class _Scope(Kept):
    initiators: dict[str, str] = Field(default_factory=dict)
    target: _Side | None = None


class _File(Kept):
    format: Literal[1] = 1
    scopes: dict[str, _Scope] = Field(default_factory=dict)


class ChapSecrets:
    """Of one target.  `load` comes before anybody is let in."""

    def __init__(self, path: Path, *, required: bool) -> None:
        self._path = path
        self._required = required
        self._realms: dict[str, Realm] = {}

    def load(self) -> None:
        """Read the file, if there is one.

        Raises InputError where it cannot be believed: nobody is let in then without a proof that
        was asked for.
        """
        kept = read(self._path, _File, "remove it, and set the secrets anew (cstor chap set)")
        self._realms = {
            scope: Realm(
                {name: secret.encode() for name, secret in one.initiators.items()},
                Credential(one.target.name, one.target.secret.encode()) if one.target else None,
            )
            for scope, one in kept.scopes.items()
        }

    def realm(self, target_name: str) -> Realm | None:
        """Who may log in to a target node, or for discovery where the name is empty; None where
        everybody may.
        """
        realms = [self._realms.get(scope, Realm()) for scope in scopes_of(target_name)]
        initiators = next((realm.initiators for realm in realms if realm.initiators), {})
        if not initiators and not self._required:
            return None
        target = next((realm.target for realm in realms if realm.target is not None), None)
        return Realm(initiators, target)

    def scopes(self) -> dict[str, Realm]:
        """All that is set."""
        return dict(sorted(self._realms.items()))

    def set(self, scope: str, name: str, secret: str, *, of_target: bool) -> None:
        """Set the secret of an initiator, or of the target itself, which has one in each scope.

        Raises InputError where it is too weak, or both sides would have the same: then who asks
        for a proof could be given its own.
        """
        _check(name, secret)
        bare = secret.encode()
        if bare in self._secrets(of_target=not of_target):
            raise InputError(
                "the secret is the other side's already: initiators and the target need different "
                "ones"
            )
        realm = self._realms.get(scope, Realm())
        if of_target:
            realm = Realm(realm.initiators, Credential(name, bare))
        else:
            realm = Realm({**realm.initiators, name: bare}, realm.target)
        self._keep({**self._realms, scope: realm})

    def clear(self, scope: str, name: str) -> list[str]:
        """Take away the secrets of that name in a scope, or all where it is empty; whose they
        were.  What is not there is taken away already.
        """
        realm = self._realms.get(scope, Realm())
        initiators = {one: bare for one, bare in realm.initiators.items() if name not in (one, "")}
        target = realm.target
        if target is not None and name in (target.name, ""):
            target = None
        taken = [one for one in realm.initiators if one not in initiators]
        if realm.target is not None and target is None:
            taken.append(realm.target.name)
        if taken:
            left = {one: of for one, of in self._realms.items() if one != scope}
            if initiators or target is not None:
                left[scope] = Realm(initiators, target)
            self._keep(left)
        return taken

    def _secrets(self, *, of_target: bool) -> Iterator[bytes]:
        for realm in self._realms.values():
            if not of_target:
                yield from realm.initiators.values()
            elif realm.target is not None:
                yield realm.target.secret

    def _keep(self, realms: dict[str, Realm]) -> None:
        """Write the file in one step, and only then go by it."""
        kept = {scope: _as_kept(realm) for scope, realm in realms.items()}
        write(self._path, _File(scopes=kept))
        self._realms = realms


def _as_kept(realm: Realm) -> _Scope:
    target = realm.target
    return _Scope(
        initiators={name: secret.decode() for name, secret in realm.initiators.items()},
        target=_Side(name=target.name, secret=target.secret.decode()) if target else None,
    )


def _check(name: str, secret: str) -> None:
    if not 1 <= len(name.encode()) <= NAME_BYTES_MAX or not name.isprintable():
        raise InputError(f"a CHAP name has 1 to {NAME_BYTES_MAX} bytes, which can be printed")
    if not SECRET_BYTES_MIN <= len(secret.encode()) <= SECRET_BYTES_MAX or not secret.isprintable():
        raise InputError(
            f"a CHAP secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes in one line, which "
            "can be printed: shorter ones can be found out from what travels"
        )
