"""Text Requests and SendTargets (RFC 7143, 11.10, 11.11, 13.3, appendix C)."""

from __future__ import annotations

import pytest

from cstor_target.iscsi import directory
from tests.rfc7143.initiator import TARGET, Digests, RawInitiator
from tests.rfc7143.portal import OTHER_TARGET, Portal, node
from tests.rfc7143.wire import DISCOVERY, RESERVED, Op


@pytest.fixture
async def finder(portal: Portal, digests: Digests) -> RawInitiator:
    """A discovery session."""
    initiator = await portal.connect()
    await initiator.login(digests, **DISCOVERY)
    return initiator


def record(portal: Portal, name: str) -> list[tuple[str, str]]:
    """What is said of a node that is reached where the initiator came in."""
    host, port = portal.address
    return [("TargetName", name), ("TargetAddress", f"{host}:{port},1")]


async def test_all_targets_are_named_with_their_portals(
    portal: Portal, finder: RawInitiator
) -> None:
    portal.nodes.all_portals = (
        directory.Portal("127.0.0.1:3260"),
        directory.Portal("192.0.2.1:3260", 2),
        directory.Portal("[2001:db8::1]:860", 3),
    )
    tag = finder.ask({"SendTargets": "All"})
    answer = await finder.receive(Op.TEXT_RESPONSE)
    assert (answer.itt, answer.ttt, answer.flags) == (tag, RESERVED, 0x80)
    assert answer.pairs == [
        pair
        for name in (TARGET, OTHER_TARGET)
        for pair in (
            *record(portal, name),
            ("TargetAddress", "192.0.2.1:3260,2"),
            ("TargetAddress", "[2001:db8::1]:860,3"),
        )
    ]


async def test_one_target_is_asked_for_by_name(portal: Portal, finder: RawInitiator) -> None:
    finder.ask({"SendTargets": OTHER_TARGET})
    assert (await finder.receive(Op.TEXT_RESPONSE)).pairs == record(portal, OTHER_TARGET)
    finder.ask({"SendTargets": TARGET + "x"})
    answer = await finder.receive(Op.TEXT_RESPONSE)
    assert (answer.final, answer.data) == (True, b"")


async def test_the_empty_value_is_the_target_of_the_session(
    portal: Portal, host: RawInitiator, finder: RawInitiator
) -> None:
    host.ask({"SendTargets": ""})
    assert (await host.receive(Op.TEXT_RESPONSE)).pairs == record(portal, TARGET)
    finder.ask({"SendTargets": ""})
    assert (await finder.receive(Op.TEXT_RESPONSE)).pairs == [("SendTargets", "Reject")]


async def test_a_discovery_session_has_no_tasks(finder: RawInitiator) -> None:
    for op in (Op.COMMAND, Op.TASK_MANAGEMENT, Op.DATA_OUT):
        finder.send(op, immediate=op != Op.DATA_OUT)
        assert (await finder.receive(Op.REJECT)).response == 0x05
    await finder.hears_nothing()


async def test_an_empty_request_has_an_empty_answer(host: RawInitiator) -> None:
    tag = host.ask()
    answer = await host.receive(Op.TEXT_RESPONSE)
    assert (answer.itt, answer.flags, answer.ttt, answer.data) == (tag, 0x80, RESERVED, b"")


async def test_a_long_answer_comes_in_parts(portal: Portal, digests: Digests) -> None:
    names = [f"{TARGET}-{number}" for number in range(40)]
    portal.nodes.served[:] = [node(name, number) for number, name in enumerate(names)]
    initiator = await portal.connect()
    await initiator.login(digests, MaxRecvDataSegmentLength="512", **DISCOVERY)
    tag = initiator.ask({"SendTargets": "All"}, itt=70, lun=5 << 48)
    answer = await initiator.receive(Op.TEXT_RESPONSE)
    whole = answer.data
    while not answer.final:
        assert (answer.flags, answer.itt, answer.lun) == (0x40, tag, 5 << 48)
        assert answer.ttt != RESERVED
        assert len(answer.data) <= 512
        initiator.ask(ttt=answer.ttt, itt=tag, lun=answer.lun)
        answer = await initiator.receive(Op.TEXT_RESPONSE)
        whole += answer.data
    assert (answer.flags, answer.ttt) == (0x80, RESERVED)
    found = [item.removeprefix(b"TargetName=") for item in whole.split(b"\0")[:-1:2]]
    assert found == [name.encode() for name in names]


async def test_a_long_request_comes_in_parts(portal: Portal, finder: RawInitiator) -> None:
    tag = finder.ask(b"SendTar", flags=0x40)
    for rest, flags in ((b"gets=", 0x40), (b"All\0", 0x80)):
        answer = await finder.receive(Op.TEXT_RESPONSE)
        assert (answer.flags, answer.data, answer.itt) == (0, b"", tag)
        assert answer.ttt != RESERVED
        finder.ask(rest, flags=flags, ttt=answer.ttt, itt=tag)
    answer = await finder.receive(Op.TEXT_RESPONSE)
    assert answer.final
    assert answer.pairs == record(portal, TARGET) + record(portal, OTHER_TARGET)


async def test_a_negotiation_goes_on_while_the_initiator_is_not_done(host: RawInitiator) -> None:
    tag = host.ask({"X-a.first": "1"}, flags=0)
    answer = await host.receive(Op.TEXT_RESPONSE)
    assert (answer.flags, answer.keys) == (0, {"X-a.first": "NotUnderstood"})
    assert answer.ttt != RESERVED
    host.ask({"X-a.second": "1"}, ttt=answer.ttt, itt=tag)
    answer = await host.receive(Op.TEXT_RESPONSE)
    assert (answer.flags, answer.ttt) == (0x80, RESERVED)
    assert answer.keys == {"X-a.second": "NotUnderstood"}


async def test_the_reserved_tag_begins_anew(finder: RawInitiator) -> None:
    finder.ask(b"half of something", flags=0x40)
    await finder.receive(Op.TEXT_RESPONSE)
    finder.ask({"X-a.b": "1"})
    assert (await finder.receive(Op.TEXT_RESPONSE)).keys == {"X-a.b": "NotUnderstood"}


async def test_final_and_continue_exclude_each_other(finder: RawInitiator) -> None:
    finder.ask({"SendTargets": "All"}, flags=0xC0)
    assert (await finder.receive(Op.REJECT)).response == 0x09


@pytest.mark.parametrize("wrong", [b"NoEqualsSign\0", b"=1\0", b"\xff=1\0"])
async def test_what_is_no_text_is_a_protocol_error(host: RawInitiator, wrong: bytes) -> None:
    host.ask(wrong)
    reject = await host.receive(Op.REJECT)
    assert (reject.response, reject.exp_cmd_sn) == (0x04, host.cmd_sn - 1)
    host.cmd_sn -= 1
    host.ask()
    assert (await host.receive(Op.TEXT_RESPONSE)).final
