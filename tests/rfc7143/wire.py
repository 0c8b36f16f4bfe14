"""PDUs as RFC 7143 draws them, by byte offset (chapter 11).

Nothing here comes from the product, so that a field which it writes to a wrong place, or a digest
that it computes wrongly, is seen.  Lengths are bytes, numbers are big-endian but for the digests.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from crcmod import mkCrcFun

RESERVED = 0xFFFFFFFF
SERIAL = 1 << 32
HEADER = struct.Struct(">BBBBB3sQIIII16s")
DISCOVERY = {"SessionType": "Discovery"}

crc32c = mkCrcFun(0x11EDC6F41, initCrc=0, rev=True, xorOut=0xFFFFFFFF)


class Op(IntEnum):
    """Operation codes (11.2.1.2)."""

    NOP_OUT = 0x00
    COMMAND = 0x01
    TASK_MANAGEMENT = 0x02
    LOGIN = 0x03
    TEXT = 0x04
    DATA_OUT = 0x05
    LOGOUT = 0x06
    SNACK = 0x10
    NOP_IN = 0x20
    RESPONSE = 0x21
    TASK_MANAGEMENT_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    ASYNC = 0x32
    REJECT = 0x3F


RESERVED_FIELDS: Mapping[Op, tuple[int, tuple[tuple[int, int], ...]]] = {
    Op.NOP_IN: (0x7F, ((2, 4), (36, 48))),
    Op.RESPONSE: (0x79, ((8, 16), (20, 24))),
    Op.TASK_MANAGEMENT_RESPONSE: (0x7F, ((3, 4), (8, 16), (20, 24), (36, 48))),
    Op.LOGIN_RESPONSE: (0x30, ((20, 24), (38, 48))),
    Op.TEXT_RESPONSE: (0x3F, ((2, 4), (36, 48))),
    Op.DATA_IN: (0x38, ((2, 3), (8, 16))),
    Op.LOGOUT_RESPONSE: (0x7F, ((3, 4), (8, 16), (20, 24), (36, 40), (44, 48))),
    Op.R2T: (0x7F, ((2, 4),)),
    Op.ASYNC: (0x7F, ((2, 4), (8, 16), (20, 24), (37, 38), (44, 48))),
    Op.REJECT: (0x7F, ((3, 4), (8, 16), (20, 24), (36, 48))),
}
"""The bits of byte 1, and the bytes, that are zero in what a target sends: one whose error recovery
level is 0, and which has no bidirectional commands (chapter 11)."""


@dataclass(frozen=True)
class Pdu:
    """One PDU of the target: its header and its data without padding."""

    header: bytes
    data: bytes

    def number(self, offset: int, size: int = 4) -> int:
        """The number that lies there in the header."""
        return int.from_bytes(self.header[offset : offset + size], "big")

    @property
    def op(self) -> int:
        """The operation code."""
        return self.header[0] & 0x3F

    @property
    def flags(self) -> int:
        """Byte 1."""
        return self.header[1]

    @property
    def final(self) -> bool:
        """The F bit; the T bit of a Login Response."""
        return bool(self.flags & 0x80)

    @property
    def lun(self) -> int:
        """Bytes 8 to 15."""
        return self.number(8, 8)

    @property
    def itt(self) -> int:
        """The Initiator Task Tag."""
        return self.number(16)

    @property
    def ttt(self) -> int:
        """The Target Transfer Tag."""
        return self.number(20)

    @property
    def stat_sn(self) -> int:
        """StatSN."""
        return self.number(24)

    @property
    def exp_cmd_sn(self) -> int:
        """ExpCmdSN."""
        return self.number(28)

    @property
    def max_cmd_sn(self) -> int:
        """MaxCmdSN."""
        return self.number(32)

    @property
    def data_sn(self) -> int:
        """DataSN, R2TSN, or ExpDataSN of a SCSI Response."""
        return self.number(36)

    @property
    def offset(self) -> int:
        """The Buffer Offset of a Data-In or an R2T."""
        return self.number(40)

    @property
    def residual(self) -> int:
        """The Residual Count, or the Desired Data Transfer Length of an R2T."""
        return self.number(44)

    @property
    def response(self) -> int:
        """Byte 2: a Response, or the Reason of a Reject."""
        return self.header[2]

    @property
    def status(self) -> int:
        """The SCSI status of a Data-In or a SCSI Response."""
        return self.header[3]

    @property
    def login_status(self) -> int:
        """Status-Class and Status-Detail of a Login Response."""
        return self.number(36, 2)

    @property
    def sense(self) -> tuple[int, int, int]:
        """Sense key, additional sense code and qualifier of fixed format sense data (11.4.7)."""
        length = int.from_bytes(self.data[:2], "big")
        assert length == len(self.data) - 2
        sense = self.data[2:]
        assert sense[0] & 0x7F == 0x70
        return sense[2] & 0x0F, sense[12], sense[13]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The text, pair by pair (6.1)."""
        assert not self.data or self.data.endswith(b"\0")
        items = self.data.decode().split("\0")[:-1]
        return [(key, value) for key, _, value in (item.partition("=") for item in items)]

    @property
    def keys(self) -> dict[str, str]:
        """The text as a mapping; no key comes twice."""
        pairs = dict(self.pairs)
        assert len(pairs) == len(self.pairs)
        return pairs


def text(pairs: Mapping[str, str] | Iterable[tuple[str, str]]) -> bytes:
    """key=value pairs as they travel (6.1)."""
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in items)


def digest(piece: bytes) -> bytes:
    """CRC32C as it lies on the wire (13.1)."""
    return int(crc32c(piece)).to_bytes(4, "little")


def padded(piece: bytes) -> bytes:
    """With the pad bytes that make it a multiple of four (11.1)."""
    return piece + bytes(-len(piece) % 4)


def read_10(lba: int, blocks: int) -> bytes:
    """READ (10)."""
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0)


def write_10(lba: int, blocks: int) -> bytes:
    """WRITE (10)."""
    return struct.pack(">BBIBHB", 0x2A, 0, lba, 0, blocks, 0)


TEST_UNIT_READY = bytes(6)
INQUIRY = bytes((0x12, 0, 0, 0, 36, 0))
