"""Members whose disk has failed: recorded as out of date, and never believed again."""

from __future__ import annotations

import asyncio

from cstor_core.generated.cstor.v1 import control_pb2, volume_pb2
from tests.scenario.volume.cluster import Cluster, block_of, until
from tests.scenario.volume.test_changes import next_entry
from tests.scenario.volume.virtual_time import play

FAILED = control_pb2.MEMBER_STATUS_FAILED


def numbers(cluster: Cluster) -> list[int]:
    """The configuration that each replica has."""
    return [replica.disk.configuration.number for replica in cluster.replicas]


def test_failed_member_is_recorded_and_does_not_come_back_after_a_boot() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        assert await target.write(0, block_of(1)) is None
        await asyncio.sleep(1)
        failed = cluster.replicas[1]
        failed.fail()
        await until(lambda: any(name == "member_failed" for name, _ in cluster.events))
        assert numbers(cluster) == [2, 1, 2]
        failed.restart()
        failed.short = True
        await asyncio.sleep(10)
        assert target.member(1).status == FAILED
        assert "replace it" in target.member(1).reason
        target.kill()
        target = await cluster.serving_target()
        await asyncio.sleep(5)
        assert target.member(1).status == FAILED
        assert target.status == control_pb2.VOLUME_STATUS_DEGRADED
        assert [name for name, _ in cluster.events].count("member_failed") == 1

    play(scenario())


def test_failed_member_stays_recorded_where_another_one_is_removed_meanwhile() -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas=5)
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[1].fail()
        await next_entry(target)
        await target.engine.changes.remove(cluster.replicas[4].address)
        await asyncio.sleep(5)
        held = cluster.replicas[0].disk.configuration
        assert held.number == 3
        assert [member.out_of_date for member in held.members] == [False, True, False, False]
        assert [name for name, _ in cluster.events].count("member_failed") == 1

    play(scenario())


def test_failed_member_does_not_vote_and_is_not_waited_for() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[1].fail()
        await until(lambda: any(name == "member_failed" for name, _ in cluster.events))
        target.kill()
        cluster.replicas[1].restart()
        cluster.replicas[2].kill()
        target = cluster.start_target()
        await asyncio.sleep(5)
        assert not target.engine.serving
        assert "replica-1" in target.engine.report().reason
        cluster.replicas[2].restart()
        for replica in cluster.replicas:
            replica.short = True
        await until(lambda: target.engine.serving)  # nobody else can be asked
        assert target.engine.loss_possible

    play(scenario())


def test_configuration_that_the_history_dropped_is_not_believed() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        target.kill()
        stray = cluster.replicas[2].disk
        stray.configuration = volume_pb2.Configuration()
        stray.configuration.CopyFrom(cluster.replicas[0].disk.configuration)
        stray.configuration.number = 2
        stray.configuration.members[0].out_of_date = True
        for replica in cluster.replicas[:2]:
            replica.disk.history = replica.disk.history.adopted(7, 2)
            replica.disk.applied_seq = 2
        target = await cluster.serving_target()
        await until(lambda: target.member(0).status == control_pb2.MEMBER_STATUS_IN_SYNC)
        await target.healthy()
        assert target.engine._membership.tenure is not None
        assert target.engine._membership.tenure.configuration.number == 1

    play(scenario())


def test_failure_that_cannot_be_recorded_is_recorded_when_a_quorum_is_back() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[2].kill()
        cluster.replicas[1].fail()
        await asyncio.sleep(5)
        assert numbers(cluster) == [1, 1, 1]
        cluster.replicas[2].restart()
        await until(lambda: numbers(cluster) == [2, 1, 2])

    play(scenario())
