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
OPCODE_READ_10 = 0x28
DATA_IN_STATUS = 0x01
"""A Data-In PDU with the status of its command (11.7)."""
FIXED_SENSE_BYTES_MIN = 16
"""Of a response's data: two of the length, and 14 up to the qualifier (SPC-4, 4.5.3)."""
NOP_OUT = bytes((Opcode.NOP_OUT | 0x40, 0x80, 0, 0, 0, 0, 0, 0))
TRANSFER_TAG = slice(20, 24)
RESERVED_TAG = b"\xff" * 4
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
        self.sense = b""
        """Sense key, additional sense code and qualifier of the last command that had some."""
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
        answer = LOGIN_RESPONSE.parse(self._receive()[0])
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
        return self._status(*self._receive())

    def read(self, offset: int, length: int) -> bytes:
        """READ (10) of so many bytes; raises HarnessError where it does not end with GOOD."""
        cdb = WRITE_10.pack(OPCODE_READ_10, 0, offset // SECTOR_BYTES, 0, length // SECTOR_BYTES, 0)
        return self.receive(cdb, length)

    def receive(self, cdb: bytes, length: int) -> bytes:
        """A command that gives up to so many bytes; raises HarnessError where it does not end
        with GOOD.
        """
        header = SCSI_COMMAND.build(
            {
                "final": True,
                "read": True,
                "initiator_task_tag": self._cmd_sn,
                "expected_data_transfer_length": length,
                "cmd_sn": self._cmd_sn,
                "exp_stat_sn": self._exp_stat_sn,
                "cdb": cdb.ljust(16, b"\0"),
            }
        )
        self._cmd_sn += 1
        self.connection.sendall(header)
        gathered = b""
        while True:
            header, data = self._receive()
            if header[0] != Opcode.DATA_IN:
                status = self._status(header, data)
            else:
                gathered += data
                if not header[1] & DATA_IN_STATUS:
                    continue
                self._exp_stat_sn = int.from_bytes(header[24:28]) + 1 & 0xFFFFFFFF
                status = header[3]
            if status != GOOD:
                raise HarnessError(f"a command that reads ended with {status}, {self.sense.hex()}")
            return gathered

    def _status(self, header: bytes, data: bytes) -> int:
        """The SCSI status of a response; its sense data are kept (11.4.7)."""
        answer = SCSI_RESPONSE.parse(header)
        self._exp_stat_sn = answer.stat_sn + 1 & 0xFFFFFFFF
        if len(data) > FIXED_SENSE_BYTES_MIN:
            self.sense = bytes((data[4], data[14], data[15]))
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

    def _receive(self) -> tuple[bytes, bytes]:
        """The header of the next PDU that is no NOP-In, and its data.

        A ping is answered; one that only tells how far the window is open is passed over (11.19).
        Raises ConnectionError where the target asks for a logout, or says that it closes (11.9).
        """
        while True:
            header = self.exactly(HEADER_BYTES)
            length = int.from_bytes(header[5:8])
            data = self.exactly(length + 3 & ~3)[:length]
            if header[0] == Opcode.ASYNCHRONOUS_MESSAGE:
                raise ConnectionError("the target wants no more of this connection")
            if header[0] != Opcode.NOP_IN:
                return header, data
            if header[TRANSFER_TAG] != RESERVED_TAG:
                numbers = struct.pack(">II", self._cmd_sn, self._exp_stat_sn)
                lun_and_tags = header[8:16] + RESERVED_TAG + header[TRANSFER_TAG]
                self.connection.sendall(NOP_OUT + lun_and_tags + numbers + bytes(16))

    def exactly(self, length: int) -> bytes:
        """So many bytes of the connection; raises ConnectionError where it ends before them."""
        data = b""
        while len(data) < length:  # a socket with a time limit waits for a part alone
            part = self.connection.recv(length - len(data))
            if not part:
                raise ConnectionError("the target has closed the connection")
            data += part
        return data
