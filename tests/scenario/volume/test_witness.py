"""Two copies and a witness: either replica may die, writes go on, and the dead one is no source."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from cstor_core.errors import InputError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.units import BLOCK_BYTES, KIB
from cstor_target.volume.backing import Failure
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.test_changes import Writers
from tests.scenario.volume.test_members import assert_equal_replicas
from tests.scenario.volume.test_scrub import scrubbed
from tests.scenario.volume.virtual_time import play

SMALL = EngineSettings(backlog_bytes_max=256 * KIB, batch_bytes_max=16 * KIB, write_timeout_s=5.0)
PAUSE_S = 0.01
WITNESS = control_pb2.MEMBER_STATUS_WITNESS


def volume(seed: int = 0, *, write_cache: bool = True) -> Cluster:
    return Cluster(
        replicas=2,
        seed=seed,
        settings=SMALL,
        tail_entries_max=30,
        witness=True,
        write_cache=write_cache,
    )


def names(cluster: Cluster) -> list[str]:
    return [name for name, _ in cluster.events]


def statuses(target: Target) -> list[control_pb2.MemberStatus.ValueType]:
    return [member.status for member in target.engine.report().members]


def test_both_acknowledge_and_the_witness_has_no_data() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        assert statuses(target)[2] == WITNESS
        assert cluster.witness.position[0] == target.engine.report().epoch
        one = cluster.replicas[0]
        one.stalled = True
        write = target.write(0, block_of(1))
        await asyncio.sleep(1)
        assert not write.done()
        one.stalled = False
        assert await write is None
        assert not target.engine.report().one_copy

    play(scenario())


@pytest.mark.parametrize("dead", [0, 1])
@pytest.mark.parametrize("write_cache", [True, False])
def test_writes_go_on_when_either_replica_dies(dead: int, *, write_cache: bool) -> None:
    async def scenario() -> None:
        cluster = volume(write_cache=write_cache)
        target = await cluster.serving_target()
        await target.healthy()
        assert await target.write(0, block_of(1)) is None
        lost = cluster.replicas[dead]
        lost.kill()
        assert await target.write(0, block_of(2)) is None
        assert await target.flush() is None
        assert cluster.witness.mark[2] == lost.disk.replica_uuid
        report = target.engine.report()
        assert report.one_copy
        assert report.status == control_pb2.VOLUME_STATUS_DEGRADED
        assert "one_copy" in names(cluster)
        assert "quorum_lost" not in names(cluster)
        assert await target.read(0, BLOCK_BYTES) == block_of(2)
        lost.restart()
        await target.healthy()
        assert cluster.witness.mark[2] == ""
        assert names(cluster).count("two_copies") == 1
        assert not target.engine.report().one_copy
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_a_slow_replica_is_let_go_and_the_other_one_goes_on() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[1].stalled = True
        assert await target.write(0, block_of(1)) in (None, Failure.BUSY)
        await until(lambda: target.engine.report().one_copy)
        assert await target.write(0, block_of(2)) is None
        cluster.replicas[1].stalled = False
        await target.healthy()
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_nobody_acknowledges_alone_before_the_witness_holds_the_mark() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.witness.stalled = True
        write = target.write(0, block_of(1))
        cluster.replicas[1].kill()
        await asyncio.sleep(2)
        after = target.write(BLOCK_BYTES, block_of(2))
        await asyncio.sleep(1)
        assert not any(command.done() for command in (write, after))
        cluster.witness.stalled = False
        assert (await write, await after) == (None, None)

    play(scenario())


def test_dead_witness_is_asked_now_and_then() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.witness.kill()
        cluster.replicas[0].kill()  # of which it is to be told
        await until(lambda: "quorum_lost" in names(cluster))
        await asyncio.sleep(20 * SMALL.retry_s)
        assert 1 < cluster.witness.missed <= 40

    play(scenario())


def test_without_the_witness_commands_wait_for_both() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.witness.kill()
        assert await target.write(0, block_of(1)) is None
        await until(lambda: "witness_lost" in names(cluster))
        assert target.status == control_pb2.VOLUME_STATUS_DEGRADED
        cluster.replicas[0].kill()
        assert await target.write(0, block_of(2)) is Failure.BUSY
        assert "witness" in target.engine.report().reason
        assert "quorum_lost" in names(cluster)
        cluster.witness.restart()
        assert await target.write(0, block_of(3)) is None
        assert "witness_there" in names(cluster)
        cluster.witness.kill()  # what it holds, it holds
        assert await target.write(0, block_of(4)) is None
        cluster.replicas[0].restart()
        await asyncio.sleep(2)
        assert target.engine._roster.quorum == 2
        cluster.witness.restart()
        await target.healthy()

    play(scenario())


def test_the_one_that_is_out_of_date_opens_nothing_with_the_witness() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        old, new = cluster.replicas
        old.kill()
        assert await target.write(0, block_of(7)) is None
        target.kill()
        new.kill()
        old.restart()
        target = cluster.start_target()
        await asyncio.sleep(10)
        assert not target.engine.serving
        assert "start the other one" in target.engine.report().reason
        new.restart()
        await until(lambda: target.engine.serving)
        assert await target.read(0, BLOCK_BYTES) == block_of(7)
        await target.healthy()

    play(scenario())


def test_opening_alone_is_told_to_the_witness_before_anything_is_served() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        left, away = cluster.replicas
        away.kill()
        target.kill()
        cluster.witness.stalled = True
        target = cluster.start_target()
        await asyncio.sleep(5)
        assert not target.engine.serving
        cluster.witness.stalled = False
        await until(lambda: target.engine.serving)
        assert cluster.witness.mark == (target.engine.report().epoch, 1, away.disk.replica_uuid)
        target.kill()
        left.kill()
        away.restart()
        target = cluster.start_target()
        await asyncio.sleep(10)
        assert not target.engine.serving
        assert "start the other one" in target.engine.report().reason

    play(scenario())


def test_a_late_word_of_the_target_before_changes_nothing() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.witness.stalled = True
        cluster.replicas[1].kill()
        await asyncio.sleep(0.1)
        cluster.replicas[1].restart()
        other = cluster.start_target()
        await asyncio.sleep(3)
        cluster.witness.stalled = False
        await until(lambda: other.engine.serving)
        await other.healthy()
        assert cluster.witness.mark[0] == other.engine.report().epoch
        await until(target.engine.deposed.done)

    play(scenario())


def test_a_witness_is_added_to_two_replicas_and_they_become_three() -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas=2, settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        writers = Writers(target, PAUSE_S)
        changes = target.engine.changes
        witness = cluster.new_witness()
        await changes.add(witness.address)
        await target.healthy()
        assert statuses(target)[2] == WITNESS
        assert witness.disk.configuration.number == 2
        cluster.replicas[0].kill()
        before = sum(writers.acknowledged)
        await asyncio.sleep(1)
        assert sum(writers.acknowledged) > before
        third = cluster.new_replica()
        with pytest.raises(InputError, match="a volume with a witness has two replicas"):
            await changes.add(third.address)
        with pytest.raises(InputError, match="has a witness: remove that one first"):
            await changes.add(cluster.new_witness().address)
        with pytest.raises(UnavailableError, match="1 are in sync, and 2 are needed"):
            await changes.remove(witness.address)
        cluster.replicas[0].restart()
        await target.healthy()
        await changes.remove(witness.address)
        await changes.add(third.address)
        await target.healthy()
        with pytest.raises(InputError, match="a witness is for two"):
            await changes.add(cluster.new_witness().address)
        cluster.replicas[1].kill()
        before = sum(writers.acknowledged)
        await asyncio.sleep(1)
        assert sum(writers.acknowledged) > before
        cluster.replicas[1].restart()
        await writers.end()
        await target.healthy()
        target.kill()
        target = await cluster.serving_target()
        assert not any(member.member.witness for member in target.engine.report().members)
        assert len(target.engine.report().members) == 3

    play(scenario())


def test_a_lost_replica_is_removed_and_another_takes_its_place() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        writers = Writers(target, PAUSE_S)
        changes = target.engine.changes
        left, lost = cluster.replicas
        lost.kill()
        await asyncio.sleep(1)
        await changes.remove(lost.address)
        assert len(cluster.witness.disk.configuration.members) == 2
        fresh = cluster.new_replica()
        await changes.add(fresh.address)
        await target.healthy()
        left.kill()
        before = sum(writers.acknowledged)
        await asyncio.sleep(1)
        assert sum(writers.acknowledged) > before
        lost.restart()
        left.restart()
        await writers.end()
        await target.healthy()
        await asyncio.sleep(1)
        cluster.replicas.remove(lost)
        assert_equal_replicas(cluster)

    play(scenario())


def test_a_removed_replica_opens_nothing_with_the_witness() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        left, removed = cluster.replicas
        await target.engine.changes.remove(removed.address)
        assert await target.write(0, block_of(3)) is None
        target.kill()
        left.kill()
        target = cluster.start_target()
        await asyncio.sleep(5)
        assert not target.engine.serving
        left.restart()
        await until(lambda: target.engine.serving)
        assert await target.read(0, BLOCK_BYTES) == block_of(3)

    play(scenario())


def test_a_replica_whose_disk_has_failed_is_recorded_while_the_other_one_is_alone() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        failed = cluster.replicas[1]
        failed.fail()
        assert await target.write(0, block_of(1)) is None
        await until(lambda: "member_failed" in names(cluster))
        assert cluster.witness.disk.configuration.members[1].out_of_date
        assert await target.write(0, block_of(2)) is None
        target.kill()
        failed.restart()
        target = await cluster.serving_target()
        assert await target.write(0, block_of(3)) is None
        assert target.engine.report().one_copy
        assert failed.disk.blocks.keys() <= {0}

    play(scenario())


def test_scrub_compares_the_replicas_and_leaves_the_witness_alone() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        assert await target.write(0, block_of(1)) is None
        cluster.replicas[1].rotten_blocks.add(0)
        report = await scrubbed(target)
        assert (report.repaired, report.unrepaired) == (1, 0)
        scrubbed_ones = {one.member.address for one in report.members}
        assert scrubbed_ones == {one.address for one in cluster.replicas}

    play(scenario())


def test_volume_is_forced_open_with_the_copy_that_is_out_of_date() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        old, new = cluster.replicas
        assert await target.write(0, block_of(1)) is None
        old.kill()
        assert await target.write(0, block_of(2)) is None
        target.kill()
        new.kill()
        old.restart()
        target = cluster.start_target()
        await until(lambda: "start the other one" in target.engine.report().reason)
        assert "is opened with 2 of its 3 replicas" in target.engine.may_be_lost([])
        target.engine.force([])
        await until(lambda: target.engine.serving)
        assert await target.read(0, BLOCK_BYTES) == block_of(1)
        assert await target.write(0, block_of(5)) is None
        new.restart()
        await asyncio.sleep(3)
        target.kill()
        target = await cluster.serving_target()
        assert await target.read(0, BLOCK_BYTES) == block_of(5)

    play(scenario())


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(6, 60))]
)
def test_nothing_is_lost_whoever_dies_at_whatever_moment(seed: int) -> None:
    async def scenario() -> None:
        random = Random(seed)
        cluster = volume(seed, write_cache=random.random() < 0.5)
        target = await cluster.serving_target()
        await target.healthy()
        writers = Writers(target, PAUSE_S)
        for _ in range(6):
            victim = random.choice(cluster.members)
            victim.kill()
            await asyncio.sleep(random.choice((0.0, 0.001, 0.003, 0.01, 0.5)))
            if random.random() < 0.5:
                writers.target.kill()
                writers.target = cluster.start_target()
                await asyncio.sleep(random.choice((0.0, 0.01, 0.3, 2.0)))
            if random.random() < 0.3:
                other = random.choice(cluster.members)
                other.kill()
                await asyncio.sleep(random.uniform(0.0, 0.5))
                other.restart()
            if random.random() < 0.3:
                cluster.witness.stalled = True
                await asyncio.sleep(random.uniform(0.0, 0.2))
                cluster.witness.stalled = False
            await asyncio.sleep(random.choice((0.0, 0.01, 0.3)))
            victim.restart()
            await asyncio.sleep(random.choice((0.0, 0.005, 0.02, 0.3)))
            if random.random() < 0.5:
                await until(lambda: writers.target.engine.serving)
                await writers.target.healthy()
        await until(lambda: writers.target.engine.serving)
        await writers.target.healthy()
        await writers.end()
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)
        assert sum(writers.acknowledged) > 100

    play(scenario())
