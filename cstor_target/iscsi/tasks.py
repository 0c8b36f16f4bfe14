"""A SCSI task as the connection sees it: from its command PDU to its status (RFC 7143, 4.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cstor_target.iscsi.constants import CommandFlag
from cstor_target.volume.backing import Buffer

if TYPE_CHECKING:
    from cstor_target.iscsi.transfers import Transfer

_READ = int(CommandFlag.READ)
_WRITE = int(CommandFlag.WRITE)
_ATTRIBUTE_MASK = 0x07


class Task:
    """One SCSI command.  It is itself the event "command received" when its data is complete.

    `data_out` holds what the initiator sent, as slices of the receive buffer.  `residual` is set by
    whoever knows how much data-out the CDB asked for: bytes expected less bytes asked for.
    """

    __slots__ = (
        "aborted",
        "attribute",
        "cdb",
        "cmd_sn",
        "data_out",
        "expected_data_transfer_length",
        "immediate",
        "initiator_task_tag",
        "is_read",
        "is_write",
        "lun",
        "on_end",
        "reserved_bytes",
        "residual",
        "started",
        "transfer",
        "unsolicited_bytes",
    )

    def __init__(
        self,
        initiator_task_tag: int,
        lun: int,
        cdb: bytes,
        flags: int,
        expected_data_transfer_length: int,
        cmd_sn: int,
        immediate: bool,
    ) -> None:
        self.initiator_task_tag = initiator_task_tag
        self.lun = lun
        self.cdb = cdb
        self.attribute = flags & _ATTRIBUTE_MASK
        self.is_read = flags & _READ
        self.is_write = flags & _WRITE
        self.expected_data_transfer_length = expected_data_transfer_length
        self.cmd_sn = cmd_sn
        self.immediate = immediate
        self.data_out: Sequence[Buffer] = ()
        self.residual = 0
        self.reserved_bytes = 0
        self.unsolicited_bytes = 0
        self.transfer: Transfer | None = None
        self.on_end: Callable[[], None] | None = None
        """Called once, when it is answered or will not be."""
        self.started = False
        self.aborted = False

    @property
    def expected_in(self) -> int:
        """How many bytes of data-in the initiator has room for."""
        return self.expected_data_transfer_length if self.is_read else 0
