"""The full feature phase of one connection: which PDU goes where, and the rare ones (RFC 7143,
4.2.2.1, 11.5, 11.6, 11.9 to 11.11, 11.14 to 11.19).

The table `handlers` is the dispatch of every PDU.  SCSI tasks are the business of `TaskSet`.
Everything else that carries a CmdSN is handled in the order of CmdSN: one that comes early is
parked with a copy of its bytes (one with much data ends the connection: within a connection PDUs
are sent in order, so none of these is lost), one outside of the command window is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from construct import Construct, ConstructError

from cstor_target.iscsi import codec, pdu
from cstor_target.iscsi.budget import Budget
from cstor_target.iscsi.constants import (
    IMMEDIATE,
    LOGIN_DATA_SEGMENT_BYTES,
    OPCODE_MASK,
    RESERVED_TAG,
    SERIAL_MASK,
    AsyncEvent,
    LogoutReason,
    LogoutResponse,
    Opcode,
    RejectReason,
    TaskManagementFunction,
    TaskManagementResponse,
)
from cstor_target.iscsi.counters import Counters
from cstor_target.iscsi.directory import Portal, TargetDirectory
from cstor_target.iscsi.errors import ConnectionBroken, PduRejected, TextError
from cstor_target.iscsi.events import Event, LoggedOut, TaskManagementReceived
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.negotiation import Negotiator
from cstor_target.iscsi.outbox import Outbox
from cstor_target.iscsi.receiver import Receiver
from cstor_target.iscsi.sessions import Session
from cstor_target.iscsi.task_set import TaskSet
from cstor_target.iscsi.text_phase import TextPhase

Handler = Callable[[Receiver], None]
_OrderedHandler = Callable[[bytes, bytes], None]
"""Takes the header and the data of a PDU whose CmdSN is next."""

_HANDED_ON = frozenset(
    (
        TaskManagementFunction.ABORT_TASK_SET,
        TaskManagementFunction.CLEAR_TASK_SET,
        TaskManagementFunction.LOGICAL_UNIT_RESET,
        TaskManagementFunction.TARGET_WARM_RESET,
        TaskManagementFunction.TARGET_COLD_RESET,
    )
)


class FullFeature:
    """One connection from the end of its login on.

    `events` is emptied by the connection.  `logged_out` is set when the connection shall close.
    """

    def __init__(
        self,
        session: Session,
        negotiator: Negotiator,
        directory: TargetDirectory,
        portal: Portal,
        outbox: Outbox,
        limits: Limits,
        counters: Counters,
        write_memory: Budget,
        unsolicited_memory: Budget,
    ) -> None:
        self._session = session
        self._window = session.window
        self._parameters = negotiator.parameters()
        self.may_return = False
        """Whether an initiator that logs out may come back at once."""
        self._outbox = outbox
        self._counters = counters
        self._text = TextPhase(session, negotiator, directory, portal, limits)
        self._early_functions: set[int] = set()
        """The tags of task management requests that wait for their CmdSN."""
        self.events: list[Event] = []
        self.logged_out = False
        self.tasks = TaskSet(
            session.window,
            self._parameters,
            outbox,
            self.events,
            self._unpark,
            limits,
            counters,
            write_memory,
            unsolicited_memory,
        )
        self.handlers = self._handlers()

    def _handlers(self) -> list[Handler]:
        """One handler for each operation code; a discovery session has no tasks (4.3)."""
        handlers: list[Handler] = [self._unsupported] * 64
        handlers[Opcode.NOP_OUT] = partial(self._in_order, self._nop_out)
        handlers[Opcode.TEXT_REQUEST] = partial(self._in_order, self._text_request)
        handlers[Opcode.LOGOUT_REQUEST] = partial(self._in_order, self._logout)
        handlers[Opcode.SNACK_REQUEST] = self._snack
        if self._session.target is not None:
            handlers[Opcode.SCSI_COMMAND] = self.tasks.scsi_command
            handlers[Opcode.DATA_OUT] = self.tasks.data_out
            handlers[Opcode.TASK_MANAGEMENT_REQUEST] = partial(
                self._in_order, self._task_management
            )
        return handlers

    def begin_burst(self) -> None:
        """Bytes have arrived, and are about to be handled."""
        self._text.begin_burst()

    def answer_task_management(
        self, initiator_task_tag: int, response: TaskManagementResponse
    ) -> None:
        """Queue a Task Management Function Response (11.6)."""
        self._send(
            pdu.TASK_MANAGEMENT_RESPONSE,
            initiator_task_tag=initiator_task_tag,
            response=response,
        )

    def ping(self) -> None:
        """Queue a NOP-In that the initiator must answer (11.19); it uses up no StatSN."""
        self._counters.pings += 1
        self._send_nop_in(self.tasks.next_transfer_tag())

    def window_opened(self) -> None:
        """A task has given its place free, and no answer on any connection will say so."""
        if self._session.connection is not None:
            self._session.connection.window_opened()

    def tell_window(self) -> None:
        """Queue a NOP-In that wants no answer and carries MaxCmdSN (11.4.11, 11.19)."""
        self._send_nop_in(RESERVED_TAG)

    def send_async(self, event: AsyncEvent, *parameters: int) -> None:
        """Queue an Asynchronous Message with its up to three parameters (11.9)."""
        fields: dict[str, Any] = {
            f"parameter_{place}": value for place, value in enumerate(parameters, 1)
        }
        self._send(pdu.ASYNCHRONOUS_MESSAGE, async_event=event, **fields)

    def reject(self, reason: RejectReason, header: bytes) -> None:
        """Queue a Reject, which carries the header of the PDU that is not accepted (11.17)."""
        self._counters.rejects += 1
        self._send(pdu.REJECT, header, reason=reason)

    def _send(self, layout: Construct, data: bytes = b"", **fields: Any) -> None:
        """Queue one of the rare PDUs with a status."""
        header = layout.build(
            fields
            | {
                "data_segment_length": len(data),
                "stat_sn": self._outbox.next_stat_sn(),
                "exp_cmd_sn": self._window.exp_cmd_sn,
                "max_cmd_sn": self._window.max_cmd_sn,
            }
        )
        self._outbox.send(header, (data,), len(data))

    def _send_nop_in(self, transfer_tag: int) -> None:
        """Queue a NOP-In that answers nothing."""
        header = codec.nop_in(
            0,
            RESERVED_TAG,
            transfer_tag,
            0,
            self._outbox.stat_sn,
            self._window.exp_cmd_sn,
            self._window.max_cmd_sn,
        )
        self._outbox.send(header)

    def _in_order(self, handler: _OrderedHandler, receiver: Receiver) -> None:
        """Handle a PDU now if it is immediate or next in order, park it, or ignore it."""
        header, data = receiver.header_bytes(), bytes(receiver.data)
        if receiver.header[0] & IMMEDIATE:
            handler(header, data)
            return
        window = self._window
        cmd_sn = receiver.header[7]
        ahead = window.distance(cmd_sn)
        if ahead < 0 or cmd_sn in window.parked:
            self._counters.commands_out_of_window += 1
        elif ahead:
            if len(data) > LOGIN_DATA_SEGMENT_BYTES:
                raise ConnectionBroken(f"{len(data)} bytes of data that are not in order")
            if receiver.header[0] & OPCODE_MASK == Opcode.TASK_MANAGEMENT_REQUEST:
                self._early_functions.add(receiver.header[5])
            window.parked[cmd_sn] = partial(self._handle_next, handler, header, data)
        else:
            self._handle_next(handler, header, data)
            self._unpark()

    def _handle_next(self, handler: _OrderedHandler, header: bytes, data: bytes) -> None:
        """Handle the PDU whose CmdSN is next; a rejected one does not use it up (11.17.1)."""
        window = self._window
        before = window.exp_cmd_sn
        window.advance()
        try:
            handler(header, data)
        except PduRejected:
            window.exp_cmd_sn = before
            raise

    def _unpark(self) -> None:
        """Go on with what arrived early, as far as there is no further gap."""
        parked = self._window.next_parked()
        while parked is not None:
            parked()
            parked = self._window.next_parked()

    def _nop_out(self, header: bytes, data: bytes) -> None:
        """A ping is answered with its own data, as far as the initiator takes it; an answer to a
        ping of ours has done its work by arriving (11.18)."""
        _, _, _, _, lun, tag, *_ = codec.REQUEST.unpack(header)
        if tag == RESERVED_TAG:
            return
        data = data[: self.tasks.answers.segment_bytes_max]
        answer = codec.nop_in(
            lun,
            tag,
            RESERVED_TAG,
            len(data),
            self._outbox.next_stat_sn(),
            self._window.exp_cmd_sn,
            self._window.max_cmd_sn,
        )
        self._outbox.send(answer, (data,), len(data))

    def _text_request(self, header: bytes, data: bytes) -> None:
        request = _parse(pdu.TEXT_REQUEST, header)
        if request.final and request.continue_:
            raise PduRejected(RejectReason.INVALID_PDU_FIELD, "F and C in one Text Request", header)
        if self._text.has_made_enough:
            raise PduRejected(RejectReason.LONG_OPERATION_REJECT, "too much text at once", header)
        try:
            answer = self._text.receive(request, data)
        except TextError as error:
            raise PduRejected(RejectReason.PROTOCOL_ERROR, str(error), header) from error
        self.tasks.answers.limit_segments(self._text.segment_bytes_max)
        self._send(
            pdu.TEXT_RESPONSE,
            answer.text,
            final=answer.final,
            continue_=answer.continues,
            lun=request.lun,
            initiator_task_tag=request.initiator_task_tag,
            target_transfer_tag=answer.target_transfer_tag,
        )

    def _logout(self, header: bytes, data: bytes) -> None:
        """11.14; with one connection, closing it and closing the session are the same."""
        request = _parse(pdu.LOGOUT_REQUEST, header)
        response = LogoutResponse.CLOSED
        if request.reason not in iter(LogoutReason):
            raise PduRejected(RejectReason.INVALID_PDU_FIELD, "an unknown logout reason", header)
        if request.reason == LogoutReason.REMOVE_FOR_RECOVERY:
            response = LogoutResponse.RECOVERY_NOT_SUPPORTED
        elif request.reason == LogoutReason.CLOSE_CONNECTION and request.cid != self._session.cid:
            response = LogoutResponse.CID_NOT_FOUND
        else:
            self.logged_out = True
            self._counters.logouts += 1
            self.tasks.abort_all(self.tasks.present(), None)
            self.events.append(LoggedOut())
            if self.may_return:  # from where Linux takes it, which it does not from the response
                self.send_async(AsyncEvent.SESSION_WILL_DROP, 0, 0, 0)
        self._send(
            pdu.LOGOUT_RESPONSE,
            initiator_task_tag=request.initiator_task_tag,
            response=response,
            time2wait=0 if self.may_return else self._parameters.default_time2wait,
            time2retain=self._parameters.default_time2retain,
        )

    def _task_management(self, header: bytes, data: bytes) -> None:
        """11.5: what concerns one task, or nothing, is answered here; the rest is handed on."""
        request = _parse(pdu.TASK_MANAGEMENT_REQUEST, header)
        self._counters.task_management += 1
        tag = request.initiator_task_tag
        self._early_functions.discard(tag)
        if request.function in _HANDED_ON:
            function = TaskManagementFunction(request.function)
            lun = int.from_bytes(request.lun, "big")
            covered = self.tasks.present()
            self.events.append(TaskManagementReceived(function, lun, tag, covered))
        elif request.function == TaskManagementFunction.ABORT_TASK:
            self.answer_task_management(tag, self._abort_task(request))
        elif request.function == TaskManagementFunction.TASK_REASSIGN:
            self.answer_task_management(tag, TaskManagementResponse.TASK_REASSIGNMENT_NOT_SUPPORTED)
        else:
            self.answer_task_management(tag, TaskManagementResponse.FUNCTION_NOT_SUPPORTED)

    def _abort_task(self, request: Any) -> TaskManagementResponse:
        """A task that is here is aborted; one whose command should have arrived before the request
        and has not counts as received, so that its CmdSN leaves no gap (11.6.1)."""
        if request.referenced_task_tag in self._early_functions:
            return TaskManagementResponse.FUNCTION_REJECTED
        task = self.tasks.find(request.referenced_task_tag)
        if task is not None:
            self.tasks.abort(task)
            return TaskManagementResponse.FUNCTION_COMPLETE
        window = self._window
        is_earlier = 0 < request.cmd_sn - request.ref_cmd_sn & SERIAL_MASK <= SERIAL_MASK >> 1
        if (
            not is_earlier
            or window.distance(request.ref_cmd_sn) < 0
            or request.ref_cmd_sn in window.parked
        ):
            return TaskManagementResponse.TASK_DOES_NOT_EXIST
        window.parked[request.ref_cmd_sn] = window.advance
        self._unpark()
        return TaskManagementResponse.FUNCTION_COMPLETE

    def _snack(self, receiver: Receiver) -> None:
        raise PduRejected(
            RejectReason.SNACK_REJECT,
            "a SNACK Request at error recovery level 0",
            receiver.header_bytes(),
        )

    def _unsupported(self, receiver: Receiver) -> None:
        raise PduRejected(
            RejectReason.COMMAND_NOT_SUPPORTED,
            f"operation code {receiver.header[0] & 0x3F:#04x} is not for this session",
            receiver.header_bytes(),
        )


def _parse(layout: Construct, header: bytes) -> Any:
    try:
        return layout.parse(header)
    except ConstructError as error:
        raise PduRejected(RejectReason.INVALID_PDU_FIELD, "a fixed bit is wrong", header) from error
