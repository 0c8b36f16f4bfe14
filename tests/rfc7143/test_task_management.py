"""Task management: what is aborted, what is said, and when (RFC 7143, 4.2.3, 11.5, 11.6)."""

from __future__ import annotations

import pytest

from tests.rfc7143.initiator import NAME, Digests, RawInitiator
from tests.rfc7143.portal import Portal
from tests.rfc7143.wire import RESERVED, TEST_UNIT_READY, Op, read_10, write_10

ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET = 1, 2, 3, 4
LOGICAL_UNIT_RESET, TARGET_WARM_RESET, TARGET_COLD_RESET, TASK_REASSIGN = 5, 6, 7, 8
COMPLETE, TASK_DOES_NOT_EXIST, LUN_DOES_NOT_EXIST, NO_REASSIGNMENT, NOT_SUPPORTED = 0, 1, 2, 4, 5
FUNCTION_REJECTED = 255
FLAT_0 = 0x4000 << 48
CLEARED_BY_ANOTHER_INITIATOR = (6, 0x2F, 0x00)
RESET_OCCURRED = (6, 0x29, 0x00)
RESETS = pytest.mark.parametrize(
    "function", [LOGICAL_UNIT_RESET, TARGET_WARM_RESET], ids=["logical-unit", "target-warm"]
)


async def response_to(host: RawInitiator, tag: int) -> int:
    """The Response of the function with that tag, which comes next."""
    answer = await host.receive(Op.TASK_MANAGEMENT_RESPONSE)
    assert (answer.itt, answer.data) == (tag, b"")
    return answer.response


async def let_go_of(portal: Portal, *hosts: RawInitiator) -> None:
    """The volume ends what it held; these initiators hear only that the window has opened."""
    portal.volume.let_go()
    for host in hosts:
        told = await host.receive(Op.NOP_IN)
        assert (told.itt, told.ttt) == (RESERVED, RESERVED)
        await host.hears_nothing()


async def next_status(host: RawInitiator) -> tuple[int, ...]:
    """How TEST UNIT READY ends: its sense, or nothing for GOOD."""
    host.command(TEST_UNIT_READY)
    answer = await host.receive(Op.RESPONSE)
    return answer.sense if answer.status else ()


async def other_host(portal: Portal, digests: Digests) -> RawInitiator:
    return await portal.host(digests, name=NAME + "-other")


async def test_an_aborted_task_is_not_answered_any_more(portal: Portal, host: RawInitiator) -> None:
    portal.volume.is_holding = True
    tag = host.command(write_10(0, 1), b"w" * 512)
    await portal.until_held(1)
    assert await response_to(host, host.manage(ABORT_TASK, of=tag)) == COMPLETE
    await let_go_of(portal, host)
    assert await next_status(host) == ()


async def test_a_task_that_waits_for_its_data_is_aborted(
    portal: Portal, host: RawInitiator
) -> None:
    tag = host.command(write_10(0, 1), writes=512)
    r2t = await host.receive(Op.R2T)
    assert await response_to(host, host.manage(ABORT_TASK, of=tag)) == COMPLETE
    host.data_out(tag, b"late" * 128, ttt=r2t.ttt)
    await host.hears_nothing()
    assert portal.volume.data[:512] == bytes(512)
    host.command(write_10(0, 1), b"n" * 512, itt=tag)
    assert (await host.receive(Op.RESPONSE)).status == 0


async def test_an_immediate_task_is_aborted(portal: Portal, host: RawInitiator) -> None:
    portal.volume.is_holding = True
    tag = host.command(read_10(0, 1), reads=512, immediate=True)
    await portal.until_held(1)
    function = host.manage(ABORT_TASK, of=tag, ref_cmd_sn=host.cmd_sn)
    assert await response_to(host, function) == COMPLETE
    portal.volume.let_go()
    await host.hears_nothing()


async def test_a_task_that_has_ended_does_not_exist(host: RawInitiator) -> None:
    cmd_sn = host.cmd_sn
    tag = host.command(TEST_UNIT_READY)
    await host.receive(Op.RESPONSE)
    function = host.manage(ABORT_TASK, of=tag, ref_cmd_sn=cmd_sn)
    assert await response_to(host, function) == TASK_DOES_NOT_EXIST


@pytest.mark.parametrize("ahead", [0, 1, 5])
async def test_an_abort_takes_no_cmd_sn_that_was_not_sent_before_it(
    host: RawInitiator, ahead: int
) -> None:
    function = host.manage(ABORT_TASK, of=0x7777, ref_cmd_sn=host.cmd_sn + ahead)
    assert await response_to(host, function) == TASK_DOES_NOT_EXIST
    for _ in range(ahead + 1):
        assert await next_status(host) == ()


async def test_a_command_that_was_lost_counts_as_received_when_it_is_aborted(
    host: RawInitiator,
) -> None:
    lost = host.cmd_sn
    host.cmd_sn += 1
    waiting = host.command(TEST_UNIT_READY)
    await host.hears_nothing()
    function = host.manage(ABORT_TASK, of=0x7777, ref_cmd_sn=lost)
    assert await response_to(host, function) == COMPLETE
    answer = await host.receive(Op.RESPONSE)
    assert (answer.itt, answer.exp_cmd_sn) == (waiting, lost + 2)


async def test_a_task_management_request_cannot_be_aborted(
    portal: Portal, host: RawInitiator
) -> None:
    first = host.cmd_sn
    host.cmd_sn += 1
    reset = host.manage(LOGICAL_UNIT_RESET, immediate=False)
    function = host.manage(ABORT_TASK, of=reset, ref_cmd_sn=first + 1)
    assert await response_to(host, function) == FUNCTION_REJECTED
    host.send(Op.NOP_OUT, cmd_sn=first)
    await host.receive(Op.NOP_IN)
    assert await response_to(host, reset) == COMPLETE
    assert await next_status(host) == RESET_OCCURRED


@pytest.mark.parametrize(
    ("function", "response"),
    [(CLEAR_ACA, NOT_SUPPORTED), (TASK_REASSIGN, NO_REASSIGNMENT), (9, 5), (0, 5), (127, 5)],
)
async def test_what_is_not_supported_is_said_so(
    host: RawInitiator, function: int, response: int
) -> None:
    assert await response_to(host, host.manage(function)) == response
    assert await response_to(host, host.manage(function, immediate=False)) == response
    assert await next_status(host) == ()


@pytest.mark.parametrize("lun", [0x0001 << 48, 0x4001 << 48, 0xC101 << 48])
@pytest.mark.parametrize("function", [ABORT_TASK_SET, CLEAR_TASK_SET, LOGICAL_UNIT_RESET])
async def test_a_lun_that_is_not_there_is_said_so(
    portal: Portal, host: RawInitiator, function: int, lun: int
) -> None:
    portal.volume.is_holding = True
    tag = host.command(read_10(0, 1), reads=512)
    await portal.until_held(1)
    assert await response_to(host, host.manage(function, lun=lun)) == LUN_DOES_NOT_EXIST
    portal.volume.let_go()
    assert (await host.receive(Op.DATA_IN)).itt == tag
    assert await next_status(host) == ()


@pytest.mark.parametrize("asked_of", [0, FLAT_0], ids=["peripheral", "flat"])
async def test_abort_task_set_ends_the_own_tasks_and_no_others(
    portal: Portal, host: RawInitiator, digests: Digests, asked_of: int
) -> None:
    other = await other_host(portal, digests)
    portal.volume.is_holding = True
    host.command(read_10(0, 1), reads=512)
    host.command(read_10(0, 1), reads=512, lun=FLAT_0)
    other.command(read_10(0, 1), reads=512)
    await portal.until_held(3)
    assert await response_to(host, host.manage(ABORT_TASK_SET, lun=asked_of)) == COMPLETE
    await let_go_of(portal, host)
    assert (await other.receive(Op.DATA_IN)).final
    assert await next_status(host) == ()
    assert await next_status(other) == ()


async def test_clear_task_set_ends_all_tasks_and_tells_the_others(
    portal: Portal, host: RawInitiator, digests: Digests
) -> None:
    others = [await other_host(portal, digests), await portal.host(digests, name=NAME + "-third")]
    portal.volume.is_holding = True
    for one in (host, *others):
        one.command(read_10(0, 1), reads=512)
    await portal.until_held(3)
    assert await response_to(host, host.manage(CLEAR_TASK_SET)) == COMPLETE
    await let_go_of(portal, host, *others)
    assert await next_status(host) == ()
    for other in others:
        assert await next_status(other) == CLEARED_BY_ANOTHER_INITIATOR
        assert await next_status(other) == ()


@RESETS
async def test_a_reset_ends_all_tasks_and_tells_everybody(
    portal: Portal, host: RawInitiator, digests: Digests, function: int
) -> None:
    other = await other_host(portal, digests)
    portal.volume.is_holding = True
    host.command(write_10(0, 1), b"w" * 512)
    other.command(read_10(0, 1), reads=512)
    await portal.until_held(2)
    assert await response_to(host, host.manage(function)) == COMPLETE
    await let_go_of(portal, host, other)
    for one in (host, other):
        assert await next_status(one) == RESET_OCCURRED
        assert await next_status(one) == ()
    assert len(portal.server.sessions) == 2


@RESETS
async def test_a_place_that_somebody_else_gives_free_is_told(
    portal: Portal, host: RawInitiator, digests: Digests, function: int
) -> None:
    other = await other_host(portal, digests)
    other.command(write_10(0, 1), writes=512)
    asked = await other.receive(Op.R2T)
    assert await response_to(host, host.manage(function)) == COMPLETE
    told = await other.receive(Op.NOP_IN)
    assert (told.itt, told.max_cmd_sn) == (RESERVED, asked.max_cmd_sn + 1)
    other.data_out(asked.itt, b"late" * 128, ttt=asked.ttt)
    assert await next_status(other) == RESET_OCCURRED


async def test_a_target_cold_reset_closes_all_connections(
    portal: Portal, host: RawInitiator, digests: Digests
) -> None:
    other = await other_host(portal, digests)
    portal.volume.is_holding = True
    other.command(read_10(0, 1), reads=512)
    await portal.until_held(1)
    assert await response_to(host, host.manage(TARGET_COLD_RESET, lun=0x0001 << 48)) == COMPLETE
    assert await host.is_closed()
    assert await other.is_closed()
    assert len(portal.server.sessions) == 0
    portal.volume.let_go()
    again = await portal.connect()
    await again.login(digests)
    await again.settle()


@pytest.mark.parametrize(
    "function", [ABORT_TASK_SET, CLEAR_TASK_SET, LOGICAL_UNIT_RESET, TARGET_WARM_RESET]
)
@pytest.mark.parametrize("immediate", [True, False])
async def test_what_follows_a_function_is_none_of_its_business(
    portal: Portal, host: RawInitiator, function: int, immediate: bool
) -> None:
    portal.volume.is_holding = True
    before = host.encode(Op.COMMAND, 0xC0, word_20=512, tail=read_10(0, 1))
    request = host.encode(Op.TASK_MANAGEMENT, 0x80 | function, immediate=immediate, itt=600)
    behind = host.encode(Op.COMMAND, 0x80, word_20=0, tail=TEST_UNIT_READY, itt=601)
    host.send_bytes(before + request + behind)
    assert await response_to(host, 600) == COMPLETE
    answer = await host.receive(Op.RESPONSE)
    assert answer.itt == 601
    portal.volume.let_go()
    told = await host.receive(Op.NOP_IN)
    assert told.itt == RESERVED
    await host.hears_nothing()


async def test_a_function_waits_for_the_commands_before_it(
    portal: Portal, host: RawInitiator
) -> None:
    first = host.cmd_sn
    function = host.manage(ABORT_TASK_SET, immediate=False, cmd_sn=first + 1)
    await host.hears_nothing()
    portal.volume.is_holding = True
    host.command(read_10(0, 1), reads=512, cmd_sn=first)
    assert await response_to(host, function) == COMPLETE
    await let_go_of(portal, host)


@pytest.mark.parametrize("function", [ABORT_TASK_SET, CLEAR_TASK_SET, LOGICAL_UNIT_RESET])
async def test_data_that_is_under_way_to_aborted_tasks_is_dropped(
    portal: Portal, digests: Digests, function: int
) -> None:
    host = await portal.host(digests, InitialR2T="No")
    asked = host.command(write_10(0, 1), writes=512)
    r2t = await host.receive(Op.R2T)
    unasked = host.command(write_10(1, 1), writes=512, final=False)
    assert await response_to(host, host.manage(function)) == COMPLETE
    host.data_out(asked, b"a" * 512, ttt=r2t.ttt)
    host.data_out(unasked, b"u" * 512)
    await host.hears_nothing()
    assert portal.volume.data[:1024] == bytes(1024)
    host.command(write_10(0, 1), b"n" * 512, itt=asked)
    answer = await host.receive(Op.RESPONSE)
    assert answer.status == (2 if function == LOGICAL_UNIT_RESET else 0)
