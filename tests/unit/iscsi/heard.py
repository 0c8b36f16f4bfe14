"""What an initiator may rely on in whatever the target says (RFC 7143, 4.2.2, 4.2.2.2, 11.7, 11.8).

StatSN has no gap and no repetition, ExpCmdSN and MaxCmdSN never go back, Data-In and R2T of a task
are numbered and continue where the last one ended, and no command is answered more often than it
was sent.  A property test and a fuzzer hold these against anything; so this is quick, and reads the
headers with a `struct` and not with the specification.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from struct import Struct

from cstor_core.checksums import crc32c
from cstor_target.iscsi.constants import FINAL, RESERVED_TAG, SERIAL_MASK, DataInFlag, Opcode

_HEADER = Struct(">BBBBIQIIIIIIII")
_WITH_STATUS = frozenset(
    (
        *(Opcode.SCSI_RESPONSE, Opcode.TASK_MANAGEMENT_RESPONSE, Opcode.TEXT_RESPONSE),
        *(Opcode.LOGOUT_RESPONSE, Opcode.REJECT, Opcode.ASYNCHRONOUS_MESSAGE),
        Opcode.LOGIN_RESPONSE,
    )
)


@dataclass(frozen=True, slots=True)
class Said:
    """One PDU of the target; `words` are bytes 36 to 47."""

    opcode: Opcode
    flags: int
    response: int
    status: int
    initiator_task_tag: int
    target_transfer_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    words: tuple[int, int, int]
    data: bytes

    @property
    def ends_a_command(self) -> bool:
        """It has the status of a SCSI command."""
        return self.opcode is Opcode.SCSI_RESPONSE or (
            self.opcode is Opcode.DATA_IN and bool(self.flags & DataInFlag.STATUS)
        )

    @property
    def uses_stat_sn(self) -> bool:
        """The next one has a StatSN that is higher by one."""
        if self.opcode is Opcode.NOP_IN:
            return self.initiator_task_tag != RESERVED_TAG
        return self.opcode in _WITH_STATUS or self.ends_a_command


class Heard:
    """All that one connection's initiator has heard since its login; AssertionError where a rule
    is broken."""

    def __init__(self, stat_sn: int, exp_cmd_sn: int, max_cmd_sn: int) -> None:
        """The StatSN that is next, and the window that the Login Response told."""
        self.header_digest = self.data_digest = False
        self.exp_cmd_sn, self.max_cmd_sn = exp_cmd_sn, max_cmd_sn
        self.sent: Counter[int] = Counter()
        """Commands by task tag that are not answered."""
        self._stat_sn = stat_sn
        self._data_in: dict[int, tuple[int, int]] = {}
        self._r2t: dict[int, int] = {}
        self._stream = b""

    def take(self, stream: bytes) -> list[Said]:
        """The PDUs in what the target has sent, which ends with a whole one."""
        self._stream = stream
        said = []
        while self._stream:
            said.append(self._next())
        for one in said:
            self._look(one)
        return said

    def _next(self) -> Said:
        header = self._cut(48)
        opcode, flags, response, status, length, _, tag, transfer_tag, *rest = _HEADER.unpack(
            header
        )
        assert length <= 0xFFFFFF, "the target sends no additional header segments"
        if self.header_digest:
            assert self._cut(4) == crc32c(header).to_bytes(4, "little")
        padded = self._cut(length + 3 & ~3)
        if self.data_digest and padded:
            assert self._cut(4) == crc32c(padded).to_bytes(4, "little")
        stat_sn, exp_cmd_sn, max_cmd_sn, *words = rest
        return Said(
            Opcode(opcode & 0x3F),
            flags,
            response,
            status,
            tag,
            transfer_tag,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            (words[0], words[1], words[2]),
            padded[:length],
        )

    def _cut(self, size: int) -> bytes:
        assert len(self._stream) >= size, "the target sent half a PDU"
        cut, self._stream = self._stream[:size], self._stream[size:]
        return cut

    def _look(self, said: Said) -> None:
        if said.opcode is not Opcode.DATA_IN or said.ends_a_command:
            assert said.stat_sn == self._stat_sn, f"StatSN, {self._stat_sn} was next: {said}"
        if said.uses_stat_sn:
            self._stat_sn = self._stat_sn + 1 & SERIAL_MASK
        for before, after in (
            (self.exp_cmd_sn, said.exp_cmd_sn),
            (self.max_cmd_sn, said.max_cmd_sn),
        ):
            assert after - before & SERIAL_MASK < 1 << 31, f"a window went back: {said}"
        self.exp_cmd_sn, self.max_cmd_sn = said.exp_cmd_sn, said.max_cmd_sn
        tag = said.initiator_task_tag
        if said.opcode is Opcode.DATA_IN:
            data_sn, offset = self._data_in.get(tag, (0, 0))
            assert said.words[:2] == (data_sn, offset), said
            assert said.data
            self._data_in[tag] = data_sn + 1, offset + len(said.data)
        elif said.opcode is Opcode.READY_TO_TRANSFER:
            assert said.words[0] == self._r2t.get(tag, 0), said
            assert said.words[2]
            self._r2t[tag] = said.words[0] + 1
        if said.ends_a_command:
            assert said.flags & FINAL
            assert self.sent[tag] > 0, f"no command with that tag is unanswered: {said}"
            self.sent[tag] -= 1
            self._data_in.pop(tag, None)
            self._r2t.pop(tag, None)

    def forget(self, tag: int) -> None:
        """A task was aborted, or is sent anew: what was heard of it counts no more."""
        self._data_in.pop(tag, None)
        self._r2t.pop(tag, None)
