"""The login phase: stages, what is refused and how (RFC 7143, 6.3, 11.12, 11.13)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cstor_target.iscsi.limits import Limits
from tests.rfc7143.initiator import NAME, TARGET, Digests, RawInitiator
from tests.rfc7143.portal import Portal
from tests.rfc7143.wire import DISCOVERY, Op, text

WHO = {"InitiatorName": NAME, "TargetName": TARGET}


async def refused(portal: Portal, initiator: RawInitiator, status: int) -> None:
    """The next answer ends the login, and no session has come of it."""
    answer = await initiator.receive(Op.LOGIN_RESPONSE)
    assert answer.login_status == status
    assert not answer.final
    assert await initiator.is_closed()
    assert len(portal.server.sessions) == 0


async def test_a_login_leads_to_a_session_with_its_digests(
    portal: Portal, digests: Digests
) -> None:
    initiator = await portal.connect()
    answer = await initiator.login(digests)
    assert answer.keys["HeaderDigest"] == digests.keys["HeaderDigest"]
    assert answer.keys["DataDigest"] == digests.keys["DataDigest"]
    assert answer.keys["TargetPortalGroupTag"] == "1"
    assert answer.flags == 0x87
    assert answer.number(14, 2) != 0
    await initiator.settle()


async def test_stages_follow_each_other(portal: Portal, digests: Digests) -> None:
    initiator = await portal.connect()
    initiator.login_request(WHO | {"AuthMethod": "None"}, (0, 1))
    first = await initiator.receive(Op.LOGIN_RESPONSE)
    assert (first.flags, first.number(14, 2)) == (0x81, 0)
    assert first.keys == {"AuthMethod": "None", "TargetPortalGroupTag": "1"}
    initiator.login_request({"InitialR2T": "Yes"}, (1, 0), transit=False)
    second = await initiator.receive(Op.LOGIN_RESPONSE)
    assert (second.flags, second.number(14, 2)) == (0x04, 0)
    initiator.login_request(digests.keys, (1, 3))
    third = await initiator.receive(Op.LOGIN_RESPONSE)
    assert third.flags == 0x87
    initiator.logged_in(third, digests)
    await initiator.settle()


async def test_the_operational_stage_may_be_left_out(portal: Portal) -> None:
    initiator = await portal.connect()
    initiator.login_request(WHO | {"AuthMethod": "None"}, (0, 3))
    answer = await initiator.receive(Op.LOGIN_RESPONSE)
    assert (answer.login_status, answer.flags) == (0, 0x83)
    await initiator.settle()


async def test_a_stage_is_not_left_before_the_initiator_wants_to(portal: Portal) -> None:
    initiator = await portal.connect()
    for pairs in (WHO, {}, {"ImmediateData": "No"}):
        initiator.login_request(pairs, (1, 0), transit=False)
        assert not (await initiator.receive(Op.LOGIN_RESPONSE)).final
    initiator.login_request({}, (1, 3))
    assert (await initiator.receive(Op.LOGIN_RESPONSE)).final


async def test_text_may_be_cut_anywhere_with_the_c_bit(portal: Portal) -> None:
    initiator = await portal.connect()
    whole = text(WHO | {"InitialR2T": "No"})
    for cut in (7, 40):
        initiator.login_request(whole[:cut], (1, 0), transit=False, continues=True)
        answer = await initiator.receive(Op.LOGIN_RESPONSE)
        assert (answer.login_status, answer.flags & 0xC0, answer.data) == (0, 0, b"")
        whole = whole[cut:]
    initiator.login_request(whole, (1, 3))
    keys = (await initiator.receive(Op.LOGIN_RESPONSE)).keys
    assert (keys["InitialR2T"], keys["TargetPortalGroupTag"]) == ("No", "1")


async def test_the_first_command_carries_the_cmd_sn_of_the_login(portal: Portal) -> None:
    initiator = await portal.connect()
    initiator.cmd_sn = 0xFFFFFFFF
    answer = await initiator.login()
    assert answer.exp_cmd_sn == 0xFFFFFFFF
    await initiator.settle()
    assert (await initiator.hears_nothing()).exp_cmd_sn == 0


@pytest.mark.parametrize(
    ("pairs", "status"),
    [
        ({"TargetName": TARGET}, 0x0207),
        ({"InitiatorName": NAME}, 0x0207),
        ({"InitiatorName": "a host", "TargetName": TARGET}, 0x0200),
        ({"InitiatorName": NAME, "TargetName": TARGET + "x"}, 0x0203),
        (WHO | {"SessionType": "Sideways"}, 0x0209),
        (WHO | {"AuthMethod": "KRB5,SRP"}, 0x0201),
    ],
)
async def test_who_and_where_to_must_be_said(
    portal: Portal, pairs: dict[str, str], status: int
) -> None:
    initiator = await portal.connect()
    initiator.login_request(pairs, (0, 1))
    await refused(portal, initiator, status)


async def test_a_name_has_at_most_223_bytes(portal: Portal) -> None:
    initiator = await portal.connect()
    initiator.login_request(WHO | {"InitiatorName": NAME.ljust(224, "x")})
    await refused(portal, initiator, 0x0200)
    await (await portal.connect()).login(name=NAME.ljust(223, "x"))


async def test_who_is_kept_out_is_told_so(portal: Portal) -> None:
    portal.nodes.kept_out.add(NAME)
    initiator = await portal.connect()
    initiator.login_request(WHO)
    await refused(portal, initiator, 0x0202)


@pytest.mark.parametrize("versions", [(1, 1), (255, 2)])
async def test_a_version_that_is_not_ours_is_refused(
    portal: Portal, versions: tuple[int, int]
) -> None:
    initiator = await portal.connect()
    initiator.login_request(WHO, versions=versions)
    await refused(portal, initiator, 0x0205)


async def test_a_range_of_versions_that_has_ours_is_taken(portal: Portal) -> None:
    initiator = await portal.connect()
    initiator.login_request(WHO, versions=(7, 0))
    assert (await initiator.receive(Op.LOGIN_RESPONSE)).login_status == 0


@pytest.mark.parametrize("stages", [(0, 0), (1, 1), (1, 0), (0, 2), (1, 2), (2, 3), (3, 3)])
async def test_no_other_transit_is_taken(portal: Portal, stages: tuple[int, int]) -> None:
    initiator = await portal.connect()
    initiator.login_request(WHO, stages)
    await refused(portal, initiator, 0x0200)


async def test_transit_and_continue_exclude_each_other(portal: Portal) -> None:
    initiator = await portal.connect()
    initiator.login_request(WHO, continues=True)
    await refused(portal, initiator, 0x0200)


async def test_a_stage_is_not_gone_back_to(portal: Portal) -> None:
    initiator = await portal.connect()
    initiator.login_request(WHO, (0, 1))
    assert (await initiator.receive(Op.LOGIN_RESPONSE)).final
    initiator.login_request({}, (0, 1))
    await refused(portal, initiator, 0x0200)


def change_isid(initiator: RawInitiator) -> None:
    initiator.isid += 1


def change_tsih(initiator: RawInitiator) -> None:
    initiator.tsih = 9


def change_cid(initiator: RawInitiator) -> None:
    initiator.cid = 9


@pytest.mark.parametrize("change", [change_isid, change_tsih, change_cid])
async def test_what_identifies_a_login_stays(
    portal: Portal, change: Callable[[RawInitiator], None]
) -> None:
    initiator = await portal.connect()
    initiator.login_request(WHO, (1, 0), transit=False)
    await initiator.receive(Op.LOGIN_RESPONSE)
    isid = initiator.isid
    change(initiator)
    initiator.login_request({}, (1, 3))
    initiator.isid = isid
    await refused(portal, initiator, 0x0200)


async def test_a_key_that_comes_twice_ends_the_login(portal: Portal) -> None:
    for again in ("Yes", "No"):
        initiator = await portal.connect()
        initiator.login_request(WHO | {"InitialR2T": "Yes"}, (1, 0), transit=False)
        await initiator.receive(Op.LOGIN_RESPONSE)
        initiator.login_request({"InitialR2T": again}, (1, 3))
        await refused(portal, initiator, 0x0200)


@pytest.mark.parametrize("wrong", [b"NoEqualsSign\0", b"=Yes\0", b"\xff\xfe=Yes\0", b"Initial"])
async def test_what_is_no_text_ends_the_login(portal: Portal, wrong: bytes) -> None:
    initiator = await portal.connect()
    initiator.login_request(text(WHO) + wrong, (1, 3))
    await refused(portal, initiator, 0x0200)


@pytest.mark.parametrize("op", [Op.NOP_OUT, Op.COMMAND, Op.TEXT, Op.LOGOUT, Op.DATA_OUT, 0x1C])
async def test_before_the_login_anything_else_closes_the_connection(
    portal: Portal, op: int
) -> None:
    initiator = await portal.connect()
    initiator.send(op, immediate=True)
    assert await initiator.is_closed()


@pytest.mark.parametrize("op", [Op.NOP_OUT, Op.COMMAND, Op.TEXT, Op.LOGOUT, Op.DATA_OUT, 0x1C])
async def test_within_the_login_anything_else_is_refused(portal: Portal, op: int) -> None:
    initiator = await portal.connect()
    initiator.login_request(WHO, (1, 0), transit=False)
    await initiator.receive(Op.LOGIN_RESPONSE)
    initiator.send(op, immediate=True)
    await refused(portal, initiator, 0x020B)


async def test_a_target_whose_volume_does_not_open_is_not_available() -> None:
    portal = Portal(Limits(login_hold_s=0.0))
    await portal.listen()
    portal.nodes.served[0].ready = False
    initiator = await portal.connect()
    initiator.login_request(WHO)
    await refused(portal, initiator, 0x0301)
    await portal.server.drain(0)


async def test_more_sessions_than_there_is_room_for_are_refused() -> None:
    portal = Portal(Limits(sessions_max=1))
    await portal.listen()
    await (await portal.connect()).login()
    other = await portal.connect(isid=0x800000000002)
    other.login_request(WHO)
    assert (await other.receive(Op.LOGIN_RESPONSE)).login_status == 0x0302
    assert await other.is_closed()
    await portal.server.drain(0)


async def test_discovery_needs_no_target_name(portal: Portal, digests: Digests) -> None:
    initiator = await portal.connect()
    answer = await initiator.login(digests, **DISCOVERY)
    assert "TargetPortalGroupTag" not in answer.keys
    assert not (await initiator.hears_nothing()).data


async def test_names_are_the_same_in_capitals(portal: Portal) -> None:
    initiator = await portal.connect()
    await initiator.login(name=NAME.upper().replace("IQN", "iqn"), target=TARGET.upper())
    again = await portal.connect()
    await again.login()
    assert await initiator.is_closed()
    assert len(portal.server.sessions) == 1


async def test_a_data_segment_of_a_login_is_bounded_by_the_default(portal: Portal) -> None:
    initiator = await portal.connect()
    initiator.login_request(b"X-com.example.x=" + b"y" * 8192, (1, 0), transit=False)
    assert await initiator.is_closed()


async def test_a_second_login_on_a_connection_is_rejected(host: RawInitiator) -> None:
    host.login_request(WHO, itt=77)
    reject = await host.receive(Op.REJECT)
    assert reject.data[16:20] == (77).to_bytes(4, "big")
    await host.hears_nothing()
