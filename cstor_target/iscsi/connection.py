"""One iSCSI connection without I/O: bytes and answers in, events and bytes out (RFC 7143, 8.1).

How it is driven: read into `get_buffer()`, say so with `buffer_updated(n)`, act on the events it
returns (start the commands, `complete` them whenever they end), send what `take_output` returns.
`wake` is called when there is output, or an end, that came about outside of `buffer_updated`.
When `closing` is true, the connection is to be closed after the output was sent.  Time comes in
with `tick`.

What always holds: no input raises anything; bytes that are not iSCSI end the connection with one
`ConnectionFailed`, and from then on it neither reads nor writes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import Enum, auto

from construct import ConstructError

from cstor_target.iscsi.constants import (
    OPCODE_MASK,
    AsyncEvent,
    LoginStatus,
    Opcode,
    RejectReason,
    TaskManagementResponse,
)
from cstor_target.iscsi.counters import Counters
from cstor_target.iscsi.directory import Portal, TargetDirectory
from cstor_target.iscsi.errors import ConnectionBroken, IscsiError, LoginRefused, PduRejected
from cstor_target.iscsi.events import ConnectionFailed, Event, LoggedIn, TaskManagementReceived
from cstor_target.iscsi.full_feature import FullFeature
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.login import Login
from cstor_target.iscsi.outbox import Outbox
from cstor_target.iscsi.receiver import Receiver
from cstor_target.iscsi.sessions import Session, SessionTable
from cstor_target.iscsi.tasks import Task
from cstor_target.volume.backing import Buffer


class Phase(Enum):
    """Where a connection is (4.2.3)."""

    LOGIN = auto()
    FULL_FEATURE = auto()
    ENDED = auto()


class Connection:
    """The protocol engine of one TCP connection.

    `portal` is as the initiator reached us, `peer` its own HOST:PORT, for reports; `now_s` is the
    time of the accept.
    """

    def __init__(
        self,
        sessions: SessionTable,
        directory: TargetDirectory,
        portal: Portal,
        wake: Callable[[], None],
        now_s: float,
        limits: Limits,
        counters: Counters,
        peer: str = "",
    ) -> None:
        self.peer = peer
        self._sessions = sessions
        self._directory = directory
        self._portal = portal
        self._limits = limits
        self._counters = counters
        self._receiver = Receiver(sessions.chunks)
        self._outbox = Outbox(wake)
        self._login = Login(
            sessions, directory, self._outbox, limits, counters, portal.group_tag, peer
        )
        self._full_feature: FullFeature | None = None
        self._pending: list[Event] = []
        self._heard = True
        self._heard_at_s = self._accepted_at_s = now_s
        self._held_since_s: float | None = None
        self._pinged_at_s: float | None = None
        self._window_opened = False
        self.phase = Phase.LOGIN
        self.session: Session | None = None

    @property
    def closing(self) -> bool:
        """Close when the output has been sent."""
        return self.phase is Phase.ENDED

    @property
    def tasks_in_flight(self) -> int:
        """Commands that the volume may still be working on."""
        return self._full_feature.tasks.in_flight if self._full_feature else 0

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those that were received and have not ended."""
        return self._full_feature.tasks.present() if self._full_feature else ()

    def get_buffer(self) -> memoryview:
        """Where the next bytes of the stream belong; empty only after `lost`."""
        return self._receiver.get_buffer()

    def buffer_updated(self, size: int) -> list[Event]:
        """Take `size` new bytes and give what happened, in order."""
        if self.phase is Phase.ENDED:
            return []
        self._heard = True
        self._outbox.hold()
        self._receiver.received(size)
        try:
            if self.phase is Phase.LOGIN:
                self._log_in()
            if self.phase is Phase.FULL_FEATURE:
                self._dispatch()
        except IscsiError as error:
            self._fail(error)
        return self._take_events()

    def take_output(self) -> list[Buffer]:
        """What is to be sent, as pieces in order."""
        if self._window_opened:
            self._window_opened = False
            if self._full_feature is not None and self.phase is Phase.FULL_FEATURE:
                self._full_feature.tell_window()
        return self._outbox.take()

    def window_opened(self) -> None:
        """MaxCmdSN has grown, and no answer says so: a NOP-In will (11.4.11)."""
        self._window_opened = True
        self._outbox.notify()

    def complete(
        self, task: Task, status: int, data_in: Sequence[Buffer] = (), sense: bytes = b""
    ) -> None:
        """A command has ended with this SCSI status, data and sense data (without its length).

        To be called once for each Task event, aborted or not.
        """
        if self._full_feature is not None:
            self._full_feature.tasks.complete(task, status, data_in, sense)
            if task.aborted and not task.immediate:
                self._full_feature.window_opened()

    def answer_task_management(
        self, request: TaskManagementReceived, response: TaskManagementResponse
    ) -> None:
        """A task management function has ended."""
        if self._full_feature is not None and self.phase is Phase.FULL_FEATURE:
            self._full_feature.answer_task_management(request.initiator_task_tag, response)

    def abort_tasks(self, luns: Collection[int] | None) -> None:
        """Drop the answers of all tasks of these LUNs (their eight bytes as numbers), or of all."""
        if self._full_feature is not None:
            tasks = self._full_feature.tasks
            outstanding = tasks.in_flight
            tasks.abort_all(tasks.present(), luns)
            if tasks.in_flight < outstanding:
                self._full_feature.window_opened()

    def abort_covered(self, request: TaskManagementReceived, luns: Collection[int] | None) -> None:
        """The same for the tasks that `request` covers: those that came before it (11.5.1)."""
        if self._full_feature is not None:
            self._full_feature.tasks.abort_all(request.tasks, luns)

    def stop_receiving(self) -> None:
        """Nothing more will be read: tasks that still wait for data are aborted."""
        if self._full_feature is not None:
            self._full_feature.tasks.abort_collecting()

    def request_logout(self, within_s: int, *, may_return: bool = False) -> None:
        """Ask the initiator to log out (Asynchronous Message, event 1).

        Where it `may_return`, at once, it is told so when it logs out (11.9.1, 11.15.3): another
        target serves by then.
        """
        if self._full_feature is not None and self.phase is Phase.FULL_FEATURE:
            self._full_feature.may_return = may_return
            self._full_feature.send_async(AsyncEvent.LOGOUT_REQUESTED, 0, 0, within_s)

    def announce_drop(self) -> None:
        """Say that the session's connections will be dropped and may come back at once (event 3),
        and close."""
        if self._full_feature is not None and self.phase is Phase.FULL_FEATURE:
            self._full_feature.send_async(AsyncEvent.SESSION_WILL_DROP, 0, 0, 0)
        self.close()

    def drop(self) -> None:
        """End without another word: the tasks lose their answers, what was queued is not sent."""
        self._outbox.pieces.clear()
        self.close()

    def lost(self) -> None:
        """There is no transport any more.  Whoever still refers to this keeps no buffer for it."""
        self.drop()
        self._receiver.release()

    def close(self) -> None:
        """End after what was queued is sent."""
        if self.phase is Phase.ENDED:
            return
        self.phase = Phase.ENDED
        self.abort_tasks(None)
        session, self.session = self.session, None
        if session is not None and session.connection is self:
            session.connection = None
            self._sessions.end(session)
        self._outbox.notify()

    def tick(self, now_s: float) -> list[Event]:
        """Time has passed: deadlines of the login, a held login, pings to a silent initiator."""
        if self.phase is Phase.ENDED:
            return []
        self._receiver.rest()
        try:
            if self.phase is Phase.LOGIN:
                self._tick_login(now_s)
            else:
                self._tick_full_feature(now_s)
        except IscsiError as error:
            self._fail(error)
        return self._take_events()

    def _log_in(self) -> None:
        """Take Login Requests until the full feature phase begins (6.3)."""
        receiver = self._receiver
        while self.phase is Phase.LOGIN and receiver.next_pdu():
            opcode = receiver.header[0] & OPCODE_MASK
            if opcode != Opcode.LOGIN_REQUEST:
                if not self._login.has_begun:
                    raise ConnectionBroken(f"operation code {opcode:#04x} before any login")
                raise LoginRefused(
                    LoginStatus.INVALID_DURING_LOGIN,
                    f"operation code {opcode:#04x} during the login",
                )
            try:
                self._login.receive(receiver.header_bytes(), bytes(receiver.data))
            except ConstructError as error:
                raise ConnectionBroken("a Login Request that cannot be parsed") from error
            self._begin_full_feature()

    def _begin_full_feature(self) -> None:
        """If the login is done: put what was negotiated in force."""
        session = self._login.session
        if session is None:
            return
        parameters = self._login.negotiator.parameters()
        self._receiver.configure(
            parameters.target_max_recv_data_segment_length,
            header_digest=parameters.header_digest,
            data_digest=parameters.data_digest,
        )
        self._outbox.configure(
            header_digest=parameters.header_digest, data_digest=parameters.data_digest
        )
        self._full_feature = FullFeature(
            session,
            self._login.negotiator,
            self._directory,
            self._portal,
            self._outbox,
            self._limits,
            self._counters,
            self._sessions.write_memory,
            self._sessions.unsolicited_memory,
        )
        self.session = session
        session.connection = self
        self.phase = Phase.FULL_FEATURE
        self._pending.append(LoggedIn(session, self._login.rejoined))

    def _dispatch(self) -> None:
        """Take PDUs of the full feature phase: the loop that every command goes through."""
        full_feature = self._full_feature
        if full_feature is None:
            return
        receiver = self._receiver
        handlers = full_feature.handlers
        full_feature.begin_burst()
        while receiver.next_pdu():
            try:
                if receiver.data_is_corrupt:
                    self._corrupt_data(full_feature)
                handlers[receiver.header[0] & OPCODE_MASK](receiver)
            except PduRejected as error:
                full_feature.reject(error.reason, error.header)
            if full_feature.logged_out:
                self._pending += full_feature.events
                full_feature.events.clear()
                self.close()
                return

    def _corrupt_data(self, full_feature: FullFeature) -> None:
        """A data digest is wrong (7.8): a Data-Out costs its task, anything else the connection,
        because at error recovery level 0 the gap in CmdSN would never be filled."""
        self._counters.digest_errors += 1
        full_feature.reject(RejectReason.DATA_DIGEST_ERROR, self._receiver.header_bytes())
        if self._receiver.header[0] & OPCODE_MASK != Opcode.DATA_OUT:
            raise ConnectionBroken("the data digest of a PDU is wrong")

    def _take_events(self) -> list[Event]:
        events, self._pending = self._pending, []
        if self._full_feature is not None and self._full_feature.events:
            events += self._full_feature.events
            self._full_feature.events.clear()
        return events

    def _fail(self, error: IscsiError) -> None:
        self._counters.connections_failed += 1
        if isinstance(error, LoginRefused):
            self._login.refusal(error)
        events = self._take_events()
        self.close()
        self._pending = [*events, ConnectionFailed(error)]

    def _tick_login(self, now_s: float) -> None:
        if not self._login.is_held:
            if now_s - self._accepted_at_s > self._limits.login_s:
                raise ConnectionBroken(f"no login within {self._limits.login_s:.0f} s")
            return
        self._login.retry()
        self._begin_full_feature()
        if self.phase is Phase.FULL_FEATURE:
            self._heard_at_s = now_s
        elif self._held_since_s is None:
            self._held_since_s = now_s
        elif now_s - self._held_since_s > self._limits.login_hold_s:
            raise LoginRefused(
                LoginStatus.SERVICE_UNAVAILABLE, "the volume did not open while the login waited"
            )

    def _tick_full_feature(self, now_s: float) -> None:
        if self._heard:
            self._heard = False
            self._heard_at_s = now_s
            self._pinged_at_s = None
        elif self._pinged_at_s is not None:
            if now_s - self._pinged_at_s > self._limits.ping_timeout_s:
                raise ConnectionBroken("the initiator does not answer")
        elif now_s - self._heard_at_s > self._limits.ping_after_s and self._full_feature:
            self._pinged_at_s = now_s
            self._full_feature.ping()
