"""How a SCSI task is answered: Data-In, status, residual, sense (RFC 7143, 11.4, 11.7)."""

from __future__ import annotations

from collections.abc import Sequence

from cstor_target.iscsi import codec
from cstor_target.iscsi.constants import FINAL, SERIAL_MASK, DataInFlag
from cstor_target.iscsi.negotiation import Parameters
from cstor_target.iscsi.outbox import PADDING, Outbox
from cstor_target.iscsi.sessions import CommandWindow
from cstor_target.iscsi.tasks import Task
from cstor_target.iscsi.transfers import segments
from cstor_target.volume.backing import Buffer

_STATUS = int(DataInFlag.STATUS)
_END = FINAL | _STATUS


class Answers:
    """Writes the answers of one connection's tasks to its outbox."""

    __slots__ = (
        "_burst_bytes_max",
        "_one_pdu_bytes_max",
        "_outbox",
        "_window",
        "segment_bytes_max",
    )

    def __init__(self, outbox: Outbox, window: CommandWindow, parameters: Parameters) -> None:
        self._outbox = outbox
        self._window = window
        self._burst_bytes_max = parameters.max_burst_length
        self.limit_segments(parameters.initiator_max_recv_data_segment_length)

    def limit_segments(self, segment_bytes_max: int) -> None:
        """The initiator has declared this MaxRecvDataSegmentLength (13.12)."""
        self.segment_bytes_max = segment_bytes_max
        self._one_pdu_bytes_max = min(segment_bytes_max, self._burst_bytes_max)

    def data_in(self, task: Task, status: int, data_in: Sequence[Buffer], sense: bytes) -> None:
        """Data-In, with the status in the last PDU where there is no sense data (11.7.3).

        What does not fit the Expected Data Transfer Length is left out and counted as overflow.
        """
        available = 0
        for piece in data_in:
            available += len(piece)
        expected = task.expected_in
        residual = expected - available
        if not 0 < available <= self._one_pdu_bytes_max or residual < 0 or sense:
            length = min(available, expected)
            self._sequences(task, status, data_in, length, residual, sense)
            return
        outbox = self._outbox
        window = self._window
        exp_cmd_sn = window.exp_cmd_sn
        stat_sn = outbox.stat_sn
        outbox.stat_sn = stat_sn + 1 & SERIAL_MASK
        header = codec.data_in(
            _END,
            status,
            residual,
            available,
            task.initiator_task_tag,
            stat_sn,
            exp_cmd_sn,
            exp_cmd_sn + window.size - window.outstanding - 1 & SERIAL_MASK,
            0,
            0,
        )
        if not outbox.plain:
            outbox.send(header, data_in, available)
            return
        pieces = outbox.pieces
        pieces.append(header)
        pieces += data_in
        if available & 3:
            pieces.append(PADDING[available & 3])
        outbox.notify()

    def response(
        self, task: Task, status: int, residual: int, exp_data_sn: int, sense: bytes
    ) -> None:
        """A SCSI Response; sense data follows its own length (11.4.7)."""
        window = self._window
        outbox = self._outbox
        exp_cmd_sn = window.exp_cmd_sn
        stat_sn = outbox.stat_sn
        outbox.stat_sn = stat_sn + 1 & SERIAL_MASK
        length = 2 + len(sense) if sense else 0
        header = codec.scsi_response(
            status,
            residual,
            length,
            task.initiator_task_tag,
            stat_sn,
            exp_cmd_sn,
            exp_cmd_sn + window.size - window.outstanding - 1 & SERIAL_MASK,
            exp_data_sn,
        )
        if sense:
            outbox.send(header, (len(sense).to_bytes(2, "big") + sense,), length)
        elif outbox.plain:
            outbox.pieces.append(header)
            outbox.notify()
        else:
            outbox.send(header)

    def _sequences(
        self,
        task: Task,
        status: int,
        data_in: Sequence[Buffer],
        length: int,
        residual: int,
        sense: bytes,
    ) -> None:
        """Data-In in several PDUs, or with the status in a SCSI Response of its own."""
        outbox = self._outbox
        window = self._window
        data_sn = 0
        for offset, size, pieces, ends in segments(
            data_in, length, self.segment_bytes_max, self._burst_bytes_max
        ):
            last = offset + size == length and not sense
            header = codec.data_in(
                (FINAL if ends else 0) | (_STATUS if last else 0),
                status if last else 0,
                residual if last else 0,
                size,
                task.initiator_task_tag,
                outbox.next_stat_sn() if last else 0,
                window.exp_cmd_sn,
                window.max_cmd_sn,
                data_sn,
                offset,
            )
            outbox.send(header, pieces, size)
            data_sn += 1
        if sense or not length:
            self.response(task, status, residual, data_sn, sense)
