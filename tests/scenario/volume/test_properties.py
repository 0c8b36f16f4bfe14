"""Properties are entries of the order: what promises more is used at once, what promises less only
when a quorum has it on stable storage.
"""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.errors import InputError, UnavailableError
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.volume.backing import Failure
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.virtual_time import play

BRIEF = EngineSettings(write_timeout_s=3.0)
OFF = volume_pb2.PropertySetting(write_cache=False)
ON = volume_pb2.PropertySetting(write_cache=True)


def waits_for_disks(cluster: Cluster, target: Target) -> bool:
    """Whether the last write is on stable storage of a quorum."""
    durable = sorted((replica.durable_seq for replica in cluster.replicas), reverse=True)
    return durable[1] >= target.engine.report().last_seq


def test_properties_are_held_by_all_and_known_to_the_next_target() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        operations = target.engine.operations
        for setting in (
            volume_pb2.PropertySetting(delete_protection=True),
            volume_pb2.PropertySetting(read_only=True),
            OFF,
            OFF,
            volume_pb2.PropertySetting(thin=True),
            volume_pb2.PropertySetting(thin=False),
        ):
            await operations.set_property(setting)
        told = [facts for name, facts in cluster.events if name == "property_set"]
        assert [facts["property"] for facts in told] == [
            "delete-protection",
            "read-only",
            "write-cache",
            "thin",
        ]
        assert await target.write(0, block_of(1)) is Failure.READ_ONLY
        assert await target.unmap(0, 4096) is Failure.READ_ONLY
        assert await target.write(512, bytes(512)) is Failure.READ_ONLY
        target.kill()
        target = await cluster.serving_target()
        await target.healthy()
        used = target.engine.report().properties
        assert (used.delete_protection, used.read_only, used.write_cache) == (True, True, False)
        assert all(replica.disk.properties == used for replica in cluster.replicas)
        with pytest.raises(InputError):
            await target.engine.operations.set_property(volume_pb2.PropertySetting())
        await target.engine.operations.set_property(volume_pb2.PropertySetting(read_only=False))
        assert await target.write(0, block_of(2)) is None

    play(scenario())


def test_every_write_behind_the_end_of_the_write_cache_waits_for_stable_storage() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        assert await target.write(0, block_of(1)) is None
        assert not waits_for_disks(cluster, target)
        setting = asyncio.ensure_future(target.engine.operations.set_property(OFF))
        await asyncio.sleep(0)
        assert await target.write(4096, block_of(2)) is None
        assert waits_for_disks(cluster, target)
        await setting
        await target.engine.operations.set_property(ON)
        assert await target.write(0, block_of(3)) is None
        assert not waits_for_disks(cluster, target)

    play(scenario())


def test_write_cache_is_used_only_when_a_quorum_has_it_on_stable_storage() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=BRIEF)
        cluster.replicas[0].disk.identity.write_cache = False
        target = await cluster.serving_target()
        await target.healthy()
        operations = target.engine.operations
        assert not operations.properties.write_cache
        for replica in cluster.replicas[:2]:
            replica.stalled = True
        with pytest.raises(UnavailableError, match="ask again"):
            await operations.set_property(ON)
        assert target.engine._placing._is_durable
        for replica in cluster.replicas:
            replica.stalled = False
        await operations.set_property(ON)
        assert not target.engine._placing._is_durable

    play(scenario())


def test_short_members_count_without_a_write_cache_that_all_of_them_know_is_off() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        await target.engine.operations.set_property(OFF)
        await until(lambda: all(not r.disk.properties.write_cache for r in cluster.replicas))
        assert await target.write(0, block_of(1)) is None
        await asyncio.sleep(0.5)
        target.kill()
        cluster.replicas[2].kill()
        for replica in cluster.replicas[:2]:
            replica.short = True
        target = await cluster.serving_target()
        assert not target.engine.loss_possible
        await target.engine.operations.set_property(ON)
        target.kill()
        cluster.replicas[0].short = True
        cluster.replicas[1].kill()
        cluster.replicas[2].restart()
        assert not cluster.replicas[2].disk.properties.write_cache, "it was away"
        target = cluster.start_target()
        await asyncio.sleep(10)
        assert not target.engine.serving, "some acknowledged write may be with the second alone"

    play(scenario())
