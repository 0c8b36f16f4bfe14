"""Makes the corpus: `python -m tests.fuzz.seeds` records what real initiators send.

libiscsi's tools and QEMU's initiator log in to a target in this process and work on its volume.
What each connection receives is cut into the inputs of the harnesses: the login, the PDUs behind it
and the commands in them.  What needs CHAP or a gap in CmdSN is made of the words of the unit tests.
`python -m tests.fuzz.minimise` keeps of these what finds a way of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
from collections.abc import Iterable

from cstor_core.clock import SystemClock
from cstor_target.iscsi import pdu
from cstor_target.iscsi.connection import Connection, Phase
from cstor_target.iscsi.constants import OPCODE_MASK, Opcode, TaskManagementFunction
from cstor_target.iscsi.events import Event
from cstor_target.transport import IscsiServer
from tests.fuzz.__main__ import CORPUS, INPUT_BYTES_MAX
from tests.fuzz.harnesses import CHALLENGE, NUMBERED, SECRET, CheckedVolume, pdus_of
from tests.unit.iscsi.test_nexus import Directory, Served, read_10, write_10
from tests.unit.iscsi.trace import INITIATOR, TARGET, Initiator, Process

CONFORMANCE = (
    *("Inquiry", "ModeSense6", "Read10", "Write10", "Unmap", "WriteSame16", "CompareAndWrite"),
    *("PrinReadKeys", "ProutRegister", "ReportSupportedOpcodes", "Verify10", "OrWrite", "Reserve6"),
    *("iSCSIcmdsn", "iSCSIdatasn", "iSCSITMF", "iSCSIResiduals", "GetLBAStatus", "StartStopUnit"),
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
    for stream in chap_logins():
        for mode in (1, 3, 7):
            keep("login", bytes((mode, 0)) + stream)
    for stream in conversations():
        for mode in (*range(8), 0x10 | 1, 0x20 | 3, 0x40 | 4):
            for endings in (1, 3, 6, 9):
                keep("full_feature", bytes((mode | NUMBERED, endings)) + stream)
    for path in sorted(CORPUS.iterdir()):
        print(path.name, len(list(path.iterdir())))


if __name__ == "__main__":
    main()
