"""Clones through the engine: made by all that are in sync, finished after a crash at any step."""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.errors import (
    AlreadyExistsError,
    InputError,
    UnavailableError,
    UnknownSnapshotError,
    UnknownVolumeError,
)
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Failure
from tests.scenario.volume.cluster import Cluster, SimulatedLink, Target, block_of, until
from tests.scenario.volume.virtual_time import play

FRESH = "00000000-0000-4000-8000-0000000c10{:02d}"


async def with_snapshot(cluster: Cluster) -> Target:
    """A target of a volume whose blocks 0 to 7 are in the snapshot "s"; block 0 is newer by now."""
    target = await cluster.serving_target()
    await target.healthy()
    for block in range(8):
        assert await target.write(block * BLOCK_BYTES, block_of(block + 1)) is None
    await target.engine.operations.create_snapshot("s")
    assert await target.write(0, block_of(77)) is None
    return target


async def assert_clone_is_the_snapshot(cluster: Cluster, volume_uuid: str, replicas: int) -> None:
    """Open the clone, read it, and write it, which its parent does not hear of."""
    parents = [replica.disk for replica in cluster.replicas if replica.up]
    cluster.serve_clone(volume_uuid)
    assert len(cluster.replicas) == replicas
    target = await cluster.serving_target()
    await target.healthy()
    for block in range(8):
        assert await target.read(block * BLOCK_BYTES, BLOCK_BYTES) == block_of(block + 1)
    assert await target.write(0, block_of(99)) is None
    await asyncio.sleep(0.5)
    assert all(replica.disk.blocks[0].data == block_of(99) for replica in cluster.replicas)
    assert all(disk.blocks[0].data == block_of(77) for disk in parents)


def test_clone_is_made_by_all_members_and_is_independent() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await with_snapshot(cluster)
        cloning = target.engine.cloning
        clone = await cloning.clone("s", "copy", FRESH.format(1))
        assert clone.identity.volume_uuid == FRESH.format(1)
        assert clone.identity.name == "copy"
        assert len(clone.configuration.members) == 3
        assert not clone.left_out
        assert await cloning.clone("s", "copy", FRESH.format(2)) == clone
        assert [name for name, _ in cluster.events].count("cloned") == 1
        assert await cloning.discard("copy") == 0
        await assert_clone_is_the_snapshot(cluster, FRESH.format(1), 3)

    play(scenario())


def test_other_source_or_a_name_that_is_taken_is_refused() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await with_snapshot(cluster)
        cloning, operations = target.engine.cloning, target.engine.operations
        await operations.create_snapshot("other")
        await cloning.clone("s", "copy", FRESH.format(1))
        with pytest.raises(AlreadyExistsError, match="clone of snapshot 's'"):
            await cloning.clone("other", "copy", FRESH.format(2))
        await operations.delete_snapshot("s")
        with pytest.raises(UnknownSnapshotError):
            await cloning.clone("s", "copy", FRESH.format(3))
        await operations.create_snapshot("s")
        with pytest.raises(AlreadyExistsError, match="an earlier snapshot"):
            await cloning.clone("s", "copy", FRESH.format(3))
        for name in ("vol", "Copy", ""):
            with pytest.raises(InputError):
                await cloning.clone("s", name, FRESH.format(4))
        assert all(len(pool) == 1 for pool in cluster.clones.pools.values())

    play(scenario())


@pytest.mark.parametrize("step", range(1, 7))
def test_target_that_dies_at_any_step_has_its_clone_finished_by_the_next(step: int) -> None:
    async def scenario() -> None:
        cluster = Cluster(seed=step)
        target = await with_snapshot(cluster)

        def killed(number: int) -> None:
            if number == step:
                target.kill()

        cluster.clones.on_call = killed
        asking = asyncio.ensure_future(target.engine.cloning.clone("s", "copy", FRESH.format(1)))
        await until(lambda: cluster.clones.calls >= step)
        asking.cancel()
        target = await cluster.serving_target()
        await target.healthy()
        clone = await target.engine.cloning.clone("s", "copy", FRESH.format(2))
        uuid = clone.identity.volume_uuid
        assert len(clone.configuration.members) == 3
        assert all(list(pool) == [uuid] for pool in cluster.clones.pools.values())
        configurations = [pool[uuid].configuration for pool in cluster.clones.pools.values()]
        assert all(found == clone.configuration for found in configurations)
        await assert_clone_is_the_snapshot(cluster, uuid, 3)

    play(scenario())


@pytest.mark.parametrize("step", [1, 2, 3])
def test_half_made_clone_can_be_deleted_instead(step: int) -> None:
    async def scenario() -> None:
        cluster = Cluster(seed=step)
        target = await with_snapshot(cluster)
        cluster.clones.on_call = lambda number: target.kill() if number == step else None
        asking = asyncio.ensure_future(target.engine.cloning.clone("s", "copy", FRESH.format(1)))
        await until(lambda: cluster.clones.calls >= step)
        asking.cancel()
        await asyncio.sleep(1)
        target = await cluster.serving_target()
        await target.healthy()
        made = sum(len(pool) for pool in cluster.clones.pools.values())
        assert made >= step
        assert await target.engine.cloning.discard("copy") == made
        assert not any(cluster.clones.pools.values())

    play(scenario())


def test_member_that_is_away_is_left_out_and_what_it_has_of_the_clone_is_cleared() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await with_snapshot(cluster)
        away = cluster.replicas[2]
        away.kill()
        await until(lambda: len(target.engine._roster.in_sync) == 2)
        clone = await target.engine.cloning.clone("s", "copy", FRESH.format(1))
        assert [member.address for member in clone.left_out] == [away.address]
        assert len(clone.configuration.members) == 2
        assert not cluster.clones.at(away.address)
        await assert_clone_is_the_snapshot(cluster, FRESH.format(1), 2)

    play(scenario())


def test_no_clone_without_a_quorum_or_of_a_replica_that_is_being_rebuilt() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await with_snapshot(cluster)
        cluster.replicas[1].disk.rebuilding = True
        with pytest.raises(UnavailableError):
            await target.engine.cloning.clone("s", "copy", FRESH.format(1))
        cluster.replicas[1].disk.rebuilding = False
        cluster.clones.deaf = {replica.address for replica in cluster.replicas}
        asking = asyncio.ensure_future(target.engine.cloning.clone("s", "copy", FRESH.format(2)))
        await asyncio.sleep(1)
        assert not asking.done()
        cluster.clones.deaf.clear()
        clone = await asking
        assert clone.identity.volume_uuid == FRESH.format(1)
        for replica in cluster.replicas[:2]:
            replica.kill()
        await until(lambda: not target.engine._roster.has_quorum)
        with pytest.raises(UnavailableError):
            await target.engine.cloning.clone("s", "second", FRESH.format(3))

    play(scenario())


def test_one_of_two_beside_a_witness_makes_no_clone() -> None:
    """The other one might make another of the same name."""

    async def scenario() -> None:
        cluster = Cluster(replicas=2, witness=True)
        target = await with_snapshot(cluster)
        cloning, roster = target.engine.cloning, target.engine._roster
        await asyncio.sleep(1)
        cluster.replicas[1].kill()
        await until(lambda: roster.quorum == 1)
        with pytest.raises(UnavailableError, match="1 members have made the clone and 2"):
            await cloning.clone("s", "copy", FRESH.format(1))
        cluster.replicas[1].restart()
        await target.healthy()
        clone = await cloning.clone("s", "copy", FRESH.format(1))
        assert len(clone.configuration.members) == 2

    play(scenario())


def test_disk_that_is_wiped_before_the_clone_is_founded_is_a_reason_to_ask_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        target = await with_snapshot(Cluster())

        async def gone(self: SimulatedLink, request: object) -> None:
            raise UnknownVolumeError("the pool has no replica of that volume")

        with monkeypatch.context() as patched:
            patched.setattr(SimulatedLink, "found", gone)
            with pytest.raises(UnavailableError, match=r"not founded yet at .* and ask again"):
                await target.engine.cloning.clone("s", "copy", FRESH.format(1))
        clone = await target.engine.cloning.clone("s", "copy", FRESH.format(2))
        assert clone.identity.volume_uuid == FRESH.format(1)

    play(scenario())


async def half_founded(cluster: Cluster) -> tuple[Target, volume_pb2.Configuration]:
    """A target whose clone "copy" the first of its members has been founded with, and no other."""
    target = await with_snapshot(cluster)
    cluster.clones.on_call = lambda number: target.kill() if number == 4 else None
    asking = asyncio.ensure_future(target.engine.cloning.clone("s", "copy", FRESH.format(1)))
    await until(lambda: cluster.clones.calls == 4)
    asking.cancel()
    pools = (cluster.clones.at(replica.address) for replica in cluster.replicas)
    (founded,) = (
        pool[FRESH.format(1)].configuration
        for pool in pools
        if pool[FRESH.format(1)].configuration.members
    )
    return target, founded


def test_nobody_but_the_replica_that_is_meant_counts_as_a_founded_one() -> None:
    """The address of one leads to the daemon of another, as a name may."""

    async def scenario() -> None:
        cluster = Cluster()
        _, founded = await half_founded(cluster)
        target = await cluster.serving_target()
        await target.healthy()
        first, last = cluster.replicas[0].address, cluster.replicas[2].address
        pools = cluster.clones.pools
        meant, pools[last] = pools[last], pools[first]
        for _ in range(2):
            with pytest.raises(UnavailableError, match=r"now, and not .* and ask again"):
                await target.engine.cloning.clone("s", "copy", FRESH.format(2))
        assert not meant[FRESH.format(1)].configuration.members
        pools[last] = meant
        clone = await target.engine.cloning.clone("s", "copy", FRESH.format(2))
        assert clone.configuration == founded
        assert meant[FRESH.format(1)].configuration == founded
        await assert_clone_is_the_snapshot(cluster, FRESH.format(1), 3)

    play(scenario())


def test_replica_of_a_clone_is_founded_where_its_daemon_has_moved_to() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        _, founded = await half_founded(cluster)
        moved = cluster.replicas[2]
        disks = cluster.clones.pools.pop(moved.address)
        moved = cluster.move(moved, "replica-9:7778")
        cluster.clones.pools[moved.address] = disks
        target = await cluster.serving_target()
        await target.healthy()
        clone = await target.engine.cloning.clone("s", "copy", FRESH.format(2))
        assert clone.configuration == founded
        assert not clone.left_out
        assert disks[FRESH.format(1)].configuration == founded

    play(scenario())


def test_clone_whose_first_members_have_all_been_replaced_is_found_by_its_name() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await with_snapshot(cluster)
        parents = list(cluster.replicas)
        await target.engine.cloning.clone("s", "copy", FRESH.format(1))
        cluster.serve_clone(FRESH.format(1))
        target = await cluster.serving_target()
        await target.healthy()
        changes = target.engine.changes
        assert changes is not None
        for replica in list(cluster.replicas):
            fresh = cluster.new_replica()
            await changes.replace(replica.address, fresh.address)
            await changes.delete(replica.address)
            await target.healthy()
        added = cluster.replicas[3:]
        configuration = added[0].disk.configuration
        assert {one.replica_uuid for one in configuration.members} == {
            replica.disk.replica_uuid for replica in added
        }
        for parent, replica in zip(parents, added, strict=True):
            cluster.clones.at(parent.address)[FRESH.format(1)] = replica.disk
        cluster.replicas = parents
        target = await cluster.serving_target()
        await target.healthy()
        cloning = target.engine.cloning
        clone = await cloning.clone("s", "copy", FRESH.format(2))
        assert clone.identity.volume_uuid == FRESH.format(1)
        assert clone.configuration == configuration
        assert await cloning.discard("copy") == 0
        pools = [cluster.clones.at(parent.address) for parent in parents]
        assert all(list(pool) == [FRESH.format(1)] for pool in pools)

    play(scenario())


def test_no_clone_is_made_of_the_name_of_a_volume_that_is_served_beside() -> None:
    """As a clone may be whose replicas have all been replaced by others, in other pools."""

    async def scenario() -> None:
        cluster = Cluster()
        target = await with_snapshot(cluster)
        cloning = target.engine.cloning
        with pytest.raises(AlreadyExistsError, match="this target serves a volume"):
            await cloning.clone("s", "copy", FRESH.format(2), beside=FRESH.format(1))
        assert not any(cluster.clones.pools.values())
        clone = await cloning.clone("s", "copy", FRESH.format(3))
        uuid = clone.identity.volume_uuid
        assert await cloning.clone("s", "copy", FRESH.format(4), beside=uuid) == clone

    play(scenario())


def test_member_that_lags_makes_its_clone_when_it_has_come_to_the_snapshot() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await with_snapshot(cluster)
        cluster.replicas[1].stalled = True
        await target.engine.operations.create_snapshot("late")
        assert "late" not in cluster.replicas[1].disk.snapshots
        assert len(target.engine._roster.in_sync) == 3
        asking = asyncio.ensure_future(target.engine.cloning.clone("late", "copy", FRESH.format(1)))
        await asyncio.sleep(2)
        assert not asking.done()
        cluster.replicas[1].stalled = False
        clone = await asking
        assert len(clone.configuration.members) == 3

    play(scenario())


def test_clone_is_read_only_from_the_beginning_where_that_is_asked_for() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await with_snapshot(cluster)
        cloning = target.engine.cloning
        cluster.clones.knows_read_only = False
        with pytest.raises(InputError, match="upgrade it first"):
            await cloning.clone("s", "copy", FRESH.format(1), read_only=True)
        cluster.clones.knows_read_only = True
        clone = await cloning.clone("s", "copy", FRESH.format(2), read_only=True)
        assert clone.identity.volume_uuid == FRESH.format(2), "half-made ones of another kind go"
        assert all(len(pool) == 1 for pool in cluster.clones.pools.values())
        cluster.serve_clone(FRESH.format(2))
        target = await cluster.serving_target()
        assert await target.write(0, block_of(99)) is Failure.READ_ONLY
        assert await target.read(0, BLOCK_BYTES) == block_of(1)

    play(scenario())


def test_snapshot_that_is_deleted_meanwhile_leaves_no_half_made_clone() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await with_snapshot(cluster)
        cluster.clones.deaf = {cluster.replicas[0].address}
        asking = asyncio.ensure_future(target.engine.cloning.clone("s", "copy", FRESH.format(1)))
        await until(lambda: cluster.clones.calls == 2)
        await target.engine.operations.delete_snapshot("s")
        with pytest.raises(UnknownSnapshotError):
            await asking
        assert not any(cluster.clones.pools.values())

    play(scenario())
