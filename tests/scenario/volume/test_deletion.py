"""The end of a volume: held by a quorum before any replica goes, and carried on after a crash."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from cstor_core.errors import InputError, UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.properties import known_with
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.replicas import Replica
from tests.scenario.volume.virtual_time import play

BRIEF = EngineSettings(write_timeout_s=3.0)


def is_gone(replica: Replica) -> bool:
    """Whether what it held has been destroyed."""
    return replica.disk.replica_uuid.endswith("-again")


async def written(cluster: Cluster) -> Target:
    target = await cluster.serving_target()
    await target.healthy()
    assert await target.write(0, block_of(1)) is None
    return target


def test_deleted_volume_is_gone_from_all_pools() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await written(cluster)
        deletion = target.engine.deletion
        said = deletion.sentence()
        assert "volume vol" in said
        assert all(replica.address in said for replica in cluster.replicas)
        assert not any(map(is_gone, cluster.replicas))
        assert await deletion.delete() == []
        assert all(map(is_gone, cluster.replicas))
        assert deletion.is_done
        assert not target.engine.serving
        assert ("volume_deleted", {"replicas": 3, "left": 0}) in cluster.events

    play(scenario())


def test_protected_volume_is_not_deleted() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await written(cluster)
        operations, deletion = target.engine.operations, target.engine.deletion
        protect = volume_pb2.PropertySetting(delete_protection=True)
        await operations.set_property(protect)
        for refused in (deletion.delete, operations.delete_volume):
            with pytest.raises(InputError, match="delete-protection off"):
                await refused()
        assert not deletion.is_ordered
        assert await target.write(0, block_of(2)) is None
        await operations.set_property(volume_pb2.PropertySetting(delete_protection=False))
        await deletion.delete()
        assert all(map(is_gone, cluster.replicas))
        with pytest.raises(InputError, match="being deleted"):
            await operations.set_property(protect)

    play(scenario())


def test_nothing_is_destroyed_before_a_quorum_has_it_on_stable_storage() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=BRIEF)
        target = await written(cluster)
        for replica in cluster.replicas[:2]:
            replica.stalled = True
        with pytest.raises(UnavailableError, match="ask again"):
            await target.engine.deletion.delete()
        assert not any(map(is_gone, cluster.replicas))
        assert target.engine.deletion.is_ordered
        for replica in cluster.replicas:
            replica.stalled = False
        assert await target.engine.deletion.delete() == []
        assert all(map(is_gone, cluster.replicas))

    play(scenario())


def test_deletion_that_nobody_waits_for_any_more_goes_on() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await written(cluster)
        deletion = target.engine.deletion
        asking = asyncio.ensure_future(deletion.delete())
        await until(lambda: not target.engine.serving)
        asking.cancel()
        assert "is destroyed for ever" in deletion.sentence()
        await until(lambda: all(map(is_gone, cluster.replicas)))
        assert await deletion.delete() == [], "asked again it is found done"

    play(scenario())


def test_replica_that_was_away_is_named_and_opens_nothing() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await written(cluster)
        away = cluster.replicas[1]
        away.kill()
        await until(lambda: len(target.engine._roster.in_sync) == 2)
        (left,) = await target.engine.deletion.delete()
        assert left.member.address == away.address
        assert "no daemon answers" in left.reason
        assert [is_gone(replica) for replica in cluster.replicas] == [True, False, True]
        await target.engine.close()
        away.restart()
        assert not away.disk.deleted
        target = cluster.start_target()
        await asyncio.sleep(20)
        assert not target.engine.serving
        assert not is_gone(away)

    play(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_deletion_that_breaks_off_is_carried_on_or_never_happened(seed: int) -> None:
    """The target dies at some moment, and with it perhaps a replica for a while."""

    async def scenario() -> None:
        chance = Random(seed)
        cluster = Cluster(seed=seed)
        target = await written(cluster)
        away = cluster.replicas[chance.randrange(3)]
        if chance.random() < 0.5:
            away.kill()
        asking = asyncio.ensure_future(target.engine.deletion.delete())
        await asyncio.sleep(chance.uniform(0, 0.02))
        target.kill()
        asking.cancel()
        await asyncio.sleep(0.2)
        gone = sum(map(is_gone, cluster.replicas))
        deleted = [replica.disk.deleted or is_gone(replica) for replica in cluster.replicas]
        assert not gone or sum(deleted) >= 2
        away.restart()
        target = cluster.start_target()
        await asyncio.sleep(30)
        if any(deleted) and gone < 2:
            assert not target.engine.serving
            assert all(map(is_gone, cluster.replicas))
        elif not any(deleted):
            assert target.engine.serving
            assert await target.read(0, 4096) == block_of(1)
        else:
            assert not target.engine.serving, "what is left is too little to be opened"

    play(scenario())


def test_entry_that_no_quorum_held_is_dropped_with_its_history() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=BRIEF)
        target = await written(cluster)
        for replica in cluster.replicas[:2]:
            replica.stalled = True
        with pytest.raises(UnavailableError):
            await target.engine.deletion.delete()
        target.kill()
        cluster.replicas[2].kill()
        for replica in cluster.replicas[:2]:
            replica.kill()
            replica.restart()
        target = await cluster.serving_target()
        assert await target.write(0, block_of(2)) is None
        cluster.replicas[2].restart()
        await target.healthy()
        assert not any(replica.disk.deleted for replica in cluster.replicas)
        assert await target.read(0, 4096) == block_of(2)

    play(scenario())


def test_daemon_that_knows_no_properties_is_named_before_anything_is_ordered() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await written(cluster)
        target.engine.check_versions()
        report = target.engine._roster.members[1].report
        assert report is not None
        old = replica_pb2.ReplicaReport()
        old.CopyFrom(report)
        old.ClearField("properties")
        target.engine._roster.members[1].report = old
        with pytest.raises(InputError, match="upgrade it first"):
            target.engine.check_versions()
        old.CopyFrom(report)
        old.ClearField("reservations")
        target.engine.check_versions()
        setting = volume_pb2.PropertySetting(removable=True)
        with pytest.raises(InputError, match="upgrade it first"):
            target.engine.check_versions(known_with(setting))

    play(scenario())
