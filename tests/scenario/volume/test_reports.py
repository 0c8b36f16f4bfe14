"""What the engine reports of how it stands: its lease, what it waits for, and since when."""

from __future__ import annotations

import asyncio

from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.limits import LEASE_S
from tests.scenario.volume.cluster import Cluster, block_of, until
from tests.scenario.volume.virtual_time import play


def test_volume_that_serves_has_a_lease_and_waits_for_nothing() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        await asyncio.sleep(60)
        report = target.engine.report()
        assert 0 < report.lease_left_ms <= LEASE_S * 1000
        assert (report.waiting_ms, report.commands_waiting) == (0, 0)
        assert not report.awaited_addresses
        assert not report.loss_possible

    play(scenario())


def test_volume_without_its_replicas_says_for_how_long_it_has_waited_and_for_whom() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        lost = cluster.replicas[1:]
        for replica in lost:
            replica.kill()
        await until(lambda: target.status == control_pb2.VOLUME_STATUS_WAITING)
        write = target.write(0, block_of(1))
        await asyncio.sleep(10)
        report = target.engine.report()
        assert 10_000 <= report.waiting_ms < 11_000
        assert list(report.awaited_addresses) == [replica.address for replica in lost]
        assert report.commands_waiting == 1
        assert report.lease_left_ms == 0
        for replica in lost:
            replica.restart()
        assert await write is None
        report = target.engine.report()
        assert (report.waiting_ms, report.commands_waiting) == (0, 0)
        assert not report.awaited_addresses

    play(scenario())


def test_volume_that_has_never_opened_waits_since_the_start_of_the_target() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        for replica in cluster.replicas[:2]:
            replica.kill()
        target = cluster.start_target()
        await asyncio.sleep(5)
        report = target.engine.report()
        assert 5000 <= report.waiting_ms < 6000
        assert all(replica.address in report.reason for replica in cluster.replicas[:2])
        assert report.lease_left_ms == 0

    play(scenario())


def test_member_that_lost_power_is_short_until_it_is_whole() -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas=1)
        cluster.replicas[0].short = True
        target = cluster.start_target()
        opened: list[control_pb2.VolumeReport] = []
        target.engine.when_serving(lambda: opened.append(target.engine.report()))
        await until(lambda: bool(opened))
        assert opened[0].loss_possible
        assert opened[0].members[0].short
        await until(lambda: not target.member(0).short)
        assert target.engine.report().loss_possible, "of this opening it is true for ever"
        assert {"loss_possible", "member_whole"} <= {name for name, _ in cluster.events}

    play(scenario())
