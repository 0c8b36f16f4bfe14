"""Reservations are entries of the one order: they outlive targets, and nothing passes them."""

from __future__ import annotations

import asyncio
import random

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import ChangeReservations, Failure
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.virtual_time import play


def reserve(target: Target, change: ChangeReservations) -> asyncio.Future[Failure | None]:
    """Have other reservations kept; the answer comes later."""
    done: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
    target.engine.reserve(change, done.set_result)
    return done


def confirm(target: Target) -> asyncio.Future[Failure | None]:
    """Whether what is known holds."""
    done: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
    target.engine.confirm(done.set_result)
    return done


def generation(target: Target) -> int:
    return target.engine.operations.reservations.generation


async def count_up(target: Target, times: int) -> int:
    """Change them so often, each time on top of the last; how often that was acknowledged."""
    acknowledged = 0

    def next_one() -> volume_pb2.Reservations:
        return volume_pb2.Reservations(generation=generation(target) + 1)

    for _ in range(times):
        changed = reserve(target, next_one)
        if not await target.answers(changed):
            break
        acknowledged += changed.result() is None
    return acknowledged


def test_what_was_acknowledged_is_known_to_the_next_target() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        moments = random.Random(7)
        acknowledged = started = 0
        for _ in range(12):
            target = await cluster.serving_target()
            before = generation(target)
            assert acknowledged <= before <= started
            counting = [asyncio.ensure_future(count_up(target, 1000)) for _ in range(3)]
            await asyncio.sleep(moments.uniform(0.005, 0.2))
            target.kill()
            acknowledged = before + sum(await asyncio.gather(*counting))
            started = acknowledged + len(counting)

    play(scenario())


def test_a_change_has_its_place_behind_the_commands_that_came_before() -> None:
    """Those that wait for the reading of a part of a block, and for a quorum, among them."""

    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        order = target.engine._order
        for is_waiting in (False, True):
            if is_waiting:
                for replica in cluster.replicas[1:]:
                    replica.kill()
                await until(lambda: not target.engine._roster.has_quorum)
            before = order.last_seq
            writes = [target.write(BLOCK_BYTES + 512, bytes(512)), target.write(0, block_of(1))]
            changed = reserve(target, lambda: seqs.append(order.last_seq))
            if is_waiting:
                for replica in cluster.replicas[1:]:
                    replica.restart()
            assert await asyncio.gather(*writes, changed) == [None] * 3
            assert seqs.pop() >= before + len(writes)

    seqs: list[int] = []
    play(scenario())


def test_nothing_changes_where_none_are_given_and_no_answer_is_stale() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        assert await count_up(target, 2) == 2
        last_seq = target.engine.report().last_seq
        assert await reserve(target, lambda: None) is None
        assert await confirm(target) is None
        assert target.engine.report().last_seq == last_seq
        for replica in cluster.replicas:
            replica.stalled = True
        cluster.network.dead.add(target.instance)
        await asyncio.sleep(5)
        assert not target.engine._lease.holds
        asked = confirm(target)
        await asyncio.sleep(1)
        assert not asked.done(), "another target may serve by now"
        target.kill()

    play(scenario())


def test_none_are_kept_where_a_daemon_does_not_know_them() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        report = target.engine._roster.members[1].report
        assert report is not None
        report.ClearField("reservations")
        assert await reserve(target, volume_pb2.Reservations) is Failure.BUSY
        assert target.engine.operations.reservations == volume_pb2.Reservations()

    play(scenario())


def test_a_member_that_was_away_has_them_when_it_is_back() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[2].kill()
        assert await count_up(target, 3) == 3
        cluster.replicas[2].restart()
        await target.healthy()
        await asyncio.sleep(1)
        assert [replica.disk.reservations.generation for replica in cluster.replicas] == [3] * 3

    play(scenario())
