"""SCSI Command PDUs: LUNs, additional headers, flags (RFC 7143, 11.2.2, 11.3, 11.17)."""

from __future__ import annotations

import pytest

from tests.rfc7143.initiator import RawInitiator
from tests.rfc7143.portal import Portal
from tests.rfc7143.wire import INQUIRY, TEST_UNIT_READY, Op, read_10, write_10

INCORRECT_AMOUNT_OF_DATA = (0x0B, 0x0C, 0x0D)
INVALID_COMMAND_OPERATION_CODE = (5, 0x20, 0x00)
LOGICAL_UNIT_NOT_SUPPORTED = (5, 0x25, 0x00)
PERIPHERAL_1 = 0x0001 << 48
FLAT_0 = 0x4000 << 48
WRONG_LUNS = {
    "peripheral": PERIPHERAL_1,
    "peripheral-bus": 0x0100 << 48,
    "second-level": 0x0000_0001 << 32,
    "flat": 0x4001 << 48,
    "logical-unit": 0x8001 << 48,
    "extended-flat": 0xD200_0001 << 32,
    "well-known": 0xC101 << 48,
    "not-specified": 0xFFFF << 48,
}


@pytest.mark.parametrize("lun", [0, FLAT_0], ids=["peripheral", "flat"])
async def test_lun_0_is_reached_in_both_its_forms(host: RawInitiator, lun: int) -> None:
    host.command(TEST_UNIT_READY, lun=lun)
    assert (await host.receive(Op.RESPONSE)).status == 0
    host.command(write_10(3, 1), b"l" * 512, lun=lun)
    assert (await host.receive(Op.RESPONSE)).status == 0
    host.command(read_10(3, 1), reads=512, lun=lun)
    assert (await host.receive(Op.DATA_IN)).data == b"l" * 512


@pytest.mark.parametrize("lun", WRONG_LUNS.values(), ids=WRONG_LUNS)
async def test_a_lun_that_is_not_there_is_said_so(
    portal: Portal, host: RawInitiator, lun: int
) -> None:
    host.command(TEST_UNIT_READY, lun=lun)
    assert (await host.receive(Op.RESPONSE)).sense == LOGICAL_UNIT_NOT_SUPPORTED
    host.command(INQUIRY, reads=36, lun=lun)
    assert (await host.receive(Op.DATA_IN)).data[0] == 0x7F
    host.command(write_10(0, 1), b"x" * 512, lun=lun)
    assert (await host.receive(Op.RESPONSE)).sense == LOGICAL_UNIT_NOT_SUPPORTED
    assert portal.volume.data[:512] == bytes(512)


async def test_an_extended_cdb_is_taken(host: RawInitiator) -> None:
    variable = bytes((0x7F, 0, 0, 0, 0, 0, 0, 24)) + bytes(8)
    ahs = (17).to_bytes(2, "big") + bytes((1, 0)) + bytes(16)
    tag = host.command(variable, ahs=ahs)
    answer = await host.receive(Op.RESPONSE)
    assert (answer.itt, answer.sense) == (tag, INVALID_COMMAND_OPERATION_CODE)
    host.command(write_10(1, 1), b"a" * 512, ahs=ahs)
    assert (await host.receive(Op.RESPONSE)).status == 0
    host.command(read_10(1, 1), reads=512)
    assert (await host.receive(Op.DATA_IN)).data == b"a" * 512


@pytest.mark.parametrize(
    "ahs",
    [
        (5).to_bytes(2, "big") + bytes((2, 0)) + (512).to_bytes(4, "big"),
        (5).to_bytes(2, "big") + bytes((9, 0)) + bytes(4),
        (0).to_bytes(2, "big") + bytes((1, 0)),
        (17).to_bytes(2, "big") + bytes((1, 0)),
    ],
    ids=["bidirectional", "unknown", "empty", "longer-than-it-is"],
)
async def test_another_additional_header_is_rejected(host: RawInitiator, ahs: bytes) -> None:
    tag = host.command(TEST_UNIT_READY, ahs=ahs)
    reject = await host.receive(Op.REJECT)
    assert (reject.response, reject.data[16:20]) == (0x09, tag.to_bytes(4, "big"))
    host.cmd_sn -= 1
    host.command(TEST_UNIT_READY)
    assert (await host.receive(Op.RESPONSE)).status == 0


async def test_a_bidirectional_command_is_refused(host: RawInitiator) -> None:
    host.command(write_10(0, 1), b"b" * 512, reads=512)
    answer = await host.receive(Op.RESPONSE)
    assert answer.sense == INCORRECT_AMOUNT_OF_DATA
    assert answer.flags & 0x18 == 0


@pytest.mark.parametrize(("data", "final"), [(b"", False), (b"data", True)])
async def test_a_command_that_is_no_write_has_no_data(
    host: RawInitiator, data: bytes, final: bool
) -> None:
    flags = (0x80 if final else 0) | 0x40
    tag = host.send(Op.COMMAND, flags, data, word_20=512, tail=read_10(0, 1))
    reject = await host.receive(Op.REJECT)
    assert (reject.response, reject.data[16:20]) == (0x09, tag.to_bytes(4, "big"))
    host.cmd_sn -= 1
    assert reject.exp_cmd_sn == host.cmd_sn
    await host.hears_nothing()


@pytest.mark.parametrize("attribute", [0, 1], ids=["untagged", "simple"])
async def test_a_task_may_be_untagged_or_simple(host: RawInitiator, attribute: int) -> None:
    host.send(Op.COMMAND, 0x80 | attribute, word_20=0, tail=TEST_UNIT_READY)
    assert (await host.receive(Op.RESPONSE)).status == 0
