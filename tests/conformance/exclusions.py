"""The tests of libiscsi 1.19 that may fail or never pass, because a standard is against them.

`docs/conformance.md` has, for each, the sentence that it contradicts and what went over the wire.
"""

from __future__ import annotations

EXCLUSIONS_MAX = 5

EXCLUSIONS = {
    "GetLBAStatus.UnmapSingle": "where a physical block has several logical ones, it expects the "
    "answer to begin with another block than the one that it asks for (SBC-3 5.4)",
    "Sanitize.CryptoErase": "it needs a service action that only a medium with encryption keys may "
    "have (SBC-3 4.11)",
    "StartStopUnit.PwrCnd": "it expects GOOD for power conditions that are reserved (SBC-3 5.25)",
    "WriteSame10.UnmapUntilEnd": "it expects zeros of blocks that it has had written with ones, "
    "with leave to unmap them (SBC-3 5.42)",
    "iSCSITMF.LUNResetSimpleAsync": "it expects the answer to have come before the question has "
    "been sent (RFC 7143 11.6)",
}
"""The reason of each, by SUITE.TEST.  One that is not needed fails the run as well."""
