"""What tshark's dissector of iSCSI and SCSI says of the bytes that a target sent.

It was written by others, from the standards, so it is a second opinion on every encoder of ours.
Only the target's direction is judged: the suite sends malformed things on purpose.

A finding is a PDU or a field that the dissector calls malformed, gives an expert's warning for,
does not know, or finds set where the standard reserves it; or bytes that belong to no PDU.
Two things that it says are its own doing.  Its tables lack some values that the standards have:
`NOT_IN_ITS_TABLES`.  And it reads on behind the end of some answers that were cut at the ALLOCATION
LENGTH, as SPC-4 4.2.5 has it: `[Malformed Packet: SCSI]` is let pass where an answer has exactly
as many bytes as were asked for.  The same answers are seen uncut in other tests.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.pcap import TARGET_PORT
from tests.system.tools import HarnessError, program

HEADER_BYTES = 48
DIGEST_BYTES = 4
FILTER = f"tcp.srcport == {TARGET_PORT} || iscsi.opcode == 0x01"
"""What the target sends, and the SCSI commands, which say how much they want."""

FRAME = re.compile(r"Frame (\d+):")
SEGMENT = re.compile(r"Transmission Control Protocol, Src Port: (\d+), Dst Port: (\d+), .* (\d+)$")
PDU = re.compile(r"iSCSI \((.+)\)$")
PAYLOAD = re.compile(r"SCSI (?:Payload|Response) \((.+)\)$")
NUMBER = re.compile(
    r" +(TotalAHSLength|DataSegmentLength|InitiatorTaskTag|ExpectedDataTransferLength"
    r"|HeaderDigest|DataDigest): (?:\d+ \()?(0x[0-9a-f]+)\)?"
)
HEX_DUMP = re.compile(r"[0-9a-f]{4,}  [0-9a-f]{2} ")
"""Of a block's data, which tshark prints whole."""

MALFORMED = "[Malformed Packet: SCSI]"
SUSPICIOUS = re.compile(
    r"\[Malformed Packet"
    r"|\[Unreassembled Packet"
    r"|\[Dissector bug"
    r"|\[Packet size limited"
    r"|\[Expert Info \((?:Warning|Error)"
    r"|\bunknown\b"
    r"|\binvalid\b"
    r"|\bbogus\b"
    r"|^ *KeyValue: [^=]*$"
    r"|^ *[.01 ]*=? *reserved[^:=]*[:=](?! *(?:0x)?0+\b)",
    re.IGNORECASE,
)
WORDS_OF_STANDARDS = re.compile(r" *Additional Sense Code\+Qualifier: (?!Unknown)")
"""Such as Invalid Field In Cdb."""
SET_GROUPS = "SET TARGET PORT GROUPS (SPC-4 6.45)"
COPY_STATUS = "RECEIVE COPY STATUS (LID1) (SPC-4 6.24)"
NOT_IN_ITS_TABLES = {
    ".... 0101 = Identifier Type: Unknown (0x5)": "target port group (SPC-4 7.8)",
    ".... 1000 = Identifier Type: Unknown (0x8)": "SCSI name string (SPC-4 7.8)",
    "Supported Page: Unknown (0x86)": "Extended INQUIRY Data (SPC-4 7.8)",
    "Page Code: Unknown (0x00000086)": "Extended INQUIRY Data (SPC-4 7.8)",
    "EVPD Page Code: Unknown (0x86)": "Extended INQUIRY Data (SPC-4 7.8)",
    "Supported Page: Unknown (0x8f)": "Third-party Copy (SPC-4 7.8)",
    "Page Code: Unknown (0x0000008f)": "Third-party Copy (SPC-4 7.8)",
    "EVPD Page Code: Unknown (0x8f)": "Third-party Copy (SPC-4 7.8)",
    "SBC Opcode: Unknown (0xa4)": SET_GROUPS,
    "Command Descriptor: Unknown": SET_GROUPS,
    "Unknown serv_action 0": COPY_STATUS,
    "[Unknown serv_action 0]": COPY_STATUS,
    "[Expert Info (Warning/Protocol): Unknown serv_action 0]": COPY_STATUS,
    "Additional Sense Code+Qualifier: Unknown (0x041b)": "LOGICAL UNIT NOT READY, SANITIZE IN "
    "PROGRESS (SPC-4 annex E)",
    "Additional Sense Code+Qualifier: Unknown (0x0e03)": "INVALID FIELD IN COMMAND INFORMATION "
    "UNIT (SPC-4 annex E)",
    "Additional Sense Code+Qualifier: Unknown (0x4705)": "PROTOCOL SERVICE CRC ERROR (RFC 7143 "
    "11.4.7.2)",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: in which frame of the file, within what, and the words."""

    frame: int
    within: str
    words: str


@dataclass(slots=True)
class Dissection:
    """What a capture held of the target's."""

    pdus: Counter[str] = field(default_factory=Counter)
    """By the names of RFC 7143's table of opcodes."""
    findings: list[Finding] = field(default_factory=list)
    dissectors_own: Counter[str] = field(default_factory=Counter)
    """Words of the dissector that say nothing of the target."""
    bytes_sent: int = 0
    bytes_of_pdus: int = 0

    def add(self, other: Dissection) -> None:
        """Count another capture in."""
        self.pdus += other.pdus
        self.findings += other.findings
        self.dissectors_own += other.dissectors_own
        self.bytes_sent += other.bytes_sent
        self.bytes_of_pdus += other.bytes_of_pdus


def dissect(path: Path) -> Dissection:
    """Have tshark dissect a capture file.

    Raises HarnessError where it is not installed or does not get to the end of the file.
    """
    command = [program("tshark"), "-n", "-r", str(path), "-Y", FILTER, "-O", "iscsi,scsi"]
    reader = Reader()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
    ) as tshark:
        assert tshark.stdout is not None
        reader.read(tshark.stdout)
    if tshark.returncode != 0:
        raise HarnessError(f"tshark ended with status {tshark.returncode} on {path}")
    return reader.found


class Reader:
    """Understands what tshark prints, frame by frame."""

    def __init__(self) -> None:
        """Nothing has been read yet."""
        self.found = Dissection()
        self._wanted: dict[tuple[int, int], int] = {}
        """Bytes that a command wants at most, by its connection and its initiator task tag."""
        self._frame = 0
        self._from_target = False
        self._connection = 0
        self._within = ""
        self._numbers: dict[str, int] = {}
        """Of the PDU that is being read."""

    def read(self, lines: Iterable[str]) -> None:
        """Read all of it."""
        for line in lines:
            if not HEX_DUMP.match(line):
                self._line(line.rstrip())
        found = self.found
        if found.bytes_sent != found.bytes_of_pdus:
            words = f"{found.bytes_sent} bytes were sent, and {found.bytes_of_pdus} are PDUs"
            found.findings.append(Finding(self._frame, "", words))

    def _line(self, line: str) -> None:
        if match := FRAME.match(line):
            self._frame, self._within, self._numbers = int(match[1]), "", {}
        elif match := SEGMENT.match(line):
            ports = int(match[1]), int(match[2])
            self._from_target = ports[0] == TARGET_PORT
            self._connection = ports[self._from_target]
            self.found.bytes_sent += int(match[3]) if self._from_target else 0
        elif match := PDU.match(line):
            self._within, self._numbers = match[1], {}
            if self._from_target:
                self.found.pdus[self._within] += 1
                self.found.bytes_of_pdus += HEADER_BYTES
        elif match := PAYLOAD.match(line):
            self._within = match[1]
        elif match := NUMBER.match(line):
            self._number(match[1], int(match[2], 16))
        elif self._from_target and SUSPICIOUS.search(line) and not WORDS_OF_STANDARDS.match(line):
            self._judge(line.strip())

    def _number(self, name: str, value: int) -> None:
        self._numbers[name] = value
        if self._from_target:
            self.found.bytes_of_pdus += _bytes_behind_header(name, value)
        elif name == "ExpectedDataTransferLength":
            self._wanted[self._connection, self._numbers["InitiatorTaskTag"]] = value

    def _judge(self, words: str) -> None:
        """Count something suspicious as the dissector's own doing or as a finding."""
        task = self._connection, self._numbers.get("InitiatorTaskTag", 0)
        is_cut = self._numbers.get("DataSegmentLength") == self._wanted.get(task)
        if words in NOT_IN_ITS_TABLES or (words == MALFORMED and is_cut):
            self.found.dissectors_own[f"{self._within}: {words}"] += 1
        else:
            self.found.findings.append(Finding(self._frame, self._within, words))


def _bytes_behind_header(name: str, value: int) -> int:
    """What a number in a PDU's header says of its length (RFC 7143 11.2)."""
    match name:
        case "TotalAHSLength":
            return 4 * value
        case "DataSegmentLength":
            return value + -value % 4
        case "HeaderDigest" | "DataDigest":
            return DIGEST_BYTES
        case _:
            return 0
