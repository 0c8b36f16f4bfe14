"""Text negotiation in the full feature phase (RFC 7143, 11.10, 11.11, 13.3, appendix C).

One exchange at a time: text with the C bit is collected, a text response that is larger than the
initiator's MaxRecvDataSegmentLength goes out in parts, and a request with the reserved Target
Transfer Tag begins anew.  SendTargets=All is answered in normal sessions too, because libiscsi
asks there; every target of the process to which the initiator may log in is named in either case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cstor_target.iscsi.constants import RESERVED_TAG
from cstor_target.iscsi.directory import Portal, Target, TargetDirectory
from cstor_target.iscsi.errors import TextError
from cstor_target.iscsi.keys import Use
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.negotiation import Negotiator
from cstor_target.iscsi.sessions import Session
from cstor_target.iscsi.text import Pair, TextCollector, decode, encode

EVERYWHERE = frozenset(("0.0.0.0", "[::]"))  # noqa: S104 - nothing is bound here
_TRANSFER_TAG = 1
"""The Target Transfer Tag of the one exchange that may be under way."""


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """The variable part of a Text Response."""

    text: bytes
    final: bool
    continues: bool
    target_transfer_tag: int


class TextPhase:
    """The text exchanges of one connection."""

    def __init__(
        self,
        session: Session,
        negotiator: Negotiator,
        directory: TargetDirectory,
        portal: Portal,
        limits: Limits,
    ) -> None:
        self._session = session
        self._negotiator = negotiator
        self._directory = directory
        self._portal = portal
        self._limits = limits
        self._collector = TextCollector(limits.text_bytes_max)
        self._unsent = memoryview(b"")
        self._named: set[str] = set()
        """The keys of the exchange so far: none may come twice (6.4)."""
        self._made_bytes = 0

    @property
    def segment_bytes_max(self) -> int:
        """The initiator's MaxRecvDataSegmentLength, which it may declare anew here (13.12)."""
        return int(self._negotiator.values["MaxRecvDataSegmentLength"])

    def begin_burst(self) -> None:
        """Bytes have arrived: count the text that is made for the requests in them."""
        self._made_bytes = 0

    @property
    def has_made_enough(self) -> bool:
        """The requests of this burst have asked for so much text that no more of them is carried
        out: a short request may have a long answer, and thousands fit into a burst."""
        return self._made_bytes > self._limits.text_answers_bytes_max

    def receive(self, request: Any, data: bytes) -> TextAnswer:
        """The answer to one parsed TEXT_REQUEST.

        Raises TextError; the exchange is forgotten then.
        """
        if request.target_transfer_tag == RESERVED_TAG:
            self._collector.clear()
            self._named.clear()
            self._unsent = memoryview(b"")
        elif self._unsent and not data:
            return self._next_part(request.final)
        try:
            self._collector.add(data)
            if request.continue_:
                return TextAnswer(b"", False, False, _TRANSFER_TAG)
            pairs = decode(self._collector.take(), self._limits.keys_max)
            self._note({key for key, _ in pairs})
        except TextError:
            self._collector.clear()
            self._named.clear()
            raise
        self._unsent = memoryview(encode(self._answers(pairs)))
        self._made_bytes += len(self._unsent)
        return self._next_part(request.final)

    def _note(self, keys: set[str]) -> None:
        again = self._named & keys
        if again:
            raise TextError(f"the key {min(again)} comes twice")
        if len(self._named) + len(keys) > self._limits.keys_max:
            raise TextError(f"more than {self._limits.keys_max} keys")
        self._named |= keys

    def _next_part(self, final: bool) -> TextAnswer:
        size = self.segment_bytes_max
        part, self._unsent = bytes(self._unsent[:size]), self._unsent[size:]
        if self._unsent:
            return TextAnswer(part, False, True, _TRANSFER_TAG)
        return TextAnswer(part, final, False, RESERVED_TAG if final else _TRANSFER_TAG)

    def _answers(self, pairs: list[Pair]) -> list[Pair]:
        offers = [pair for pair in pairs if pair[0] != "SendTargets"]
        answers = self._negotiator.answer(offers, Use.FULL_FEATURE)
        for key, value in pairs:
            if key == "SendTargets":
                answers += self._send_targets(value)
        return answers

    def _send_targets(self, value: str) -> list[Pair]:
        """Appendix C: All, one by its name, or (empty value) the session's own target."""
        if value == "All":
            targets = filter(self._may_be_seen, self._directory.targets())
            return [pair for target in targets for pair in self._record(target)]
        if value:
            target = self._directory.find(value.lower())
            return self._record(target) if target and self._may_be_seen(target) else []
        if self._session.target is None:
            return [("SendTargets", "Reject")]
        return self._record(self._session.target)

    def _may_be_seen(self, target: Target) -> bool:
        connection = self._session.connection
        peer = connection.peer if connection is not None else ""
        return self._directory.admits(target.name, self._session.initiator_name, peer)

    def _record(self, target: Target) -> list[Pair]:
        """The name of a target node, and all portals that it is reached through."""
        return [
            ("TargetName", target.name),
            *(
                ("TargetAddress", f"{self._reachable(portal)},{portal.group_tag}")
                for portal in self._directory.portals() or (self._portal,)
            ),
        ]

    def _reachable(self, portal: Portal) -> str:
        """HOST:PORT of a portal: of one that listens on all addresses, that which was reached."""
        if portal.advertised:
            return portal.advertised
        if portal.group_tag == self._portal.group_tag:
            return self._portal.address
        host, _, port = portal.address.rpartition(":")
        if host in EVERYWHERE:
            host = self._portal.address.rpartition(":")[0]
        return f"{host}:{port}"
