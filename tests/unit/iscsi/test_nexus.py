"""The I_T nexus: events meet the SCSI device and the volume (cstor_target/nexus.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.iscsi import pdu
from cstor_target.iscsi.constants import Opcode, TaskManagementFunction
from cstor_target.iscsi.directory import Portal
from cstor_target.iscsi.limits import Limits
from cstor_target.nexus import Nexus, nexus_of
from cstor_target.residuals import data_out_bytes
from cstor_target.scsi.geometry import Geometry
from cstor_target.scsi.identity import Identity
from cstor_target.scsi.target_device import TargetDevice
from cstor_target.scsi.task_order import TaskAttribute
from cstor_target.volume.backing import (
    Buffer,
    Change,
    ChangeReservations,
    Done,
    Failure,
    MappingDone,
    Origin,
    ReadDone,
)
from tests.unit.iscsi.trace import INITIATOR, TARGET, Answer, Initiator, Process, joined

SIZE = 1 << 20
TEST_UNIT_READY = bytes(16)


class SlowVolume:
    """A volume that ends a request when it is told to."""

    size_bytes = SIZE

    def __init__(self) -> None:
        self.data = bytearray(SIZE)
        self.pending: list[Callable[[Failure | None], None]] = []
        self.kicks = 0
        self.atomic = 0
        self.origins: list[Origin] = []
        self.reservations = volume_pb2.Reservations()

    def read(self, offset: int, length: int, done: ReadDone) -> None:
        self.pending.append(
            lambda failure: done(failure, (bytes(self.data[offset : offset + length]),))
        )

    def write(
        self,
        offset: int,
        data: Sequence[Buffer],
        durable: bool,
        done: Done,
        is_atomic: bool = False,
    ) -> None:
        self.atomic += is_atomic
        written = joined(data)
        self.data[offset : offset + len(written)] = written
        self.pending.append(done)

    def write_copy(
        self, offset: int, data: Sequence[Buffer], durable: bool, origin: Origin, done: Done
    ) -> None:
        self.origins.append(origin)
        self.write(offset, data, durable, done)

    def update(self, offset: int, length: int, change: Change, durable: bool, done: Done) -> None:
        def end(failure: Failure | None) -> None:
            changed = change(self.data[offset : offset + length]) if failure is None else None
            if changed is not None:
                self.data[offset : offset + length] = changed
            done(failure)

        self.pending.append(end)

    def copy(self, source: int, destination: int, length: int, durable: bool, done: Done) -> None:
        def end(failure: Failure | None) -> None:
            if failure is None:
                held = self.data[source : source + length]
                self.data[destination : destination + length] = held
            done(failure)

        self.pending.append(end)

    def unmap(self, extents: Sequence[tuple[int, int]], durable: bool, done: Done) -> None:
        self.pending.append(done)

    def reserve(self, change: ChangeReservations, done: Done) -> None:
        self.reservations = change() or self.reservations
        self.pending.append(done)

    def mapping(self, offset: int, length: int, stretches_max: int, done: MappingDone) -> None:
        self.pending.append(lambda failure: done(failure, [(True, length)]))

    def sanitize(self, wanted: volume_pb2.Sanitization | None, waits: bool, done: Done) -> None:
        self.pending.append(done)

    def confirm(self, done: Done) -> None:
        self.pending.append(done)

    def flush(self, done: Done) -> None:
        self.pending.append(done)

    def kick(self) -> None:
        self.kicks += 1

    def end(self, failure: Failure | None = None) -> None:
        """End the oldest request."""
        self.pending.pop(0)(failure)


@dataclass
class Served:
    """A target node with a device and a slow volume behind it."""

    name: str = TARGET
    ready: bool = True
    moved_to: str = ""
    volume: SlowVolume = field(default_factory=SlowVolume)
    device: TargetDevice = field(
        default_factory=lambda: TargetDevice(
            geometry=Geometry(lambda: SIZE), identity=Identity(UUID(int=7), TARGET)
        )
    )

    @property
    def is_there(self) -> bool:
        """It is, as soon as it is open."""
        return self.ready


@dataclass
class Directory:
    """One target node."""

    served: Served = field(default_factory=Served)

    def find(self, name: str) -> Served | None:
        return self.served if name == self.served.name else None

    def realm(self, name: str) -> None:
        """Everybody may log in."""

    def admits(self, target_name: str, initiator_name: str, peer: str) -> bool:
        """Everybody may log in."""
        return True

    def portals(self) -> Sequence[Portal]:
        """The one that was reached."""
        return ()

    def random_bytes(self, count: int) -> bytes:
        """For challenges, which nobody is given."""
        return bytes(count)

    def targets(self) -> list[Served]:
        return [self.served]


class Host(Initiator):
    """An initiator whose target carries commands out."""

    def __init__(self, process: Process, directory: Directory, name: str = INITIATOR) -> None:
        super().__init__(process)
        self.nexus = Nexus(self.core, directory, process.sessions)
        self.login(initiator=name)
        self.numbered(pdu.SCSI_COMMAND, final=True, cdb=TEST_UNIT_READY)
        assert self.answer().sense == (6, 0x29, 0x00)

    def feed(self, stream: bytes) -> list[object]:  # type: ignore[override]
        events = super().feed(stream)
        self.nexus.handle(events)
        return list(events)

    def command(self, cdb: bytes, length: int = 0, data: bytes = b"", **fields: object) -> None:
        """Send a command."""
        self.numbered(
            pdu.SCSI_COMMAND,
            data,
            **{
                "final": True,
                "write": bool(data),
                "read": not data and length > 0,
                "expected_data_transfer_length": length or len(data),
                "cdb": cdb + bytes(16 - len(cdb)),
                **fields,
            },
        )

    def manage(self, function: TaskManagementFunction, lun: int = 0) -> None:
        """Send a task management function."""
        self.numbered(
            pdu.TASK_MANAGEMENT_REQUEST,
            immediate=True,
            function=function,
            lun=lun.to_bytes(8, "big"),
        )


def write_10(lba: int, blocks: int) -> bytes:
    return bytes((0x2A, 0)) + lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big") + b"\0"


def read_10(lba: int, blocks: int) -> bytes:
    return b"\x28" + write_10(lba, blocks)[1:]


@pytest.fixture
def directory() -> Directory:
    return Directory()


@pytest.fixture
def process(directory: Directory) -> Process:
    return Process(directory)  # type: ignore[arg-type]


@pytest.fixture
def host(process: Process, directory: Directory) -> Host:
    return Host(process, directory)


def status(answer: Answer) -> int:
    return int(answer.fields.status)


def test_a_write_and_a_read_go_through_the_volume(host: Host, directory: Directory) -> None:
    volume = directory.served.volume
    host.command(write_10(3, 2), data=b"x" * 1024)
    assert host.answers() == []
    assert volume.kicks > 0
    volume.end()
    assert status(host.answer()) == 0
    host.command(read_10(2, 3), 1536)
    volume.end()
    assert host.answer().data == bytes(512) + b"x" * 1024


def test_a_failure_becomes_a_status(host: Host, directory: Directory) -> None:
    volume = directory.served.volume
    host.command(write_10(0, 1), data=bytes(512))
    volume.end(Failure.BUSY)
    assert status(host.answer()) == 8
    host.command(read_10(0, 1), 512)
    volume.end(Failure.MEDIUM_ERROR)
    assert host.answer().sense[0] == 3


@pytest.mark.parametrize(
    ("blocks", "sent", "flag", "residual"),
    [(1, 1024, "underflow", 512), (2, 512, "overflow", 512), (1, 200, "overflow", 312)],
)
def test_the_residual_of_a_write(
    host: Host, directory: Directory, blocks: int, sent: int, flag: str, residual: int
) -> None:
    host.command(write_10(0, blocks), data=b"y" * sent)
    if directory.served.volume.pending:
        directory.served.volume.end()
    answer = host.answer()
    assert status(answer) == 0
    assert answer.fields[flag]
    assert answer.fields.residual_count == residual
    assert bytes(directory.served.volume.data[512:1024]) == bytes(512)


@pytest.mark.parametrize(
    ("cdb", "expected"),
    [
        (bytes((0x0A, 0, 0, 0, 3, 0)), 3 * 512),
        (bytes((0x0A, 0, 0, 0, 0, 0)), 256 * 512),
        (write_10(0, 0x1234), 0x1234 * 512),
        (bytes((0xAA, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0)), 9 * 512),
        (bytes((0x8A, *bytes(9), 0, 0, 1, 0, 0, 0)), 256 * 512),
        (bytes((0x42,)) + bytes(9), None),
    ],
)
def test_the_transfer_length_of_every_write(cdb: bytes, expected: int | None) -> None:
    assert data_out_bytes(cdb, 512) == expected


@pytest.mark.parametrize("operation_code", [0x8A, 0x8E, 0xAA, 0xAE])
def test_the_residual_of_a_write_of_two_tebibytes(host: Host, operation_code: int) -> None:
    host.command(bytes((operation_code,)) + b"\0" * 5 + b"\xff" * 8, data=b"y" * 512)
    answer = host.answer()
    assert answer.sense[0] == 5
    assert answer.fields.overflow
    assert answer.fields.residual_count == 0xFFFFFFFF


def test_an_aborted_write_reaches_the_volume_and_is_not_answered(
    host: Host, directory: Directory
) -> None:
    host.command(write_10(0, 1), data=b"z" * 512, initiator_task_tag=77)
    host.numbered(pdu.TASK_MANAGEMENT_REQUEST, immediate=True, function=1, referenced_task_tag=77)
    assert host.answer().fields.response == 0
    directory.served.volume.end()
    assert host.is_told_of_the_window()
    assert directory.served.volume.data[:512] == b"z" * 512


def test_a_lun_reset_ends_the_tasks_of_all_nexuses(
    host: Host, process: Process, directory: Directory
) -> None:
    other = Host(process, directory, INITIATOR + "-other")
    host.command(read_10(0, 1), 512)
    other.command(read_10(0, 1), 512)
    host.manage(TaskManagementFunction.LOGICAL_UNIT_RESET)
    assert host.answer().fields.response == 0
    directory.served.volume.end()
    directory.served.volume.end()
    for nexus in (host, other):
        assert nexus.is_told_of_the_window()
        nexus.command(TEST_UNIT_READY)
        assert nexus.answer().sense == (6, 0x29, 0x00)


def test_abort_task_set_concerns_only_the_own_tasks(
    host: Host, process: Process, directory: Directory
) -> None:
    other = Host(process, directory, INITIATOR + "-other")
    host.command(read_10(0, 1), 512)
    other.command(read_10(0, 1), 512)
    host.manage(TaskManagementFunction.ABORT_TASK_SET)
    assert host.answer().fields.response == 0
    directory.served.volume.end()
    directory.served.volume.end()
    assert host.is_told_of_the_window()
    assert other.answer().opcode is Opcode.DATA_IN


def test_clear_task_set_tells_the_others(
    host: Host, process: Process, directory: Directory
) -> None:
    other = Host(process, directory, INITIATOR + "-other")
    other.command(read_10(0, 1), 512)
    host.manage(TaskManagementFunction.CLEAR_TASK_SET)
    directory.served.volume.end()
    assert other.is_told_of_the_window()
    other.command(TEST_UNIT_READY)
    assert other.answer().sense == (6, 0x2F, 0x00)
    host.answers()
    host.command(TEST_UNIT_READY)
    assert status(host.answer()) == 0


def test_a_lun_that_is_not_there_cannot_be_reset(host: Host) -> None:
    host.manage(TaskManagementFunction.LOGICAL_UNIT_RESET, lun=1 << 48)
    assert host.answer().fields.response == 2


def test_a_cold_reset_ends_all_sessions_of_the_target(
    host: Host, process: Process, directory: Directory
) -> None:
    other = Host(process, directory, INITIATOR + "-other")
    host.manage(TaskManagementFunction.TARGET_COLD_RESET)
    assert host.answer().fields.response == 0
    assert host.core.closing
    assert other.core.closing
    assert len(process.sessions) == 0


def test_reads_beyond_the_bound_wait_in_their_order(directory: Directory) -> None:
    limits = replace(Limits(), read_bytes_in_flight_max=1024)
    host = Host(Process(directory, limits), directory)  # type: ignore[arg-type]
    volume = directory.served.volume
    for tag in (21, 22, 23):
        host.command(read_10(tag, 1), 512, initiator_task_tag=tag)
    assert len(volume.pending) == 2
    volume.end()
    assert len(volume.pending) == 2
    volume.end()
    volume.end()
    assert [a.fields.initiator_task_tag for a in host.answers()] == [21, 22, 23]


def test_no_read_starts_while_the_initiator_takes_nothing(host: Host, directory: Directory) -> None:
    volume = directory.served.volume
    host.nexus.stop_reading()
    host.command(read_10(0, 1), 512, initiator_task_tag=21)
    host.command(read_10(0, 1), 512, initiator_task_tag=22)
    assert volume.pending == []
    host.numbered(pdu.TASK_MANAGEMENT_REQUEST, immediate=True, function=1, referenced_task_tag=21)
    host.answers()
    host.nexus.go_on_reading()
    assert host.is_told_of_the_window()
    volume.end()
    assert host.answer().fields.initiator_task_tag == 22
    assert host.core.tasks_in_flight == 0


def test_the_device_learns_that_a_nexus_is_lost(host: Host, directory: Directory) -> None:
    assert host.core.session is not None
    nexus = nexus_of(host.core.session)
    host.core.drop()
    unit = directory.served.device.unit
    assert unit.attentions.take(nexus) is None
    unit.reset()
    assert unit.attentions.take(nexus) is None


def test_the_end_of_a_command_after_its_connection_is_harmless(
    host: Host, directory: Directory
) -> None:
    host.command(write_10(0, 1), data=bytes(512))
    host.core.drop()
    directory.served.volume.end()
    assert host.answers() == []


def test_reads_that_waited_when_the_connection_ended_give_their_place_free(
    host: Host, directory: Directory
) -> None:
    host.nexus.stop_reading()
    host.command(read_10(0, 1), 512)
    host.core.drop()
    host.nexus.go_on_reading()
    assert directory.served.volume.pending == []
    assert host.core.tasks_in_flight == 0


def test_an_ordered_task_waits_for_all_that_came_before_it(
    host: Host, process: Process, directory: Directory
) -> None:
    """Of every session; what comes behind it waits, too."""
    other = Host(process, directory, INITIATOR + "-2")
    volume = directory.served.volume
    host.command(read_10(0, 1), 512)
    other.command(read_10(0, 1), 512)
    host.command(write_10(0, 1), 512, data=b"o" * 512, attr=TaskAttribute.ORDERED)
    other.command(read_10(0, 1), 512)
    assert len(volume.pending) == 2
    volume.end()
    volume.end()
    assert [volume.data[0], len(volume.pending)] == [ord("o"), 1]
    volume.end()
    assert len(volume.pending) == 1
    volume.end()
    assert not directory.served.device.unit.task_order.is_active
    assert host.core.tasks_in_flight == other.core.tasks_in_flight == 0
