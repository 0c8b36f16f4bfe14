"""The vocabulary of the traces: an initiator that speaks PDUs to the pure core.

A trace reads as a conversation: `initiator.login()`, `initiator.command(...)`, `initiator.read()`.
What the target says is a list of `Answer`s, parsed with the specification in `pdu.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import Any

from construct import Construct

from cstor_core.checksums import crc32c
from cstor_target.iscsi import pdu
from cstor_target.iscsi.chap import Realm
from cstor_target.iscsi.connection import Connection
from cstor_target.iscsi.constants import RESERVED_TAG, LoginStatus, Opcode, Stage
from cstor_target.iscsi.counters import Counters
from cstor_target.iscsi.directory import Portal
from cstor_target.iscsi.events import Event
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.sessions import SessionTable
from cstor_target.iscsi.tasks import Task
from cstor_target.iscsi.text import decode, encode

TARGET = "iqn.2016-09.com.openebs.cstor:vol"
INITIATOR = "iqn.1993-08.org.debian:01:a"
ISID = bytes.fromhex("800000000001")
WRITE_10 = bytes((0x2A,)) + bytes(15)
READ_10 = bytes((0x28,)) + bytes(15)

LAYOUTS: dict[int, Construct] = {
    Opcode.NOP_IN: pdu.NOP_IN,
    Opcode.SCSI_RESPONSE: pdu.SCSI_RESPONSE,
    Opcode.TASK_MANAGEMENT_RESPONSE: pdu.TASK_MANAGEMENT_RESPONSE,
    Opcode.LOGIN_RESPONSE: pdu.LOGIN_RESPONSE,
    Opcode.TEXT_RESPONSE: pdu.TEXT_RESPONSE,
    Opcode.DATA_IN: pdu.DATA_IN,
    Opcode.LOGOUT_RESPONSE: pdu.LOGOUT_RESPONSE,
    Opcode.READY_TO_TRANSFER: pdu.READY_TO_TRANSFER,
    Opcode.ASYNCHRONOUS_MESSAGE: pdu.ASYNCHRONOUS_MESSAGE,
    Opcode.REJECT: pdu.REJECT,
}


@dataclass
class Answer:
    """One PDU of the target."""

    opcode: Opcode
    fields: Any
    data: bytes

    @property
    def keys(self) -> dict[str, str]:
        """The text in it."""
        return dict(decode(self.data, 1000))

    @property
    def sense(self) -> tuple[int, int, int]:
        """Sense key and additional sense code of a SCSI Response."""
        assert int.from_bytes(self.data[:2], "big") == len(self.data) - 2
        return self.data[4], self.data[14], self.data[15]


PORTAL = Portal("127.0.0.1:3260")


@dataclass
class StandInTarget:
    """A target node without anything behind it."""

    name: str = TARGET
    ready: bool = True
    moved_to: str = ""


@dataclass
class StandInDirectory:
    """Target nodes by name."""

    nodes: list[StandInTarget] = field(default_factory=lambda: [StandInTarget()])
    realms: dict[str, Realm] = field(default_factory=dict)
    kept_out: set[tuple[str, str]] = field(default_factory=set)
    """Target nodes and initiators that may not log in there."""
    all_portals: Sequence[Portal] = ()

    def find(self, name: str) -> StandInTarget | None:
        """By name."""
        return next((node for node in self.nodes if node.name == name), None)

    def realm(self, name: str) -> Realm | None:
        """By name."""
        return self.realms.get(name)

    def admits(self, target_name: str, initiator_name: str, peer: str) -> bool:
        """By both names."""
        return (target_name, initiator_name) not in self.kept_out

    def portals(self) -> Sequence[Portal]:
        """All, if there are several."""
        return self.all_portals

    def random_bytes(self, count: int) -> bytes:
        """For challenges."""
        return token_bytes(count)

    def targets(self) -> list[StandInTarget]:
        """All."""
        return self.nodes


@dataclass
class Process:
    """What the connections of one target process share."""

    directory: StandInDirectory = field(default_factory=StandInDirectory)
    limits: Limits = field(default_factory=Limits)
    counters: Counters = field(default_factory=Counters)
    wall_s: float = 0.0

    def __post_init__(self) -> None:
        self.sessions = SessionTable(self.limits, self.counters, lambda: self.wall_s)

    def connect(self, portal: Portal = PORTAL) -> Initiator:
        """A new TCP connection."""
        return Initiator(self, portal)


class Initiator:
    """One connection, seen from the initiator."""

    def __init__(self, process: Process, portal: Portal = PORTAL) -> None:
        self.process = process
        self.wakes = 0
        self.core = Connection(
            process.sessions,
            process.directory,
            portal,
            self._wake,
            0.0,
            process.limits,
            process.counters,
        )
        self.events: list[Event] = []
        self.cmd_sn = 100
        self.tag = 1
        self.isid = ISID
        self.tsih = 0
        self.cid = 0
        self.header_digest = False
        self.data_digest = False
        self._stream = b""

    def _wake(self) -> None:
        self.wakes += 1

    # What the initiator sends

    def feed(self, stream: bytes) -> list[Event]:
        """Bytes as TCP delivers them."""
        events: list[Event] = []
        while stream:
            room = self.core.get_buffer()
            size = min(len(room), len(stream))
            room[:size] = stream[:size]
            events += self.core.buffer_updated(size)
            stream = stream[size:]
        self.events += events
        return events

    def encode(self, layout: Construct, data: bytes = b"", **fields: Any) -> bytes:
        """One PDU."""
        header: bytes = layout.build({"data_segment_length": len(data), **fields})
        digest = crc32c(header).to_bytes(4, "little") if self.header_digest else b""
        padded = data + bytes(-len(data) % 4)
        data_digest = crc32c(padded).to_bytes(4, "little") if self.data_digest and data else b""
        return header + digest + padded + data_digest

    def send(self, layout: Construct, data: bytes = b"", **fields: Any) -> list[Event]:
        """Send one PDU and give the events that it causes."""
        return self.feed(self.encode(layout, data, **fields))

    def login_request(
        self,
        pairs: dict[str, str] | None = None,
        *,
        csg: int = Stage.OPERATIONAL_NEGOTIATION,
        nsg: int | None = Stage.FULL_FEATURE,
        **fields: Any,
    ) -> list[Answer]:
        """One Login Request, with T unless `nsg` is None, and what is answered."""
        self.send(
            pdu.LOGIN_REQUEST,
            encode((pairs or {}).items()),
            **{
                "immediate": True,
                "transit": nsg is not None,
                "csg": csg,
                "nsg": nsg or 0,
                "isid": self.isid,
                "tsih": self.tsih,
                "cid": self.cid,
                "initiator_task_tag": 7,
                "cmd_sn": self.cmd_sn,
                "exp_stat_sn": 50,
                **fields,
            },
        )
        return self.answers()

    def login(self, initiator: str = INITIATOR, target: str = TARGET, **keys: str) -> Answer:
        """A whole login in one request; it must succeed."""
        answer = self.login_request({"InitiatorName": initiator, "TargetName": target, **keys})[-1]
        assert answer.fields.status == LoginStatus.SUCCESS
        assert answer.fields.transit
        self._logged_in(answer)
        return answer

    def discover(self, **keys: str) -> Answer:
        """The login of a discovery session."""
        answer = self.login_request(
            {"InitiatorName": INITIATOR, "SessionType": "Discovery", **keys}
        )[-1]
        assert answer.fields.status == LoginStatus.SUCCESS
        self._logged_in(answer)
        return answer

    def _logged_in(self, answer: Answer) -> None:
        self.tsih = answer.fields.tsih
        self.header_digest = answer.keys.get("HeaderDigest") == "CRC32C"
        self.data_digest = answer.keys.get("DataDigest") == "CRC32C"

    def numbered(self, layout: Construct, data: bytes = b"", **fields: Any) -> list[Event]:
        """A PDU with the next CmdSN and task tag, unless `fields` say otherwise."""
        if not fields.get("immediate") and "cmd_sn" not in fields:
            fields["cmd_sn"] = self.cmd_sn
            self.cmd_sn = self.cmd_sn + 1 & 0xFFFFFFFF
        fields.setdefault("cmd_sn", self.cmd_sn)
        if "initiator_task_tag" not in fields:
            fields["initiator_task_tag"] = self.tag
            self.tag += 1
        return self.send(layout, data, **fields)

    def read(self, length: int, **fields: Any) -> Task:
        """A READ that expects `length` bytes, which must become a task at once."""
        return only_task(
            self.numbered(
                pdu.SCSI_COMMAND,
                **{
                    "final": True,
                    "read": True,
                    "expected_data_transfer_length": length,
                    "cdb": READ_10,
                    **fields,
                },
            )
        )

    def write(self, length: int, immediate: bytes = b"", **fields: Any) -> list[Event]:
        """A WRITE of `length` bytes with this immediate data."""
        return self.numbered(
            pdu.SCSI_COMMAND,
            immediate,
            **{
                "final": True,
                "write": True,
                "expected_data_transfer_length": length,
                "cdb": WRITE_10,
                **fields,
            },
        )

    def data_out(self, tag: int, data: bytes, **fields: Any) -> list[Event]:
        """One Data-Out, the final one unless `fields` say otherwise."""
        return self.send(pdu.DATA_OUT, data, **{"final": True, "initiator_task_tag": tag, **fields})

    # What the target answers

    def answers(self) -> list[Answer]:
        """All PDUs that the target has sent since the last time."""
        self._stream += b"".join(self.core.take_output())
        answers = []
        while self._stream:
            answers.append(self._next_answer())
        return answers

    def answer(self) -> Answer:
        """The one PDU that the target has sent."""
        answers = self.answers()
        assert len(answers) == 1, answers
        return answers[0]

    def is_told_of_the_window(self) -> bool:
        """The target says that MaxCmdSN has grown, and nothing else (11.4.11)."""
        (answer,) = self.answers()
        tags = answer.fields.initiator_task_tag, answer.fields.target_transfer_tag
        return answer.opcode is Opcode.NOP_IN and tags == (RESERVED_TAG, RESERVED_TAG)

    def _next_answer(self) -> Answer:
        header = self._take(48)
        opcode = Opcode(header[0] & 0x3F)
        fields = LAYOUTS[opcode].parse(header)
        if self.header_digest:
            assert self._take(4) == crc32c(header).to_bytes(4, "little")
        padded = self._take(fields.data_segment_length + 3 & ~3)
        if self.data_digest and padded:
            assert self._take(4) == crc32c(padded).to_bytes(4, "little")
        return Answer(opcode, fields, padded[: fields.data_segment_length])

    def _take(self, size: int) -> bytes:
        assert len(self._stream) >= size, "the target sent half a PDU"
        taken, self._stream = self._stream[:size], self._stream[size:]
        return taken


def only_task(events: Sequence[Event]) -> Task:
    """The one command among these events, which is all there is."""
    assert len(events) == 1, events
    assert isinstance(events[0], Task)
    return events[0]


def logged_in(process: Process | None = None, /, **keys: str) -> Initiator:
    """A connection in the full feature phase, with nothing left to read."""
    initiator = (process or Process()).connect()
    initiator.login(**keys)
    initiator.events.clear()
    return initiator


def joined(pieces: Sequence[Any]) -> bytes:
    """Data-out as one value."""
    return b"".join(pieces)
