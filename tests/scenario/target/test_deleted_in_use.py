"""A volume is deleted while a write to it waits for the data that its R2T asked for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from cstor_core.settings import parse_address
from cstor_target.iscsi.constants import AsyncEvent, LoginStatus
from tests.rfc7143.initiator import NAME, RawInitiator
from tests.rfc7143.wire import RESERVED, Op, Pdu, read_10, write_10
from tests.scenario.target.daemon import Target, until
from tests.scenario.target.test_clones import IQN
from tests.scenario.target.test_forced import cstor
from tests.scenario.target.test_one_process import found, is_ready, with_pool

BLOCKS = 16
BYTES = BLOCKS * 512
HALF = BYTES // 2


def serving_two(directory: Path, target: Target) -> dict[str, str]:
    """Let that process serve vol1 and a clone of it; where it answers."""
    facts = target.ready()
    found(facts["replica_grpc"])
    until(lambda: is_ready(facts))
    at = ("--target", facts["control"])
    cstor("snapshot", "create", "s", *at)
    cstor("clone", "s", "copy", *at)
    until(lambda: names(facts) == {"vol1": "healthy", "copy": "healthy"})
    return facts


def names(facts: dict[str, str]) -> dict[str, str]:
    """The volumes that are served, and how they are."""
    listed = json.loads(cstor("volume", "list", "-o", "json", "--target", facts["control"]))
    return {one["name"]: one["status"] for one in listed}


async def connect(facts: dict[str, str]) -> RawInitiator:
    """A connection that has not logged in."""
    address = parse_address(facts["portal"])
    return RawInitiator(*await asyncio.open_connection(address.host, address.port))


async def asked_for_data(facts: dict[str, str], name: str) -> tuple[RawInitiator, int, int]:
    """A session whose write has got its R2T; the tags of both."""
    host = await connect(facts)
    await host.login(target=IQN + name, InitialR2T="Yes", ImmediateData="No")
    await host.settle()
    itt = host.command(write_10(0, BLOCKS), writes=BYTES)
    r2t = await host.receive(Op.R2T)
    assert (r2t.itt, r2t.offset, r2t.residual) == (itt, 0, BYTES)
    return host, itt, r2t.ttt


async def behind_pings(host: RawInitiator) -> Pdu:
    """What the target says next; it asks those who say nothing for a while whether they live."""
    while (pdu := await host.receive()).op == Op.NOP_IN and pdu.ttt != RESERVED:
        pass
    return pdu


async def test_a_volume_is_deleted_while_an_r2t_is_unanswered(tmp_path: Path) -> None:
    with with_pool(tmp_path, "--all-volumes") as target:
        facts = serving_two(tmp_path, target)
        host, itt, ttt = await asked_for_data(facts, "vol1")
        other, other_itt, other_ttt = await asked_for_data(facts, "copy")
        host.data_out(itt, b"a" * HALF, ttt=ttt, final=False)
        other.data_out(other_itt, b"b" * HALF, ttt=other_ttt, final=False)
        forced = ("--force", "--yes", "--target", facts["control"])
        assert "is destroyed for ever" in cstor("volume", "delete", "vol1", *forced)

        told = await behind_pings(host)
        assert told.op == Op.ASYNC
        assert told.header[36] == AsyncEvent.SESSION_WILL_DROP
        host.data_out(itt, b"a" * HALF, ttt=ttt, data_sn=1, offset=HALF)
        assert await host.is_closed(), "the write is never answered"
        again = await connect(facts)
        again.login_request({"InitiatorName": NAME, "TargetName": IQN + "vol1"})
        refused = await again.receive(Op.LOGIN_RESPONSE)
        assert refused.login_status == LoginStatus.NOT_FOUND

        other.data_out(other_itt, b"b" * HALF, ttt=other_ttt, data_sn=1, offset=HALF)
        answer = await behind_pings(other)
        assert (answer.op, answer.itt, answer.status) == (Op.RESPONSE, other_itt, 0)
        other.command(read_10(0, BLOCKS), reads=BYTES)
        assert (await other.receive(Op.DATA_IN)).data == b"b" * BYTES
        assert names(facts) == {"copy": "healthy"}
        assert target.stop() == 0
