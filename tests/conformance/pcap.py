"""Writes what went over TCP connections into a capture file, with headers of its own making.

The file is libpcap's classic format with link type RAW: each packet begins with its IPv4 header.
Addresses are of TEST-NET-1 (RFC 5737), and the target's port is always iSCSI's, 3260, whatever it
was in truth, so that a dissector knows what it sees.  Checksums are 0; nobody checks them.
"""

from __future__ import annotations

import struct
import time
from enum import IntFlag
from ipaddress import IPv4Address
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

TARGET_PORT = 3260
INITIATOR_ADDRESS = IPv4Address("192.0.2.1")
TARGET_ADDRESS = IPv4Address("192.0.2.2")

FILE_HEADER = struct.Struct("=IHHiIII")
MAGIC = 0xA1B2C3D4
"""Times are in microseconds; the byte order of the file is that in which this is read."""
SNAP_BYTES = 0x40000
LINKTYPE_RAW = 101
PACKET_HEADER = struct.Struct("=IIII")
IPV4_HEADER = struct.Struct(">BBHHHBBH4s4s")
TCP_HEADER = struct.Struct(">HHIIBBHHH")
HEADERS_BYTES = IPV4_HEADER.size + TCP_HEADER.size
SEGMENT_BYTES_MAX = 0xFFFF - HEADERS_BYTES
PROTOCOL_TCP = 6
FIRST_PORT = 0xC000
PORTS = 0x10000 - FIRST_PORT
"""Of initiators: the dynamic ports (RFC 6335, 6), which a dissector takes for nobody else's."""


class Flag(IntFlag):
    """The control bits of a TCP segment (RFC 9293, 3.1)."""

    FIN = 0x01
    SYN = 0x02
    PSH = 0x08
    ACK = 0x10


class Capture:
    """A capture file that is being written; several threads may write to it."""

    def __init__(self, path: Path) -> None:
        """Make the file; raises OSError where it cannot be made."""
        self._file = path.open("wb")
        self._lock = Lock()
        self._connections = 0
        header = (MAGIC, 2, 4, 0, 0, SNAP_BYTES, LINKTYPE_RAW)
        self._file.write(FILE_HEADER.pack(*header))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._file.close()

    def connection(self) -> Connection:
        """Write the beginning of a connection."""
        with self._lock:
            port = FIRST_PORT + self._connections % PORTS
            self._connections += 1
        return Connection(self, port)

    def write(self, packet: bytes) -> None:
        """Append one packet, stamped with the time of day."""
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        header = PACKET_HEADER.pack(second, nanoseconds // 1000, len(packet), len(packet))
        with self._lock:
            self._file.write(header + packet)


class Connection:
    """One TCP connection of a capture."""

    def __init__(self, capture: Capture, port: int) -> None:
        """Write its handshake; `port` is the initiator's."""
        self._capture = capture
        self._port = port
        self._lock = Lock()
        self._sent = {True: 0, False: 0}
        """Bytes so far, control bits that count included: from the target, from the initiator."""
        self._add(Flag.SYN, from_target=False)
        self._add(Flag.SYN | Flag.ACK, from_target=True)
        self._add(Flag.ACK, from_target=False)

    def data(self, data: bytes, *, from_target: bool) -> None:
        """Write bytes that one side sent, in as many segments as they need."""
        for start in range(0, len(data), SEGMENT_BYTES_MAX):
            piece = data[start : start + SEGMENT_BYTES_MAX]
            self._add(Flag.PSH | Flag.ACK, from_target=from_target, data=piece)

    def end(self, *, from_target: bool) -> None:
        """Write that one side has ended its direction."""
        self._add(Flag.FIN | Flag.ACK, from_target=from_target)

    def _add(self, flags: Flag, *, from_target: bool, data: bytes = b"") -> None:
        with self._lock:
            acknowledged = self._sent[not from_target] if flags & Flag.ACK else 0
            segment = self._headers(flags, len(data), acknowledged, from_target=from_target) + data
            self._sent[from_target] += len(data) + bool(flags & (Flag.SYN | Flag.FIN))
            self._capture.write(segment)

    def _headers(
        self, flags: Flag, data_bytes: int, acknowledged: int, *, from_target: bool
    ) -> bytes:
        addresses = [INITIATOR_ADDRESS.packed, TARGET_ADDRESS.packed]
        ports = [self._port, TARGET_PORT]
        if from_target:
            addresses.reverse()
            ports.reverse()
        length = HEADERS_BYTES + data_bytes
        ip = IPV4_HEADER.pack(0x45, 0, length, 0, 0, 64, PROTOCOL_TCP, 0, *addresses)
        sequence = self._sent[from_target] & 0xFFFFFFFF
        offset = TCP_HEADER.size // 4 << 4
        acknowledged &= 0xFFFFFFFF
        return ip + TCP_HEADER.pack(*ports, sequence, acknowledged, offset, flags, 0xFFFF, 0, 0)
