"""Members that come back over an ordered operation, or too few of which are there: in steps."""

from __future__ import annotations

import asyncio

from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.units import KIB
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.replicas import Replica
from tests.scenario.volume.test_members import assert_equal_replicas, write_blocks
from tests.scenario.volume.virtual_time import play

SMALL = EngineSettings(backlog_bytes_max=64 * KIB, batch_bytes_max=16 * KIB)


async def away_over_an_operation(cluster: Cluster) -> Target:
    """A target, and a member that is too far behind to come back in order, over an operation."""
    target = await cluster.serving_target()
    await target.healthy()
    cluster.replicas[1].kill()
    await write_blocks(target, 0, 50, 1)
    tenure = target.engine._membership.tenure
    assert tenure is not None
    tenure.operations_seq = target.engine.report().last_seq
    return target


def test_member_comes_back_in_steps_while_writes_go_on() -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=5, settings=SMALL)
        target = await away_over_an_operation(cluster)
        member = cluster.replicas[1]
        member.restart()
        writing = True

        async def write_on() -> None:
            stamp = 2
            while writing:
                stamp += 1
                assert await target.write(stamp % 50 * 4096, block_of(stamp)) is None

        writer = asyncio.ensure_future(write_on())
        await target.healthy()
        writing = False
        await writer
        assert [name for name, _ in cluster.events].count("rebuild_started") == 1
        assert not member.disk.rebuilding
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_flagged_member_is_brought_back_over_an_operation_too() -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=5, settings=SMALL)
        target = await away_over_an_operation(cluster)
        cluster.replicas[1].disk.rebuilding = True
        cluster.replicas[1].restart()
        await target.healthy()
        assert not cluster.replicas[1].disk.rebuilding
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_member_does_not_miss_an_operation_that_is_ordered_while_it_is_flagged() -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=5, settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        member = cluster.replicas[1]
        member.kill()
        await write_blocks(target, 0, 50, 1)
        flag, operations = member.begin_rebuild, target.engine.operations
        larger = operations.size_bytes + 64 * KIB
        resizing: list[asyncio.Future[None]] = []

        def flagged(request: replica_pb2.BeginRebuildRequest) -> None:
            resizing.append(asyncio.ensure_future(operations.resize(larger)))
            flag(request)

        member.begin_rebuild = flagged  # type: ignore[method-assign]
        member.restart()
        await until(lambda: bool(resizing))
        await asyncio.gather(*resizing)
        await target.healthy()
        assert member.report().size_bytes == larger
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_member_that_no_step_brings_nearer_is_told_so_and_tried_again() -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=5, settings=SMALL)
        target = await away_over_an_operation(cluster)
        member = cluster.replicas[1]
        stage = member.stage

        def nothing(request: replica_pb2.StageRequest, peer: Replica) -> None:
            member.check(request.orders)

        member.stage = nothing  # type: ignore[method-assign]
        member.restart()
        await until(lambda: "came no nearer" in target.member(1).reason)
        member.stage = stage  # type: ignore[method-assign]
        await target.healthy()

    play(scenario())
