"""What a replica knows of itself that was brought to an open volume as a new one."""

from __future__ import annotations

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History, Reign
from replica.store.replica_store import ReplicaStore
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.test_rebuilding import source_and_member
from tests.unit.store.volumes import (
    IDENTITY,
    kill_and_open,
    open_pool,
    operations_of,
    stacks_of,
)


async def new_replica() -> tuple[ReplicaStore, MemoryFilesystem]:
    filesystem = MemoryFilesystem()
    pool = await open_pool(filesystem, first_uuid=7)
    return await pool.create(IDENTITY), filesystem


async def staged(source: ReplicaStore, learner: ReplicaStore) -> None:
    async with learner.stage(source.history) as stage:
        async for run in stacks_of(source, stage.shared, stage.foreign):
            await stage.copy_in(run)
        await stage.switch(operations_of(source), source.configuration)


def naming(store: ReplicaStore, seq: int) -> volume_pb2.ConfigurationChange:
    configuration = volume_pb2.Configuration(number=seq)
    configuration.members.add(replica_uuid=store.replica_uuid, address="new:1")
    return volume_pb2.ConfigurationChange(seq=seq, configuration=configuration)


async def reopened(filesystem: MemoryFilesystem) -> ReplicaStore:
    return await kill_and_open(filesystem)


async def test_one_that_was_founded_with_the_volume_is_no_learner() -> None:
    source, member, _ = await source_and_member()
    await staged(source, member)
    assert not source.learner
    assert not member.learner


async def test_new_replica_is_a_learner_and_keeps_which_entry_made_it_a_member() -> None:
    source, _, _ = await source_and_member()
    learner, filesystem = await new_replica()
    assert not learner.learner
    await staged(source, learner)
    for is_written_down in (False, True):
        assert (learner.learner, learner.member_by) == (True, None)
        if is_written_down:
            await learner.checkpoint()
        learner = await reopened(filesystem)
    learner.append_configuration(naming(learner, 10))
    gone = volume_pb2.Configuration(number=11)
    learner.append_configuration(volume_pb2.ConfigurationChange(seq=11, configuration=gone))
    for is_written_down in (False, True):
        assert (learner.learner, learner.member_by) == (True, Reign(2, 10))
        if is_written_down:
            await learner.checkpoint()
        learner = await reopened(filesystem)
    learner.append_configuration(naming(learner, 12))
    assert learner.member_by == Reign(2, 10)


async def test_entry_that_was_dropped_is_forgotten_for_one_that_made_it_a_member_later() -> None:
    source, _, _ = await source_and_member()
    learner, filesystem = await new_replica()
    await staged(source, learner)
    learner.append_configuration(naming(learner, 10))
    assert learner.member_by == Reign(2, 10)
    source.append_epoch_record(volume_pb2.EpochRecord(seq=10, epoch=3, target_instance="another"))
    await staged(source, learner)
    assert learner.history == source.history
    assert not learner.history.holds(Reign(2, 10))
    learner.append_configuration(naming(learner, 11))
    for store in (learner, await reopened(filesystem)):
        assert (store.learner, store.member_by) == (True, Reign(3, 11))


async def test_one_that_a_step_tells_to_be_a_member_counts_as_one_in_any_history() -> None:
    source, _, _ = await source_and_member()
    learner, _ = await new_replica()
    source.append_configuration(naming(learner, 10))
    await staged(source, learner)
    assert (learner.learner, learner.member_by) == (True, Reign(0, 0))
    assert History().holds(Reign(0, 0))
