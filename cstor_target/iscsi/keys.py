"""The table of text keys (RFC 7143, chapters 12 and 13): type, values, default, use and scope.

`ours` is what this target offers in its answer; the rule of the key's type makes the result from
it and the initiator's offer (6.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, Flag, auto
from typing import Final

from cstor_core.units import KIB, MIB


class Kind(Enum):
    """How the two sides come to a result (6.2.1, 6.2.2)."""

    LIST = "the first value of the offer that the target supports"
    MINIMUM = "the smaller number"
    MAXIMUM = "the larger number"
    AND = "Yes if both say Yes"
    OR = "Yes if one says Yes"
    NUMBER = "declared by one side for itself"
    TEXT = "declared by one side for itself, any text"
    OBSOLETE = "no longer negotiated; always answered with a constant"


class Use(Flag):
    """When the initiator may send a key (chapter 13)."""

    LOGIN = auto()
    FULL_FEATURE = auto()
    LEADING = auto()
    """Only in the login of a session's first connection; always together with LOGIN."""


@dataclass(frozen=True, slots=True)
class Key:
    """One row.  `irrelevant_in_discovery`: answered with Irrelevant in a discovery session."""

    name: str
    section: str
    kind: Kind
    use: Use
    default: str = ""
    ours: str = ""
    minimum: int = 0
    maximum: int = 0
    irrelevant_in_discovery: bool = False
    from_target_only: bool = False


DATA_SEGMENT_BYTES_MAX: Final = 256 * KIB
"""What this target declares as its MaxRecvDataSegmentLength."""
FIRST_BURST_BYTES_MAX: Final = 256 * KIB
_MAX_BURST = 1 * MIB
_SEGMENT_LIMIT = 2**24 - 1
_LOGIN = Use.LOGIN
_LEADING = Use.LOGIN | Use.LEADING
_ANY = Use.LOGIN | Use.FULL_FEATURE

_ROWS = (
    Key("AuthMethod", "12.1", Kind.LIST, _LOGIN, "None", "None"),
    Key("HeaderDigest", "13.1", Kind.LIST, _LOGIN, "None", "CRC32C,None"),
    Key("DataDigest", "13.1", Kind.LIST, _LOGIN, "None", "CRC32C,None"),
    Key("MaxConnections", "13.2", Kind.MINIMUM, _LEADING, "1", "1", 1, 65535, True),
    Key("SendTargets", "13.3", Kind.TEXT, Use.FULL_FEATURE),
    Key("TargetName", "13.4", Kind.TEXT, _LOGIN),
    Key("InitiatorName", "13.5", Kind.TEXT, _LOGIN),
    Key("TargetAlias", "13.6", Kind.TEXT, _ANY, from_target_only=True),
    Key("InitiatorAlias", "13.7", Kind.TEXT, _ANY),
    Key("TargetAddress", "13.8", Kind.TEXT, _ANY, from_target_only=True),
    Key("TargetPortalGroupTag", "13.9", Kind.TEXT, _LOGIN, from_target_only=True),
    Key("InitialR2T", "13.10", Kind.OR, _LEADING, "Yes", "No", irrelevant_in_discovery=True),
    Key("ImmediateData", "13.11", Kind.AND, _LEADING, "Yes", "Yes", irrelevant_in_discovery=True),
    Key(
        "MaxRecvDataSegmentLength",
        "13.12",
        Kind.NUMBER,
        _ANY,
        "8192",
        str(DATA_SEGMENT_BYTES_MAX),
        512,
        _SEGMENT_LIMIT,
    ),
    Key(
        "MaxBurstLength",
        "13.13",
        Kind.MINIMUM,
        _LEADING,
        "262144",
        str(_MAX_BURST),
        512,
        _SEGMENT_LIMIT,
        True,
    ),
    Key(
        "FirstBurstLength",
        "13.14",
        Kind.MINIMUM,
        _LEADING,
        "65536",
        str(FIRST_BURST_BYTES_MAX),
        512,
        _SEGMENT_LIMIT,
        True,
    ),
    Key("DefaultTime2Wait", "13.15", Kind.MAXIMUM, _LEADING, "2", "0", 0, 3600),
    Key("DefaultTime2Retain", "13.16", Kind.MINIMUM, _LEADING, "20", "0", 0, 3600),
    Key("MaxOutstandingR2T", "13.17", Kind.MINIMUM, _LEADING, "1", "8", 1, 65535, True),
    Key("DataPDUInOrder", "13.18", Kind.OR, _LEADING, "Yes", "Yes", irrelevant_in_discovery=True),
    Key(
        "DataSequenceInOrder",
        "13.19",
        Kind.OR,
        _LEADING,
        "Yes",
        "Yes",
        irrelevant_in_discovery=True,
    ),
    Key("ErrorRecoveryLevel", "13.20", Kind.MINIMUM, _LEADING, "0", "0", 0, 2),
    Key("SessionType", "13.21", Kind.TEXT, _LEADING, "Normal"),
    Key(
        "TaskReporting",
        "13.23",
        Kind.LIST,
        _LEADING,
        "RFC3720",
        "RFC3720",
        irrelevant_in_discovery=True,
    ),
    Key("iSCSIProtocolLevel", "13.24", Kind.MINIMUM, _LEADING, "1", "1", 0, 31, True),
    Key("IFMarker", "13.25", Kind.OBSOLETE, _LOGIN, ours="No"),
    Key("OFMarker", "13.25", Kind.OBSOLETE, _LOGIN, ours="No"),
    Key("IFMarkInt", "13.25", Kind.OBSOLETE, _LOGIN, ours="Reject"),
    Key("OFMarkInt", "13.25", Kind.OBSOLETE, _LOGIN, ours="Reject"),
)

KEYS: Final = {key.name: key for key in _ROWS}
