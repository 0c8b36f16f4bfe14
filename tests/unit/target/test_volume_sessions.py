"""Sessions as operators see and end them, over the control service and real connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cstor_core.generated.cstor.v1 import control_pb2, control_pb2_grpc
from cstor_core.serving import grpc_server, listen_grpc
from cstor_core.settings import Address
from cstor_target.control import ControlServicer
from cstor_target.event_log import EventLog
from cstor_target.iscsi.directory import Portal
from cstor_target.served_volume import ServedVolume
from cstor_target.status_watch import StatusWatch
from tests.unit.iscsi.trace import (
    INITIATOR,
    ISID,
    Initiator,
    Process,
    StandInDirectory,
    StandInTarget,
    only_task,
)
from tests.unit.target.standin import IQN, StandInEngine, login_rules
from tests.unit.volume.hand_clock import HandClock

OTHER = INITIATOR + "-other"


class Bench:
    """A process with two volumes that initiators log in to, and its control service."""

    def __init__(self) -> None:
        nodes = [StandInTarget(IQN), StandInTarget(IQN + "-2")]
        clock = HandClock()
        clock.now_s = 1795851000.5
        self.process = Process(StandInDirectory(nodes), wall_s=clock.wall())
        self.events = EventLog(clock)
        self.volumes = [self._volume("vol1"), self._volume("vol1-2")]
        self.control: Any = None

    def _volume(self, name: str) -> ServedVolume:
        return ServedVolume(
            name,
            StandInEngine(),
            self.process.sessions,
            lambda event, facts: self.events.add(name, event, facts),
            [Portal("127.0.0.1:3260")],
            "0.1.0",
        )

    def login(self, initiator: str = INITIATOR, target: str = IQN, isid: bytes = ISID) -> Initiator:
        connected = self.process.connect()
        connected.core.peer = "192.0.2.7:50000"
        connected.isid = isid
        connected.login(initiator, target)
        return connected

    async def listed(self, volume: str = "") -> list[control_pb2.Session]:
        answer = await self.control.ListSessions(control_pb2.ListSessionsRequest(volume=volume))
        return list(answer.sessions)

    async def drop(self, volume: str = "vol1", **fields: Any) -> list[int]:
        """Ask for it; the TSIHs of those that were meant."""
        request = control_pb2.DropSessionRequest(volume=volume, **fields)
        return [session.tsih for session in (await self.control.DropSession(request)).sessions]

    async def refused(self, code: grpc.StatusCode, **fields: Any) -> str:
        """Ask for it and be refused, without a change; the sentence."""
        before = len(self.process.sessions)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.drop(**fields)
        assert refused.value.code() is code
        assert len(self.process.sessions) == before
        return refused.value.details() or ""


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench()
    server = grpc_server()
    control_pb2_grpc.add_ControlServiceServicer_to_server(
        ControlServicer(
            bench.volumes,
            bench.events,
            StatusWatch(HandClock()),
            login_rules(tmp_path),
        ),
        server,
    )
    port = listen_grpc(server, Address("127.0.0.1", 0), 0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        bench.control = control_pb2_grpc.ControlServiceStub(channel)
        yield bench
    await server.stop(None)


async def test_a_session_is_listed_with_all_there_is_to_know_of_it(bench: Bench) -> None:
    initiator = bench.login()
    only_task(initiator.write(8, bytes(8)))
    initiator.write(4096)
    assert await bench.listed() == [
        control_pb2.Session(
            volume="vol1",
            initiator_name=INITIATOR,
            isid=ISID,
            tsih=initiator.tsih,
            connections=[control_pb2.SessionConnection(cid=0, peer_address="192.0.2.7:50000")],
            since_unix_s=1795851000,
            commands_outstanding=2,
        )
    ]


async def test_sessions_are_those_of_the_volume_and_discovery_is_of_none(bench: Bench) -> None:
    first, second = bench.login(), bench.login(target=IQN + "-2")
    bench.process.connect().discover()
    assert [found.tsih for found in await bench.listed()] == [first.tsih, second.tsih]
    assert [found.tsih for found in await bench.listed("vol1-2")] == [second.tsih]
    with pytest.raises(grpc.aio.AioRpcError, match="does not serve a volume 'other'"):
        await bench.listed("other")


async def test_a_session_is_dropped_by_its_tsih_and_others_stay(bench: Bench) -> None:
    dropped, kept = bench.login(), bench.login(OTHER)
    task = only_task(dropped.write(8, bytes(8)))
    assert await bench.drop(tsih=dropped.tsih) == [dropped.tsih]
    assert (dropped.core.closing, kept.core.closing) == (True, False)
    assert [found.tsih for found in await bench.listed()] == [kept.tsih]
    dropped.answers()
    dropped.core.complete(task, 0)
    assert dropped.answers() == []
    told = [told.event async for told in bench.events.watch(0, lambda event: True, follow=False)]
    assert told[-1].sentence == (
        f"an operator has dropped session {dropped.tsih} of {INITIATOR} at 192.0.2.7:50000, with "
        "1 of its commands unanswered: the initiator may log in again"
    )
    assert bench.events.counts == {("vol1", "session_dropped"): 1}
    assert bench.login().tsih != dropped.tsih


async def test_an_initiator_is_dropped_with_all_its_sessions_with_the_volume(bench: Bench) -> None:
    dropped = [bench.login(), bench.login(isid=bytes.fromhex("800000000002"))]
    kept = [bench.login(OTHER), bench.login(target=IQN + "-2")]
    tsihs = [initiator.tsih for initiator in dropped]
    assert await bench.drop(initiator_name=INITIATOR.upper()) == tsihs
    assert all(initiator.core.closing for initiator in dropped)
    assert not any(initiator.core.closing for initiator in kept)


async def test_a_dry_run_says_who_is_meant_and_drops_nobody(bench: Bench) -> None:
    initiator = bench.login()
    assert await bench.drop(tsih=initiator.tsih, dry_run=True) == [initiator.tsih]
    assert not initiator.core.closing
    assert not bench.events.counts


async def test_a_session_that_is_not_there_is_not_found(bench: Bench) -> None:
    here, elsewhere = bench.login(), bench.login(OTHER, IQN + "-2")
    not_found = grpc.StatusCode.NOT_FOUND
    said = await bench.refused(not_found, tsih=elsewhere.tsih)
    assert f"vol1 has no session with the TSIH {elsewhere.tsih}: list its sessions" in said
    assert f"of the initiator '{OTHER}'" in await bench.refused(not_found, initiator_name=OTHER)
    assert len(await bench.refused(not_found, initiator_name="iqn." + "x" * 100_000)) < 1000
    assert await bench.drop(tsih=here.tsih) == [here.tsih]
    await bench.refused(not_found, tsih=here.tsih)


async def test_a_drop_that_does_not_say_whom_is_refused(bench: Bench) -> None:
    bench.login()
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert "say which session" in await bench.refused(invalid)
    assert "say which session" in await bench.refused(invalid, initiator_name="")
    for tsih in (0, 65536, 0xFFFFFFFF):
        assert f"{tsih} is no TSIH" in await bench.refused(invalid, tsih=tsih)
    assert "does not serve" in await bench.refused(
        grpc.StatusCode.NOT_FOUND, volume="other", tsih=1
    )
