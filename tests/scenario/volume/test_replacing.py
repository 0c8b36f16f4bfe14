"""A member is replaced, and nothing of it is given up before it is certain that the new one is
taken.
"""

from __future__ import annotations

import pytest

from cstor_core.errors import CstorError, InputError, UnavailableError
from tests.scenario.volume.cluster import Cluster, Target, block_of
from tests.scenario.volume.test_changes import uuids
from tests.scenario.volume.test_witness import volume
from tests.scenario.volume.virtual_time import play


async def lost(cluster: Cluster) -> Target:
    """A target that serves, with a lost replica, the second one."""
    target = await cluster.serving_target()
    await target.healthy()
    cluster.replicas[1].kill()
    assert await target.write(0, block_of(1)) is None
    return target


def test_nothing_is_given_up_where_the_new_daemon_is_not_there_or_does_not_take_it() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await lost(cluster)
        changes = target.engine.changes
        left, old = cluster.replicas
        before = uuids(target)

        async def refused(address: str, error: type[CstorError], words: str) -> None:
            with pytest.raises(error, match=words):
                await changes.replace(old.address, address)
            assert uuids(target) == before
            assert "member_removed" not in [name for name, _ in cluster.events]

        fresh = cluster.new_replica()
        fresh.kill()
        await refused(fresh.address, UnavailableError, "no daemon answers")
        fresh.restart()
        near = cluster.new_replica(host=left.address.rpartition(":")[0])
        await refused(near.address, InputError, "is on the same host")
        await refused(cluster.new_witness().address, InputError, "name one of the same kind")
        await refused(left.address, InputError, "is a member of the volume already")
        await refused(old.address, InputError, "where it is or nobody answers")
        fresh.disk.configuration = left.disk.configuration  # of another life
        await refused(fresh.address, InputError, "holds something")
        fresh.disk = cluster.empty_disk()
        assert await changes.replace(old.address, fresh.address) == fresh.disk.replica_uuid
        assert fresh.disk.replica_uuid[-1] in uuids(target)
        assert len(uuids(target)) == 3

    play(scenario())


def test_new_one_may_be_on_the_host_of_the_one_that_leaves_or_on_a_new_disk_there() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await lost(cluster)
        changes = target.engine.changes
        old = cluster.replicas[1]
        near = cluster.new_replica(host=old.address.rpartition(":")[0])
        await changes.replace(old.address, near.address)
        await target.healthy()
        near.kill()
        near.disk = cluster.empty_disk()
        near.restart()
        await changes.replace(near.address, near.address)
        await target.healthy()
        assert near.disk.replica_uuid[-1] in uuids(target)
        assert len(uuids(target)) == 3

    play(scenario())


def test_what_broke_off_between_goes_on_and_what_is_done_is_found_done() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await lost(cluster)
        changes = target.engine.changes
        old = cluster.replicas[1]
        await changes.remove(old.address)
        fresh = cluster.new_replica()
        for _ in range(2):
            uuid = await changes.replace(old.address, fresh.address)
            assert uuid == fresh.disk.replica_uuid
        await target.healthy()
        other = cluster.new_replica()
        with pytest.raises(InputError, match="no replica 'nobody'"):
            await changes.replace("nobody", other.address)

    play(scenario())


def test_witness_is_replaced_by_a_witness() -> None:
    async def scenario() -> None:
        cluster = volume()
        target = await cluster.serving_target()
        await target.healthy()
        changes = target.engine.changes
        old, fresh = cluster.witness, cluster.new_witness()
        old.fail()
        with pytest.raises(InputError, match="name one of the same kind"):
            await changes.replace(old.address, cluster.new_replica().address)
        assert await changes.replace(old.address, fresh.address) == fresh.disk.replica_uuid
        await target.healthy()
        for _ in range(2):
            assert await changes.replace(old.address, fresh.address) == fresh.disk.replica_uuid

    play(scenario())


def test_without_a_witness_the_new_one_is_added_before_the_old_one_goes() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await lost(cluster)
        changes = target.engine.changes
        old, fresh = cluster.replicas[1], cluster.new_replica()
        with pytest.raises(InputError, match="no replica 'nobody'"):
            await changes.replace("nobody", fresh.address)
        for _ in range(2):
            await changes.replace(old.address, fresh.address)
        assert uuids(target) == ["1", "3", "4"]
        names = [name for name, _ in cluster.events]
        assert names.index("member_added") < names.index("member_removed")
        with pytest.raises(InputError, match="where it is or nobody answers"):
            await changes.replace(fresh.address, fresh.address)

    play(scenario())
