"""A witness whose disk has failed: it is given up, told of, and replaced, and never believed."""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.errors import UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Failure
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.test_witness import names, statuses, volume
from tests.scenario.volume.virtual_time import play

FAILED = control_pb2.MEMBER_STATUS_FAILED
WITNESS = control_pb2.MEMBER_STATUS_WITNESS


async def failed() -> tuple[Cluster, Target]:
    """A volume whose witness has been given up."""
    cluster = volume()
    target = await cluster.serving_target()
    await target.healthy()
    cluster.witness.fail()
    await until(lambda: "witness_failed" in names(cluster))
    return cluster, target


def test_failed_witness_is_recorded_and_told_of_and_writes_go_on() -> None:
    async def scenario() -> None:
        cluster, target = await failed()
        assert await target.write(0, block_of(1)) is None
        report = target.engine.report()
        assert statuses(target)[2] == FAILED
        assert "cstor replica replace" in report.members[2].reason
        assert report.status == control_pb2.VOLUME_STATUS_DEGRADED
        for replica in cluster.replicas:
            assert [one.out_of_date for one in replica.disk.configuration.members] == [
                *(False, False),
                True,
            ]
        assert names(cluster).count("witness_failed") == 1
        assert dict(cluster.events)["witness_failed"]["reason"] == "it could not be written"

    play(scenario())


def test_witness_that_found_its_disk_full_is_not_given_up_and_is_there_again_with_space() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        witness = cluster.witness
        witness.full = True
        await until(lambda: "witness_lost" in names(cluster))
        report = target.engine.report()
        assert statuses(target)[2] == control_pb2.MEMBER_STATUS_OFFLINE
        assert "free some space" in report.members[2].reason
        assert await target.write(0, block_of(1)) is None
        await asyncio.sleep(30)
        assert "witness_failed" not in names(cluster)
        witness.full = False
        await target.healthy()
        assert names(cluster)[-1] == "witness_there"
        cluster.replicas[1].kill()
        assert await target.write(0, block_of(2)) is None

    play(scenario())


def test_it_counts_for_nothing_after_its_machine_was_booted_anew() -> None:
    async def scenario() -> None:
        cluster, target = await failed()
        words = list(cluster.witness.words)
        cluster.witness.boot()
        cluster.replicas[1].kill()
        assert await target.write(0, block_of(1)) is Failure.BUSY
        assert statuses(target)[2] == FAILED
        assert "replace" in target.engine.report().reason
        target.kill()
        target = cluster.start_target()
        await asyncio.sleep(10)
        assert not target.engine.serving
        cluster.replicas[1].restart()
        await until(lambda: target.engine.serving)
        assert not target.engine.loss_possible
        assert await target.write(0, block_of(2)) is None
        assert statuses(target)[2] == FAILED
        assert cluster.witness.words == words

    play(scenario())


def test_it_is_not_given_up_before_both_replicas_are_in_sync() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        lost = cluster.replicas[1]
        lost.kill()
        assert await target.write(0, block_of(1)) is None
        cluster.witness.fail()
        await until(lambda: statuses(target)[2] == FAILED)
        assert await target.write(0, block_of(2)) is None  # what it held, it holds
        await asyncio.sleep(5)
        assert "witness_failed" not in names(cluster)
        with pytest.raises(UnavailableError, match="only with its witness"):
            await target.engine.changes.remove(lost.address)
        lost.restart()
        await until(lambda: "witness_failed" in names(cluster))
        lost.kill()
        assert await target.write(0, block_of(3)) is Failure.BUSY

    play(scenario())


def test_one_that_was_booted_before_it_was_given_up_holds_what_it_answered() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        old, new = cluster.replicas
        old.kill()
        assert await target.write(0, block_of(1)) is None
        cluster.witness.fail()
        await until(lambda: statuses(target)[2] == FAILED)
        cluster.witness.boot()
        await until(lambda: statuses(target)[2] == WITNESS)
        assert await target.write(0, block_of(2)) is None
        new.kill()
        target.kill()
        old.restart()
        target = cluster.start_target()
        await asyncio.sleep(5)
        assert not target.engine.serving
        new.restart()
        await target.healthy()
        assert await target.read(0, BLOCK_BYTES) == block_of(2)

    play(scenario())


def test_one_that_failed_while_the_volume_was_closed_is_given_up_by_the_next_target() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        target.kill()
        cluster.witness.fail()
        target = await cluster.serving_target()
        await until(lambda: "witness_failed" in names(cluster))
        assert await target.write(0, block_of(1)) is None

    play(scenario())


def test_without_it_a_short_replica_may_have_lost_something() -> None:
    async def scenario() -> None:
        cluster, target = await failed()
        target.kill()
        cluster.replicas[0].short = True
        target = await cluster.serving_target()
        assert target.engine.loss_possible

    play(scenario())


def test_a_new_witness_takes_its_place() -> None:
    async def scenario() -> None:
        cluster, target = await failed()
        changes = target.engine.changes
        gone = cluster.witness
        await changes.remove(gone.address)
        fresh = cluster.new_witness()
        await changes.add(fresh.address)
        await target.healthy()
        cluster.replicas[0].kill()
        assert await target.write(0, block_of(1)) is None
        assert target.engine.report().one_copy

    play(scenario())
