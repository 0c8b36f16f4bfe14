"""The least of an initiator: one login and one command after the other, on a socket (RFC 7143).

QEMU's and Linux's initiators wait and try again by themselves; this one says what it was told, and
when.
"""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

from cstor_target.iscsi.constants import LoginStatus, Opcode, Stage
from cstor_target.iscsi.pdu import LOGIN_REQUEST, LOGIN_RESPONSE, SCSI_COMMAND, SCSI_RESPONSE
from cstor_target.iscsi.text import encode
from tests.system.tools import HarnessError

HEADER_BYTES = 48
SECTOR_BYTES = 512
ANSWER_S_MAX = 60.0
"""When an answer is given up; no promise of the product."""
WRITE_10 = struct.Struct(">BBIBHB6x")
OPCODE_WRITE_10 = 0x2A
GOOD = 0
BLOCK = b"\xa5" * 4096
UNIT_ATTENTIONS_MAX = 4
NAME = "iqn.2016-09.com.openebs.cstor.tests:plain"


class PlainInitiator:
    """One connection, which is one session."""

    def __init__(self, portal: tuple[str, int], name: str = NAME) -> None:
        """Connect.  Raises OSError where nobody listens."""
        self._name = name
        self.connection = socket.create_connection(portal, timeout=ANSWER_S_MAX)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._cmd_sn = 1
        self._exp_stat_sn = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.connection.close()

    def ask_for_login(self, target: str) -> None:
        """Send a whole login in one request (11.12); its answer may take a while."""
        pairs = [("InitiatorName", self._name), ("TargetName", target), ("SessionType", "Normal")]
        text = encode(pairs)
        header = LOGIN_REQUEST.build(
            {
                "immediate": True,
                "transit": True,
                "csg": Stage.OPERATIONAL_NEGOTIATION,
                "nsg": Stage.FULL_FEATURE,
                "data_segment_length": len(text),
                "isid": b"\x80\0\0\0\0\x01",
                "cmd_sn": self._cmd_sn,
            }
        )
        self.connection.sendall(header + text + bytes(-len(text) % 4))

    def login_status(self) -> LoginStatus:
        """Wait for the Login Response.

        Raises ConnectionError where the connection ends without one.
        """
        answer = LOGIN_RESPONSE.parse(self._receive())
        self._exp_stat_sn = answer.stat_sn + 1 & 0xFFFFFFFF
        return LoginStatus(answer.status)

    def write(self, offset: int, data: bytes) -> int:
        """WRITE (10) with immediate data; returns the SCSI status (11.4.2), 0 for GOOD.

        Raises ConnectionError where the connection ends without one.
        """
        sectors = len(data) // SECTOR_BYTES
        cdb = WRITE_10.pack(OPCODE_WRITE_10, 0, offset // SECTOR_BYTES, 0, sectors, 0)
        return self.send(cdb, data)

    def send(self, cdb: bytes, data: bytes) -> int:
        """A command that takes data, all of it immediate; returns its SCSI status as `write` does.

        The data is padded to four bytes (11.1).
        """
        header = SCSI_COMMAND.build(
            {
                "final": True,
                "write": True,
                "data_segment_length": len(data),
                "initiator_task_tag": self._cmd_sn,
                "expected_data_transfer_length": len(data),
                "cmd_sn": self._cmd_sn,
                "exp_stat_sn": self._exp_stat_sn,
                "cdb": cdb.ljust(16, b"\0"),
            }
        )
        self._cmd_sn += 1
        self.connection.sendall(header + data + bytes(-len(data) % 4))
        answer = SCSI_RESPONSE.parse(self._receive())
        self._exp_stat_sn = answer.stat_sn + 1 & 0xFFFFFFFF
        return int(answer.status)

    def write_until_good(self) -> None:
        """Write one block; it is sent again while the logical unit has something to say first.

        Raises HarnessError where that does not end, ConnectionError as `write` does.
        """
        statuses = []
        while (status := self.write(0, BLOCK)) != GOOD:
            statuses.append(status)
            if len(statuses) > UNIT_ATTENTIONS_MAX:
                raise HarnessError(f"a write ended with the SCSI statuses {statuses}")

    def _receive(self) -> bytes:
        """The header of the next PDU; what comes with it is read, and not looked at.

        A NOP-In that only tells how far the window is open is passed over (11.19).
        """
        while True:
            header = self._exactly(HEADER_BYTES)
            self._exactly(int.from_bytes(header[5:8]) + 3 & ~3)
            if header[0] != Opcode.NOP_IN or header[16:24] != bytes.fromhex("ff" * 8):
                return header

    def _exactly(self, length: int) -> bytes:
        data = self.connection.recv(length, socket.MSG_WAITALL) if length else b""
        if len(data) != length:
            raise ConnectionError("the target has closed the connection")
        return data
