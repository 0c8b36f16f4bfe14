"""The SCSI tasks of one connection: commands, their data, their end (RFC 7143, 4.2, 11.3, 11.7).

What always holds: a task is in the set from its command PDU until it is answered or aborted.  It
holds its place in the command window from the moment its CmdSN is next in order until `complete`
was called for it, aborted or not, so what the volume works on is bounded by the window.  Commands
are handed on in the order of CmdSN.  An abort drops the answer of a task, never its effect.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from cstor_target.iscsi import codec
from cstor_target.iscsi.answers import Answers
from cstor_target.iscsi.budget import Budget
from cstor_target.iscsi.constants import (
    FINAL,
    IMMEDIATE,
    RESERVED_TAG,
    SERIAL_MASK,
    CommandFlag,
    RejectReason,
)
from cstor_target.iscsi.counters import Counters
from cstor_target.iscsi.errors import (
    IncorrectAmountOfData,
    PduRejected,
    ProtocolServiceCrcError,
    TaskFailed,
    TaskSetFull,
    UnexpectedUnsolicitedData,
)
from cstor_target.iscsi.events import Event
from cstor_target.iscsi.keys import FIRST_BURST_BYTES_MAX
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.negotiation import Parameters
from cstor_target.iscsi.outbox import Outbox
from cstor_target.iscsi.receiver import Receiver
from cstor_target.iscsi.sessions import CommandWindow
from cstor_target.iscsi.tasks import Task
from cstor_target.iscsi.transfers import Transfer
from cstor_target.volume.backing import Buffer

_WRITE = int(CommandFlag.WRITE)
_WHOLE = FINAL | int(CommandFlag.READ)
"""Of these bits only the first: no more data comes unasked, and none is to go back."""
_EXTENDED_CDB_AHS = 0x01


class TaskSet:
    """The tasks of one connection.

    `unpark` runs what a filled gap in CmdSN sets free; both memories are shared by all connections:
    `memory` of data that was asked for, `unsolicited` of data that was not.
    """

    def __init__(
        self,
        window: CommandWindow,
        parameters: Parameters,
        outbox: Outbox,
        events: list[Event],
        unpark: Callable[[], None],
        limits: Limits,
        counters: Counters,
        memory: Budget,
        unsolicited: Budget,
    ) -> None:
        self._window = window
        self._parameters = parameters
        self._immediate_bytes_max = (
            parameters.first_burst_length if parameters.immediate_data else 0
        )
        self._outbox = outbox
        self._events = events
        self._unpark = unpark
        self._limits = limits
        self._counters = counters
        self._tasks: dict[int, Task] = {}
        self._immediate_tasks = 0
        self._memory = memory
        self._unsolicited = unsolicited
        self._waiting: deque[Task] = deque()
        self._last_transfer_tag = 0
        self.answers = Answers(outbox, window, parameters)

    @property
    def in_flight(self) -> int:
        """Tasks that were not completed, aborted ones included."""
        return self._window.outstanding + self._immediate_tasks

    def scsi_command(self, receiver: Receiver) -> None:
        """A SCSI Command (11.3); outside of the command window it is ignored (4.2.2.1)."""
        opcode, flags, _, _, lun, tag, length, cmd_sn, _, cdb = receiver.header
        window = self._window
        immediate = opcode & IMMEDIATE
        ahead = 0
        if not immediate:
            ahead = cmd_sn - window.exp_cmd_sn & SERIAL_MASK
            if ahead >= window.size - window.outstanding or (ahead and cmd_sn in window.parked):
                self._counters.commands_out_of_window += 1
                return
        elif self._immediate_tasks >= self._limits.immediate_tasks_max:
            raise PduRejected(
                RejectReason.IMMEDIATE_COMMAND_REJECT,
                "too many immediate commands",
                receiver.header_bytes(),
            )
        if tag in self._tasks:
            raise PduRejected(
                RejectReason.TASK_IN_PROGRESS,
                "the task tag is in use",
                receiver.header_bytes(),
            )
        if receiver.ahs:
            cdb = _extended_cdb(receiver)
        task = Task(tag, lun, cdb, flags, length, cmd_sn, immediate != 0)
        data = receiver.data
        if flags & _WRITE:
            if (
                data
                and len(data) == length <= self._immediate_bytes_max
                and flags & _WHOLE == FINAL
                and self._unsolicited.take_now(FIRST_BURST_BYTES_MAX)
            ):
                task.unsolicited_bytes = FIRST_BURST_BYTES_MAX
                task.data_out = (data,)
            elif data or length or flags & _WHOLE != FINAL:
                self._begin_transfer(task, flags, data)
        elif data or not flags & FINAL:
            raise PduRejected(
                RejectReason.INVALID_PDU_FIELD,
                "a command that is no write announces data",
                receiver.header_bytes(),
            )
        self._tasks[tag] = task
        if ahead:
            window.parked[cmd_sn] = partial(self._admit_parked, task)
            return
        if immediate:
            self._immediate_tasks += 1
        else:
            window.exp_cmd_sn = cmd_sn + 1 & SERIAL_MASK
            window.outstanding += 1
        if task.transfer is None:
            task.started = True
            self._events.append(task)
        else:
            self._go_on(task)
        if window.parked:
            self._unpark()

    def data_out(self, receiver: Receiver) -> None:
        """A SCSI Data-Out (11.7); for a task that is gone it is dropped: aborts leave such."""
        header = receiver.header
        task = self._tasks.get(header[5])
        if task is None or task.transfer is None or task.started:
            self._counters.data_out_of_place += 1
            return
        data_sn, offset = codec.DATA_OUT_TAIL.unpack(header[9])
        if receiver.data_is_corrupt:
            task.transfer.fail(ProtocolServiceCrcError("the data digest of a Data-Out is wrong"))
        task.transfer.accept(header[1], header[6], data_sn, offset, receiver.data)
        if header[1] & FINAL:
            self._go_on(task)

    def complete(self, task: Task, status: int, data_in: Sequence[Buffer], sense: bytes) -> None:
        """Answer a task, unless it was aborted.  Called once for each task."""
        if task.immediate:
            self._immediate_tasks -= 1
        else:
            self._window.done()
        if task.unsolicited_bytes:
            self._unsolicited.give(task.unsolicited_bytes)
        if task.reserved_bytes:
            self._memory.give(task.reserved_bytes)
        if not task.aborted:
            del self._tasks[task.initiator_task_tag]
            if data_in:
                self.answers.data_in(task, status, data_in, sense)
            elif task.is_write:
                r2t_sn = task.transfer.r2t_sn if task.transfer else 0
                self.answers.response(task, status, task.residual, r2t_sn, sense)
            else:
                announced = task.expected_data_transfer_length
                self.answers.response(task, status, announced, 0, sense)
        if task.on_end is not None:
            task.on_end()

    def find(self, initiator_task_tag: int) -> Task | None:
        """The task with that tag, if it is neither answered nor aborted."""
        return self._tasks.get(initiator_task_tag)

    def abort(self, task: Task) -> None:
        """Drop the answer of a task; one whose data is still being collected ends here, and one
        that arrived early, whose turn may never come, holds no data for it."""
        task.aborted = True
        del self._tasks[task.initiator_task_tag]
        self._counters.tasks_aborted += 1
        if self._is_parked(task):
            self._unsolicited.give(task.unsolicited_bytes)
            task.unsolicited_bytes = 0
            task.data_out, task.transfer = (), None
        elif not task.started:
            self.complete(task, 0, (), b"")

    def present(self) -> tuple[Task, ...]:
        """The tasks that are neither answered nor aborted, oldest first."""
        return tuple(self._tasks.values())

    def abort_all(self, tasks: Iterable[Task], luns: Collection[int] | None) -> None:
        """Abort those of `tasks` that are still here and go to one of `luns`, or to any."""
        for task in tasks:
            is_here = self._tasks.get(task.initiator_task_tag) is task
            if is_here and (luns is None or task.lun in luns):
                self.abort(task)

    def abort_collecting(self) -> None:
        """Abort the tasks whose data has not all arrived."""
        for task in [t for t in self._tasks.values() if not t.started]:
            self.abort(task)

    def next_transfer_tag(self) -> int:
        """A Target Transfer Tag that is not in use: a counter that steps over the reserved one."""
        self._last_transfer_tag = (self._last_transfer_tag + 1) % RESERVED_TAG
        return self._last_transfer_tag

    def _admit_parked(self, task: Task) -> None:
        """The CmdSN of a command that arrived early is next."""
        self._window.advance()
        self._window.outstanding += 1
        if task.aborted:
            self.complete(task, 0, (), b"")
        elif task.transfer is None:
            task.started = True
            self._events.append(task)
        else:
            self._go_on(task)

    def _begin_transfer(self, task: Task, flags: int, data: Buffer) -> None:
        """A write whose data is not all immediate, or breaks a rule with it (13.10, 13.11)."""
        parameters = self._parameters
        transfer = Transfer(
            task.expected_data_transfer_length,
            data,
            unsolicited_open=not flags & FINAL,
            first_burst_length=parameters.first_burst_length,
        )
        task.transfer = transfer
        try:
            if data or transfer.unsolicited_open:
                if not self._unsolicited.take_now(FIRST_BURST_BYTES_MAX):
                    raise TaskSetFull("too many tasks bring data that was not asked for")
                task.unsolicited_bytes = FIRST_BURST_BYTES_MAX
            if data and not parameters.immediate_data:
                raise UnexpectedUnsolicitedData("immediate data although ImmediateData is No")
            if transfer.unsolicited_open and parameters.initial_r2t:
                raise UnexpectedUnsolicitedData("unsolicited data although InitialR2T is Yes")
            if task.is_read:
                raise IncorrectAmountOfData("a bidirectional command, which is not supported")
            if transfer.received > min(transfer.length, parameters.first_burst_length):
                raise IncorrectAmountOfData("more immediate data than FirstBurstLength allows")
            if transfer.length > self._limits.write_bytes_max:
                raise IncorrectAmountOfData(f"a write of {transfer.length} bytes is too large")
        except TaskFailed as failure:
            transfer.fail(failure)

    def _go_on(self, task: Task) -> None:
        """A sequence of data has ended: hand the task on, end it, or ask for more."""
        transfer = task.transfer
        if transfer is None or transfer.unsolicited_open or self._is_parked(task):
            return
        if transfer.is_complete:
            task.started = True
            if transfer.failure is None:
                task.data_out = transfer.pieces
                self._events.append(task)
            else:
                self._counters.tasks_failed += 1
                self.complete(task, transfer.failure.scsi_status, (), transfer.failure.sense)
        elif transfer.failure is not None:
            return
        elif task.reserved_bytes:
            self._solicit(task, transfer)
        else:
            self._waiting.append(task)
            self._grant()

    def _is_parked(self, task: Task) -> bool:
        return not task.immediate and task.cmd_sn in self._window.parked

    def _grant(self) -> None:
        """Let waiting writes ask for their data while there is memory for it.

        A write asks only when all of its data may come, so two of them never starve each other;
        one that is larger than the bound has it for itself.  One that has failed meanwhile, since
        data came that nobody had asked for, asks for nothing.
        """
        while self._waiting:
            task = self._waiting[0]
            wanted = task.expected_data_transfer_length
            if task.aborted or task.transfer is None or task.transfer.failure is not None:
                self._waiting.popleft()
                continue
            if not self._memory.take(wanted, self._grant):
                return
            self._waiting.popleft()
            task.reserved_bytes = wanted
            self._solicit(task, task.transfer)

    def _solicit(self, task: Task, transfer: Transfer) -> None:
        """Send as many R2Ts as may be on the way (11.8, 13.17)."""
        window = self._window
        while (
            transfer.solicited < transfer.length
            and len(transfer.sequences) < self._parameters.max_outstanding_r2t
        ):
            transfer_tag = self.next_transfer_tag()
            r2t_sn, offset, length = transfer.ready_to_transfer(
                transfer_tag, self._parameters.max_burst_length
            )
            header = codec.ready_to_transfer(
                task.lun,
                task.initiator_task_tag,
                transfer_tag,
                self._outbox.stat_sn,
                window.exp_cmd_sn,
                window.max_cmd_sn,
                r2t_sn,
                offset,
                length,
            )
            self._outbox.send(header)


def _extended_cdb(receiver: Receiver) -> bytes:
    """A CDB of more than 16 bytes: the rest is in an additional header segment (11.2.2.3)."""
    ahs = receiver.ahs
    length = int.from_bytes(ahs[:2], "big")
    if len(ahs) < 4 or ahs[2] != _EXTENDED_CDB_AHS or not 1 <= length <= len(ahs) - 3:
        raise PduRejected(
            RejectReason.INVALID_PDU_FIELD,
            "an additional header segment that is no extended CDB",
            receiver.header_bytes(),
        )
    return receiver.header[9] + ahs[4 : 3 + length]
