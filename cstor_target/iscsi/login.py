"""The login phase of one connection (RFC 7143, chapter 6.3; requests 11.12, responses 11.13).

A login goes through the security and the operational stage (either may be left out) to the full
feature phase.  Each request is answered by one response; a request with the C bit by an empty one.
Where a realm says who may log in, the security stage is not left before CHAP has come to its end.
A login to a target node whose volume is still opening is held with its last response unsent.
"""

from __future__ import annotations

import re
from typing import Any

from cstor_target.iscsi import chap
from cstor_target.iscsi.chap import ChapExchange
from cstor_target.iscsi.constants import (
    LOGIN_DATA_SEGMENT_BYTES,
    PROTOCOL_VERSION,
    LoginStatus,
    Stage,
)
from cstor_target.iscsi.counters import Counters
from cstor_target.iscsi.directory import Target, TargetDirectory
from cstor_target.iscsi.errors import LoginRedirected, LoginRefused, TextError
from cstor_target.iscsi.keys import Use
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.negotiation import Negotiator
from cstor_target.iscsi.outbox import Outbox
from cstor_target.iscsi.pdu import LOGIN_REQUEST, LOGIN_RESPONSE
from cstor_target.iscsi.sessions import Session, SessionTable
from cstor_target.iscsi.text import Pair, TextCollector, decode, encode

ISCSI_NAME = re.compile(r"(?:iqn|eui|naa)\.[^\s,\x00-\x1f]{1,219}")
"""The form of a name (4.2.7); how a naming authority fills it is not checked."""

_Request = Any
"""A parsed LOGIN_REQUEST: `construct` has no type information."""


class Login:
    """One login.  When `session` is set, the full feature phase begins."""

    def __init__(
        self,
        sessions: SessionTable,
        directory: TargetDirectory,
        outbox: Outbox,
        limits: Limits,
        counters: Counters,
        portal_group_tag: int,
        peer: str,
    ) -> None:
        self._peer = peer
        self._portal_group_tag = portal_group_tag
        self._sessions = sessions
        self._directory = directory
        self._outbox = outbox
        self._limits = limits
        self._counters = counters
        self._collector = TextCollector(limits.text_bytes_max)
        self._requests = 0
        self._stage: Stage | None = None
        self._first: _Request = None
        self._held: tuple[_Request, list[Pair]] | None = None
        self._identified = False
        self._initiator_name = ""
        self._target: Target | None = None
        self._chap: ChapExchange | None = None
        self.negotiator = Negotiator(leading=True)
        self.session: Session | None = None
        self.rejoined = False

    @property
    def has_begun(self) -> bool:
        """A Login Request has come (6.3)."""
        return self._first is not None

    @property
    def is_held(self) -> bool:
        """Everything is agreed, and only the target's volume is not open yet."""
        return self._held is not None

    def receive(self, header: bytes, data: bytes) -> None:
        """Take one Login Request and queue its response.

        Raises LoginRefused, which ends the login; the caller sends `refusal`.
        """
        request = LOGIN_REQUEST.parse(header)
        self._check(request)
        try:
            self._collector.add(data)
            if request.continue_:
                self._respond(request, transit=False, pairs=[])
                return
            pairs = decode(self._collector.take(), self._limits.keys_max)
            answers = self._negotiate(request, pairs)
        except TextError as error:
            raise LoginRefused(LoginStatus.INITIATOR_ERROR, str(error)) from error
        transit = request.transit and (self._chap is None or self._chap.is_done)
        if transit and request.nsg == Stage.FULL_FEATURE:
            self._held = (request, answers)
            self.retry()
            return
        self._respond(request, transit=transit, pairs=answers)
        if transit:
            self._stage = Stage(request.nsg)

    def retry(self) -> None:
        """End a held login if its target is ready now.

        Raises LoginRefused when the session cannot be made.
        """
        if self._held is None:
            return
        if self._target is not None:
            self._target = self._find_target()  # another may have taken its place
            if not self._target.ready:
                return
        (request, answers), self._held = self._held, None
        session = self._join(request)
        session.cid = request.cid
        session.initiator_alias = self.negotiator.values["InitiatorAlias"]
        self._counters.logins += 1
        self._respond(request, transit=True, pairs=answers, session=session)
        self.session = session

    def refusal(self, error: LoginRefused) -> None:
        """Queue the Login Response that ends the login."""
        request, status = self._first, error.login_status
        pairs = []
        if isinstance(error, LoginRedirected):
            pairs.append(("TargetAddress", error.address))
        text = encode(pairs)
        self._counters.logins_refused += 1
        self._counters.authentication_failures += status is LoginStatus.AUTHENTICATION_FAILURE
        header = LOGIN_RESPONSE.build(
            {
                "csg": self._stage or 0,
                "version_max": PROTOCOL_VERSION,
                "version_active": PROTOCOL_VERSION,
                "isid": request.isid if request else bytes(6),
                "tsih": request.tsih if request else 0,
                "initiator_task_tag": request.initiator_task_tag if request else 0,
                "stat_sn": self._outbox.next_stat_sn(),
                "exp_cmd_sn": request.cmd_sn if request else 0,
                "max_cmd_sn": request.cmd_sn if request else 0,
                "data_segment_length": len(text),
                "status": status,
            }
        )
        self._outbox.send(header, (text,) if text else (), len(text))

    def _check(self, request: _Request) -> None:
        """The rules of 11.12 for the header, and what may not change between requests."""
        self._requests += 1
        if self._first is None:
            self._first = request
            self._outbox.stat_sn = request.exp_stat_sn
            self._stage = self._first_stage(request)
            self.negotiator = Negotiator(leading=request.tsih == 0)
        first = self._first
        if request.version_min > PROTOCOL_VERSION:
            raise LoginRefused(
                LoginStatus.UNSUPPORTED_VERSION,
                f"the initiator speaks protocol version {request.version_min} and higher",
            )
        if self._held is not None:
            raise LoginRefused(LoginStatus.INITIATOR_ERROR, "a request while one is unanswered")
        if self._requests > self._limits.login_requests_max:
            raise LoginRefused(LoginStatus.INITIATOR_ERROR, "the login does not come to an end")
        if (request.isid, request.tsih, request.cid, request.initiator_task_tag) != (
            first.isid,
            first.tsih,
            first.cid,
            first.initiator_task_tag,
        ):
            raise LoginRefused(
                LoginStatus.INITIATOR_ERROR, "ISID, TSIH, CID or task tag changed during the login"
            )
        if request.csg != self._stage:
            raise LoginRefused(
                LoginStatus.INITIATOR_ERROR, f"stage {request.csg}, not {self._stage}"
            )
        if request.transit and (
            request.continue_ or request.nsg <= request.csg or request.nsg == 2
        ):
            raise LoginRefused(
                LoginStatus.INITIATOR_ERROR, f"no transit from {request.csg} to {request.nsg}"
            )

    def _first_stage(self, request: _Request) -> Stage:
        if request.csg not in (Stage.SECURITY_NEGOTIATION, Stage.OPERATIONAL_NEGOTIATION):
            raise LoginRefused(
                LoginStatus.INITIATOR_ERROR, f"a login cannot begin with stage {request.csg}"
            )
        return Stage(request.csg)

    def _negotiate(self, request: _Request, pairs: list[Pair]) -> list[Pair]:
        """The answers to the text of one stage's request."""
        negotiator = self.negotiator
        if not self._identified:
            self._look_for_realm(dict(pairs))
        proofs = [pair for pair in pairs if self._chap is not None and pair[0] in chap.KEYS]
        answers = negotiator.answer([pair for pair in pairs if pair not in proofs], Use.LOGIN)
        if ("AuthMethod", "Reject") in answers:
            raise LoginRefused(
                LoginStatus.AUTHENTICATION_FAILURE, "the initiator offers no AuthMethod of ours"
            )
        if not self._identified:
            self._identify()
            if self._target is not None:
                answers.append(("TargetPortalGroupTag", str(self._portal_group_tag)))
        if self._chap is not None:
            answers += self._authenticate(self._chap, request, proofs)
        if request.csg == Stage.OPERATIONAL_NEGOTIATION:
            answers += negotiator.declare()
        if len(encode(answers)) > LOGIN_DATA_SEGMENT_BYTES:
            raise TextError("the answers to so many keys do not fit into one PDU")
        return answers

    def _look_for_realm(self, keys: dict[str, str]) -> None:
        """Whether whoever logs in has to prove who it is, by where it wants to (6.3.1)."""
        is_discovery = keys.get("SessionType") == "Discovery"
        name = "" if is_discovery else keys.get("TargetName", "").lower()
        realm = self._directory.realm(name)
        if realm is not None:
            self._chap = ChapExchange(realm, self._directory.random_bytes)
            self.negotiator.auth_methods = (chap.METHOD,)

    def _authenticate(
        self, exchange: ChapExchange, request: _Request, proofs: list[Pair]
    ) -> list[Pair]:
        """The answers of the security stage, which cannot be left out."""
        if exchange.is_done and not proofs:
            return []
        if request.csg != Stage.SECURITY_NEGOTIATION or (
            proofs and self.negotiator.values["AuthMethod"] != chap.METHOD
        ):
            raise LoginRefused(
                LoginStatus.AUTHENTICATION_FAILURE, "the initiator does not prove who it is"
            )
        return exchange.answer(proofs)

    def _identify(self) -> None:
        """Who logs in to what: from the first request (6.3.1)."""
        values = self.negotiator.values
        name = values["InitiatorName"].lower()
        if not name:
            raise LoginRefused(LoginStatus.MISSING_PARAMETER, "the login has no InitiatorName")
        if ISCSI_NAME.fullmatch(name) is None:
            raise LoginRefused(LoginStatus.INITIATOR_ERROR, f"{name[:80]!r} is no iSCSI name")
        self._initiator_name = name
        if values["SessionType"] not in ("Normal", "Discovery"):
            raise LoginRefused(
                LoginStatus.SESSION_TYPE_NOT_SUPPORTED, "the session type is not known"
            )
        if not self.negotiator.is_discovery:
            if not values["TargetName"]:
                raise LoginRefused(LoginStatus.MISSING_PARAMETER, "the login has no TargetName")
            self._target = self._find_target()
        where = "" if self.negotiator.is_discovery else values["TargetName"].lower()
        if not self._directory.admits(where, name, self._peer):
            self._counters.authorization_failures += 1
            raise LoginRefused(
                LoginStatus.AUTHORIZATION_FAILURE, f"{name} may not log in from {self._peer}"
            )
        if self._target is not None and self._target.moved_to:
            raise LoginRedirected(self._target.moved_to)
        self._identified = True

    def _find_target(self) -> Target:
        """By the name that was asked for: a volume that is opening may prove to have another."""
        name = self.negotiator.values["TargetName"].lower()
        target = self._directory.find(name)
        if target is None:
            raise LoginRefused(LoginStatus.NOT_FOUND, f"no target node {name[:223]} is here")
        return target

    def _join(self, request: _Request) -> Session:
        """The new session, or the one that TSIH names (6.3.1, table "TSIH and ISID rules")."""
        if request.tsih == 0:
            session = self._sessions.create(
                self._initiator_name,
                request.isid,
                self._target,
                request.cmd_sn,
                self._portal_group_tag,
            )
            session.leading_values = self.negotiator.leading_values()
            return session
        self.rejoined = True
        session = self._sessions.rejoin(
            self._initiator_name,
            request.isid,
            self._target,
            request.tsih,
            request.cid,
            self._portal_group_tag,
        )
        self.negotiator.values.update(session.leading_values)
        return session

    def _respond(
        self,
        request: _Request,
        *,
        transit: bool,
        pairs: list[Pair],
        session: Session | None = None,
    ) -> None:
        text = encode(pairs)
        header = LOGIN_RESPONSE.build(
            {
                "transit": transit,
                "csg": request.csg,
                "nsg": request.nsg if transit else 0,
                "version_max": PROTOCOL_VERSION,
                "version_active": PROTOCOL_VERSION,
                "data_segment_length": len(text),
                "isid": request.isid,
                "tsih": session.tsih if session else request.tsih,
                "initiator_task_tag": request.initiator_task_tag,
                "stat_sn": self._outbox.next_stat_sn(),
                "exp_cmd_sn": session.window.exp_cmd_sn if session else request.cmd_sn,
                "max_cmd_sn": session.window.max_cmd_sn if session else request.cmd_sn,
                "status": LoginStatus.SUCCESS,
            }
        )
        self._outbox.send(header, (text,), len(text))
