"""ISID, TSIH and CID: which session a login means (RFC 7143, 4.4.3, 6.3.1, 6.3.4, 6.3.5)."""

from __future__ import annotations

import pytest

from tests.rfc7143.initiator import NAME, TARGET, Digests, RawInitiator
from tests.rfc7143.portal import OTHER_TARGET, Portal
from tests.rfc7143.wire import DISCOVERY, TEST_UNIT_READY, Op, read_10, write_10

WHO = {"InitiatorName": NAME, "TargetName": TARGET}
COMMANDS_CLEARED_BY_ISCSI_PROTOCOL_EVENT = (6, 0x47, 0x7F)


async def test_a_login_with_the_same_isid_takes_the_place_of_the_session(
    portal: Portal, host: RawInitiator, digests: Digests
) -> None:
    portal.volume.is_holding = True
    host.command(read_10(0, 1), reads=512)
    await portal.until_held(1)
    again = await portal.connect()
    answer = await again.login(digests)
    assert await host.is_closed()
    assert len(portal.server.sessions) == 1
    assert answer.exp_cmd_sn == again.cmd_sn
    assert again.tsih != host.tsih
    portal.volume.let_go()
    await again.settle()


@pytest.mark.parametrize(
    ("name", "isid", "target"),
    [
        (NAME, 0x800000000002, TARGET),
        (NAME + "-other", 0x800000000001, TARGET),
        (NAME, 0x800000000001, OTHER_TARGET),
    ],
)
async def test_another_port_or_target_is_another_session(
    portal: Portal, host: RawInitiator, name: str, isid: int, target: str
) -> None:
    other = await portal.connect(isid)
    await other.login(name=name, target=target)
    assert other.tsih not in (0, host.tsih)
    assert len(portal.server.sessions) == 2
    await host.hears_nothing()


async def test_a_discovery_session_is_not_the_one_to_the_target(
    portal: Portal, host: RawInitiator
) -> None:
    await (await portal.connect()).login(**DISCOVERY)
    assert len(portal.server.sessions) == 2
    await host.hears_nothing()


async def test_a_discovery_session_is_reinstated_too(portal: Portal, digests: Digests) -> None:
    first = await portal.connect()
    await first.login(digests, **DISCOVERY)
    await (await portal.connect()).login(digests, **DISCOVERY)
    assert await first.is_closed()
    assert len(portal.server.sessions) == 1


async def test_the_same_tsih_and_cid_take_the_place_of_the_connection(
    portal: Portal, host: RawInitiator, digests: Digests
) -> None:
    again = await portal.connect()
    again.tsih, again.cmd_sn = host.tsih, host.cmd_sn
    answer = await again.login(digests)
    assert await host.is_closed()
    assert (again.tsih, answer.exp_cmd_sn) == (host.tsih, host.cmd_sn)
    assert len(portal.server.sessions) == 1
    again.command(TEST_UNIT_READY)
    assert (await again.receive(Op.RESPONSE)).status == 0


async def test_tasks_of_a_lost_connection_are_ended_and_the_nexus_is_told(
    portal: Portal, host: RawInitiator, digests: Digests
) -> None:
    portal.volume.is_holding = True
    host.command(write_10(0, 1), b"w" * 512)
    await portal.until_held(1)
    again = await portal.connect()
    again.tsih, again.cmd_sn = host.tsih, host.cmd_sn
    told = await again.login(digests)
    assert await host.is_closed()
    portal.volume.let_go()
    assert (await again.receive(Op.NOP_IN)).max_cmd_sn == told.max_cmd_sn + 1
    again.command(TEST_UNIT_READY)
    answer = await again.receive(Op.RESPONSE)
    assert answer.sense == COMMANDS_CLEARED_BY_ISCSI_PROTOCOL_EVENT
    again.command(TEST_UNIT_READY)
    assert (await again.receive(Op.RESPONSE)).status == 0


async def test_a_second_connection_is_too_many(portal: Portal, host: RawInitiator) -> None:
    second = await portal.connect()
    second.tsih, second.cid = host.tsih, 1
    second.login_request(WHO)
    assert (await second.receive(Op.LOGIN_RESPONSE)).login_status == 0x0206
    assert await second.is_closed()
    await host.hears_nothing()


@pytest.mark.parametrize(("isid", "tsih"), [(0, 1), (1, 0)])
async def test_a_session_that_is_not_there_is_not_joined(
    portal: Portal, host: RawInitiator, isid: int, tsih: int
) -> None:
    stranger = await portal.connect(host.isid + isid)
    stranger.tsih = host.tsih + tsih
    stranger.login_request(WHO)
    assert (await stranger.receive(Op.LOGIN_RESPONSE)).login_status == 0x020A
    assert await stranger.is_closed()
    await host.hears_nothing()


async def test_a_session_ends_with_its_connection(portal: Portal, host: RawInitiator) -> None:
    host.hang_up()
    await portal.until(lambda: not len(portal.server.sessions))
    again = await portal.connect()
    again.tsih = host.tsih
    again.login_request(WHO)
    assert (await again.receive(Op.LOGIN_RESPONSE)).login_status == 0x020A
