"""What a target owes its initiators, as a model that is too simple to be wrong.

The disk is an array of bytes.  A write changes it when the last of its data has come and its turn
by CmdSN is there; a read sees what it holds when the volume ends it, and the volume ends requests
in their order.  Every command has exactly one answer, whose status, data and residual are known
beforehand, unless it is aborted: then it has none, and what has begun happens all the same.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from cstor_target.iscsi.constants import FINAL, RESERVED_TAG, DataInFlag, Opcode
from tests.fuzz.harnesses import Host
from tests.unit.iscsi.heard import Said

BLOCK = 512
BLOCKS = 64
POWER_ON, CLEARED = 0x2900, 0x2F00
"""Additional sense codes of unit attentions (SPC-4, annex F)."""
GOOD, CHECK_CONDITION, BUSY = 0, 2, 8
_UNDERFLOW, _OVERFLOW = int(DataInFlag.UNDERFLOW), int(DataInFlag.OVERFLOW)


@dataclass(eq=False)
class Command:
    """One that was sent.  `data` is what a write brings; `sent` how much of it has gone."""

    tag: int
    cmd_sn: int
    is_write: bool
    start: int
    blocks: int
    expected_length: int
    data: bytes = b""
    sent: int = 0
    asked_for: int = 0
    is_aborted: bool = False

    @property
    def span(self) -> slice:
        """The bytes of the disk that it is about."""
        return slice(self.start * BLOCK, (self.start + self.blocks) * BLOCK)


@dataclass(frozen=True)
class Answer:
    """How a command has to end; `attention` is the additional sense code of a unit attention."""

    status: int
    data: bytes = b""
    residual: int = 0
    attention: int = 0


@dataclass(eq=False)
class Side:
    """One session as its initiator knows it, and what the model knows of it."""

    host: Host
    initial_r2t: bool
    immediate_data: bool
    first_burst: int
    max_burst: int
    r2ts_max: int
    segment_bytes: int
    commands: dict[int, Command] = field(default_factory=dict)
    """Those that are not answered, by tag."""
    due: dict[int, Answer] = field(default_factory=dict)
    r2ts: deque[tuple[int, int, int, int]] = field(default_factory=deque)
    """Unanswered: task tag, transfer tag, offset, length."""
    attentions: list[int] = field(default_factory=list)
    gathered: dict[int, bytes] = field(default_factory=dict)
    """Data-In of commands that have not ended."""
    other_answers: list[Said] = field(default_factory=list)
    """PDUs that end no command, for whoever has caused them."""

    @property
    def room(self) -> int:
        """How many commands the window has room for."""
        assert self.host.heard is not None
        return self.host.heard.max_cmd_sn - self.host.cmd_sn + 1 & 0xFFFFFFFF

    def expects(self, tag: int, answer: Answer) -> None:
        """That command is over, and is to be answered so."""
        if not self.commands[tag].is_aborted:
            self.due[tag] = answer

    def hear(self) -> None:
        """Take what the target has said: it has to be all that is due, and nothing else."""
        for said in self.host.hear():
            if said.opcode is Opcode.DATA_IN:
                self.gathered[said.initiator_task_tag] = (
                    self.gathered.get(said.initiator_task_tag, b"") + said.data
                )
            if said.opcode is Opcode.READY_TO_TRANSFER:
                self._asked(said)
            elif said.ends_a_command:
                self._answered(said)
            elif said.initiator_task_tag == RESERVED_TAG and said.opcode is Opcode.NOP_IN:
                continue  # the window has opened
            elif said.opcode is not Opcode.DATA_IN:
                self.other_answers.append(said)
        assert not self.due, "these are over, and not answered"

    def other_answer(self, opcode: Opcode) -> Said:
        """The one other PDU that has come."""
        self.hear()
        (said,) = self.other_answers
        self.other_answers.clear()
        assert said.opcode is opcode, said
        return said

    def forget(self, command: Command) -> None:
        """A command was aborted: it is not answered, and nothing more is sent for it."""
        command.is_aborted = True
        del self.commands[command.tag]
        self.r2ts = deque(r2t for r2t in self.r2ts if r2t[0] != command.tag)
        assert self.host.heard is not None
        self.host.heard.forget(command.tag)
        self.host.heard.sent[command.tag] -= 1

    def _asked(self, said: Said) -> None:
        tag = said.initiator_task_tag
        command = self.commands[tag]
        _, offset, length = said.words
        assert offset == command.asked_for
        assert length == min(self.max_burst, command.expected_length - offset)
        command.asked_for += length
        self.r2ts.append((tag, said.target_transfer_tag, offset, length))
        assert sum(r2t[0] == tag for r2t in self.r2ts) <= self.r2ts_max

    def _answered(self, said: Said) -> None:
        tag = said.initiator_task_tag
        expected = self.due.pop(tag)
        command = self.commands.pop(tag)
        flags = said.flags & (_UNDERFLOW | _OVERFLOW)
        assert said.status == expected.status, (said, expected)
        if expected.attention:
            assert int.from_bytes(said.data[14:16]) == expected.attention
            return
        assert self.gathered.pop(tag, b"") == expected.data[: command.expected_length]
        wanted = {True: _UNDERFLOW, False: _OVERFLOW}[expected.residual > 0]
        assert flags == (wanted if expected.residual else 0), (said, expected)
        assert said.words[2] == abs(expected.residual)
        assert said.flags & FINAL


class Model:
    """The disk, the requests that its volume has not ended, and all sessions."""

    def __init__(self) -> None:
        self.disk = bytearray(BLOCKS * BLOCK)
        self.sides: list[Side] = []
        self.pending: deque[tuple[Side, Command]] = deque()

    def starts(self, side: Side, command: Command) -> None:
        """All its data is there, and it is its turn."""
        if side.attentions:
            attention = side.attentions.pop(0)
            side.expects(command.tag, Answer(CHECK_CONDITION, attention=attention))
            return
        if command.is_write:
            self.disk[command.span] = command.data[: command.blocks * BLOCK]
        self.pending.append((side, command))

    def volume_ends(self, *, well: bool) -> None:
        """The oldest request is over."""
        side, command = self.pending.popleft()
        if command.is_aborted:
            return
        whole = command.blocks * BLOCK
        residual = command.expected_length - whole
        if not well:
            unread = 0 if command.is_write else whole
            side.expects(command.tag, Answer(BUSY, residual=residual + unread))
        elif command.is_write:
            side.expects(command.tag, Answer(GOOD, residual=residual))
        else:
            data = bytes(self.disk[command.span])
            side.expects(command.tag, Answer(GOOD, data, residual))

    def abort(self, side: Side) -> None:
        """All tasks of a session."""
        for command in list(side.commands.values()):
            side.forget(command)

    def reset(self) -> None:
        """LOGICAL UNIT RESET: all tasks of all sessions, and all are told."""
        for side in self.sides:
            self.abort(side)
            side.attentions = [POWER_ON]

    def cleared(self, by: Side) -> None:
        """CLEAR TASK SET: the others are told."""
        for side in self.sides:
            self.abort(side)
            if side is not by and CLEARED not in side.attentions:
                side.attentions.append(CLEARED)
