"""The I_T nexus of one connection: binds iSCSI events to the SCSI device and to the volume.

A command goes from the connection to the device, which answers at once or with a request; the
volume carries the request out and calls back; the device says what comes next; the last step is
the answer.  What was started is never taken back: the answer of an aborted task is dropped by the
connection, the volume's work goes on.

Memory for reads is bounded: while all connections together read more than
`read_bytes_in_flight_max`, or the initiator does not take what was sent, further reads wait here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from cstor_target.iscsi.connection import Connection
from cstor_target.iscsi.constants import (
    SERIAL_MASK,
    TaskManagementFunction,
    TaskManagementResponse,
)
from cstor_target.iscsi.directory import Target, TargetDirectory
from cstor_target.iscsi.events import Event, LoggedIn, TaskManagementReceived
from cstor_target.iscsi.sessions import Session, SessionTable
from cstor_target.iscsi.tasks import Task
from cstor_target.residuals import data_out_bytes
from cstor_target.scsi.completion import finish, finish_read
from cstor_target.scsi.requests import (
    Confirm,
    Copy,
    Elsewhere,
    Flush,
    Map,
    Outcome,
    Read,
    Reserve,
    Sanitize,
    Step,
    Unmap,
    Update,
    WithoutData,
    Write,
    WriteCopy,
)
from cstor_target.scsi.reservations import Registrant
from cstor_target.scsi.target_device import TargetDevice
from cstor_target.scsi.task_order import TaskAttribute
from cstor_target.volume.backing import Buffer, Failure, Volume

_LUN_0 = frozenset((0, 0x4000 << 48))
"""LUN 0 in the two addressing methods that name it (SAM-5, 4.7)."""


class ServedTarget(Target, Protocol):
    """A target node with what is behind it."""

    @property
    def device(self) -> TargetDevice:
        """The SCSI device."""

    @property
    def volume(self) -> Volume:
        """The volume behind LUN 0."""

    @property
    def is_there(self) -> bool:
        """Whether its commands are carried out now."""


class ServedDirectory(TargetDirectory, Protocol):
    """The directory, for those who also look behind the names."""

    def find(self, name: str) -> ServedTarget | None:
        """The target node of that name, or None."""


def nexus_of(session: Session) -> str:
    """By which name a logical unit knows the initiator of a session, at its target port."""
    return Registrant(session.initiator_port, session.portal_group_tag).nexus


class Nexus:
    """Carries out what one connection's initiator asks for."""

    __slots__ = (
        "_connection",
        "_device",
        "_directory",
        "_memory",
        "_name",
        "_session",
        "_sessions",
        "_stopped",
        "_volume",
        "_waiting",
    )

    def __init__(
        self,
        connection: Connection,
        directory: ServedDirectory,
        sessions: SessionTable,
    ) -> None:
        self._connection = connection
        self._directory = directory
        self._sessions = sessions
        self._session: Session | None = None
        self._device: TargetDevice | None = None
        self._volume: Volume | None = None
        self._name = ""
        self._memory = sessions.read_memory
        self._waiting: deque[tuple[Volume, Task, Read]] = deque()
        self._stopped = False

    def handle(self, events: list[Event]) -> None:
        """Act on the events of one burst, and let the volume send what it has gathered."""
        for event in events:
            if type(event) is Task:
                self._start(event)
            elif type(event) is LoggedIn:
                self._logged_in(event)
            elif type(event) is TaskManagementReceived:
                self._manage(event)
        if self._volume is not None:
            self._volume.kick()

    def stop_reading(self) -> None:
        """The initiator does not take what was sent: start no more reads."""
        self._stopped = True

    def go_on_reading(self) -> None:
        """The initiator has caught up, or is gone: its reads that waited end unread."""
        self._stopped = False
        self._read_waiting()

    def _logged_in(self, event: LoggedIn) -> None:
        session = event.session
        self._session = session
        if session.target is None:
            return
        served = self._directory.find(session.target.name)
        assert served is not None, f"{session.target.name} vanished between login and first command"
        self._device = served.device
        self._volume = served.volume
        self._name = nexus_of(session)
        if not event.rejoined:
            session.on_end = partial(served.device.nexus_lost, self._name)
            session.on_tasks_ended = partial(served.device.tasks_ended, self._name)
            served.device.nexus_established(self._name)

    def _start(self, task: Task) -> None:
        """Start a command now, unless a task with the ORDERED attribute has a say in that."""
        device = self._device
        if device is None:
            self._connection.complete(task, 0)
            return
        order = device.unit.task_order
        if order.is_active or task.attribute == TaskAttribute.ORDERED:
            order.enter(task, partial(self._begin, device, task), partial(self._earlier, task))
        else:
            self._begin(device, task)

    def _begin(self, device: TargetDevice, task: Task) -> None:
        if task.aborted:
            self._connection.complete(task, 0)
            return
        step = device.start(self._name, task.lun, task.cdb, task.data_out, task.expected_in)
        if task.is_write and not (type(step) is Write and step.data is task.data_out):
            asked_for = data_out_bytes(task.cdb, device.unit.block_bytes)
            if asked_for is not None:
                task.residual = task.expected_data_transfer_length - asked_for
        self._carry_out(task, step)

    def _earlier(self, task: Task) -> list[Task]:
        """What all nexuses of the target have asked for before a task, and what has not ended."""
        session = self._session
        if session is None or session.target is None:
            return []
        earlier: list[Task] = []
        for other in self._sessions.of_target(session.target.name):
            tasks = other.connection.tasks if other.connection is not None else ()
            if other is session:
                tasks = tuple(one for one in tasks if one is not task and _is_before(one, task))
            earlier += tasks
        return earlier

    def _carry_out(self, task: Task, step: Step) -> None:
        volume = self._volume
        if volume is None:
            return
        match step:
            case Write():
                done = partial(self._done, task, step)
                volume.write(step.offset, step.data, step.durable, done, step.is_atomic)
            case Read():
                self._read(volume, task, step)
            case Outcome():
                self._connection.complete(task, step.status, step.data_in, step.sense)
            case Unmap():
                volume.unmap(step.extents, step.durable, partial(self._done, task, step))
            case Flush():
                volume.flush(partial(self._done, task, step))
            case _:
                self._carry_out_rare(volume, task, step)

    def _carry_out_rare(self, volume: Volume, task: Task, step: Step) -> None:
        match step:
            case Update():
                done = partial(self._done, task, step)
                volume.update(step.offset, step.length, step.change, step.durable, done)
            case WriteCopy():
                done = partial(self._done, task, step)
                volume.write_copy(step.offset, step.data, step.durable, step.origin, done)
            case Copy():
                done = partial(self._done, task, step)
                volume.copy(step.source, step.destination, step.length, step.durable, done)
            case Map():
                mapped = partial(self._mapped, task, step)
                volume.mapping(step.offset, step.length, step.stretches_max, mapped)
            case Elsewhere():
                self._carry_out_elsewhere(task, step)
            case Reserve():
                volume.reserve(step.change, partial(self._done, task, step))
            case Sanitize():
                volume.sanitize(step.wanted, step.waits, partial(self._done, task, step))
            case Confirm():
                volume.confirm(partial(self._done, task, step))

    def _carry_out_elsewhere(self, task: Task, step: Elsewhere) -> None:
        """A step of a copy at another unit, which may not be served any more."""
        request = step.request
        served = self._directory.find(step.unit.identity.target_name)
        if served is None or not served.is_there or served.device.unit is not step.unit:
            if isinstance(request, Read):
                self._go_on(task, finish_read(request, Failure.NOT_READY, ()))
            else:
                self._go_on(task, finish(request, Failure.NOT_READY))
            return
        if isinstance(request, Read):
            self._read(served.volume, task, request)
        else:
            self._carry_out_rare(served.volume, task, request)
        served.volume.kick()

    def _done(self, task: Task, request: WithoutData, failure: Failure | None) -> None:
        if failure is None and request.finish is None:
            self._connection.complete(task, 0)
            return
        self._go_on(task, finish(request, failure))

    def _read(self, volume: Volume, task: Task, request: Read) -> None:
        if self._stopped or not self._memory.take(request.length, self._read_waiting):
            self._waiting.append((volume, task, request))
            return
        volume.read(request.offset, request.length, partial(self._read_done, task, request))

    def _read_done(
        self, task: Task, request: Read, failure: Failure | None, data: Sequence[Buffer]
    ) -> None:
        if failure is None and request.finish is None:
            self._connection.complete(task, 0, data)
        else:
            self._go_on(task, finish_read(request, failure, data))
        self._memory.give(request.length)

    def _mapped(
        self,
        task: Task,
        request: Map,
        failure: Failure | None,
        stretches: Sequence[tuple[bool, int]],
    ) -> None:
        self._go_on(task, request.finish(failure, stretches))

    def _read_waiting(self) -> None:
        """Start the reads that waited, as many as may be."""
        if self._volume is None:
            return
        waiting, self._waiting = self._waiting, deque()
        for volume, task, request in waiting:
            if task.aborted:
                self._connection.complete(task, 0)
            else:
                self._read(volume, task, request)
                volume.kick()

    def _go_on(self, task: Task, step: Step) -> None:
        """A later step of a command, outside of any burst; none of one that was aborted."""
        if task.aborted:
            self._connection.complete(task, 0)
            return
        self._carry_out(task, step)
        if self._volume is not None and type(step) is not Outcome:
            self._volume.kick()

    def _manage(self, request: TaskManagementReceived) -> None:
        """Task management that concerns a task set or more (RFC 7143, 11.5.1; SAM-5, 7).

        TAS is 0: the tasks of other nexuses end without a word, and a unit attention tells why.
        """
        device, session = self._device, self._session
        if device is None or session is None or session.target is None:
            return
        function = request.function
        whole_target = function in (
            TaskManagementFunction.TARGET_WARM_RESET,
            TaskManagementFunction.TARGET_COLD_RESET,
        )
        if not whole_target and request.lun not in _LUN_0:
            self._connection.answer_task_management(
                request, TaskManagementResponse.LUN_DOES_NOT_EXIST
            )
            return
        of_target = self._sessions.of_target(session.target.name)
        luns = None if whole_target else _LUN_0
        self._connection.abort_covered(request, luns)
        if function is not TaskManagementFunction.ABORT_TASK_SET:
            for other in of_target:
                if other.connection is not None and other is not session:
                    other.connection.abort_tasks(luns)
            if function is TaskManagementFunction.CLEAR_TASK_SET:
                device.task_set_cleared(self._name)
            else:
                device.reset(self._name)
        self._connection.answer_task_management(request, TaskManagementResponse.FUNCTION_COMPLETE)
        if function is TaskManagementFunction.TARGET_COLD_RESET:
            for other in of_target:
                if other.connection is not None:
                    other.connection.close()


def _is_before(one: Task, other: Task) -> bool:
    """Whether a task of the same session came first: more of a burst may have been received."""
    ahead = one.cmd_sn - other.cmd_sn & SERIAL_MASK
    return ahead > SERIAL_MASK >> 1 or (ahead == 0 and one.immediate)
