"""Data-In, status, residuals and sense data (RFC 7143, 4.2.5.2, 11.4, 11.7)."""

from __future__ import annotations

import pytest

from cstor_target.volume.backing import Failure
from tests.rfc7143.initiator import Digests, RawInitiator
from tests.rfc7143.portal import Portal
from tests.rfc7143.wire import INQUIRY, TEST_UNIT_READY, Op, read_10, write_10

FINAL, OVERFLOW, UNDERFLOW, STATUS = 0x80, 0x04, 0x02, 0x01
DATA = bytes(range(256)) * 8


async def test_a_read_that_fits_is_one_pdu_with_its_status(
    portal: Portal, host: RawInitiator
) -> None:
    portal.volume.data[:512] = DATA[:512]
    tag = host.command(read_10(0, 1), reads=512)
    answer = await host.receive(Op.DATA_IN)
    assert (answer.itt, answer.flags, answer.status) == (tag, FINAL | STATUS, 0)
    assert (answer.data_sn, answer.offset, answer.residual) == (0, 0, 0)
    assert answer.data == DATA[:512]
    await host.hears_nothing()


async def test_a_read_is_cut_by_segments_and_bursts(portal: Portal, digests: Digests) -> None:
    keys = {"MaxRecvDataSegmentLength": "512", "MaxBurstLength": "1024"}
    host = await portal.host(digests, **keys)
    portal.volume.data[: len(DATA)] = DATA
    host.command(read_10(0, 4), reads=2048)
    answers = await host.receive_all(*[Op.DATA_IN] * 4)
    assert [answer.flags for answer in answers] == [0, FINAL, 0, FINAL | STATUS]
    assert [answer.data_sn for answer in answers] == [0, 1, 2, 3]
    assert [answer.offset for answer in answers] == [0, 512, 1024, 1536]
    assert b"".join(answer.data for answer in answers) == DATA
    await host.hears_nothing()


async def test_a_burst_that_segments_do_not_fill_is_not_exceeded(
    portal: Portal, digests: Digests
) -> None:
    keys = {"MaxRecvDataSegmentLength": "1000", "MaxBurstLength": "1500"}
    host = await portal.host(digests, **keys)
    portal.volume.data[: len(DATA)] = DATA
    host.command(read_10(0, 4), reads=2048)
    answers = await host.receive_all(*[Op.DATA_IN] * 3)
    assert [len(answer.data) for answer in answers] == [1000, 500, 548]
    assert [answer.flags for answer in answers] == [0, FINAL, FINAL | STATUS]
    assert b"".join(answer.data for answer in answers) == DATA


async def test_a_segment_length_that_is_declared_anew_holds(host: RawInitiator) -> None:
    host.ask({"MaxRecvDataSegmentLength": "512"})
    assert (await host.receive(Op.TEXT_RESPONSE)).data == b""
    host.command(read_10(0, 2), reads=1024)
    answers = await host.receive_all(Op.DATA_IN, Op.DATA_IN)
    assert [len(answer.data) for answer in answers] == [512, 512]


@pytest.mark.parametrize(
    ("expected", "flag", "residual"), [(2000, UNDERFLOW, 976), (700, OVERFLOW, 324)]
)
async def test_the_residual_of_a_read(
    host: RawInitiator, expected: int, flag: int, residual: int
) -> None:
    host.command(read_10(0, 2), reads=expected)
    answer = await host.receive(Op.DATA_IN)
    assert answer.flags == FINAL | STATUS | flag
    assert (answer.residual, len(answer.data)) == (residual, min(expected, 1024))


async def test_a_read_without_room_is_all_overflow(host: RawInitiator) -> None:
    host.command(read_10(0, 1), reads=0)
    answer = await host.receive(Op.RESPONSE)
    assert (answer.flags, answer.residual) == (FINAL | OVERFLOW, 512)


async def test_a_command_that_gives_no_data_is_all_underflow(host: RawInitiator) -> None:
    host.command(TEST_UNIT_READY, reads=512)
    answer = await host.receive(Op.RESPONSE)
    assert (answer.flags, answer.residual, answer.data_sn) == (FINAL | UNDERFLOW, 512, 0)


@pytest.mark.parametrize(
    ("blocks", "sent", "flag", "residual"), [(1, 1024, UNDERFLOW, 512), (2, 512, OVERFLOW, 512)]
)
async def test_the_residual_of_a_write(
    host: RawInitiator, blocks: int, sent: int, flag: int, residual: int
) -> None:
    host.command(write_10(0, blocks), DATA[:sent])
    answer = await host.receive(Op.RESPONSE)
    assert (answer.flags, answer.residual) == (FINAL | flag, residual)


async def test_data_of_any_length_is_padded(host: RawInitiator) -> None:
    for length in (5, 6, 7, 8):
        host.command(INQUIRY[:4] + bytes((length, 0)), reads=length)
        answer = await host.receive(Op.DATA_IN)
        assert (len(answer.data), answer.flags) == (length, FINAL | STATUS)


async def test_a_check_condition_comes_in_a_response_with_its_sense(
    portal: Portal, host: RawInitiator
) -> None:
    portal.volume.is_holding = True
    tag = host.command(read_10(0, 1), reads=512)
    await portal.until_held(1)
    portal.volume.end(Failure.MEDIUM_ERROR)
    answer = await host.receive(Op.RESPONSE)
    assert (answer.itt, answer.response, answer.status, answer.data_sn) == (tag, 0, 2, 0)
    assert answer.sense[0] == 3
    assert answer.flags & 0x18 == 0


async def test_a_status_without_sense_is_a_bare_response(
    portal: Portal, host: RawInitiator
) -> None:
    portal.volume.is_holding = True
    host.command(write_10(0, 1), DATA[:512])
    await portal.until_held(1)
    portal.volume.end(Failure.BUSY)
    answer = await host.receive(Op.RESPONSE)
    assert (answer.status, answer.data, answer.flags) == (8, b"", FINAL)


async def test_answers_come_as_commands_end(portal: Portal, host: RawInitiator) -> None:
    portal.volume.is_holding = True
    tags = [host.command(read_10(lba, 1), reads=512) for lba in range(3)]
    await portal.until_held(3)
    for place in (2, 0, 0):
        portal.volume.pending.pop(place)(None)
    answers = await host.receive_all(*[Op.DATA_IN] * 3)
    assert [answer.itt for answer in answers] == [tags[2], tags[0], tags[1]]
