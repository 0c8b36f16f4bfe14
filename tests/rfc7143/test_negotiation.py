"""Text keys over the wire: what each offer leads to (RFC 7143, 6.1, 6.2, 6.4, chapter 13)."""

from __future__ import annotations

import pytest

from tests.rfc7143.initiator import NAME, TARGET, Digests, RawInitiator
from tests.rfc7143.portal import Portal
from tests.rfc7143.wire import DISCOVERY, Op

WHO = {"InitiatorName": NAME, "TargetName": TARGET}


async def answer_to(portal: Portal, pairs: dict[str, str]) -> dict[str, str]:
    """What the operational stage answers to these keys, without what it always says."""
    initiator = await portal.connect()
    initiator.login_request(pairs, (1, 0), transit=False)
    answer = await initiator.receive(Op.LOGIN_RESPONSE)
    assert answer.login_status == 0
    initiator.hang_up()
    always = ("MaxRecvDataSegmentLength", "TargetPortalGroupTag")
    return {key: value for key, value in answer.keys.items() if key not in always}


@pytest.mark.parametrize(
    ("key", "offer", "result"),
    [
        ("HeaderDigest", "None", "None"),
        ("HeaderDigest", "CRC32C", "CRC32C"),
        ("HeaderDigest", "None,CRC32C", "None"),
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("HeaderDigest", "Z-other,CRC32C", "CRC32C"),
        ("HeaderDigest", "Z-other", "Reject"),
        ("DataDigest", "Z-other,None,CRC32C", "None"),
        ("DataDigest", "crc32c", "Reject"),
        ("TaskReporting", "FastAbort,ResponseFence,RFC3720", "RFC3720"),
        ("TaskReporting", "FastAbort", "Reject"),
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "No", "No"),
        ("ImmediateData", "Yes", "Yes"),
        ("ImmediateData", "No", "No"),
        ("DataPDUInOrder", "Yes", "Yes"),
        ("DataPDUInOrder", "No", "Yes"),
        ("DataSequenceInOrder", "Yes", "Yes"),
        ("DataSequenceInOrder", "No", "Yes"),
        ("MaxConnections", "1", "1"),
        ("MaxConnections", "65535", "1"),
        ("MaxBurstLength", "512", "512"),
        ("MaxBurstLength", "16777215", "1048576"),
        ("FirstBurstLength", "512", "512"),
        ("FirstBurstLength", "16777215", "262144"),
        ("DefaultTime2Wait", "0", "0"),
        ("DefaultTime2Wait", "3600", "3600"),
        ("DefaultTime2Retain", "3600", "0"),
        ("MaxOutstandingR2T", "65535", "8"),
        ("MaxOutstandingR2T", "3", "3"),
        ("ErrorRecoveryLevel", "0", "0"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("iSCSIProtocolLevel", "31", "1"),
        ("iSCSIProtocolLevel", "0", "0"),
    ],
)
async def test_a_result_is_what_the_rule_of_the_key_makes_of_both(
    portal: Portal, key: str, offer: str, result: str
) -> None:
    assert await answer_to(portal, WHO | {key: offer}) == {key: result}


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("InitialR2T", ("yes", "No,Yes", "1", "")),
        ("ImmediateData", ("YES", "True", "")),
        ("DataPDUInOrder", ("Maybe", "")),
        ("DataSequenceInOrder", ("Maybe", "")),
        ("MaxConnections", ("0", "65536", "1,2", "")),
        ("MaxBurstLength", ("511", "16777216", "-512", "64K", "0x", "")),
        ("FirstBurstLength", ("511", "16777216", "0b512", " 512", "")),
        ("DefaultTime2Wait", ("3601", "two", "")),
        ("DefaultTime2Retain", ("3601", "0x1Z", "")),
        ("MaxOutstandingR2T", ("0", "65536", "")),
        ("ErrorRecoveryLevel", ("3", "")),
        ("iSCSIProtocolLevel", ("32", "")),
        ("HeaderDigest", ("",)),
        ("DataDigest", ("",)),
    ],
)
async def test_what_is_not_a_value_of_the_key_is_rejected(
    portal: Portal, key: str, wrong: tuple[str, ...]
) -> None:
    for value in wrong:
        assert await answer_to(portal, WHO | {key: value}) == {key: "Reject"}, value


@pytest.mark.parametrize("value", ["0x1000", "0X1000", "0x00000000000000001000", "4096"])
async def test_numbers_come_in_decimal_and_in_hexadecimal(portal: Portal, value: str) -> None:
    assert await answer_to(portal, WHO | {"MaxBurstLength": value}) == {"MaxBurstLength": "4096"}


async def test_a_key_that_is_rejected_keeps_its_default(portal: Portal, digests: Digests) -> None:
    host = await portal.host(digests, MaxOutstandingR2T="0", MaxBurstLength="65536")
    host.command(b"\x2a" + bytes(6) + b"\x01\x00\x00", writes=131072)
    assert (await host.receive(Op.R2T)).residual == 65536
    await host.hears_nothing()


@pytest.mark.parametrize(
    "key", ["X-com.example.speed", "X#NodeArchitecture", "NoSuchKey", "Z" * 63]
)
async def test_a_key_that_is_not_known_is_answered_so(portal: Portal, key: str) -> None:
    assert await answer_to(portal, WHO | {key: "1"}) == {key: "NotUnderstood"}


async def test_a_key_that_is_too_long_ends_the_login(portal: Portal) -> None:
    initiator = await portal.connect()
    initiator.login_request(WHO | {"Z" * 64: "1"})
    assert (await initiator.receive(Op.LOGIN_RESPONSE)).login_status == 0x0200


@pytest.mark.parametrize("value", ["NotUnderstood", "Irrelevant", "Reject"])
async def test_what_only_an_answer_says_is_not_answered(portal: Portal, value: str) -> None:
    assert await answer_to(portal, WHO | {"MaxBurstLength": value, "X-a.b": value}) == {}


@pytest.mark.parametrize(
    "key", ["TargetAlias", "TargetAddress", "TargetPortalGroupTag", "SendTargets"]
)
async def test_a_key_that_is_not_for_the_initiator_now_is_rejected(
    portal: Portal, key: str
) -> None:
    initiator = await portal.connect()
    initiator.login_request(WHO | {key: "1"}, (1, 0), transit=False)
    assert (key, "Reject") in (await initiator.receive(Op.LOGIN_RESPONSE)).pairs


@pytest.mark.parametrize(
    ("key", "offer", "result"),
    [
        ("IFMarker", "Yes", "No"),
        ("OFMarker", "Yes", "No"),
        ("IFMarker", "No", "No"),
        ("OFMarker", "No", "No"),
        ("IFMarkInt", "2048~8192", "Reject"),
        ("OFMarkInt", "2048~8192", "Reject"),
    ],
)
async def test_markers_are_not_to_be_had(portal: Portal, key: str, offer: str, result: str) -> None:
    assert await answer_to(portal, WHO | {key: offer}) == {key: result}


@pytest.mark.parametrize(
    "key",
    [
        "MaxConnections",
        "InitialR2T",
        "ImmediateData",
        "MaxBurstLength",
        "FirstBurstLength",
        "MaxOutstandingR2T",
        "DataPDUInOrder",
        "DataSequenceInOrder",
        "TaskReporting",
        "iSCSIProtocolLevel",
    ],
)
async def test_in_discovery_such_a_key_is_irrelevant(portal: Portal, key: str) -> None:
    pairs = {"InitiatorName": NAME, key: "1"} | DISCOVERY
    assert await answer_to(portal, pairs) == {key: "Irrelevant"}


async def test_a_discovery_session_has_error_recovery_level_0(portal: Portal) -> None:
    pairs = {"InitiatorName": NAME, "ErrorRecoveryLevel": "2"} | DISCOVERY
    assert await answer_to(portal, pairs) == {"ErrorRecoveryLevel": "0"}


async def test_the_order_of_keys_does_not_matter(portal: Portal) -> None:
    pairs = {"FirstBurstLength": "65536", "MaxBurstLength": "4096", **WHO}
    assert await answer_to(portal, pairs) == {"MaxBurstLength": "4096", "FirstBurstLength": "4096"}


async def test_declarations_are_not_answered(portal: Portal) -> None:
    pairs = WHO | {"InitiatorAlias": "", "MaxRecvDataSegmentLength": "0x200"}
    assert await answer_to(portal, pairs) == {}


@pytest.mark.parametrize("wrong", ["511", "16777216", "", "many"])
async def test_a_wrong_declaration_is_rejected(portal: Portal, wrong: str) -> None:
    initiator = await portal.connect()
    pairs = WHO | {"MaxRecvDataSegmentLength": wrong}
    initiator.login_request(pairs, (1, 0), transit=False)
    answer = await initiator.receive(Op.LOGIN_RESPONSE)
    assert ("MaxRecvDataSegmentLength", "Reject") in answer.pairs


async def test_what_the_target_takes_is_declared_and_holds(
    portal: Portal, host: RawInitiator
) -> None:
    initiator = await portal.connect(isid=2)
    initiator.login_request(WHO)
    declared = (await initiator.receive(Op.LOGIN_RESPONSE)).keys["MaxRecvDataSegmentLength"]
    size = int(declared)
    tag = host.send(Op.NOP_OUT, data=b"p" * size, immediate=True)
    answer = await host.receive(Op.NOP_IN)
    assert (answer.itt, len(answer.data)) == (tag, 8192)
    host.send(Op.NOP_OUT, data=b"p" * (size + 1), immediate=True)
    assert await host.is_closed()


async def test_a_reinstated_connection_does_not_negotiate_the_session_anew(
    portal: Portal, digests: Digests
) -> None:
    host = await portal.host(digests, InitialR2T="No")
    again = await portal.connect()
    again.tsih, again.cmd_sn = host.tsih, host.cmd_sn
    again.login_request(WHO | digests.keys | {"InitialR2T": "Yes", "MaxBurstLength": "512"})
    answer = await again.receive(Op.LOGIN_RESPONSE)
    assert (answer.login_status, answer.keys["InitialR2T"]) == (0, "Reject")
    assert answer.keys["MaxBurstLength"] == "Reject"
    again.logged_in(answer, digests)
    tag = again.command(b"\x2a" + bytes(7) + b"\x01", writes=512, final=False)
    again.data_out(tag, b"d" * 512)
    assert (await again.receive(Op.RESPONSE)).status == 0


async def test_after_the_login_only_declarations_are_taken(host: RawInitiator) -> None:
    host.ask({"HeaderDigest": "None", "InitialR2T": "No", "X-a.b": "1"})
    answer = await host.receive(Op.TEXT_RESPONSE)
    assert answer.keys == {
        "HeaderDigest": "Reject",
        "InitialR2T": "Reject",
        "X-a.b": "NotUnderstood",
    }


async def test_a_key_that_comes_twice_in_one_negotiation_is_rejected(host: RawInitiator) -> None:
    twice = b"MaxRecvDataSegmentLength=512\0MaxRecvDataSegmentLength=512\0"
    host.ask(twice)
    assert (await host.receive(Op.REJECT)).response == 0x04
    host.cmd_sn -= 1
    host.ask({"MaxRecvDataSegmentLength": "512"}, flags=0)
    ttt = (await host.receive(Op.TEXT_RESPONSE)).ttt
    host.ask({"MaxRecvDataSegmentLength": "1024"}, ttt=ttt)
    assert (await host.receive(Op.REJECT)).response == 0x04
    host.cmd_sn -= 1
    host.ask({"MaxRecvDataSegmentLength": "1024"})
    assert (await host.receive(Op.TEXT_RESPONSE)).final
