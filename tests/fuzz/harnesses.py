"""What is done with the bytes of one input, and what must hold whatever they are.

Each function takes any bytes and raises nothing: an AssertionError or any other exception is a
defect of the target.  The first bytes choose how the rest is used, so that the fuzzer can choose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from cstor_core.checksums import crc32c
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.iscsi.chap import Credential, Realm
from cstor_target.iscsi.connection import Phase
from cstor_target.iscsi.constants import (
    BHS_BYTES,
    IMMEDIATE,
    OPCODE_MASK,
    SERIAL_MASK,
    LoginStatus,
    Opcode,
)
from cstor_target.iscsi.events import Event
from cstor_target.iscsi.limits import Limits
from cstor_target.nexus import Nexus
from cstor_target.scsi.extended_copy import FindPeer, Peer
from cstor_target.scsi.geometry import Geometry
from cstor_target.scsi.identity import Identity
from cstor_target.scsi.parameters import Parameters
from cstor_target.scsi.requests import Status
from cstor_target.scsi.target_device import TargetDevice
from cstor_target.volume.backing import Buffer, Change, Done, Failure, MappingDone, ReadDone
from tests.unit.iscsi.heard import Heard, Said
from tests.unit.iscsi.test_nexus import SIZE, Directory, Served, SlowVolume
from tests.unit.iscsi.trace import INITIATOR, TARGET, Initiator, Process
from tests.unit.scsi.ram_disk import RamDisk, sense_of

SMALL = Limits(
    receive_chunk_bytes=4096,
    command_window=8,
    immediate_tasks_max=4,
    text_bytes_max=4096,
    text_answers_bytes_max=8192,
    solicited_bytes_max=16384,
    write_bytes_max=65536,
    unsolicited_bytes_max=2 << 20,
    read_bytes_in_flight_max=65536,
)
"""So small that an input of a few kilobytes reaches each of them."""
SECRET = b"of the host: 12 bytes"
CHALLENGE = bytes(range(16))
VOLUME_UUIDS = (UUID(int=7), UUID(int=8))
"""Of the volume that is logged in to, and of another one that a copy may name."""
OTHER_TARGET = TARGET + "-other"


class CheckedVolume(SlowVolume):
    """Ends requests when it is told to; none may reach beyond it."""

    def read(self, offset: int, length: int, done: ReadDone) -> None:
        assert 0 < length <= SIZE - offset
        super().read(offset, length, done)

    def write(
        self,
        offset: int,
        data: Sequence[Buffer],
        durable: bool,
        done: Done,
        is_atomic: bool = False,
    ) -> None:
        assert 0 < sum(map(len, data)) <= SIZE - offset
        super().write(offset, data, durable, done, is_atomic)

    def copy(self, source: int, destination: int, length: int, durable: bool, done: Done) -> None:
        assert 0 < length <= SIZE - max(source, destination)
        super().copy(source, destination, length, durable, done)

    def unmap(self, extents: Sequence[tuple[int, int]], durable: bool, done: Done) -> None:
        assert all(0 < length <= SIZE - offset for offset, length in extents)
        super().unmap(extents, durable, done)

    def update(self, offset: int, length: int, change: Change, durable: bool, done: Done) -> None:
        assert 0 < length <= SIZE - offset
        super().update(offset, length, change, durable, done)

    def mapping(self, offset: int, length: int, stretches_max: int, done: MappingDone) -> None:
        assert 0 < length <= SIZE - offset
        super().mapping(offset, length, stretches_max, done)


def device_of(name: str, volume_uuid: UUID) -> TargetDevice:
    """What is behind a target node."""
    return TargetDevice(Identity(volume_uuid, name), Geometry(lambda: SIZE))


def peer_of(device: TargetDevice) -> FindPeer:
    """A look-up that knows the unit of this device, whoever asks."""
    unit = device.unit

    def find(nexus: Hashable, designator: bytes) -> Peer | None:
        return Peer(unit, nexus) if designator == unit.identity.naa else None

    return find


@dataclass
class Node(Directory):
    """A directory whose secrets are no surprise, so that an input can have the right proof; its
    second target node cannot be logged in to, but a copy may name it.
    """

    served: Served = field(default_factory=lambda: Served(volume=CheckedVolume()))
    secrets: Realm | None = None

    def __post_init__(self) -> None:
        one, other = VOLUME_UUIDS
        self.served.device = device_of(TARGET, one)
        self.other = Served(
            OTHER_TARGET, volume=self.served.volume, device=device_of(OTHER_TARGET, other)
        )
        self.served.device.unit.find_peer = peer_of(self.other.device)

    def find(self, name: str) -> Served | None:
        return self.other if name == OTHER_TARGET else super().find(name)

    def realm(self, name: str) -> Realm | None:  # type: ignore[override]
        return self.secrets

    def random_bytes(self, count: int) -> bytes:
        return CHALLENGE[:count]


class Host(Initiator):
    """One connection with its nexus, and what its initiator has heard."""

    def __init__(self, process: Process, node: Node) -> None:
        super().__init__(process)
        self.nexus = Nexus(self.core, node, process.sessions)
        self.heard: Heard | None = None

    def feed(self, stream: bytes) -> list[Event]:
        events = super().feed(stream)
        self.nexus.handle(events)
        return events

    def begin(self, name: str, **keys: str) -> None:
        """Log in; from then on all that is heard is looked at."""
        answer = self.login(name, **keys) if "SessionType" not in keys else self.discover(**keys)
        fields = answer.fields
        self.heard = Heard(fields.stat_sn + 1, fields.exp_cmd_sn, fields.max_cmd_sn)
        self.heard.header_digest = self.header_digest
        self.heard.data_digest = self.data_digest
        self.events.clear()

    def hear(self) -> list[Said]:
        """What the target says."""
        assert self.heard is not None
        return self.heard.take(b"".join(self.core.take_output()))

    def with_digests(self, pdu: bytearray) -> bytes:
        """The digests that were negotiated, put into a PDU without; one that is cut off stays."""
        if len(pdu) < BHS_BYTES:
            return bytes(pdu)
        ahs_end = BHS_BYTES + pdu[4] * 4
        header, data = bytes(pdu[:ahs_end]), bytes(pdu[ahs_end:])
        if self.header_digest:
            header += crc32c(header).to_bytes(4, "little")
        if self.data_digest and data:
            data += crc32c(data).to_bytes(4, "little")
        return header + data


def pdus_of(stream: bytes) -> Iterator[bytearray]:
    """PDUs as their headers have it; the last one may be cut off."""
    at = 0
    while at < len(stream):
        size = BHS_BYTES
        if len(stream) - at >= BHS_BYTES:
            size += stream[at + 4] * 4 + (int.from_bytes(stream[at + 5 : at + 8]) + 3 & ~3)
        yield bytearray(stream[at : at + size])
        at += size


def log_in(data: bytes) -> None:
    """Bytes of a connection that has not logged in.  The first byte: what has to be proved and
    whether the volume is open; the second one: the size of the pieces in which the rest comes."""
    if len(data) < 2:
        return
    mode, piece, stream = data[0], data[1] or 4096, data[2:]
    own = Credential("volume", b"of the target itself") if mode & 2 else None
    node = Node(secrets=Realm({"host-a": SECRET}, own) if mode & 1 else None)
    node.served.ready = not mode & 4
    process = Process(node, SMALL)  # type: ignore[arg-type]
    host = Host(process, node)
    for at in range(0, len(stream), piece):
        host.feed(stream[at : at + piece])
    node.served.ready = True
    host.nexus.handle(host.core.tick(1.0))
    if host.core.phase is Phase.FULL_FEATURE:
        assert len(process.sessions) == 1
        if node.secrets is not None:
            assert any(proof in stream.lower() for proof in proofs()), "nothing was proved"
    said = b"".join(host.core.take_output())
    if said and said[0] == Opcode.LOGIN_RESPONSE:
        first = int.from_bytes(said[24:28])
        heard = Heard(first, int.from_bytes(said[28:32]), int.from_bytes(said[32:36]))
        for pdu in pdus_of(stream):
            heard.sent[int.from_bytes(pdu[16:20])] += 1
        answers = login_responses(heard, said)
        assert len(answers) <= SMALL.login_requests_max + 1
        assert all(answer.status == 0 for answer in answers[:-1])
    host.nexus.handle(host.core.tick(61.0 + SMALL.ping_timeout_s))
    end(process, node, host)


def login_responses(heard: Heard, said: bytes) -> list[Said]:
    """The answers of the login; what follows may have digests, and is not looked at here."""
    answers = []
    while said[:1] == bytes((Opcode.LOGIN_RESPONSE,)):
        size = BHS_BYTES + (int.from_bytes(said[5:8]) + 3 & ~3)
        # A login has no window: CmdSN is what its last request says (11.12.8).
        heard.exp_cmd_sn, heard.max_cmd_sn = (
            int.from_bytes(said[28:32]),
            int.from_bytes(said[32:36]),
        )
        (answer,) = heard.take(said[:size])
        status = LoginStatus(int.from_bytes(said[36:38]))
        answers.append(answer)
        assert (status == 0) == (answer.words[0] >> 16 == 0)
        said = said[size:]
        if status or (answer.flags & 0x83) == 0x83:
            break
    return answers


def proofs() -> Iterator[bytes]:
    """Every right CHAP_R, in hexadecimal."""
    for digest in (hashlib.md5, hashlib.sha1, hashlib.sha256, hashlib.sha3_256):
        yield digest(CHALLENGE[:1] + SECRET + CHALLENGE).hexdigest().lstrip("0").encode()


KEYS: Sequence[dict[str, str]] = (
    {"InitialR2T": "Yes", "ImmediateData": "Yes"},
    {"InitialR2T": "No", "ImmediateData": "Yes", "FirstBurstLength": "1024"},
    {"InitialR2T": "Yes", "ImmediateData": "No", "MaxBurstLength": "1024"},
    {"InitialR2T": "No", "HeaderDigest": "CRC32C", "DataDigest": "CRC32C"},
    {"InitialR2T": "No", "HeaderDigest": "CRC32C", "MaxRecvDataSegmentLength": "512"},
    {"InitialR2T": "No", "MaxOutstandingR2T": "1", "MaxBurstLength": "512"},
    {"SessionType": "Discovery"},
    {"InitialR2T": "No", "ImmediateData": "No", "DataDigest": "CRC32C"},
)
NUMBERED, EARLY, WITH_OTHER, PIECES = 8, 16, 32, 64
"""Of the first byte: CmdSN is made right, or a little early; another initiator is there; the stream
comes in pieces."""


def full_feature(data: bytes) -> None:
    """PDUs of a connection that has logged in.  The first byte chooses what was negotiated and how
    CmdSN is used, the second one which requests the volume ends, and when."""
    if len(data) < 2:
        return
    mode, endings, stream = data[0], data[1], data[2:]
    node = Node()
    process = Process(node, SMALL)  # type: ignore[arg-type]
    host = Host(process, node)
    host.begin(INITIATOR, **KEYS[mode & 7])
    hosts = [host]
    if mode & WITH_OTHER:
        hosts.append(one_that_waits(process, node))
    for pdu in pdus_of(stream):
        send(host, mode, pdu)
        within_limits(host)
        end_some(node.served.volume, endings)
        host.hear()
    while node.served.volume.pending:
        node.served.volume.end()
    for one in hosts:
        one.hear()
    host.nexus.handle(host.core.tick(20.0))
    host.nexus.handle(host.core.tick(60.0))
    host.nexus.handle(host.core.tick(61.0 + SMALL.ping_timeout_s))
    assert host.core.closing
    end(process, node, *hosts)


def one_that_waits(process: Process, node: Node) -> Host:
    """Another initiator with a read and a write that are not answered."""
    host = Host(process, node)
    host.begin(INITIATOR + "-other", InitialR2T="Yes")
    assert host.heard is not None
    host.heard.sent.update((1, 2))
    host.read(512, initiator_task_tag=1)
    host.write(8192, initiator_task_tag=2)
    return host


def send(host: Host, mode: int, pdu: bytearray) -> None:
    """One PDU of the input, with what the first byte wants made right of it."""
    assert host.heard is not None
    if len(pdu) >= BHS_BYTES:
        opcode = pdu[0] & OPCODE_MASK
        session = host.core.session
        if mode & NUMBERED and session is not None and opcode != Opcode.DATA_OUT:
            ahead = pdu[27] & 3 if mode & EARLY and not pdu[0] & IMMEDIATE else 0
            cmd_sn = session.window.exp_cmd_sn + ahead & SERIAL_MASK
            pdu[24:28] = cmd_sn.to_bytes(4)
        if opcode == Opcode.SCSI_COMMAND:
            host.heard.sent[int.from_bytes(pdu[16:20])] += 1
        aborts = opcode == Opcode.TASK_MANAGEMENT_REQUEST
        if aborts or opcode == Opcode.SCSI_COMMAND:
            for tag in (int.from_bytes(pdu[16:20]), int.from_bytes(pdu[20:24])):
                if (
                    host.core._full_feature is None
                    or host.core._full_feature.tasks.find(tag) is None
                ):
                    host.heard.forget(tag)
    out = host.with_digests(pdu)
    if mode & PIECES:
        for at in range(0, len(out), 7):
            host.feed(out[at : at + 7])
    else:
        host.feed(out)


def end_some(volume: SlowVolume, endings: int) -> None:
    """Requests end in their order or the last one first, well or badly."""
    for _ in range(endings & 3):
        if not volume.pending:
            return
        if endings & 4:
            volume.pending.append(volume.pending.pop(0))
        failures = (None, Failure.BUSY, Failure.MEDIUM_ERROR, None)
        volume.end(failures[endings >> 3 & 3])


def within_limits(host: Host) -> None:
    """What one connection holds is bounded."""
    bound = SMALL.command_window + SMALL.immediate_tasks_max
    assert host.core.tasks_in_flight <= bound
    receiver = host.core._receiver
    assert receiver.held_bytes <= 300 * 1024
    sessions = host.process.sessions
    assert sessions.write_memory.used_bytes <= SMALL.write_bytes_max
    assert sessions.unsolicited_memory.used_bytes <= SMALL.unsolicited_bytes_max
    if host.core.session is not None:
        assert len(host.core.session.window.parked) <= SMALL.command_window


def end(process: Process, node: Node, *hosts: Host) -> None:
    """Everything is over, and nothing is kept."""
    for host in hosts:
        host.core.lost()
        host.nexus.go_on_reading()
    while node.served.volume.pending:
        node.served.volume.end()
    sessions = process.sessions
    assert len(sessions) == 0
    assert [host.core.tasks_in_flight for host in hosts] == [0] * len(hosts)
    assert sessions.write_memory.used_bytes == 0
    assert sessions.unsolicited_memory.used_bytes == 0
    assert sessions.read_memory.used_bytes == 0


LUNS = (0, 0x4000 << 48, 1 << 48, (1 << 64) - 1)
NEXUSES = (f"{INITIATOR},i,0x800000000001", f"{INITIATOR}-b,i,0x800000000002")
RAM_BYTES = 64 * 1024
COMMAND_HEAD = 20
"""One command of an input: what is done, the CDB, and two bytes that say how much data follows."""


def commands(data: bytes) -> None:
    """Commands by the SCSI device, one after the other, with what each leaves behind.  Of the first
    byte of each: the nexus, the LUN, whether the volume fails, and whether something happens first.
    """
    disk, other = (RamDisk(RAM_BYTES, volume_uuid=uuid) for uuid in VOLUME_UUIDS)
    disk.device.unit.find_peer = peer_of(other.device)
    disk.peers[other.device.unit] = other
    for nexus in NEXUSES:
        disk.device.nexus_established(nexus)
    while len(data) >= COMMAND_HEAD:
        choice, cdb, size = data[0], data[1:17], int.from_bytes(data[18:20])
        data_out, data = data[20 : 20 + size], data[20 + size :]
        failure = (None, None, Failure.BUSY, Failure.MEDIUM_ERROR)[choice >> 3 & 3]
        for one in (disk, other):
            one.failure = failure
            one.asked.clear()
        happen(disk, choice >> 5)
        cut = len(data_out) // 2
        outcome = disk.run(
            cdb, [data_out[:cut], data_out[cut:]], NEXUSES[choice & 1], LUNS[choice >> 1 & 3]
        )
        assert len(disk.held) == len(other.held) == RAM_BYTES
        if outcome.status is Status.CHECK_CONDITION:
            sense_of(outcome)
            assert not outcome.data_in
        else:
            assert outcome.status in (Status.GOOD, Status.BUSY, Status.RESERVATION_CONFLICT)
            assert outcome.sense == b""
        assert sum(map(len, outcome.data_in)) <= RAM_BYTES


SANITIZATIONS = (
    volume_pb2.Sanitization(state=volume_pb2.SANITIZATION_STATE_UNDER_WAY),
    volume_pb2.Sanitization(state=volume_pb2.SANITIZATION_STATE_FAILED),
    volume_pb2.Sanitization(),
)
"""One has begun, has failed, is over."""


def happen(disk: RamDisk, what: int) -> None:
    """Something else happens to the device first, or mostly nothing."""
    device = disk.device
    match what:
        case 1 | 2 | 3:
            device.unit.sanitization_changed(SANITIZATIONS[what - 1])
        case 5:
            device.reset()
        case 6:
            device.parameters_changed(Parameters(is_removable=True))
        case 7:
            device.nexus_lost(NEXUSES[0])
            device.nexus_established(NEXUSES[0])


HARNESSES: dict[str, Callable[[bytes], None]] = {
    "login": log_in,
    "full_feature": full_feature,
    "commands": commands,
}
