"""What can go wrong on an iSCSI connection, and what the initiator is told.

Part of the one tree (`cstor_core.errors`).  A `LoginRefused` becomes a Login Response with its
status (RFC 7143, 11.13.5), a `PduRejected` a Reject with its reason (11.17.1), a `TaskFailed` a
CHECK CONDITION with its sense (11.4.7.2).  A `ConnectionBroken` closes the connection: the byte
stream cannot be trusted any more, and session recovery (7.1.4.4) is the initiator's business.
"""

from __future__ import annotations

from cstor_core.errors import ProtocolError
from cstor_target.iscsi.constants import LoginStatus, RejectReason


class IscsiError(ProtocolError):
    """The root of this part of the tree."""


class ConnectionBroken(IscsiError):
    """Framing, a header digest or a deadline failed; nothing more can be read."""


class LoginRefused(IscsiError):
    """The login ends with this status, and the connection with it."""

    def __init__(self, status: LoginStatus, text: str) -> None:
        super().__init__(text)
        self.login_status = status


class LoginRedirected(LoginRefused):
    """The initiator is told another portal, HOST:PORT, where it is to log in for now."""

    def __init__(self, address: str) -> None:
        super().__init__(LoginStatus.TARGET_MOVED_TEMPORARILY, f"log in at {address}")
        self.address = address


class PduRejected(IscsiError):
    """A PDU is not accepted; its header goes back in the Reject, and its CmdSN is not used up."""

    def __init__(self, reason: RejectReason, text: str, header: bytes) -> None:
        super().__init__(text)
        self.reason = reason
        self.header = header


class TextError(IscsiError):
    """A data segment that is not key=value pairs (RFC 7143, 6.1), or too many of them."""


class TaskFailed(IscsiError):
    """Data-Out of one task broke the rules: the task ends, the connection goes on."""

    scsi_status = 0x02
    """CHECK CONDITION (SAM-5, 5.3.1)."""
    asc_and_ascq = 0x0000

    @property
    def sense(self) -> bytes:
        """Fixed-format sense data, ABORTED COMMAND with the subclass's additional code."""
        return bytes((0x70, 0, 0x0B, 0, 0, 0, 0, 10, 0, 0, 0, 0)) + (
            self.asc_and_ascq.to_bytes(2, "big") + bytes(4)
        )


class TaskSetFull(TaskFailed):
    """Too many tasks bring data without being asked: the initiator is to send it again later."""

    scsi_status = 0x28

    @property
    def sense(self) -> bytes:
        """There is none: the status says it all (SAM-5, 5.3.1)."""
        return b""


class UnexpectedUnsolicitedData(TaskFailed):
    """Data without an R2T where InitialR2T or ImmediateData forbid it."""

    asc_and_ascq = 0x0C0C


class IncorrectAmountOfData(TaskFailed):
    """More or less data than the command, the burst or the R2T allows."""

    asc_and_ascq = 0x0C0D


class ProtocolServiceCrcError(TaskFailed):
    """A Data-Out PDU was lost (DataSN or offset out of order) or its data digest is wrong."""

    asc_and_ascq = 0x4705
