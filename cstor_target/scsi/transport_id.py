"""TransportIDs of iSCSI initiator ports (SPC-4, 7.6.4.6): a name, `,i,0x` and an ISID, as text.

Only ports are named here: an ID of an initiator device, without an ISID, would stand for ports that
nobody knows yet.
"""

from __future__ import annotations

import re
import struct

from cstor_target.scsi.sense import ScsiError, Sense

_HEADER = struct.Struct(">BxH")
_OF_A_PORT = 0x40 | 0x05
"""FORMAT CODE 01b, and the PROTOCOL IDENTIFIER of iSCSI."""
_LENGTH_MIN = 20
_NAME_BYTES_MAX = 223
_PORT = re.compile(r"((?:iqn\.|eui\.|naa\.)[!-~]+),i,0x([0-9a-f]{1,12})", re.ASCII)


def transport_id(initiator_port: str) -> bytes:
    """The TransportID of a port: ends with a null, a multiple of four bytes long."""
    name = initiator_port.encode("utf-8") + b"\0"
    name = name.ljust(max(-(-len(name) // 4) * 4, _LENGTH_MIN), b"\0")
    return _HEADER.pack(_OF_A_PORT, len(name)) + name


def ports_of(ids: bytes) -> list[str]:
    """The ports that TransportIDs name, one behind the other.

    Raises ScsiError where one is none, or of another kind.
    """
    found = []
    while ids:
        if len(ids) < _HEADER.size:
            raise _invalid()
        kind, length = _HEADER.unpack_from(ids)
        end = _HEADER.size + length
        if kind != _OF_A_PORT or length % 4 or length < _LENGTH_MIN or len(ids) < end:
            raise _invalid()
        found.append(_port(ids[_HEADER.size : end]))
        ids = ids[end:]
    return found


def _port(name: bytes) -> str:
    """The name in its normal form, in which sessions have it."""
    text, null, rest = name.partition(b"\0")
    matched = _PORT.fullmatch(text.decode("utf-8", "replace").lower())
    if not null or any(rest) or matched is None or len(matched[1]) > _NAME_BYTES_MAX:
        raise _invalid()
    return f"{matched[1]},i,0x{matched[2].zfill(12)}"


def _invalid() -> ScsiError:
    return ScsiError(Sense.INVALID_FIELD_IN_PARAMETER_LIST)
