"""Text negotiation from the responder's side (RFC 7143, 6.2): offers in, answers out, results kept.

The target never offers a negotiated key itself, it only declares, so every negotiated key is the
initiator's offer and is answered in the same exchange.  Each key has a result at any moment: the
default until it is negotiated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cstor_target.iscsi.errors import TextError
from cstor_target.iscsi.keys import DATA_SEGMENT_BYTES_MAX, KEYS, Key, Kind, Use
from cstor_target.iscsi.text import Pair

_NUMBER = re.compile(r"0[xX]0*[0-9A-Fa-f]{1,16}|[0-9]{1,20}")
_VALUE_BYTES_MAX = 255
"""Of a simple value (RFC 7143, 6.1): what is kept of a text that a session has."""
_NOT_AN_OFFER = frozenset(("NotUnderstood", "Irrelevant", "Reject"))


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the full feature phase must know; lengths in bytes, times in seconds."""

    header_digest: bool
    data_digest: bool
    initial_r2t: bool
    immediate_data: bool
    first_burst_length: int
    max_burst_length: int
    initiator_max_recv_data_segment_length: int
    target_max_recv_data_segment_length: int
    max_outstanding_r2t: int
    default_time2wait: int
    default_time2retain: int


class Negotiator:
    """The results of one connection's negotiation.

    `leading`: this login makes a new session.
    """

    def __init__(self, *, leading: bool) -> None:
        self._leading = leading
        self.auth_methods: Sequence[str] = ("None",)
        """What the security stage accepts (12.1)."""
        self._offered: set[str] = set()
        self._declared_segment = False
        self.values = {key.name: key.default for key in KEYS.values()}

    @property
    def is_discovery(self) -> bool:
        """The session's type (13.21)."""
        return self.values["SessionType"] == "Discovery"

    def answer(self, pairs: Iterable[Pair], use: Use) -> list[Pair]:
        """Take the initiator's pairs and give the answers, in the order of the offers.

        `use` is LOGIN or FULL_FEATURE.  Raises TextError when a key is offered a second time in
        the login (6.2: a key is negotiated once).
        """
        answers = []
        for name, value in sorted(pairs, key=_order):
            answer = self._answer(name, value, use)
            if answer is not None:
                answers.append((name, answer))
        return answers

    def declare(self) -> list[Pair]:
        """The target's own MaxRecvDataSegmentLength, once (13.12)."""
        if self._declared_segment:
            return []
        self._declared_segment = True
        return [("MaxRecvDataSegmentLength", str(DATA_SEGMENT_BYTES_MAX))]

    def leading_values(self) -> dict[str, str]:
        """The results that hold for the whole session."""
        return {name: self.values[name] for name, key in KEYS.items() if Use.LEADING in key.use}

    def parameters(self) -> Parameters:
        """The results, as numbers and booleans."""
        values = self.values
        max_burst = int(values["MaxBurstLength"])
        return Parameters(
            header_digest=values["HeaderDigest"] == "CRC32C",
            data_digest=values["DataDigest"] == "CRC32C",
            initial_r2t=values["InitialR2T"] == "Yes",
            immediate_data=values["ImmediateData"] == "Yes",
            first_burst_length=min(int(values["FirstBurstLength"]), max_burst),
            max_burst_length=max_burst,
            initiator_max_recv_data_segment_length=int(values["MaxRecvDataSegmentLength"]),
            target_max_recv_data_segment_length=(
                DATA_SEGMENT_BYTES_MAX
                if self._declared_segment
                else int(KEYS["MaxRecvDataSegmentLength"].default)
            ),
            max_outstanding_r2t=int(values["MaxOutstandingR2T"]),
            default_time2wait=int(values["DefaultTime2Wait"]),
            default_time2retain=int(values["DefaultTime2Retain"]),
        )

    def _answer(self, name: str, value: str, use: Use) -> str | None:
        """The answer to one pair, None for a declaration or for an answer to us."""
        key = KEYS.get(name)
        if key is None:
            return None if value in _NOT_AN_OFFER else "NotUnderstood"
        if value in _NOT_AN_OFFER:
            return None
        if use is Use.LOGIN:
            if name in self._offered:
                raise TextError(f"the key {name} is offered a second time")
            self._offered.add(name)
        if key.from_target_only or use not in key.use:
            return "Reject"
        if key.irrelevant_in_discovery and self.is_discovery:
            return "Irrelevant"
        if Use.LEADING in key.use and not self._leading:
            return None if key.kind is Kind.TEXT else "Reject"
        return self._apply(key, value)

    def _apply(self, key: Key, value: str) -> str | None:
        match key.kind:
            case Kind.OBSOLETE:
                return key.ours
            case Kind.TEXT if len(value.encode()) > _VALUE_BYTES_MAX:
                return "Reject"
            case Kind.TEXT:
                self.values[key.name] = value
                return None
            case Kind.LIST:
                result = self._first_supported(key, value)
            case Kind.AND | Kind.OR:
                result = _boolean(key, value)
            case Kind.NUMBER | Kind.MINIMUM | Kind.MAXIMUM:
                result = self._number(key, value)
        if result is None:
            return "Reject"
        self.values[key.name] = result
        return None if key.kind is Kind.NUMBER else result

    def _first_supported(self, key: Key, value: str) -> str | None:
        supported = self.auth_methods if key.name == "AuthMethod" else key.ours.split(",")
        return next((item for item in value.split(",") if item in supported), None)

    def _number(self, key: Key, value: str) -> str | None:
        if _NUMBER.fullmatch(value) is None:
            return None
        number = int(value, 16) if value[:2] in ("0x", "0X") else int(value)
        if not key.minimum <= number <= key.maximum:
            return None
        if key.kind is Kind.MINIMUM:
            number = min(number, int(key.ours))
        elif key.kind is Kind.MAXIMUM:
            number = max(number, int(key.ours))
        if key.name == "FirstBurstLength":
            number = min(number, int(self.values["MaxBurstLength"]))
        return str(number)


def _order(pair: Pair) -> int:
    """SessionType decides what is irrelevant, and MaxBurstLength bounds FirstBurstLength."""
    return {"SessionType": 0, "FirstBurstLength": 2}.get(pair[0], 1)


def _boolean(key: Key, value: str) -> str | None:
    if value not in ("Yes", "No"):
        return None
    if key.kind is Kind.AND:
        return "Yes" if value == "Yes" and key.ours == "Yes" else "No"
    return "Yes" if value == "Yes" or key.ours == "Yes" else "No"
