"""Data-Out and R2T, solicited or not (RFC 7143, 4.2.5.2, 11.4.7.2, 11.7, 11.8, 13.10 to 13.19)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.rfc7143.initiator import Digests, RawInitiator
from tests.rfc7143.portal import Portal
from tests.rfc7143.wire import RESERVED, Op, Pdu, write_10

DATA = bytes(range(256)) * 8
SMALL = {"FirstBurstLength": "1024", "MaxBurstLength": "1024"}
GOOD = 0
UNEXPECTED_UNSOLICITED_DATA = (0x0B, 0x0C, 0x0C)
INCORRECT_AMOUNT_OF_DATA = (0x0B, 0x0C, 0x0D)
PROTOCOL_SERVICE_CRC_ERROR = (0x0B, 0x47, 0x05)


def answer_r2t(host: RawInitiator, r2t: Pdu, *, segment: int = 512) -> None:
    """Send what an R2T asks for, in Data-Out PDUs of `segment` bytes."""
    end = r2t.offset + r2t.residual
    for data_sn, offset in enumerate(range(r2t.offset, end, segment)):
        upto = min(offset + segment, end)
        host.data_out(
            r2t.itt,
            DATA[offset:upto],
            ttt=r2t.ttt,
            data_sn=data_sn,
            offset=offset,
            final=upto == end,
        )


async def finish_with_r2ts(host: RawInitiator, tag: int, offset: int) -> None:
    """Answer R2Ts, one by one, that go on from `offset`, up to the Response."""
    r2t_sn = 0
    while offset < len(DATA):
        r2t = await host.receive(Op.R2T)
        assert (r2t.itt, r2t.data_sn, r2t.offset) == (tag, r2t_sn, offset)
        assert r2t.residual == min(1024, len(DATA) - offset)
        assert r2t.ttt != RESERVED
        answer_r2t(host, r2t)
        offset += r2t.residual
        r2t_sn += 1
    response = await host.receive(Op.RESPONSE)
    assert (response.status, response.data_sn, response.itt) == (GOOD, r2t_sn, tag)


@pytest.mark.parametrize("immediate_data", ["Yes", "No"])
@pytest.mark.parametrize("initial_r2t", ["Yes", "No"])
async def test_a_write_uses_all_that_was_negotiated(
    portal: Portal, digests: Digests, initial_r2t: str, immediate_data: str
) -> None:
    keys = {"InitialR2T": initial_r2t, "ImmediateData": immediate_data, "MaxOutstandingR2T": "1"}
    host = await portal.host(digests, **SMALL, **keys)
    immediate = DATA[:512] if immediate_data == "Yes" else b""
    unsolicited = DATA[len(immediate) : 1024] if initial_r2t == "No" else b""
    tag = host.command(write_10(0, 4), immediate, writes=len(DATA), final=not unsolicited)
    if unsolicited:
        host.data_out(tag, unsolicited, offset=len(immediate))
    await finish_with_r2ts(host, tag, len(immediate) + len(unsolicited))
    assert portal.volume.data[:2048] == DATA


@pytest.mark.parametrize("immediate_data", ["Yes", "No"])
async def test_unsolicited_data_is_refused_where_initial_r2t_is_yes(
    portal: Portal, digests: Digests, immediate_data: str
) -> None:
    host = await portal.host(digests, InitialR2T="Yes", ImmediateData=immediate_data)
    tag = host.command(write_10(0, 1), writes=512, final=False)
    await host.hears_nothing()
    host.data_out(tag, DATA[:512])
    assert (await host.receive(Op.RESPONSE)).sense == UNEXPECTED_UNSOLICITED_DATA


@pytest.mark.parametrize("initial_r2t", ["Yes", "No"])
async def test_immediate_data_is_refused_where_it_was_not_agreed(
    portal: Portal, digests: Digests, initial_r2t: str
) -> None:
    host = await portal.host(digests, InitialR2T=initial_r2t, ImmediateData="No")
    host.command(write_10(0, 1), DATA[:512])
    assert (await host.receive(Op.RESPONSE)).sense == UNEXPECTED_UNSOLICITED_DATA
    assert portal.volume.data[:512] == bytes(512)


@pytest.mark.parametrize("size", [512, 1536])
async def test_unsolicited_data_is_the_first_burst_and_neither_more_nor_less(
    portal: Portal, digests: Digests, size: int
) -> None:
    host = await portal.host(digests, InitialR2T="No", **SMALL)
    tag = host.command(write_10(0, 4), writes=2048, final=False)
    host.data_out(tag, DATA[:size])
    assert (await host.receive(Op.RESPONSE)).sense == INCORRECT_AMOUNT_OF_DATA


async def test_immediate_data_is_bounded_by_the_first_burst(
    portal: Portal, digests: Digests
) -> None:
    host = await portal.host(digests, **SMALL)
    host.command(write_10(0, 4), DATA[:1536], writes=2048)
    assert (await host.receive(Op.RESPONSE)).sense == INCORRECT_AMOUNT_OF_DATA


async def test_less_immediate_data_than_allowed_is_gone_on_from(
    portal: Portal, digests: Digests
) -> None:
    host = await portal.host(digests, InitialR2T="No", **SMALL, MaxOutstandingR2T="1")
    tag = host.command(write_10(0, 4), DATA[:100], writes=2048)
    await finish_with_r2ts(host, tag, 100)
    assert portal.volume.data[:2048] == DATA


async def test_as_many_r2ts_are_out_as_were_agreed_and_no_more(
    portal: Portal, digests: Digests
) -> None:
    host = await portal.host(digests, MaxBurstLength="512", MaxOutstandingR2T="2")
    host.command(write_10(0, 4), writes=2048, lun=0x4000 << 48)
    first, second = await host.receive_all(Op.R2T, Op.R2T)
    await host.hears_nothing()
    assert [r2t.lun for r2t in (first, second)] == [0x4000 << 48] * 2
    assert first.ttt != second.ttt
    answer_r2t(host, first)
    third = await host.receive(Op.R2T)
    await host.hears_nothing()
    assert [r2t.data_sn for r2t in (first, second, third)] == [0, 1, 2]
    assert [r2t.offset for r2t in (first, second, third)] == [0, 512, 1024]
    answer_r2t(host, second)
    answer_r2t(host, third)
    answer_r2t(host, await host.receive(Op.R2T))
    response = await host.receive(Op.RESPONSE)
    assert (response.status, response.data_sn) == (GOOD, 4)


async def test_sequences_come_in_order(portal: Portal, digests: Digests) -> None:
    host = await portal.host(digests, MaxBurstLength="512", MaxOutstandingR2T="2")
    host.command(write_10(0, 2), writes=1024)
    first, second = await host.receive_all(Op.R2T, Op.R2T)
    answer_r2t(host, second)
    await host.hears_nothing()
    answer_r2t(host, first)
    assert (await host.receive(Op.RESPONSE)).sense[0] == 0x0B
    assert portal.volume.data[:1024] == bytes(1024)


@pytest.mark.parametrize(("data_sn", "offset"), [(1, 256), (2, 256), (0, 256), (1, 0), (1, 512)])
async def test_pdus_of_a_sequence_come_in_order_and_without_gaps(
    host: RawInitiator, data_sn: int, offset: int
) -> None:
    tag = host.command(write_10(0, 1), writes=512)
    ttt = (await host.receive(Op.R2T)).ttt
    host.data_out(tag, DATA[:256], ttt=ttt, final=False)
    host.data_out(tag, DATA[256:512], ttt=ttt, data_sn=data_sn, offset=offset)
    response = await host.receive(Op.RESPONSE)
    if (data_sn, offset) == (1, 256):
        assert response.status == GOOD
    else:
        assert response.sense == PROTOCOL_SERVICE_CRC_ERROR


async def test_data_sn_begins_anew_with_each_r2t(portal: Portal, digests: Digests) -> None:
    host = await portal.host(digests, MaxBurstLength="1024", MaxOutstandingR2T="1")
    host.command(write_10(0, 4), writes=2048)
    for _ in range(2):
        answer_r2t(host, await host.receive(Op.R2T), segment=256)
    assert (await host.receive(Op.RESPONSE)).status == GOOD
    assert portal.volume.data[:2048] == DATA


async def test_empty_data_segments_are_taken(portal: Portal, host: RawInitiator) -> None:
    tag = host.command(write_10(0, 1), writes=512)
    ttt = (await host.receive(Op.R2T)).ttt
    host.data_out(tag, b"", ttt=ttt, final=False)
    host.data_out(tag, DATA[:512], ttt=ttt, data_sn=1, final=False)
    host.data_out(tag, b"", ttt=ttt, data_sn=2, offset=512)
    assert (await host.receive(Op.RESPONSE)).status == GOOD
    assert portal.volume.data[:512] == DATA[:512]


async def test_segments_that_are_padded_are_taken(portal: Portal, host: RawInitiator) -> None:
    tag = host.command(write_10(0, 1), writes=512)
    ttt = (await host.receive(Op.R2T)).ttt
    cuts = (0, 1, 6, 13, 512)
    for data_sn, (start, end) in enumerate(pairwise(cuts)):
        host.data_out(
            tag, DATA[start:end], ttt=ttt, data_sn=data_sn, offset=start, final=end == 512
        )
    assert (await host.receive(Op.RESPONSE)).status == GOOD
    assert portal.volume.data[:512] == DATA[:512]


@pytest.mark.parametrize("size", [256, 768])
async def test_an_r2t_is_answered_with_what_it_asks_for(host: RawInitiator, size: int) -> None:
    tag = host.command(write_10(0, 1), writes=512)
    ttt = (await host.receive(Op.R2T)).ttt
    host.data_out(tag, DATA[:size], ttt=ttt)
    assert (await host.receive(Op.RESPONSE)).sense == INCORRECT_AMOUNT_OF_DATA


async def test_the_response_waits_for_the_last_data_that_is_expected(
    portal: Portal, digests: Digests
) -> None:
    host = await portal.host(digests, MaxBurstLength="512", MaxOutstandingR2T="2")
    host.command(write_10(0, 4), writes=2048)
    first, second = await host.receive_all(Op.R2T, Op.R2T)
    host.data_out(first.itt, DATA[:512], ttt=first.ttt, data_sn=7)
    await host.hears_nothing()
    host.data_out(second.itt, DATA[512:768], ttt=second.ttt, offset=512, final=False)
    await host.hears_nothing()
    host.data_out(second.itt, DATA[768:1024], ttt=second.ttt, data_sn=1, offset=768)
    assert (await host.receive(Op.RESPONSE)).sense == PROTOCOL_SERVICE_CRC_ERROR
    await host.hears_nothing()


async def test_data_for_a_transfer_that_is_not_known_is_dropped(host: RawInitiator) -> None:
    tag = host.command(write_10(0, 1), writes=512)
    r2t = await host.receive(Op.R2T)
    host.data_out(0x7777, DATA[:512], ttt=r2t.ttt)
    await host.hears_nothing()
    host.data_out(tag, DATA[:512], ttt=r2t.ttt)
    assert (await host.receive(Op.RESPONSE)).status == GOOD


async def test_a_wrong_data_digest_of_a_data_out_ends_its_task(portal: Portal) -> None:
    host = await portal.host(Digests(header=True, data=True))
    tag = host.command(write_10(0, 1), writes=512)
    ttt = (await host.receive(Op.R2T)).ttt
    host.data_out(tag, DATA[:256], ttt=ttt, final=False, flip="data")
    reject = await host.receive(Op.REJECT)
    assert (reject.response, reject.data[16:20]) == (0x02, tag.to_bytes(4, "big"))
    await host.hears_nothing()
    host.data_out(tag, DATA[256:512], ttt=ttt, data_sn=1, offset=256)
    assert (await host.receive(Op.RESPONSE)).sense == PROTOCOL_SERVICE_CRC_ERROR
    host.command(write_10(0, 1), DATA[:512])
    assert (await host.receive(Op.RESPONSE)).status == GOOD
