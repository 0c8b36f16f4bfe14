"""New replicas whose way to be members is broken off, and goes on where it was."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.test_changes import SMALL, Writers, uuids
from tests.scenario.volume.test_members import assert_equal_replicas
from tests.scenario.volume.virtual_time import play
from tests.scenario.volume.witnesses import Witness


def has_come_so_far(cluster: Cluster, times: int) -> bool:
    """Whether the new replica has what its first step brings, and was asked for so many times."""
    has_step = bool(cluster.replicas[-1].disk.configuration.members)
    return has_step and len(learners(cluster)) == times


def learners(cluster: Cluster) -> list[str]:
    """What was told of new replicas."""
    return [name for name, _ in cluster.events if name.startswith("learner_")]


@pytest.mark.parametrize("is_far", [False, True], ids=["in order", "in steps"])
def test_new_replica_goes_on_where_it_was_when_the_target_died(is_far: bool) -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=SMALL, tail_entries_max=20 if is_far else 1000)
        target = await cluster.serving_target()
        await target.healthy()
        fresh = cluster.new_replica()
        uuid = fresh.disk.replica_uuid
        fresh.stalled = True  # it takes what comes, and is never in sync
        for times in range(1, 4):
            adding = asyncio.ensure_future(target.engine.changes.add(fresh.address))
            await until(partial(has_come_so_far, cluster, times))
            target.kill()
            adding.cancel()
            target = await cluster.serving_target()
            for number in range(60):
                assert await target.write(number % 8 * BLOCK_BYTES, block_of(number)) is None
        fresh.stalled = False
        assert await target.engine.changes.add(fresh.address) == uuid
        assert learners(cluster) == ["learner_added", *["learner_taken_up"] * 3]
        await target.healthy()
        assert uuids(target) == ["1", "2", "3", "4"]
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_adding_goes_on_by_itself_when_the_new_replica_was_away() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        writers = Writers(target)
        fresh = cluster.new_replica()
        adding = asyncio.ensure_future(target.engine.changes.add(fresh.address))
        for _ in range(3):
            await until(lambda: fresh.appending is not None)
            assert not adding.done()
            fresh.kill()
            await asyncio.sleep(0.5)
            fresh.restart()
        assert await adding == fresh.disk.replica_uuid
        await target.healthy()
        assert learners(cluster) == ["learner_added"]
        await writers.end()

    play(scenario())


def test_learner_is_taken_up_and_one_that_was_a_member_is_not() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        changes, fresh = target.engine.changes, cluster.new_replica()
        uuid = fresh.disk.replica_uuid
        adding = asyncio.ensure_future(changes.add(fresh.address))
        await until(lambda: fresh.appending is not None)
        adding.cancel()
        await asyncio.sleep(1)
        # A target that died had ordered that it is a member, and nobody else has heard of it.
        made = volume_pb2.Configuration(number=2, members=fresh.disk.configuration.members)
        made.members.add(replica_uuid=uuid, address=fresh.address)
        fresh.disk.history = fresh.disk.history.adopted(9, fresh.disk.applied_seq + 1)
        fresh.disk.applied_seq += 1
        fresh.disk.take(made, fresh.disk.applied_seq)
        assert await changes.add(fresh.address) == uuid
        await target.healthy()
        await changes.remove(fresh.address)
        with pytest.raises(InputError, match="nor on its way to be one"):
            await changes.add(fresh.address)
        cluster.replicas.remove(fresh)
        assert_equal_replicas(cluster)

    play(scenario())


async def told_and_no_member(cluster: Cluster, target: Target) -> Witness:
    """A new witness that has been told of the volume, by an `add` that broke off then."""
    fresh = cluster.new_witness()
    adding = asyncio.ensure_future(target.engine.changes.add(fresh.address))
    await until(lambda: bool(fresh.words))
    adding.cancel()
    await asyncio.sleep(1)
    named = {one.replica_uuid for one in fresh.disk.configuration.members}
    assert named
    assert fresh.disk.replica_uuid not in named
    return fresh


@pytest.mark.parametrize("dies", [False, True])
def test_new_witness_that_was_told_of_the_volume_already_is_taken_up(*, dies: bool) -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas=2, settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        fresh = await told_and_no_member(cluster, target)
        if dies:
            target.kill()
            target = await cluster.serving_target()
            await target.healthy()
        assert await target.engine.changes.add(fresh.address) == fresh.disk.replica_uuid
        await target.healthy()
        assert learners(cluster) == ["learner_added", "learner_taken_up"]
        numbers = [word[:2] for word in fresh.words]
        assert numbers == sorted(set(numbers)), "no number is used twice in one epoch"
        cluster.replicas[1].kill()
        assert await target.write(0, block_of(1)) is None
        assert target.engine.report().one_copy

    play(scenario())


def test_new_witness_goes_on_where_it_was_when_the_change_was_on_its_way() -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas=2, settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        fresh = cluster.new_witness()
        cluster.replicas[1].stalled = True
        adding = asyncio.ensure_future(target.engine.changes.add(fresh.address))
        await until(lambda: target.engine._roster.is_changing)
        target.kill()
        adding.cancel()
        cluster.replicas[1].stalled = False
        target = await cluster.serving_target()
        assert await target.engine.changes.add(fresh.address) == fresh.disk.replica_uuid
        await target.healthy()

    play(scenario())


def test_witness_that_was_a_member_is_never_one_again() -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas=2, settings=SMALL, witness=True)
        target = await cluster.serving_target()
        await target.healthy()
        changes, witness = target.engine.changes, cluster.witness
        await changes.remove(witness.address)
        await asyncio.sleep(1)
        with pytest.raises(InputError, match="nor on its way to be one"):
            await changes.add(witness.address)
        uuid = witness.disk.replica_uuid
        assert any(one.replica_uuid == uuid for one in witness.disk.configuration.members)
        assert await changes.delete(witness.address) == uuid
        assert await changes.add(witness.address) != uuid
        await target.healthy()

    play(scenario())


def test_what_is_half_made_of_a_clone_gives_way_to_a_new_replica() -> None:
    """It may be cleared away as such at any moment, and by then it would be a member."""

    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        fresh = cluster.new_replica()
        half_made = fresh.disk.replica_uuid
        fresh.disk.origin = volume_pb2.CloneOrigin(
            volume_uuid="parent", snapshot="s", base_replica_uuids=["parent-1"]
        )
        added = await target.engine.changes.add(fresh.address)
        assert added == fresh.disk.replica_uuid != half_made
        await target.healthy()

    play(scenario())
