"""Sessions of this process and how they replace each other (RFC 7143, 4.4.3, 6.3.1, 6.3.4, 6.3.5).

A session is known by InitiatorName, ISID, target node and portal group.  MaxConnections is 1 and
the error recovery level 0, so a session has exactly one connection and ends with it.  A login with
TSIH 0 for a session that exists ends the old one first (session reinstatement); a login that names
the session's TSIH and CID takes the place of the old connection (connection reinstatement).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from cstor_target.iscsi.budget import Budget
from cstor_target.iscsi.chunks import Chunks
from cstor_target.iscsi.constants import SERIAL_MASK, LoginStatus
from cstor_target.iscsi.counters import Counters
from cstor_target.iscsi.directory import FIRST_PORTAL_GROUP, Target
from cstor_target.iscsi.errors import LoginRefused
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.tasks import Task

TSIH_MAX = 0xFFFF
SessionKey = tuple[str, bytes, str, int]
"""InitiatorName, ISID, name of the target node, portal group tag."""


class SessionConnection(Protocol):
    """What a session asks of its connection."""

    @property
    def peer(self) -> str:
        """HOST:PORT of the initiator."""

    @property
    def tasks_in_flight(self) -> int:
        """Commands that the volume may still be working on."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those that were received and have not ended."""

    def drop(self) -> None:
        """Close at once; the tasks lose their answers."""

    def announce_drop(self) -> None:
        """Say that the session may come back at once, and close as `close` does."""

    def close(self) -> None:
        """Close when what was queued is sent."""

    def abort_tasks(self, luns: Collection[int] | None) -> None:
        """Drop the answers of all tasks of these LUNs (their eight bytes as numbers), or of all."""

    def window_opened(self) -> None:
        """The initiator is to be told a higher MaxCmdSN."""


class CommandWindow:
    """CmdSN ordering and flow control of one session (RFC 7143, 4.2.2.1).

    MaxCmdSN is ExpCmdSN plus what is free of the window less one, so it never goes back: a
    command takes its place by moving ExpCmdSN, and gives it free when it is done.  A window that is
    to be smaller shrinks as commands are done, since what the initiator was told holds.
    """

    __slots__ = ("_wanted", "exp_cmd_sn", "outstanding", "parked", "size")

    def __init__(self, cmd_sn: int, size: int) -> None:
        self.exp_cmd_sn = cmd_sn
        self.size = self._wanted = size
        self.outstanding = 0
        self.parked: dict[int, Callable[[], None]] = {}

    @property
    def max_cmd_sn(self) -> int:
        """The highest CmdSN that may be sent."""
        return self.exp_cmd_sn + self.size - self.outstanding - 1 & SERIAL_MASK

    def resize(self, size: int) -> None:
        """Be as large as that: at once, or as commands are done."""
        self._wanted = size
        self.size = max(self.size, size)

    def done(self) -> None:
        """A command is done, and gives its place free unless the window is to shrink."""
        self.outstanding -= 1
        if self.size > self._wanted:
            self.size -= 1

    def distance(self, cmd_sn: int) -> int:
        """How far a CmdSN is ahead of ExpCmdSN, in serial arithmetic; -1 outside of the window."""
        ahead = cmd_sn - self.exp_cmd_sn & SERIAL_MASK
        return ahead if ahead < self.size - self.outstanding else -1

    def advance(self) -> None:
        """ExpCmdSN has been received."""
        self.exp_cmd_sn = self.exp_cmd_sn + 1 & SERIAL_MASK

    def next_parked(self) -> Callable[[], None] | None:
        """What arrived early and is now next in order, taken out; it must advance itself."""
        return self.parked.pop(self.exp_cmd_sn, None) if self.parked else None


class Session:
    """One I_T nexus, or a discovery session (`target` is None).

    `initiator_port` names that as SCSI does: InitiatorName, `,i,0x`, ISID (RFC 7143, 4.4.3); the
    target port is the portal group of the target node.
    """

    __slots__ = (
        "cid",
        "connection",
        "initiator_alias",
        "initiator_name",
        "initiator_port",
        "isid",
        "leading_values",
        "on_end",
        "on_tasks_ended",
        "portal_group_tag",
        "since_unix_s",
        "target",
        "tsih",
        "window",
    )

    def __init__(
        self,
        initiator_name: str,
        isid: bytes,
        target: Target | None,
        tsih: int,
        window: CommandWindow,
        since_unix_s: int,
        portal_group_tag: int,
    ) -> None:
        self.initiator_name = initiator_name
        self.initiator_alias = ""
        self.isid = isid
        self.initiator_port = f"{initiator_name},i,0x{isid.hex()}"
        self.portal_group_tag = portal_group_tag
        self.target = target
        self.tsih = tsih
        self.window = window
        self.since_unix_s = since_unix_s
        self.cid = 0
        self.leading_values: dict[str, str] = {}
        self.connection: SessionConnection | None = None
        self.on_end: Callable[[], None] | None = None
        self.on_tasks_ended: Callable[[], None] | None = None
        """Tasks were ended with their connection, and the session goes on."""

    @property
    def key(self) -> SessionKey:
        """What must be unique among the sessions of a process."""
        name = self.target.name if self.target else ""
        return self.initiator_name, self.isid, name, self.portal_group_tag


class SessionTable:
    """All sessions, shared by the connections of a process.

    `wall_s` gives seconds since 1970, which people are told.
    """

    def __init__(self, limits: Limits, counters: Counters, wall_s: Callable[[], float]) -> None:
        self._limits = limits
        self._counters = counters
        self._wall_s = wall_s
        self._sessions: dict[SessionKey, Session] = {}
        self._used_tsihs: set[int] = set()
        self._last_tsih = 0
        self.write_memory = Budget(limits.solicited_bytes_max)
        """Of data that writes have asked for."""
        self.unsolicited_memory = Budget(limits.unsolicited_bytes_max)
        """Of data that writes bring without being asked."""
        self.read_memory = Budget(limits.read_bytes_in_flight_max)
        """Of data that are being read."""
        self.chunks = Chunks(limits.receive_chunk_bytes)
        """What connections read into."""

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def of_target(self, name: str) -> list[Session]:
        """The sessions of one target node."""
        return [s for s in self._sessions.values() if s.target and s.target.name == name]

    def create(
        self,
        initiator_name: str,
        isid: bytes,
        target: Target | None,
        cmd_sn: int,
        portal_group_tag: int = FIRST_PORTAL_GROUP,
    ) -> Session:
        """A new session; one of the same name, ISID, target and portal group ends first.

        Raises LoginRefused (Out of resources) when there are too many.
        """
        window = CommandWindow(cmd_sn, self._limits.command_window_of(len(self._sessions) + 1))
        session = Session(
            initiator_name, isid, target, 0, window, int(self._wall_s()), portal_group_tag
        )
        old = self._sessions.get(session.key)
        if old is not None:
            self._counters.sessions_reinstated += 1
            self.end(old)
        if len(self._sessions) >= self._limits.sessions_max:
            raise LoginRefused(
                LoginStatus.OUT_OF_RESOURCES,
                f"{len(self._sessions)} sessions are open, which is the limit",
            )
        session.tsih = self._free_tsih()
        self._sessions[session.key] = session
        self._share_windows()
        return session

    def rejoin(
        self,
        initiator_name: str,
        isid: bytes,
        target: Target | None,
        tsih: int,
        cid: int,
        portal_group_tag: int,
    ) -> Session:
        """The session that a login with a TSIH names, its old connection dropped.

        Raises LoginRefused: no such session, or a CID that would be a second connection.
        """
        name = target.name if target else ""
        session = self._sessions.get((initiator_name, isid, name, portal_group_tag))
        if session is None or session.tsih != tsih:
            raise LoginRefused(
                LoginStatus.SESSION_DOES_NOT_EXIST, f"no session with TSIH {tsih} exists"
            )
        if session.cid != cid:
            raise LoginRefused(
                LoginStatus.TOO_MANY_CONNECTIONS, "a session has only one connection"
            )
        old, session.connection = session.connection, None
        if old is not None:
            has_tasks = old.tasks_in_flight > 0
            old.drop()
            if has_tasks and session.on_tasks_ended is not None:
                session.on_tasks_ended()
        session.window.parked.clear()
        return session

    def drop(self, session: Session) -> None:
        """End a session because somebody wants it so; its initiator is told that it may log in
        again at once (11.9.1, event 3), and its tasks lose their answers (7.6).
        """
        if session.connection is not None:
            session.connection.announce_drop()
        self.end(session)

    def end(self, session: Session) -> None:
        """Forget a session and drop its connection; `on_end` is called once."""
        if self._sessions.get(session.key) is not session:
            return
        del self._sessions[session.key]
        self._share_windows()
        self._used_tsihs.discard(session.tsih)
        connection, session.connection = session.connection, None
        if connection is not None:
            connection.drop()
        on_end, session.on_end = session.on_end, None
        if on_end is not None:
            on_end()

    def _share_windows(self) -> None:
        """The more sessions there are, the fewer unsolicited data each may send."""
        size = self._limits.command_window_of(len(self._sessions))
        for session in self._sessions.values():
            told = session.window.max_cmd_sn
            session.window.resize(size)
            if session.connection is not None and session.window.max_cmd_sn != told:
                session.connection.window_opened()

    def _free_tsih(self) -> int:
        """The next number after the last one, so that one is not used again soon."""
        tsih = self._last_tsih
        while True:
            tsih = tsih % TSIH_MAX + 1
            if tsih not in self._used_tsihs:
                break
        self._used_tsihs.add(tsih)
        self._last_tsih = tsih
        return tsih
