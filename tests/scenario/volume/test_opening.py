"""Opening a volume over simulated replicas at different places, and the end of a target's reign."""

from __future__ import annotations

import asyncio
import gc

import pytest

from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2, volume_pb2
from cstor_core.units import BLOCK_BYTES
from tests.scenario.volume.cluster import Cluster, block_of, until
from tests.scenario.volume.virtual_time import play


def test_volume_opens_with_two_of_three_and_not_with_one() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        for replica in cluster.replicas[1:]:
            replica.kill()
        target = cluster.start_target()
        await asyncio.sleep(30)
        assert not target.engine.serving
        assert target.status == control_pb2.VOLUME_STATUS_WAITING
        assert cluster.replicas[0].disk.promised_epoch == 0, "a minority is asked without effect"
        cluster.replicas[1].restart()
        await until(lambda: target.engine.serving)

    play(scenario())


def test_target_waits_until_the_volume_is_founded() -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas=1)
        founding = cluster.replicas[0].disk.configuration
        cluster.replicas[0].disk.configuration = volume_pb2.Configuration()
        target = cluster.start_target()
        await asyncio.sleep(5)
        assert not target.engine.serving
        assert "not founded" in target.engine.report().reason
        cluster.replicas[0].disk.configuration = founding
        await until(lambda: target.engine.serving)

    play(scenario())


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 5])
def test_what_was_acknowledged_is_there_after_a_restart_of_everything(replicas: int) -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas)
        target = await cluster.serving_target()
        for block in range(10):
            assert await target.write(block * BLOCK_BYTES, block_of(block)) is None
        target.kill()
        for replica in cluster.replicas:
            replica.kill()
            replica.restart()
        successor = await cluster.serving_target()
        expected = b"".join(map(block_of, range(10)))
        assert await successor.read(0, 10 * BLOCK_BYTES) == expected
        await successor.healthy()

    play(scenario())


def test_opening_brings_the_members_that_are_behind_to_the_newest_entry() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[2].stalled = True
        for block in range(10):
            await target.write(block * BLOCK_BYTES, block_of(1))
        target.kill()
        cluster.replicas[0].kill()
        cluster.replicas[2].kill()
        cluster.replicas[2].restart()
        successor = await cluster.serving_target()
        assert await successor.read(0, 10 * BLOCK_BYTES) == block_of(1) * 10
        assert cluster.replicas[2].disk.blocks == cluster.replicas[1].disk.blocks

    play(scenario())


def test_older_target_is_deposed_and_its_writes_change_nothing() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        older = await cluster.serving_target()
        await older.healthy()
        assert await older.write(0, block_of(1)) is None
        newer = await cluster.serving_target()
        late = asyncio.ensure_future(older.write(0, block_of(2)))
        sentence = await asyncio.wait_for(older.engine.deposed, 10)
        assert "another target" in sentence
        assert not older.engine.serving
        await newer.healthy()
        assert await newer.read(0, BLOCK_BYTES) == block_of(1)
        assert await late is not None
        assert await older.read(0, BLOCK_BYTES) != block_of(2)

    play(scenario())


def test_deposed_target_answers_no_read_from_a_member_that_has_not_heard_yet() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        older = await cluster.serving_target()
        await older.healthy()
        assert await older.write(0, block_of(1)) is None
        unheard = cluster.replicas[2]
        unheard.up = False
        newer = await cluster.serving_target()
        assert await newer.write(0, block_of(2)) is None
        unheard.up = True
        await asyncio.wait_for(asyncio.shield(older.engine.deposed), 10)
        assert await older.read(0, BLOCK_BYTES) != block_of(1)

    play(scenario())


def test_entries_known_only_to_a_member_that_is_rebuilt_keep_the_volume_closed() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        assert await target.write(0, block_of(1)) is None
        await asyncio.sleep(1)
        target.kill()
        for replica in cluster.replicas:
            replica.kill()
        newest, behind, lost = cluster.replicas
        newest.disk.rebuilding = True
        newest.disk.history = newest.disk.history.extended(newest.disk.applied_seq + 5)
        newest.restart()
        behind.restart()
        waiting = cluster.start_target()
        await asyncio.sleep(10)
        assert not waiting.engine.serving
        assert "being rebuilt" in waiting.engine.report().reason
        newest.disk.rebuilding = False
        newest.disk.history = behind.disk.history
        await until(lambda: waiting.engine.serving)
        assert not lost.up

    play(scenario())


@pytest.mark.parametrize("over_a_snapshot", [False, True])
def test_member_that_is_being_rebuilt_finishes_that_where_a_quorum_needs_it(
    over_a_snapshot: bool,
) -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=5)
        target = await cluster.serving_target()
        await target.healthy()
        assert await target.write(0, block_of(1)) is None
        await asyncio.sleep(1)
        holder, flagged, lost = cluster.replicas
        flagged.kill()
        for block in range(1, 30):
            assert await target.write(block * BLOCK_BYTES, block_of(block)) is None
        if over_a_snapshot:
            await target.engine.operations.create_snapshot("s")
        target.kill()
        lost.kill()
        flagged.disk.rebuilding = True
        flagged.restart()
        target = await cluster.serving_target()
        assert not lost.up
        assert flagged.disk.snapshots.keys() == holder.disk.snapshots.keys()
        assert not flagged.disk.rebuilding
        assert flagged.disk.blocks.keys() == holder.disk.blocks.keys()
        assert await target.write(0, block_of(2)) is None
        assert await target.read(29 * BLOCK_BYTES, BLOCK_BYTES) == block_of(29)

    play(scenario())


@pytest.mark.parametrize("changes_members", [False, True])
def test_newest_entries_that_nobody_can_have_do_not_keep_the_volume_closed(
    changes_members: bool,
) -> None:
    """Also where a configuration is among them, whose members are asked first."""

    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        assert await target.write(0, block_of(1)) is None
        newest, others = cluster.replicas[0], cluster.replicas[1:]
        for replica in others:
            replica.stalled = True
        target.write(0, block_of(2))
        await until(lambda: newest.disk.applied_seq > others[0].disk.applied_seq)
        target.kill()
        newest.gives_nothing = True
        if changes_members:
            made = volume_pb2.Configuration()
            made.CopyFrom(newest.disk.configuration)
            made.number += 1
            newest.disk.take(made, newest.disk.applied_seq)
        for replica in others:
            replica.kill()
            replica.restart()
        target = cluster.start_target()
        await until(lambda: "newest entry" in target.engine.report().reason)
        assert not target.engine.serving
        await until(lambda: target.engine.serving)
        assert [facts["address"] for name, facts in cluster.events if name == "opened_without"] == [
            newest.address
        ]
        assert await target.read(0, BLOCK_BYTES) == block_of(1)
        assert await target.write(BLOCK_BYTES, block_of(3)) is None
        newest.gives_nothing = False
        await target.healthy()
        await until(lambda: newest.disk.blocks == others[0].disk.blocks)

    play(scenario())


def test_only_holder_of_what_may_be_acknowledged_is_waited_for() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        holder, behind, lost = cluster.replicas
        behind.stalled = True
        assert await target.write(0, block_of(1)) is None
        target.kill()
        lost.kill()
        holder.gives_nothing = True
        behind.kill()
        behind.restart()
        target = cluster.start_target()
        await asyncio.sleep(60)
        assert not target.engine.serving
        holder.gives_nothing = False
        await until(lambda: target.engine.serving)
        assert await target.read(0, BLOCK_BYTES) == block_of(1)

    play(scenario())


def test_opening_that_loses_a_member_begins_again() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        cluster.replicas[2].kill()
        target = cluster.start_target()
        await until(lambda: cluster.replicas[0].appending is not None)
        cluster.replicas[0].kill()
        await asyncio.sleep(5)
        assert not target.engine.serving
        cluster.replicas[0].restart()
        await until(lambda: target.engine.serving)
        assert await target.write(0, block_of(1)) is None

    play(scenario())


def test_close_drains_what_is_in_flight_and_flushes() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        writes = [
            asyncio.ensure_future(target.write(block * BLOCK_BYTES, block_of(1)))
            for block in range(50)
        ]
        await asyncio.sleep(0)
        await target.engine.close()
        assert [write.result() for write in writes] == [None] * 50
        assert sum(replica.durable_seq >= 51 for replica in cluster.replicas) >= 2

    play(scenario())


def test_replica_that_does_not_take_its_lease_back_holds_up_no_close_for_long() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        loop = asyncio.get_running_loop()
        link = next(iter(target.engine._roster.members)).link
        lease = link.lease

        async def slow(request: replica_pb2.LeaseRequest) -> replica_pb2.LeaseResponse:
            await asyncio.sleep(0 if request.duration_ms else 60)
            return await lease(request)

        link.lease = slow  # type: ignore[method-assign]
        begun_s = loop.time()
        await target.engine.close()
        assert loop.time() - begun_s < 10
        target.kill()
        await asyncio.sleep(0.1)
        gc.collect()  # an error that nobody took would be told of then

    play(scenario())
