"""Makes the corpus: `python -m tests.fuzz.seeds` records what real initiators send.

libiscsi's tools and QEMU's initiator log in to a target in this process and work on its volume.
What each connection receives is cut into the inputs of the harnesses: the login, the PDUs behind it
and the commands in them.  What needs CHAP, a gap in CmdSN, tasks in an order, a failure or a second
logical unit is made of the words of the unit tests.  `python -m tests.fuzz.minimise`
keeps of these what finds a way of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cstor_core.clock import SystemClock
from cstor_target.iscsi import pdu
from cstor_target.iscsi.connection import Connection, Phase
from cstor_target.iscsi.constants import OPCODE_MASK, Opcode, TaskManagementFunction
from cstor_target.iscsi.events import Event
from cstor_target.scsi.cdb import (
    GET_LBA_STATUS,
    LOG_SENSE,
    REQUEST_SENSE,
    SANITIZE_BLOCK_ERASE,
    SANITIZE_EXIT_FAILURE_MODE,
    SANITIZE_OVERWRITE,
    TEST_UNIT_READY,
)
from cstor_target.scsi.cdb_copy import COPY_STATUS, EXTENDED_COPY, OPERATING_PARAMETERS
from cstor_target.scsi.identity import Identity
from cstor_target.transport import IscsiServer
from tests.fuzz.__main__ import CORPUS, INPUT_BYTES_MAX
from tests.fuzz.harnesses import (
    CHALLENGE,
    NUMBERED,
    SECRET,
    VOLUME_UUIDS,
    CheckedVolume,
    pdus_of,
)
from tests.unit.iscsi.test_nexus import Directory, Served, read_10, write_10
from tests.unit.iscsi.trace import INITIATOR, TARGET, Initiator, Process

CONFORMANCE = (
    *("Inquiry", "ModeSense6", "Read10", "Write10", "Unmap", "WriteSame16", "CompareAndWrite"),
    *("PrinReadKeys", "ProutRegister", "ReportSupportedOpcodes", "Verify10", "OrWrite", "Reserve6"),
    *("iSCSIcmdsn", "iSCSIdatasn", "iSCSITMF", "iSCSIResiduals", "GetLBAStatus", "StartStopUnit"),
    *("ExtendedCopy", "ReceiveCopyResults", "Sanitize"),
)
"""Suites of libiscsi's conformance tests."""


STREAM_BYTES_MAX = 256 * 1024
"""Of what one connection has sent after its login: some tests write for a while."""
PROGRAM_S_MAX = 5


class PromptVolume(CheckedVolume):
    """Carries out what it was asked for as soon as a burst is over."""

    def kick(self) -> None:
        """End all."""
        while self.pending:
            self.end()


class Recorder:
    """What each connection has received: before it was logged in, and after."""

    def __init__(self) -> None:
        self.streams: dict[Connection, tuple[bytearray, bytearray]] = {}
        self._update = Connection.buffer_updated
        self._room = Connection.get_buffer
        self._view: dict[Connection, memoryview] = {}

    def install(self) -> None:
        """Look over the shoulder of every connection."""
        recorder = self

        def get_buffer(core: Connection) -> memoryview:
            recorder._view[core] = view = recorder._room(core)
            return view

        def buffer_updated(core: Connection, size: int) -> list[Event]:
            streams = recorder.streams.setdefault(core, (bytearray(), bytearray()))
            streams[core.phase is not Phase.LOGIN].extend(recorder._view[core][:size])
            return recorder._update(core, size)

        Connection.get_buffer = get_buffer  # type: ignore[method-assign, assignment]
        Connection.buffer_updated = buffer_updated  # type: ignore[method-assign, assignment]


def programs(url: str) -> Iterable[list[str]]:
    """What is run against the target."""
    portal, lun = url.rsplit("/", 2)[0], f"{url}/0"
    yield ["iscsi-ls", "-s", portal]
    yield ["iscsi-inq", lun]
    for page in ("0x00", "0x80", "0x83", "0xb0", "0xb1", "0xb2"):
        yield ["iscsi-inq", "-e", "1", "-c", page, lun]
    yield ["iscsi-readcapacity16", lun]
    yield ["iscsi-swp", lun]
    for words in ("write -P 7 4k 8k", "read 0 64k", "discard 0 64k", "write -z 0 128k", "flush"):
        yield ["qemu-io", "-f", "raw", "-c", words, lun]
    for suite in CONFORMANCE:
        yield ["iscsi-test-cu", "-d", "-s", "-t", f"ALL.{suite}", lun]


async def record() -> Recorder:
    """Let all the programs work, each to its end or for some seconds."""
    recorder = Recorder()
    recorder.install()
    directory = Directory(Served(volume=PromptVolume()))
    server = IscsiServer(directory, SystemClock())
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"iscsi://127.0.0.1:{listener.getsockname()[1]}/{TARGET}"
    await server.serve(listener)
    for program in programs(url):
        process = await asyncio.create_subprocess_exec(
            *program, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await asyncio.wait_for(process.wait(), PROGRAM_S_MAX)
        except TimeoutError:
            process.kill()
            await process.wait()
    await server.drain(1)
    return recorder


def keep(name: str, data: bytes) -> None:
    """Put an input into the corpus, under a name that says what it is made of."""
    path = CORPUS / name / hashlib.sha1(data).hexdigest()[:16]
    path.write_bytes(data)


def keep_full_feature(stream: bytes) -> None:
    """The PDUs behind a login, as many as fit into an input; large data are cut."""
    head = bytes((NUMBERED | 1, 0x03))
    part = head
    for one in pdus_of(stream):
        if len(one) > INPUT_BYTES_MAX // 4:
            continue
        if len(part) + len(one) > INPUT_BYTES_MAX // 2:
            keep("full_feature", part)
            part = head
        part += one
    keep("full_feature", part)


def keep_commands(stream: bytes) -> None:
    """The commands among these PDUs, with their immediate data."""
    part = b""
    for one in pdus_of(stream):
        if one[0] & OPCODE_MASK != Opcode.SCSI_COMMAND or len(one) < 48:
            continue
        data = one[48:][:1024]
        command = bytes((0,)) + bytes(one[32:48]) + b"\0" + len(data).to_bytes(2) + data
        if len(part) + len(command) > 1024:
            keep("commands", part)
            part = b""
        part += command
    keep("commands", part)


class Words(Initiator):
    """An initiator that only writes down what it would send."""

    def __init__(self) -> None:
        super().__init__(Process())
        self.stream = b""

    def feed(self, stream: bytes) -> list[Event]:
        """Write it down."""
        self.stream += stream
        return []


def chap_logins() -> Iterable[bytes]:
    """Whole logins with the proof, in each algorithm."""
    digests = {"5": hashlib.md5, "6": hashlib.sha1, "7": hashlib.sha256, "8": hashlib.sha3_256}
    for algorithm, digest in digests.items():
        words = Words()
        names = {"InitiatorName": INITIATOR, "TargetName": TARGET, "AuthMethod": "CHAP"}
        proof = digest(CHALLENGE[:1] + SECRET + CHALLENGE).hexdigest()
        own = {"CHAP_I": "7", "CHAP_C": "0x0123456789abcdef"} if algorithm != "5" else {}
        words.login_request(names, csg=0, nsg=None)
        words.login_request({"CHAP_A": algorithm}, csg=0, nsg=None)
        words.login_request({"CHAP_N": "host-a", "CHAP_R": f"0x{proof}"} | own, csg=0, nsg=1)
        words.login_request({"HeaderDigest": "CRC32C,None", "MaxBurstLength": "0x1000"})
        yield words.stream


def conversations() -> Iterable[bytes]:
    """PDUs of all kinds that an initiator may send, and some that it may not."""
    words = Words()
    words.write(8, b"half", final=False, initiator_task_tag=3)
    words.data_out(3, b"rest", buffer_offset=4)
    words.write(2048, initiator_task_tag=4, cdb=write_10(0, 4) + bytes(6))
    for number, end in ((1, False), (2, True)):
        words.data_out(
            4, bytes(512), final=end, target_transfer_tag=number, buffer_offset=512 * (number - 1)
        )
    words.numbered(pdu.SCSI_COMMAND, final=True, read=True, cdb=read_10(0, 4) + bytes(6))
    yield words.stream
    words = Words()
    words.write(2048, initiator_task_tag=4, cdb=write_10(0, 4) + bytes(6))
    for function in (*TaskManagementFunction, 9):
        words.numbered(
            pdu.TASK_MANAGEMENT_REQUEST, function=function, referenced_task_tag=4, ref_cmd_sn=101
        )
    yield words.stream
    words = Words()
    words.numbered(pdu.NOP_OUT, b"ping")
    words.numbered(pdu.NOP_OUT, b"ping", immediate=True)
    words.numbered(pdu.TEXT_REQUEST, b"SendTargets=All\0", final=True)
    words.numbered(pdu.TEXT_REQUEST, b"SendTar", continue_=True)
    words.numbered(pdu.TEXT_REQUEST, b"gets=\0", final=True, target_transfer_tag=1)
    words.numbered(pdu.TEXT_REQUEST, b"MaxRecvDataSegmentLength=512\0X-y=1\0", final=True)
    words.send(pdu.SNACK_REQUEST)
    words.send(pdu.LOGIN_REQUEST, immediate=True, transit=True, csg=1, nsg=3)
    words.numbered(pdu.LOGOUT_REQUEST, reason=2)
    words.numbered(pdu.LOGOUT_REQUEST)
    yield words.stream


SECOND_NEXUS, FAILS_BUSY, FAILS_BADLY = 0x01, 0x10, 0x18
BEGUN, FAILED, OVER = 0x20, 0x40, 0x60
"""Of the first byte of a command: who, how the volume fails, what becomes of a sanitization."""


@dataclass(frozen=True)
class Seed:
    """A command of an input."""

    cdb: bytes
    data: bytes = b""
    choice: int = 0

    def encode(self) -> bytes:
        """As the harness of the commands has it."""
        cdb = self.cdb.ljust(16, b"\0")
        return bytes((self.choice,)) + cdb + b"\0" + len(self.data).to_bytes(2) + self.data


def copy_of(usage: int, *segments: tuple[int, int, int, int, int, int], inline: int = 0) -> Seed:
    """EXTENDED COPY between the two units; of each segment its flags, source, destination, number
    of blocks, and where these are."""
    targets = b""
    for volume_uuid in VOLUME_UUIDS:
        naa = Identity(volume_uuid, TARGET).naa
        targets += struct.pack(">BB2xBBxB20s4x", 0xE4, 0, 1, 3, len(naa), naa)
    described = b"".join(
        struct.pack(">BBHHH2xHQQ", 2, flags, 24, *between) for flags, *between in segments
    )
    head = struct.pack(">BBH4xII", 7, usage << 3, len(targets), len(described), inline)
    parameters = head + targets + described
    return Seed(EXTENDED_COPY.build(parameter_list_length=len(parameters)), parameters)


def rare_commands() -> Iterable[Sequence[Seed]]:
    """Commands that those programs do not send, or not between two units, or after no failure."""
    ready = Seed(TEST_UNIT_READY.build())
    awake = (ready, replace(ready, choice=SECOND_NEXUS))
    asked = [Seed(COPY_STATUS.build(list_identifier=7, allocation_length=64))] * 2
    parameters = Seed(OPERATING_PARAMETERS.build(list_identifier=0, allocation_length=255))
    written = Seed(write_10(0, 1), bytes(range(256)) * 2)
    inside, across, back = (0, 0, 0, 8, 0, 16), (2, 0, 1, 100, 0, 16), (0, 1, 0, 8, 0, 120)
    yield (*awake, written, parameters, copy_of(0, inside), *asked)
    yield (*awake, written, copy_of(0, across, back, inside), *asked)
    yield (*awake, copy_of(3, across), *asked, copy_of(2, (0, 0, 2, 1, 0, 0)), *asked)
    yield (*awake, replace(copy_of(0, inside, across), choice=FAILS_BADLY), *asked)
    yield (*awake, replace(copy_of(0, inside), choice=FAILS_BUSY), copy_of(0, inline=4))
    yield (*awake, copy_of(0, (0, 0, 1, 1, 1 << 40, 0)), *asked, copy_of(0, *[inside] * 65))
    erase = Seed(SANITIZE_BLOCK_ERASE.build(immed=1, ause=1))
    pattern = struct.pack(">BxH", 0x82, 2) + b"\xa7\x01"
    over = Seed(SANITIZE_OVERWRITE.build(parameter_list_length=len(pattern)), pattern)
    left = Seed(SANITIZE_EXIT_FAILURE_MODE.build())
    sense = Seed(REQUEST_SENSE.build(allocation_length=252))
    yield (*awake, erase, over, replace(ready, choice=BEGUN), sense, over, written)
    yield (*awake, replace(ready, choice=FAILED), erase, left, sense, replace(ready, choice=OVER))
    yield (*awake, *(replace(one, choice=FAILS_BADLY) for one in (erase, over, left)))
    for page in (0x00, 0x19, 0x2F, 0x01):
        yield (*awake, Seed(LOG_SENSE.build(pc=1, page_code=page, allocation_length=512)))
    yield (*awake, Seed(LOG_SENSE.build(pc=1, page_code=0x19, parameter_pointer=1)))
    for block in (0, 3, 127, 1 << 40):
        cdb = GET_LBA_STATUS.build(starting_logical_block_address=block, allocation_length=64)
        yield (*awake, written, Seed(cdb), replace(Seed(cdb), choice=FAILS_BUSY))


READ: dict[str, Any] = {
    "final": True,
    "read": True,
    "expected_data_transfer_length": 512,
    "cdb": read_10(0, 1) + bytes(6),
}
READY: dict[str, Any] = {"final": True, "cdb": bytes(16)}


def in_order() -> Iterable[bytes]:
    """Tasks of all attributes among one another, and copies that take steps meanwhile."""
    words = Words()
    words.numbered(pdu.SCSI_COMMAND, **READY)
    for attribute in (1, 2, 1, 3, 2, 2, 0, 4, 3):
        words.numbered(pdu.SCSI_COMMAND, **READ, attr=attribute)
        words.write(512, bytes(512), cdb=write_10(0, 1) + bytes(6), attr=attribute)
    yield words.stream
    words = Words()
    words.numbered(pdu.SCSI_COMMAND, **READY)
    words.write(2048, initiator_task_tag=4, cdb=write_10(0, 4) + bytes(6), attr=2)
    words.numbered(pdu.SCSI_COMMAND, **READ, attr=3)
    words.numbered(pdu.SCSI_COMMAND, **READ, attr=1)
    words.numbered(pdu.TASK_MANAGEMENT_REQUEST, function=1, referenced_task_tag=4, ref_cmd_sn=100)
    words.numbered(pdu.SCSI_COMMAND, **READ, attr=2)
    yield words.stream
    for seeds in rare_commands():
        words = Words()
        for attribute, seed in enumerate(seeds):
            if seed.data:
                words.write(
                    len(seed.data), seed.data, cdb=seed.cdb.ljust(16, b"\0"), attr=attribute % 4
                )
            else:
                fields = {**READ, "cdb": seed.cdb.ljust(16, b"\0"), "attr": attribute % 4}
                words.numbered(pdu.SCSI_COMMAND, **fields)
        yield words.stream


def keep_rare() -> None:
    """What is made of words, and not recorded."""
    for seeds in rare_commands():
        keep("commands", b"".join(seed.encode() for seed in seeds))
    for stream in chap_logins():
        for mode in (1, 3, 7):
            keep("login", bytes((mode, 0)) + stream)
    for stream in (*conversations(), *in_order()):
        for mode in (*range(8), 0x10 | 1, 0x20 | 3, 0x40 | 4):
            for endings in (1, 3, 6, 9):
                keep("full_feature", bytes((mode | NUMBERED, endings)) + stream)


def main() -> None:
    """Make the corpus anew."""
    shutil.rmtree(CORPUS, ignore_errors=True)
    for name in ("login", "full_feature", "commands"):
        (CORPUS / name).mkdir(parents=True)
    recorder = asyncio.run(record())
    for login, full_feature in recorder.streams.values():
        keep("login", b"\0\0" + bytes(login)[: INPUT_BYTES_MAX - 2])
        keep_full_feature(bytes(full_feature[:STREAM_BYTES_MAX]))
        keep_commands(bytes(full_feature[:STREAM_BYTES_MAX]))
    keep_rare()
    for path in sorted(CORPUS.iterdir()):
        print(path.name, len(list(path.iterdir())))


if __name__ == "__main__":
    main()
