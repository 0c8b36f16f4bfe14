"""Whole sessions, several at once, against a model of what the target owes them (RFC 7143, 4.2).

Logins of every kind, reads and writes with immediate, unsolicited and solicited data, commands out
of the order of CmdSN, task management, pings, text, logouts, connections that are lost and sessions
that are taken up anew, in any order.  After each step every session has heard all that it is owed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cstor_target.iscsi import pdu
from cstor_target.iscsi.constants import Opcode, TaskManagementFunction
from cstor_target.iscsi.limits import Limits
from cstor_target.volume.backing import Failure
from tests.fuzz.harnesses import Host, Node
from tests.property.iscsi.model import BLOCK, BLOCKS, POWER_ON, Command, Model, Side
from tests.unit.iscsi.test_nexus import read_10, write_10
from tests.unit.iscsi.trace import INITIATOR, TARGET, Process

SESSIONS_MAX = 3
LOGINS: tuple[dict[str, str], ...] = (
    {},
    {"InitialR2T": "No", "FirstBurstLength": "1024", "MaxBurstLength": "2048"},
    {"InitialR2T": "No", "ImmediateData": "No", "HeaderDigest": "CRC32C"},
    {"ImmediateData": "No", "MaxBurstLength": "512", "MaxOutstandingR2T": "1"},
    {"InitialR2T": "No", "DataDigest": "CRC32C", "MaxRecvDataSegmentLength": "512"},
)
LIMITS = replace(Limits(), command_window=6, receive_chunk_bytes=4096)

WHICH = st.integers(0, SESSIONS_MAX - 1)
STARTS = st.integers(0, BLOCKS - 8)
SIZES = st.integers(1, 8)


class Sessions(RuleBasedStateMachine):
    """The steps.  A step that cannot be taken by the session that was drawn is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node()
        self.process = Process(self.node, LIMITS)  # type: ignore[arg-type]
        self.model = Model()
        self.fill = 0
        self.names = 0

    def side(self, which: int) -> Side:
        return self.model.sides[which % len(self.model.sides)]

    @precondition(lambda self: len(self.model.sides) < SESSIONS_MAX)
    @rule(keys=st.sampled_from(LOGINS))
    def log_in(self, keys: dict[str, str]) -> None:
        self.names += 1
        self.model.sides.append(self.logged_in(f"{INITIATOR}-{self.names}", keys))

    def logged_in(self, name: str, keys: dict[str, str]) -> Side:
        host = Host(self.process, self.node)
        host.begin(name, **keys)
        side = Side(
            host,
            initial_r2t=keys.get("InitialR2T") != "No",
            immediate_data=keys.get("ImmediateData") != "No",
            first_burst=int(keys.get("FirstBurstLength", min(65536, max_burst_of(keys)))),
            max_burst=max_burst_of(keys),
            r2ts_max=int(keys.get("MaxOutstandingR2T", 1)),
            segment_bytes=int(keys.get("MaxRecvDataSegmentLength", 8192)),
        )
        side.attentions = [POWER_ON]
        return side

    @precondition(lambda self: self.model.sides)
    @rule(which=WHICH, start=STARTS, blocks=SIZES, other=st.sampled_from([0, 0, 512, -300]))
    def read(self, which: int, start: int, blocks: int, other: int) -> None:
        side = self.side(which)
        if side.room:
            command = self.command(side, start, blocks, max(0, blocks * BLOCK + other))
            self.send(side, command)
            self.model.starts(side, command)

    @precondition(lambda self: self.model.sides)
    @rule(
        which=WHICH,
        start=STARTS,
        blocks=SIZES,
        more=st.sampled_from([0, 0, 512]),
        immediate=st.integers(0, 4096),
        unsolicited=st.none() | st.lists(st.integers(1, 900), max_size=3),
    )
    def write(
        self,
        which: int,
        start: int,
        blocks: int,
        more: int,
        immediate: int,
        unsolicited: list[int] | None,
    ) -> None:
        side = self.side(which)
        if not side.room:
            return
        command = self.command(side, start, blocks, blocks * BLOCK + more, is_write=True)
        end = min(side.first_burst, command.expected_length)
        command.sent = min(immediate, end) if side.immediate_data else 0
        goes_on = unsolicited is not None and not side.initial_r2t and command.sent < end
        self.send(side, command, final=not goes_on)
        if goes_on:
            self.send_unsolicited(side, command, unsolicited or [], end)
        command.asked_for = command.sent
        if command.sent == command.expected_length:
            self.model.starts(side, command)

    def send_unsolicited(self, side: Side, command: Command, sizes: list[int], end: int) -> None:
        """Data-Out without R2T (11.7), as large as drawn, and the last one up to the end."""
        for number, size in enumerate((*sizes, end)):
            start = command.sent
            command.sent = min(end, start + size)
            is_last = number == len(sizes) or command.sent == end
            side.host.data_out(
                command.tag,
                command.data[start : command.sent],
                final=is_last,
                data_sn=number,
                buffer_offset=start,
            )
            if is_last:
                return

    @precondition(lambda self: any(side.r2ts for side in self.model.sides))
    @rule(which=WHICH, pieces=st.integers(1, 3))
    def answer_r2t(self, which: int, pieces: int) -> None:
        sides = [side for side in self.model.sides if side.r2ts]
        side = sides[which % len(sides)]
        tag, transfer_tag, offset, length = side.r2ts.popleft()
        command = side.commands[tag]
        cuts = [length * part // pieces for part in range(pieces + 1)]
        for number in range(pieces):
            begin, end = offset + cuts[number], offset + cuts[number + 1]
            side.host.data_out(
                tag,
                command.data[begin:end],
                final=number == pieces - 1,
                target_transfer_tag=transfer_tag,
                data_sn=number,
                buffer_offset=begin,
            )
        command.sent = offset + length
        if command.sent == command.expected_length:
            self.model.starts(side, command)

    @precondition(lambda self: self.model.sides)
    @rule(which=WHICH, start=STARTS, blocks=st.integers(1, 2))
    def two_commands_the_later_one_first(self, which: int, start: int, blocks: int) -> None:
        side = self.side(which)
        if side.room < 2 or not side.immediate_data:
            return
        first, second = (
            self.command(side, start + n, blocks, blocks * BLOCK, is_write=True) for n in range(2)
        )
        for command in (second, first):
            command.sent = command.expected_length
            self.send(side, command)
        self.model.starts(side, first)
        self.model.starts(side, second)

    @precondition(lambda self: self.model.pending)
    @rule(well=st.sampled_from([True, True, True, False]))
    def volume_ends(self, well: bool) -> None:
        self.model.volume_ends(well=well)
        self.node.served.volume.end(None if well else Failure.BUSY)

    @precondition(lambda self: any(side.commands for side in self.model.sides))
    @rule(which=WHICH, number=st.integers(0, 5))
    def abort_task(self, which: int, number: int) -> None:
        sides = [side for side in self.model.sides if side.commands]
        side = sides[which % len(sides)]
        command = list(side.commands.values())[number % len(side.commands)]
        side.forget(command)
        self.manage(side, TaskManagementFunction.ABORT_TASK, referenced_task_tag=command.tag)
        side.host.data_out(command.tag, b"late", target_transfer_tag=1)

    @precondition(lambda self: self.model.sides)
    @rule(
        which=WHICH,
        function=st.sampled_from(
            [
                TaskManagementFunction.ABORT_TASK_SET,
                TaskManagementFunction.CLEAR_TASK_SET,
                TaskManagementFunction.LOGICAL_UNIT_RESET,
            ]
        ),
    )
    def abort_tasks(self, which: int, function: TaskManagementFunction) -> None:
        side = self.side(which)
        match function:
            case TaskManagementFunction.ABORT_TASK_SET:
                self.model.abort(side)
            case TaskManagementFunction.CLEAR_TASK_SET:
                self.model.cleared(side)
            case _:
                self.model.reset()
        self.manage(side, function)

    @precondition(lambda self: self.model.sides)
    @rule(which=WHICH, data=st.binary(max_size=600), immediate=st.booleans())
    def ping(self, which: int, data: bytes, immediate: bool) -> None:
        side = self.side(which)
        if side.room or immediate:
            side.host.numbered(pdu.NOP_OUT, data, immediate=immediate)
            answer = side.other_answer(Opcode.NOP_IN)
            assert answer.data == data[: side.segment_bytes]

    @precondition(lambda self: self.model.sides)
    @rule(which=WHICH)
    def ask_for_targets(self, which: int) -> None:
        side = self.side(which)
        if side.room:
            side.host.numbered(pdu.TEXT_REQUEST, b"SendTargets=\0", final=True)
            answer = side.other_answer(Opcode.TEXT_RESPONSE)
            assert answer.data.startswith(f"TargetName={TARGET}\0".encode())

    @precondition(lambda self: self.model.sides)
    @rule(which=WHICH, how=st.sampled_from(["logout", "lost", "dropped"]))
    def end(self, which: int, how: str) -> None:
        side = self.side(which)
        if how == "logout" and not side.room:
            return
        if how == "logout":
            side.host.numbered(pdu.LOGOUT_REQUEST)
            side.other_answer(Opcode.LOGOUT_RESPONSE)
        elif how == "dropped" and side.host.core.session is not None:
            self.process.sessions.drop(side.host.core.session)
            side.other_answer(Opcode.ASYNCHRONOUS_MESSAGE)
        self.model.abort(side)
        self.model.sides.remove(side)
        side.host.core.lost()
        side.host.nexus.go_on_reading()

    @precondition(lambda self: self.model.sides)
    @rule(which=WHICH, keys=st.sampled_from(LOGINS))
    def take_up_anew(self, which: int, keys: dict[str, str]) -> None:
        """A session of the same name, while the old connection is there (6.3.5)."""
        old = self.side(which)
        assert old.host.core.session is not None
        new = self.logged_in(old.host.core.session.initiator_name, keys)
        self.model.abort(old)
        assert old.host.core.closing
        assert old.host.core.take_output() == []
        old.host.core.lost()
        old.host.nexus.go_on_reading()
        self.model.sides[self.model.sides.index(old)] = new

    @invariant()
    def everybody_has_heard_what_is_due(self) -> None:
        for side in self.model.sides:
            side.hear()
            assert not side.other_answers
        assert len(self.process.sessions) == len(self.model.sides)
        assert len(self.node.served.volume.pending) == len(self.model.pending)
        assert self.node.served.volume.data[: BLOCKS * BLOCK] == self.model.disk

    def teardown(self) -> None:
        """All that is left ends, and nothing is kept."""
        while self.model.pending:
            self.volume_ends(True)
        self.everybody_has_heard_what_is_due()
        for side in list(self.model.sides):
            self.end(0, "lost")
            assert side.host.core.tasks_in_flight == 0
        sessions = self.process.sessions
        assert sessions.read_memory.used_bytes == sessions.write_memory.used_bytes == 0
        assert sessions.unsolicited_memory.used_bytes == 0

    def command(
        self, side: Side, start: int, blocks: int, expected_length: int, is_write: bool = False
    ) -> Command:
        """A command with the next CmdSN and a tag of its own; each write has data of its own."""
        self.fill += 1
        data = bytes((self.fill % 251 + 1,)) * expected_length if is_write else b""
        made = Command(
            side.host.tag, side.host.cmd_sn, is_write, start, blocks, expected_length, data
        )
        side.host.tag += 1
        side.host.cmd_sn = side.host.cmd_sn + 1 & 0xFFFFFFFF
        side.commands[made.tag] = made
        return made

    def send(self, side: Side, command: Command, final: bool = True) -> None:
        """The command's PDU with its immediate data."""
        assert side.host.heard is not None
        side.host.heard.sent[command.tag] += 1
        cdb = (write_10 if command.is_write else read_10)(command.start, command.blocks)
        side.host.send(
            pdu.SCSI_COMMAND,
            command.data[: command.sent],
            final=final,
            read=not command.is_write,
            write=command.is_write,
            expected_data_transfer_length=command.expected_length,
            initiator_task_tag=command.tag,
            cmd_sn=command.cmd_sn,
            cdb=cdb + bytes(6),
        )

    def manage(self, side: Side, function: TaskManagementFunction, **fields: Any) -> None:
        """Task management, which succeeds."""
        side.host.numbered(pdu.TASK_MANAGEMENT_REQUEST, immediate=True, function=function, **fields)
        assert side.other_answer(Opcode.TASK_MANAGEMENT_RESPONSE).response == 0


def max_burst_of(keys: dict[str, str]) -> int:
    """MaxBurstLength as it is negotiated (13.13)."""
    return int(keys.get("MaxBurstLength", 262144))


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=60, stateful_step_count=40)
