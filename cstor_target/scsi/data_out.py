"""The Data-Out Buffer of a command, which arrives as pieces of what the initiator sent.

The initiator may send more or less than the CDB asks for: iSCSI's Expected Data Transfer Length is
the initiator's own number.  What is more is never looked at; iSCSI reports the residual.
"""

from __future__ import annotations

from collections.abc import Sequence

from cstor_target.volume.backing import Buffer


def length_bytes(data_out: Sequence[Buffer]) -> int:
    """How much was sent."""
    return sum(len(piece) for piece in data_out)


def leading(data_out: Sequence[Buffer], length: int) -> list[Buffer]:
    """The first `length` bytes, or all if fewer were sent, without copying."""
    pieces: list[Buffer] = []
    for piece in data_out:
        if length <= 0:
            break
        if len(piece) > length:
            piece = memoryview(piece)[:length]
        if piece:
            pieces.append(piece)
        length -= len(piece)
    return pieces


def joined(data_out: Sequence[Buffer], length: int) -> bytes:
    """The first `length` bytes, or all if fewer were sent, in one piece."""
    return b"".join(leading(data_out, length))
