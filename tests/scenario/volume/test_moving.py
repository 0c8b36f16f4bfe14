"""A member that is said to be elsewhere, while others are added and removed."""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.errors import InputError, UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2
from tests.scenario.volume.cluster import Cluster, SimulatedLink, until
from tests.scenario.volume.test_changes import SMALL, addresses, uuids
from tests.scenario.volume.virtual_time import play

ELSEWHERE = "elsewhere:7778"


class SlowAnswer:
    """The daemon at the new address is asked, and answers when it may."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        inquire = SimulatedLink.inquire

        async def slow(link: SimulatedLink, volume: str) -> replica_pb2.ReplicaReport:
            if link.address == ELSEWHERE:
                self.asked.set()
                await self.may_answer.wait()
            return await inquire(link, volume)

        patched.setattr(SimulatedLink, "inquire", slow)


def test_nobody_waits_for_a_daemon_at_its_new_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        cluster = Cluster(4, settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        changes, answer = target.engine.changes, SlowAnswer(monkeypatch)
        moved = cluster.move(cluster.replicas[1], ELSEWHERE)
        moving = asyncio.ensure_future(changes.move(moved.disk.replica_uuid, ELSEWHERE))
        await answer.asked.wait()
        removing = asyncio.ensure_future(changes.remove(cluster.replicas[3].address))
        await until(removing.done)
        assert not moving.done()
        assert uuids(target) == ["1", "2", "3"]
        answer.may_answer.set()
        assert await moving == moved.disk.replica_uuid
        assert addresses(target)[1] == ELSEWHERE
        configuration = cluster.replicas[0].disk.configuration
        assert [one.address for one in configuration.members][1] == ELSEWHERE
        assert len(configuration.members) == 3

    play(scenario())


def test_member_that_is_removed_meanwhile_is_not_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        cluster = Cluster(4, settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        changes, answer = target.engine.changes, SlowAnswer(monkeypatch)
        moved = cluster.move(cluster.replicas[1], ELSEWHERE)
        moving = asyncio.ensure_future(changes.move(moved.disk.replica_uuid, ELSEWHERE))
        await answer.asked.wait()
        await changes.remove(moved.disk.replica_uuid)
        answer.may_answer.set()
        with pytest.raises(InputError, match="has just been removed"):
            await moving
        assert uuids(target) == ["1", "3", "4"]
        assert "member_moved" not in [name for name, _ in cluster.events]

    play(scenario())


def test_move_waits_for_nobody_who_is_being_added() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        changes = target.engine.changes
        fresh = cluster.new_replica()
        fresh.stalled = True  # it takes what comes, and is never in sync
        adding = asyncio.ensure_future(changes.add(fresh.address))
        await until(lambda: bool(target.engine._roster.learners))
        moved = cluster.move(cluster.replicas[1], ELSEWHERE)
        moving = asyncio.ensure_future(changes.move(moved.disk.replica_uuid, ELSEWHERE))
        await until(moving.done)
        assert not adding.done()
        assert addresses(target)[1] == ELSEWHERE
        fresh.stalled = False
        await adding
        await target.healthy()
        assert addresses(target)[1] == ELSEWHERE
        assert len(addresses(target)) == 4

    play(scenario())


def test_removal_is_refused_at_once_while_a_move_waits_for_a_quorum() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        changes = target.engine.changes
        moved = cluster.move(cluster.replicas[1], ELSEWHERE)
        cluster.replicas[2].kill()
        await until(lambda: not target.engine._roster.has_quorum)
        moved.stalled = True  # it is there, and does not come back yet
        moving = asyncio.ensure_future(changes.move(moved.disk.replica_uuid, ELSEWHERE))
        await until(lambda: "member_moved" in [name for name, _ in cluster.events])
        with pytest.raises(UnavailableError, match="are in sync"):
            await changes.remove(cluster.replicas[2].disk.replica_uuid)
        assert not moving.done()
        moved.stalled = False
        assert await moving == moved.disk.replica_uuid

    play(scenario())
