"""CmdSN, StatSN and the window; immediate commands (RFC 7143, 4.2.2, 11.18, 11.19).

That StatSN goes on by one, and MaxCmdSN never back, is judged for every PDU of this suite.
"""

from __future__ import annotations

from cstor_target.iscsi.limits import Limits
from tests.rfc7143.initiator import Digests, RawInitiator
from tests.rfc7143.portal import Portal
from tests.rfc7143.wire import RESERVED, TEST_UNIT_READY, Op, read_10, write_10

ABORT_TASK = 1


async def test_commands_outside_of_the_window_are_ignored(
    portal: Portal, host: RawInitiator
) -> None:
    state = await host.hears_nothing()
    for wrong in (host.cmd_sn - 1, host.cmd_sn + 2**31, state.max_cmd_sn + 1):
        host.command(TEST_UNIT_READY, cmd_sn=wrong)
        host.send(Op.NOP_OUT, cmd_sn=wrong)
    again = await host.hears_nothing()
    assert (again.exp_cmd_sn, again.max_cmd_sn) == (state.exp_cmd_sn, state.max_cmd_sn)
    host.command(TEST_UNIT_READY)
    assert (await host.receive(Op.RESPONSE)).status == 0


async def test_a_duplicate_within_the_window_is_ignored(host: RawInitiator) -> None:
    first = host.cmd_sn
    host.command(TEST_UNIT_READY, cmd_sn=first + 1, itt=901)
    host.command(TEST_UNIT_READY, cmd_sn=first + 1, itt=902)
    await host.hears_nothing()
    host.command(TEST_UNIT_READY, cmd_sn=first, itt=900)
    assert [answer.itt for answer in await host.receive_all(Op.RESPONSE, Op.RESPONSE)] == [900, 901]
    host.cmd_sn = first + 2
    assert (await host.hears_nothing()).exp_cmd_sn == first + 2


async def test_commands_are_carried_out_in_the_order_of_cmd_sn(
    portal: Portal, host: RawInitiator
) -> None:
    first = host.cmd_sn
    for ahead, letter in ((2, b"c"), (1, b"b"), (0, b"a")):
        host.command(write_10(0, 1), letter * 512, cmd_sn=first + ahead, itt=910 + ahead)
    answers = await host.receive_all(Op.RESPONSE, Op.RESPONSE, Op.RESPONSE)
    assert [answer.itt for answer in answers] == [910, 911, 912]
    assert answers[-1].exp_cmd_sn == first + 3
    assert portal.volume.data[:512] == b"c" * 512


async def test_every_pdu_with_a_cmd_sn_waits_for_its_turn(host: RawInitiator) -> None:
    first = host.cmd_sn
    host.ask({}, cmd_sn=first + 3, itt=933)
    host.send(Op.NOP_OUT, cmd_sn=first + 2, itt=932)
    host.manage(3, immediate=False, cmd_sn=first + 1, itt=931)
    await host.hears_nothing()
    host.command(TEST_UNIT_READY, cmd_sn=first, itt=930)
    ops = (Op.TASK_MANAGEMENT_RESPONSE, Op.NOP_IN, Op.TEXT_RESPONSE, Op.RESPONSE)
    answers = await host.receive_all(*ops)
    assert [answer.itt for answer in answers] == [931, 932, 933, 930]
    assert answers[-1].exp_cmd_sn == first + 4


async def test_an_immediate_command_uses_up_no_cmd_sn(host: RawInitiator) -> None:
    before = host.cmd_sn
    host.command(TEST_UNIT_READY, immediate=True)
    answer = await host.receive(Op.RESPONSE)
    assert (answer.status, answer.exp_cmd_sn) == (0, before)
    host.command(TEST_UNIT_READY)
    assert (await host.receive(Op.RESPONSE)).exp_cmd_sn == before + 1


async def test_immediate_commands_pass_a_window_that_is_closed(
    digests: Digests,
) -> None:
    portal = Portal(Limits(command_window=2, command_window_min=2))
    await portal.listen()
    host = await portal.host(digests)
    portal.volume.is_holding = True
    for _ in range(2):
        host.command(read_10(0, 1), reads=512)
    await portal.until_held(2)
    state = await host.hears_nothing()
    assert state.max_cmd_sn == state.exp_cmd_sn - 1
    host.command(TEST_UNIT_READY, immediate=True)
    assert (await host.receive(Op.RESPONSE)).status == 0
    portal.volume.let_go()
    answers = await host.receive_all(Op.DATA_IN, Op.DATA_IN)
    assert answers[-1].max_cmd_sn == state.exp_cmd_sn + 1
    await portal.server.drain(0)


async def test_a_window_that_opens_without_an_answer_is_told(digests: Digests) -> None:
    portal = Portal(Limits(command_window=2, command_window_min=2))
    await portal.listen()
    host = await portal.host(digests)
    portal.volume.is_holding = True
    tags = [host.command(read_10(0, 1), reads=512) for _ in range(2)]
    await portal.until_held(2)
    for tag in tags:
        host.manage(ABORT_TASK, of=tag)
        assert (await host.receive(Op.TASK_MANAGEMENT_RESPONSE)).response == 0
    closed = await host.hears_nothing()
    assert closed.max_cmd_sn == closed.exp_cmd_sn - 1
    portal.volume.end()
    portal.volume.end()
    told = await host.receive(Op.NOP_IN)
    assert (told.itt, told.ttt, told.data) == (RESERVED, RESERVED, b"")
    assert told.max_cmd_sn == closed.max_cmd_sn + 2
    await portal.server.drain(0)


async def test_too_many_immediate_commands_are_rejected(digests: Digests) -> None:
    portal = Portal(Limits(immediate_tasks_max=1))
    await portal.listen()
    host = await portal.host(digests)
    portal.volume.is_holding = True
    host.command(read_10(0, 1), reads=512, immediate=True)
    host.command(read_10(0, 1), reads=512, immediate=True)
    assert (await host.receive(Op.REJECT)).response == 0x06
    portal.volume.let_go()
    assert (await host.receive(Op.DATA_IN)).final
    await portal.server.drain(0)


async def test_cmd_sn_and_stat_sn_go_on_at_zero(portal: Portal, digests: Digests) -> None:
    host = await portal.connect()
    host.cmd_sn, host.exp_stat_sn = 0xFFFFFFFD, 0xFFFFFFFC
    await host.login(digests)
    await host.settle()
    for _ in range(6):
        host.command(TEST_UNIT_READY)
        assert (await host.receive(Op.RESPONSE)).status == 0
    answer = await host.hears_nothing()
    assert (answer.exp_cmd_sn, host.exp_stat_sn) == (4, 5)


async def test_a_task_tag_that_is_in_use_is_rejected(portal: Portal, host: RawInitiator) -> None:
    portal.volume.is_holding = True
    host.command(read_10(0, 1), reads=512, itt=77)
    await portal.until_held(1)
    host.command(TEST_UNIT_READY, itt=77)
    reject = await host.receive(Op.REJECT)
    assert (reject.response, reject.data[16:20]) == (0x07, (77).to_bytes(4, "big"))
    host.cmd_sn -= 1
    assert reject.exp_cmd_sn == host.cmd_sn
    portal.volume.let_go()
    assert (await host.receive(Op.DATA_IN)).itt == 77
    host.command(TEST_UNIT_READY, itt=77)
    assert (await host.receive(Op.RESPONSE)).status == 0
