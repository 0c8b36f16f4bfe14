"""Members on their way back: told of as they go, and hurried where somebody asks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cstor_core.errors import InputError, NoSpaceError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2
from cstor_core.units import KIB
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import Cluster, Target, until
from tests.scenario.volume.replicas import Replica
from tests.scenario.volume.test_members import assert_equal_replicas, write_blocks
from tests.scenario.volume.virtual_time import play

SMALL = EngineSettings(backlog_bytes_max=64 * KIB, batch_bytes_max=16 * KIB)
BLOCKS = 200


async def one_was_away(cluster: Cluster) -> Target:
    """A target, and its replica 1 that has to be rebuilt, and comes back now."""
    target = await cluster.serving_target()
    await target.healthy()
    cluster.replicas[1].kill()
    await write_blocks(target, 0, BLOCKS, 1)
    await write_blocks(target, 0, 1, 1)  # with whose message the backlog lets the others go
    cluster.replicas[1].restart()
    return target


def test_rebuild_says_how_far_it_is_how_fast_and_how_long() -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=5, settings=SMALL)
        target = await one_was_away(cluster)
        await until(lambda: target.member(1).rebuild_blocks_done > BLOCKS // 4)
        first = target.member(1)
        assert first.status == control_pb2.MEMBER_STATUS_REBUILDING
        assert first.rebuild_blocks_total == BLOCKS
        assert first.rebuild_bytes_per_s > 0
        await until(lambda: target.member(1).rebuild_blocks_done > BLOCKS // 2)
        later = target.member(1)
        assert later.rebuild_bytes_copied > first.rebuild_bytes_copied
        assert 0 < later.rebuild_left_ms < first.rebuild_left_ms
        await target.healthy()
        assert (target.member(1).rebuild_blocks_total, target.member(1).rebuild_left_ms) == (0, 0)

    play(scenario())


def test_rebuilds_are_counted_by_how_they_have_ended() -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=5, settings=SMALL)
        target = await one_was_away(cluster)
        counters = target.engine.counters
        await until(lambda: target.member(1).rebuild_blocks_done > BLOCKS // 4)
        assert (counters.rebuilds_done, counters.rebuilds_failed) == (0, 0)
        cluster.replicas[1].kill()
        await until(lambda: counters.rebuilds_failed > 0)
        cluster.replicas[1].restart()
        await target.healthy()
        assert (counters.rebuilds_done, counters.rebuilds_failed) == (1, 1)
        cluster.replicas[2].kill()
        await until(lambda: target.member(2).status == control_pb2.MEMBER_STATUS_OFFLINE)
        cluster.replicas[2].restart()
        await target.healthy()  # in order: that is no rebuild
        assert (counters.rebuilds_done, counters.rebuilds_failed) == (1, 1)

    play(scenario())


def test_member_that_waits_for_its_next_try_is_tried_at_once_when_somebody_asks() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=EngineSettings(retry_s=30.0))
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[1].kill()
        await asyncio.sleep(40.0)
        cluster.replicas[1].restart()
        begun_s = asyncio.get_running_loop().time()
        address = cluster.replicas[1].address
        (meant,) = target.engine.keeping.try_now(address)
        assert meant.member.address == address
        target.engine.keeping.try_now(address)  # asked again, it is no more than asked once
        await target.healthy()
        assert asyncio.get_running_loop().time() - begun_s < 5.0
        assert target.engine.keeping.try_now("") == []

    play(scenario())


def test_what_cannot_be_brought_back_is_refused_with_what_to_do() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = cluster.start_target()
        with pytest.raises(UnavailableError, match="not open"):
            target.engine.keeping  # noqa: B018 - it is asked for
        await until(lambda: target.engine.serving)
        with pytest.raises(InputError, match="`cstor replica list`"):
            target.engine.keeping.try_now("node-x:1")
        cluster.replicas[1].fail()
        await until(lambda: target.member(1).status == control_pb2.MEMBER_STATUS_FAILED)
        with pytest.raises(InputError, match="does not come back"):
            target.engine.keeping.try_now(cluster.replicas[1].address)

    play(scenario())


def sources_of(replica: Replica) -> list[str]:
    """The addresses that a replica is told to copy from, as it is told."""
    sources: list[str] = []
    rebuild = replica.rebuild

    def told(request: replica_pb2.RebuildRequest, peer: Replica) -> Any:
        sources.append(peer.address)
        return rebuild(request, peer)

    replica.rebuild = told  # type: ignore[method-assign]
    return sources


def test_source_that_dies_is_replaced_and_the_rebuild_goes_on() -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=5, settings=SMALL)
        sources = sources_of(cluster.replicas[1])
        target = await one_was_away(cluster)
        await until(lambda: target.member(1).rebuild_blocks_done > BLOCKS // 2)
        stream = cluster.replicas[1].appending
        cluster.at(sources[0]).kill()
        await until(lambda: len(sources) == 2)
        assert cluster.replicas[1].appending is stream  # its stream of new entries goes on
        cluster.at(sources[0]).restart()
        await target.healthy()
        assert len(set(sources)) == 2
        member = cluster.replicas[1].address
        names = [name for name, facts in cluster.events if facts.get("address") == member]
        assert (names.count("rebuild_started"), names.count("source_replaced")) == (1, 1)
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_rebuild_without_another_source_is_begun_anew_when_one_is_back() -> None:
    async def scenario() -> None:
        cluster = Cluster(2, tail_entries_max=5, settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[1].disk.rebuilding = True
        cluster.replicas[1].kill()
        cluster.replicas[1].restart()
        sources = sources_of(cluster.replicas[1])
        await until(lambda: len(sources) == 1)
        cluster.replicas[0].kill()
        await asyncio.sleep(1)
        cluster.replicas[0].restart()
        await target.healthy()
        assert "source_replaced" not in [name for name, _ in cluster.events]

    play(scenario())


def test_rebuilt_replica_equals_the_others() -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=5, settings=SMALL)
        target = await one_was_away(cluster)
        await target.healthy()
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_pace_is_told_at_the_start_and_when_the_load_or_an_operator_changes_it() -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=5, settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        member = cluster.replicas[1]
        rates: list[int] = []
        rebuild = member.rebuild

        def told(request: replica_pb2.RebuildRequest, peer: Replica) -> Any:
            rates.append(request.bytes_per_s)
            return rebuild(request, peer)

        member.rebuild = told  # type: ignore[method-assign]
        member.kill()
        await write_blocks(target, 0, 5 * BLOCKS, 1)
        await write_blocks(target, 0, 1, 1)  # as above
        member.restart()
        await until(lambda: len(rates) == 1)
        assert rates[0] >= SMALL.rebuild_floor_bytes_per_s  # what was written is not forgotten yet
        await until(lambda: member.disk.paces[-1:] == [0])  # nobody is there any more
        target.engine.keeping.set_pace(control_pb2.REBUILD_PACE_FULL)
        assert target.engine.report().rebuild_pace == control_pb2.REBUILD_PACE_FULL
        await target.healthy()
        assert [facts for name, facts in cluster.events if name == "pace_set"] == [
            {"pace": "as fast as they can"}
        ]

    play(scenario())


def test_one_that_was_caught_up_in_part_is_flagged_when_others_hold_that_too() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        member, *others = cluster.replicas[1], cluster.replicas[0], cluster.replicas[2]
        member.kill()
        await write_blocks(target, 0, BLOCKS, 1)
        full_from = member.disk.applied_seq + BLOCKS // 2
        apply, begin_rebuild = member.apply, member.begin_rebuild
        holding: list[int] = []

        def applied(entry: Any) -> None:
            if not member.disk.rebuilding and member.disk.applied_seq >= full_from:
                raise NoSpaceError("the pool is full")
            apply(entry)

        def flagged(request: replica_pb2.BeginRebuildRequest) -> None:
            held_seq = member.disk.applied_seq
            holding.append(sum(other.durable_seq >= held_seq for other in others))
            begin_rebuild(request)

        member.apply = applied  # type: ignore[method-assign]
        member.begin_rebuild = flagged  # type: ignore[method-assign]
        assert all(other.durable_seq < full_from for other in others)
        member.restart()
        await target.healthy()
        assert holding == [2]
        assert_equal_replicas(cluster)

    play(scenario())
