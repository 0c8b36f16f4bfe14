"""NOP, Logout, Asynchronous Message, Reject, SNACK, digests (RFC 7143, 7.8, 11.9, 11.14-11.19)."""

from __future__ import annotations

import asyncio

import pytest

from tests.rfc7143.initiator import Digests, RawInitiator
from tests.rfc7143.portal import Portal
from tests.rfc7143.wire import RESERVED, TEST_UNIT_READY, Op, read_10, write_10
from tests.unit.volume.hand_clock import HandClock


@pytest.mark.parametrize("immediate", [True, False])
async def test_a_ping_is_answered_with_its_data(host: RawInitiator, immediate: bool) -> None:
    for data in (b"", b"p", b"ping" * 64):
        tag = host.send(Op.NOP_OUT, data=data, immediate=immediate)
        answer = await host.receive(Op.NOP_IN)
        assert (answer.itt, answer.ttt, answer.data) == (tag, RESERVED, data)
        assert answer.exp_cmd_sn == host.cmd_sn


async def test_a_ping_is_answered_as_far_as_the_initiator_takes_it(
    portal: Portal, digests: Digests
) -> None:
    host = await portal.host(digests, MaxRecvDataSegmentLength="512")
    host.send(Op.NOP_OUT, data=bytes(range(256)) * 3, immediate=True)
    assert (await host.receive(Op.NOP_IN)).data == bytes(range(256)) * 2


async def test_a_nop_out_that_asks_nothing_is_not_answered(host: RawInitiator) -> None:
    host.send(Op.NOP_OUT, itt=RESERVED, immediate=True)
    await host.hears_nothing()


async def test_a_silent_initiator_is_pinged_and_given_up(digests: Digests) -> None:
    clock = HandClock()
    portal = Portal(clock=clock)
    await portal.listen()
    host = await portal.connect()
    await host.login(digests)

    def pass_s(*spans_s: float) -> None:
        for span_s in spans_s:
            clock.now_s += span_s
            clock.run_put_off()

    pass_s(10, 20)
    for _ in range(3):
        ping = await host.receive(Op.NOP_IN)
        assert (ping.itt, ping.data, ping.lun) == (RESERVED, b"", 0)
        assert ping.ttt != RESERVED
        host.send(Op.NOP_OUT, itt=RESERVED, word_20=ping.ttt, immediate=True)
        await host.hears_nothing()
        pass_s(10, 20)
    assert (await host.receive(Op.NOP_IN)).ttt != RESERVED
    pass_s(portal.server.limits.ping_timeout_s + 1)
    assert await host.is_closed()
    assert len(portal.server.sessions) == 0
    await portal.server.drain(0)


@pytest.mark.parametrize("reason", [0, 1])
async def test_a_logout_ends_the_tasks_the_session_and_the_connection(
    portal: Portal, host: RawInitiator, reason: int
) -> None:
    portal.volume.is_holding = True
    host.command(read_10(0, 1), reads=512)
    host.command(write_10(0, 1), writes=512)
    await host.receive(Op.R2T)
    await portal.until_held(1)
    tag = host.logout(reason)
    answer = await host.receive(Op.LOGOUT_RESPONSE)
    assert (answer.itt, answer.response, answer.data) == (tag, 0, b"")
    portal.volume.let_go()
    assert await host.is_closed()
    assert len(portal.server.sessions) == 0


async def test_nothing_behind_a_logout_is_carried_out(portal: Portal, host: RawInitiator) -> None:
    logout = host.encode(Op.LOGOUT, 0x80, word_20=0)
    late = host.encode(Op.COMMAND, 0xA0, b"l" * 512, word_20=512, tail=write_10(0, 1))
    host.send_bytes(logout + late)
    assert (await host.receive(Op.LOGOUT_RESPONSE)).response == 0
    assert await host.is_closed()
    assert portal.volume.data[:512] == bytes(512)


@pytest.mark.parametrize(("reason", "cid", "response"), [(1, 7, 1), (2, 0, 2), (2, 7, 2)])
async def test_a_logout_that_cannot_be_leaves_the_session(
    host: RawInitiator, reason: int, cid: int, response: int
) -> None:
    host.logout(reason, cid)
    assert (await host.receive(Op.LOGOUT_RESPONSE)).response == response
    host.command(TEST_UNIT_READY)
    assert (await host.receive(Op.RESPONSE)).status == 0


async def test_a_reserved_logout_reason_is_rejected(host: RawInitiator) -> None:
    host.logout(3)
    assert (await host.receive(Op.REJECT)).response == 0x09


async def test_a_target_that_stops_asks_for_a_logout(portal: Portal, host: RawInitiator) -> None:
    stopping = asyncio.create_task(portal.server.drain(60))
    asked = await host.receive(Op.ASYNC)
    assert (asked.itt, asked.header[36], asked.data) == (RESERVED, 1, b"")
    assert [asked.number(offset, 2) for offset in (38, 40, 42)] == [0, 0, 2]
    host.command(TEST_UNIT_READY)
    assert (await host.receive(Op.RESPONSE)).status == 0
    host.logout(0)
    assert (await host.receive(Op.LOGOUT_RESPONSE)).response == 0
    assert await host.is_closed()
    await stopping


async def test_who_does_not_log_out_is_told_that_the_session_ends(
    portal: Portal, host: RawInitiator
) -> None:
    await portal.server.drain(0)
    asked, told = await host.receive_all(Op.ASYNC, Op.ASYNC)
    assert (asked.header[36], told.header[36]) == (1, 3)
    assert await host.is_closed()


async def test_a_session_that_is_dropped_is_told(portal: Portal, host: RawInitiator) -> None:
    portal.volume.is_holding = True
    host.command(read_10(0, 1), reads=512)
    await portal.until_held(1)
    (session,) = portal.server.sessions
    portal.server.sessions.drop(session)
    told = await host.receive(Op.ASYNC)
    assert (told.itt, told.header[36]) == (RESERVED, 3)
    assert [told.number(offset, 2) for offset in (38, 40, 42)] == [0, 0, 0]
    portal.volume.let_go()
    assert await host.is_closed()


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
async def test_a_snack_is_rejected(host: RawInitiator, kind: int) -> None:
    request = host.encode(Op.SNACK, 0x80 | kind)
    host.send_bytes(request)
    reject = await host.receive(Op.REJECT)
    assert (reject.itt, reject.response, reject.data) == (RESERVED, 0x03, request[:48])
    await host.hears_nothing()


@pytest.mark.parametrize("op", [0x07, 0x0F, 0x11, 0x1C, 0x1E, *range(0x20, 0x27), 0x31, 0x3F])
async def test_an_operation_code_that_is_not_for_a_target_is_rejected(
    host: RawInitiator, op: int
) -> None:
    request = host.encode(op)
    host.cmd_sn -= 1
    host.send_bytes(request)
    reject = await host.receive(Op.REJECT)
    assert (reject.response, reject.data) == (0x05, request[:48])
    assert reject.exp_cmd_sn == host.cmd_sn
    host.command(TEST_UNIT_READY)
    assert (await host.receive(Op.RESPONSE)).status == 0


async def test_a_wrong_header_digest_closes_the_connection(portal: Portal) -> None:
    for digests in (Digests(header=True), Digests(header=True, data=True)):
        host = await portal.host(digests)
        host.send(Op.NOP_OUT, immediate=True, flip="header")
        assert await host.is_closed()
        assert len(portal.server.sessions) == 0


async def test_a_wrong_data_digest_of_a_command_is_rejected_and_closes(portal: Portal) -> None:
    for digests in (Digests(data=True), Digests(header=True, data=True)):
        host = await portal.host(digests)
        tag = host.command(write_10(0, 1), b"w" * 512, flip="data")
        reject = await host.receive(Op.REJECT)
        assert (reject.response, reject.data[16:20]) == (0x02, tag.to_bytes(4, "big"))
        assert await host.is_closed()
        assert portal.volume.data[:512] == bytes(512)


async def test_pdus_may_come_in_any_pieces(portal: Portal, host: RawInitiator) -> None:
    stream = b""
    for letter in (b"a", b"bb", b"ccc"):
        stream += host.encode(Op.NOP_OUT, data=letter)
    for start in range(0, len(stream), 7):
        host.send_bytes(stream[start : start + 7])
    answers = await host.receive_all(*[Op.NOP_IN] * 3)
    assert [answer.data for answer in answers] == [b"a", b"bb", b"ccc"]


async def test_reserved_fields_of_a_request_are_ignored(host: RawInitiator) -> None:
    host.send(
        Op.COMMAND,
        0x98,
        bytes_2_and_3=(0xFF, 0xFF),
        word_20=0,
        tail=TEST_UNIT_READY,
    )
    assert (await host.receive(Op.RESPONSE)).status == 0
    tag = host.send(Op.NOP_OUT, 0xFF, bytes_2_and_3=(0xFF, 0xFF), tail=b"\xff" * 16)
    assert (await host.receive(Op.NOP_IN)).itt == tag
