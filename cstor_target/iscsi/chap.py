"""CHAP: initiators, and targets if asked to, prove that they know a secret (RFC 7143, 12.1.3).

Neither sends the secret: each answers a challenge that the other has made up with a digest of the
two.  A challenge is used once.  Names are compared as they are written; binary values come in
hexadecimal (`0x`) or base64 (`0b`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

from cstor_target.iscsi.constants import LoginStatus
from cstor_target.iscsi.errors import LoginRefused
from cstor_target.iscsi.text import Pair

METHOD = "CHAP"
KEYS = frozenset(("CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"))
CHALLENGE_BYTES = 32
CHALLENGE_BYTES_MAX = 1024
RandomBytes = Callable[[int], bytes]
_DIGESTS: dict[str, Callable[[bytes], Any]] = {
    "5": partial(hashlib.md5, usedforsecurity=False),
    "6": partial(hashlib.sha1, usedforsecurity=False),
    "7": hashlib.sha256,
    "8": hashlib.sha3_256,
}
"""By the numbers of the algorithms; the first one is for initiators that know no other."""
_IDENTIFIER = re.compile(r"0[xX][0-9A-Fa-f]{1,2}|[0-9]{1,3}")
_HEX = re.compile(r"0[xX]([0-9A-Fa-f]+)")
_BASE64 = re.compile(r"0[bB]([A-Za-z0-9+/]+={0,2})")


@dataclass(frozen=True, slots=True)
class Credential:
    """A name and its secret, which nothing prints."""

    name: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Realm:
    """Who may log in somewhere: secrets by name; and as whom a target proves itself there."""

    initiators: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    target: Credential | None = None


class _State(Enum):
    METHOD = "which algorithms is to come"
    RESPONSE = "the initiator's response is to come"
    DONE = "the initiator has proved who it is"


class ChapExchange:
    """The target's side of one login."""

    def __init__(self, realm: Realm, random_bytes: RandomBytes) -> None:
        """`random_bytes` are such as nobody can guess."""
        self._realm = realm
        self._random_bytes = random_bytes
        self._state = _State.METHOD
        self._algorithm = ""
        self._identifier = 0
        self._challenge = b""

    @property
    def is_done(self) -> bool:
        """The initiator has proved who it is."""
        return self._state is _State.DONE

    def answer(self, pairs: Iterable[Pair]) -> list[Pair]:
        """Take the initiator's CHAP keys of one request; returns the target's.

        Raises LoginRefused where the exchange has failed: it is not gone on with.
        """
        keys = dict(pairs)
        if not keys and self._state is not _State.RESPONSE:
            return []
        match self._state:
            case _State.METHOD if keys.keys() == {"CHAP_A"}:
                return self._challenge_for(keys["CHAP_A"])
            case _State.RESPONSE if keys.keys() in (
                {"CHAP_N", "CHAP_R"},
                {"CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C"},
            ):
                return self._judge(keys)
        raise _failure(f"{', '.join(sorted(keys)) or 'nothing'} came where {self._state.value}")

    def _challenge_for(self, algorithms: str) -> list[Pair]:
        known = (number for number in algorithms.split(",") if number in _DIGESTS)
        self._algorithm = next(known, "")
        if not self._algorithm:
            raise _failure("the initiator offers no CHAP algorithm of ours")
        (self._identifier,) = self._random_bytes(1)
        self._challenge = self._random_bytes(CHALLENGE_BYTES)
        self._state = _State.RESPONSE
        return [
            ("CHAP_A", self._algorithm),
            ("CHAP_I", str(self._identifier)),
            ("CHAP_C", _hex(self._challenge)),
        ]

    def _judge(self, keys: Mapping[str, str]) -> list[Pair]:
        """Whether the response is right; the target's own where the initiator wants one."""
        challenge, self._challenge = self._challenge, b""
        name = keys["CHAP_N"]
        secret = self._realm.initiators.get(name)
        # An unknown name takes as long as a known one.
        made_up = self._random_bytes(CHALLENGE_BYTES)
        expected = self._response(self._identifier, secret or made_up, challenge)
        is_right = hmac.compare_digest(expected, _binary("CHAP_R", keys["CHAP_R"]))
        if secret is None or not is_right:
            raise _failure(f"no initiator is called {name[:80]!r} here, or its secret is another")
        answers = self._own(keys, challenge) if "CHAP_C" in keys else []
        self._state = _State.DONE
        return answers

    def _own(self, keys: Mapping[str, str], ours: bytes) -> list[Pair]:
        """The target's proof."""
        target = self._realm.target
        if target is None:
            raise _failure("the initiator wants the target to prove itself, which has no secret")
        if _IDENTIFIER.fullmatch(keys["CHAP_I"]) is None:
            raise _failure("CHAP_I is no number of a byte")
        identifier = int(keys["CHAP_I"], 16 if keys["CHAP_I"][:2] in ("0x", "0X") else 10)
        challenge = _binary("CHAP_C", keys["CHAP_C"])
        if identifier > 0xFF:
            raise _failure("CHAP_I is no number of a byte")
        if hmac.compare_digest(challenge, ours):
            raise _failure("the initiator sends the target's challenge back")
        response = self._response(identifier, target.secret, challenge)
        return [("CHAP_N", target.name), ("CHAP_R", _hex(response))]

    def _response(self, identifier: int, secret: bytes, challenge: bytes) -> bytes:
        made: bytes = _DIGESTS[self._algorithm](bytes((identifier,)) + secret + challenge).digest()
        return made


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


def _binary(key: str, text: str) -> bytes:
    """A binary value (RFC 7143, 6.1), of at most 1,024 bytes."""
    if found := _HEX.fullmatch(text):
        digits = found[1]
        value = bytes.fromhex(digits.rjust(len(digits) + len(digits) % 2, "0"))
    elif found := _BASE64.fullmatch(text):
        try:
            value = base64.b64decode(found[1], validate=True)
        except binascii.Error as error:
            raise _failure(f"{key} is no binary value") from error
    else:
        raise _failure(f"{key} is no binary value")
    if len(value) > CHALLENGE_BYTES_MAX:
        raise _failure(f"{key} is longer than {CHALLENGE_BYTES_MAX} bytes")
    return value


def _failure(sentence: str) -> LoginRefused:
    return LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, sentence)
