"""A name server of a test (RFC 1035): it answers for the names in a file of `ADDRESS NAME` lines.

Started as `python -m tests.system.name_server FILE ADDRESS`, it reads the file for each question,
so that a name has another address as soon as the file says so, and lets nobody keep an answer: a
time to live of 0.  It knows IPv4 addresses and UDP, which is all that a resolver asks for first.
"""

from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path

PORT = 53
HEADER = struct.Struct(">6H")
A, AAAA, INTERNET = 1, 28, 1
ANSWER_BYTES_MAX = 512
RESPONSE, AUTHORITATIVE, NO_SUCH_NAME = 0x8000, 0x0400, 3


def answer_to(question: bytes, addresses: dict[str, str]) -> bytes:
    """The answer to one question."""
    number, *_ = HEADER.unpack_from(question)
    labels, at = [], HEADER.size
    while length := question[at]:
        labels.append(question[at + 1 : at + 1 + length].decode())
        at += 1 + length
    kind, _ = struct.unpack_from(">2H", question, at + 1)
    asked = question[HEADER.size : at + 5]
    address = addresses.get(".".join(labels).lower())
    flags = RESPONSE | AUTHORITATIVE | (0 if address else NO_SUCH_NAME)
    found = b""
    if address and kind == A:
        found = struct.pack(">3HIH", 0xC000 | HEADER.size, A, INTERNET, 0, 4)
        found += socket.inet_aton(address)
    return HEADER.pack(number, flags, 1, bool(found), 0, 0) + asked + found


def read(file: Path) -> dict[str, str]:
    """Addresses by name."""
    lines = (line.split() for line in file.read_text().splitlines())
    return {name: address for address, name in lines}


def main() -> None:
    """Answer until the process is killed."""
    file, address = Path(sys.argv[1]), sys.argv[2]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, PORT))
        print("it answers", flush=True)
        while True:
            question, peer = server.recvfrom(ANSWER_BYTES_MAX)
            server.sendto(answer_to(question, read(file)), peer)


if __name__ == "__main__":
    main()
