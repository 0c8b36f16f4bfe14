"""How much data-out a CDB asks for, where that is not what the initiator announced (SBC-3, 5).

iSCSI counts the residual of a write between its Expected Data Transfer Length and the CDB's
transfer length (RFC 7143, 11.4.5), and only the CDB says the latter.
"""

from __future__ import annotations

_TRANSFER_LENGTH_AT = {1: (7, 9), 4: (10, 14), 5: (6, 10)}
"""Of the group code, the top three bits of the operation code: bytes of the transfer length."""

_WRITE_6 = 0x0A
_WRITES = frozenset((_WRITE_6, 0x2A, 0xAA, 0x8A, 0x2E, 0xAE, 0x8E))
"""WRITE (6, 10, 12, 16) and WRITE AND VERIFY (10, 12, 16)."""


def data_out_bytes(cdb: bytes, block_bytes: int) -> int | None:
    """The bytes that a WRITE's CDB asks for; None for any other command."""
    operation_code = cdb[0]
    if operation_code not in _WRITES:
        return None
    if operation_code == _WRITE_6:
        return (cdb[4] or 256) * block_bytes
    start, end = _TRANSFER_LENGTH_AT[operation_code >> 5]
    return int.from_bytes(cdb[start:end], "big") * block_bytes
