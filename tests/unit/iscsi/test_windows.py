"""CmdSN: order, window, serial arithmetic, immediate commands (RFC 7143, 4.2.2.1)."""

from __future__ import annotations

from cstor_target.iscsi import pdu
from cstor_target.iscsi.constants import Opcode, RejectReason
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.sessions import CommandWindow
from cstor_target.iscsi.tasks import Task
from tests.unit.iscsi.trace import Initiator, Process, logged_in, only_task


def window_of(initiator: Initiator) -> tuple[int, int]:
    """ExpCmdSN and MaxCmdSN, asked for with an immediate NOP-Out."""
    initiator.numbered(pdu.NOP_OUT, immediate=True)
    answer = initiator.answers()[-1]
    return answer.fields.exp_cmd_sn, answer.fields.max_cmd_sn


def test_at_least_128_commands_may_be_outstanding() -> None:
    initiator = logged_in()
    tasks = [initiator.read(4) for _ in range(128)]
    assert len(tasks) == 128


def test_the_window_is_a_bound_and_opens_as_commands_end() -> None:
    initiator = logged_in(Process(limits=Limits(command_window=4)))
    tasks = [initiator.read(4) for _ in range(4)]
    assert window_of(initiator) == (104, 103)
    initiator.numbered(pdu.SCSI_COMMAND, final=True, cmd_sn=104)
    assert initiator.answers() == []
    assert initiator.process.counters.commands_out_of_window == 1
    initiator.core.complete(tasks[0], 0)
    assert initiator.answer().fields.max_cmd_sn == 104
    assert only_task(initiator.numbered(pdu.SCSI_COMMAND, final=True, cmd_sn=104))


def test_max_cmd_sn_never_goes_back() -> None:
    initiator = logged_in(Process(limits=Limits(command_window=8)))
    highest = 0
    tasks = []
    for step in range(40):
        if step % 3:
            tasks.append(initiator.read(4))
        elif tasks:
            initiator.core.complete(tasks.pop(0), 0)
        max_cmd_sn = window_of(initiator)[1]
        assert max_cmd_sn >= highest
        highest = max_cmd_sn
        if len(tasks) > 5:
            initiator.core.complete(tasks.pop(), 0)


def test_a_window_shrinks_as_commands_are_done_and_never_takes_back_what_was_told() -> None:
    window = CommandWindow(10, 8)
    assert window.max_cmd_sn == 17
    window.resize(4)
    assert window.max_cmd_sn == 17
    told = []
    for _ in range(12):
        window.advance()
        window.outstanding += 1
        window.done()
        told.append(window.max_cmd_sn)
    assert told == [17, 17, 17, 17, 18, 19, 20, 21, 22, 23, 24, 25]
    assert window.size == 4
    window.resize(6)
    assert window.max_cmd_sn == 27


def test_sessions_share_the_memory_of_unsolicited_data() -> None:
    limits = Limits(unsolicited_bytes_max=16 * 256 * 1024)
    process = Process(limits=limits)
    first = logged_in(process)
    assert window_of(first) == (100, 115)
    second = process.connect()
    second.isid = bytes.fromhex("800000000002")
    second.login()
    assert window_of(second) == (100, 107)
    assert window_of(first) == (100, 115)
    for _ in range(8):
        first.core.complete(first.read(4), 0)
        first.answers()
    assert window_of(first) == (108, 115)
    first.core.complete(first.read(4), 0)
    first.answers()
    assert window_of(first) == (109, 116)
    assert second.core.session is not None
    process.sessions.end(second.core.session)
    assert window_of(first) == (109, 124)


def test_a_window_that_grows_because_a_session_has_ended_is_told() -> None:
    process = Process(limits=Limits(unsolicited_bytes_max=16 * 256 * 1024))
    first = logged_in(process)
    second = process.connect()
    second.isid = bytes.fromhex("800000000002")
    second.login()
    first.core.complete(first.read(4), 0)
    assert first.answer().opcode is Opcode.SCSI_RESPONSE
    for _ in range(9):
        first.core.complete(first.read(4), 0)
        first.answers()
    assert second.core.session is not None
    process.sessions.end(second.core.session)
    assert first.is_told_of_the_window()


def test_an_old_cmd_sn_is_ignored() -> None:
    initiator = logged_in()
    initiator.read(4)
    for old in (100, 99, 0x80000001):
        assert initiator.numbered(pdu.SCSI_COMMAND, final=True, cmd_sn=old) == []
    assert initiator.answers() == []
    assert initiator.process.counters.commands_out_of_window == 3


def test_commands_are_handed_on_in_the_order_of_cmd_sn() -> None:
    initiator = logged_in()
    assert initiator.write(4, b"aaaa", cmd_sn=102) == []
    assert initiator.write(4, b"bbbb", cmd_sn=101) == []
    assert initiator.write(4, b"cccc", cmd_sn=102) == []
    events = initiator.write(4, b"dddd", cmd_sn=100)
    assert [e.cmd_sn for e in events if isinstance(e, Task)] == [100, 101, 102]
    assert window_of(initiator)[0] == 103


def test_a_command_that_arrived_early_asks_for_its_data_in_its_turn() -> None:
    initiator = logged_in()
    initiator.write(8192, cmd_sn=101, initiator_task_tag=5)
    assert initiator.answers() == []
    initiator.read(4, cmd_sn=100)
    assert initiator.answer().opcode is Opcode.READY_TO_TRANSFER


def test_unsolicited_data_of_an_early_command_is_kept_for_its_turn() -> None:
    initiator = logged_in(InitialR2T="No")
    initiator.write(8, final=False, cmd_sn=101, initiator_task_tag=5)
    assert initiator.data_out(5, b"abcdefgh") == []
    events = initiator.write(4, b"abcd", cmd_sn=100)
    assert [e.cmd_sn for e in events if isinstance(e, Task)] == [100, 101]


def test_other_pdus_wait_for_their_turn_too() -> None:
    initiator = logged_in()
    initiator.send(pdu.NOP_OUT, b"early", cmd_sn=101, initiator_task_tag=9)
    initiator.send(pdu.NOP_OUT, b"again", cmd_sn=101, initiator_task_tag=9)
    assert initiator.answers() == []
    initiator.send(pdu.NOP_OUT, b"first", cmd_sn=100, initiator_task_tag=8)
    assert [answer.data for answer in initiator.answers()] == [b"first", b"early"]


def test_cmd_sn_wraps_around() -> None:
    initiator = Process().connect()
    initiator.cmd_sn = 0xFFFFFFFE
    initiator.login()
    initiator.events.clear()
    for expected in (0xFFFFFFFE, 0xFFFFFFFF, 0, 1):
        assert initiator.read(4).cmd_sn == expected
    assert window_of(initiator)[0] == 2
    assert window_of(initiator)[1] == 2 + 252 - 1


def test_window_arithmetic_at_the_wrap() -> None:
    window = CommandWindow(0xFFFFFFFF, 4)
    assert window.max_cmd_sn == 2
    assert [window.distance(sn) for sn in (0xFFFFFFFF, 0, 2)] == [0, 1, 3]
    assert [window.distance(sn) for sn in (3, 0xFFFFFFFE, 0x7FFFFFFF)] == [-1, -1, -1]
    window.advance()
    assert window.exp_cmd_sn == 0


def test_immediate_commands_use_up_no_cmd_sn_and_are_bounded() -> None:
    initiator = logged_in(Process(limits=Limits(immediate_tasks_max=2)))
    tasks = [initiator.read(4, immediate=True) for _ in range(2)]
    assert window_of(initiator)[0] == 100
    initiator.numbered(pdu.SCSI_COMMAND, final=True, immediate=True)
    answer = initiator.answer()
    assert answer.fields.reason == RejectReason.IMMEDIATE_COMMAND_REJECT
    initiator.core.complete(tasks[0], 0)
    assert initiator.read(4, immediate=True)


def test_a_nop_out_that_is_not_immediate_uses_up_a_cmd_sn() -> None:
    initiator = logged_in()
    initiator.numbered(pdu.NOP_OUT, b"ping")
    answer = initiator.answer()
    assert (answer.opcode, answer.data) == (Opcode.NOP_IN, b"ping")
    assert answer.fields.exp_cmd_sn == 101
    assert initiator.read(4).cmd_sn == 101
