"""Text of login and text negotiation: key=value pairs (RFC 7143, 6.1) and their collection over
several PDUs with the C bit (6.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from cstor_target.iscsi.errors import TextError

Pair = tuple[str, str]

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9.\-+@_#]{0,62}")


def encode(pairs: Iterable[Pair]) -> bytes:
    """Pairs as they travel: UTF-8, a NUL after each."""
    return "".join(f"{key}={value}\0" for key, value in pairs).encode()


def decode(text: bytes, keys_max: int) -> list[Pair]:
    """The pairs in order.

    Raises TextError for what is no key=value pair, a key longer than 63 bytes, a key that comes
    twice, or more than `keys_max` pairs.
    """
    pairs: list[Pair] = []
    seen: set[str] = set()
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        raise TextError("text that is not UTF-8") from error
    for item in decoded.split("\0"):
        if not item:
            continue
        key, equals, value = item.partition("=")
        if not equals or _KEY.fullmatch(key) is None:
            raise TextError(f"text that is no key=value pair: {item[:80]!r}")
        if key in seen:
            raise TextError(f"the key {key} comes twice")
        seen.add(key)
        pairs.append((key, value))
        if len(pairs) > keys_max:
            raise TextError(f"more than {keys_max} keys")
    return pairs


class TextCollector:
    """Data segments up to the one without the C bit."""

    __slots__ = ("_bytes_max", "_pieces", "_size")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        """Raises TextError when the text grows beyond its bound."""
        self._size += len(data)
        if self._size > self._bytes_max:
            raise TextError(f"more than {self._bytes_max} bytes of text")
        if data:
            self._pieces.append(data)

    def take(self) -> bytes:
        """All of it, and begin anew."""
        text = b"".join(self._pieces)
        self.clear()
        return text

    def clear(self) -> None:
        """Forget what was collected."""
        self._pieces = []
        self._size = 0
