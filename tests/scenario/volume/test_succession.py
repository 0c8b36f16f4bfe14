"""Targets that stand by: they leave a target alone that serves, and follow one that does not."""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2
from cstor_core.limits import LEASE_S
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.succession import LOOK_S, SETTLED_S, SILENT_S, WANTED_S, Role
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.virtual_time import play

RENEWED_S = 1.0
ENOUGH_S = 2.0
"""For what an opening takes, beside the waiting."""


async def pair(cluster: Cluster) -> tuple[Target, Target]:
    """A target that serves, and one that stands by."""
    target = await cluster.serving_target()
    assert await target.write(0, block_of(1)) is None
    standby = cluster.start_target(stands_by=True)
    await until(lambda: standby.engine.succession.seen is not None)
    return target, standby


def names(cluster: Cluster) -> list[str]:
    return [name for name, _ in cluster.events]


@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
def test_one_that_serves_is_left_alone(replicas: int) -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas)
        target, standby = await pair(cluster)
        await asyncio.sleep(60)
        assert target.status == control_pb2.VOLUME_STATUS_HEALTHY
        assert await target.write(BLOCK_BYTES, block_of(2)) is None
        assert not standby.engine.serving
        assert standby.status == control_pb2.VOLUME_STATUS_STANDBY
        assert standby.engine.identity == target.engine.identity
        assert standby.engine.size_bytes == target.engine.size_bytes
        assert [one.portal for one in target.engine.report().standbys] == ["instance-2"]
        assert all(one.disk.promised_epoch == 1 for one in cluster.replicas), "none was asked"

    play(scenario())


@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
def test_one_that_is_killed_is_followed_when_its_lease_has_run_out(replicas: int) -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas)
        target, standby = await pair(cluster)
        loop = asyncio.get_running_loop()
        killed_s = loop.time()
        target.kill()
        await until(lambda: standby.engine.serving)
        took_s = loop.time() - killed_s
        assert LEASE_S - RENEWED_S < took_s < LEASE_S + SILENT_S + 2 * LOOK_S + ENOUGH_S
        assert await standby.read(0, BLOCK_BYTES) == block_of(1)
        assert standby.engine.succession.role is Role.SERVING
        assert standby.status == control_pb2.VOLUME_STATUS_HEALTHY

    play(scenario())


async def equals(cluster: Cluster) -> tuple[Target, Target]:
    """The same, but the one that serves has stood by before and would again."""
    target = cluster.start_target(stands_by=True)
    await until(lambda: target.engine.serving)
    assert await target.write(0, block_of(1)) is None
    standby = cluster.start_target(stands_by=True)
    await until(lambda: bool(target.engine.report().standbys))
    return target, standby


@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
def test_one_that_reaches_no_replica_lets_the_volume_go_when_the_other_one_may_serve(
    replicas: int,
) -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas)
        target, standby = await equals(cluster)
        loop = asyncio.get_running_loop()
        cluster.network.dead.add(target.instance)
        parted_s = loop.time()
        waiting = target.write(BLOCK_BYTES, block_of(2))
        await until(target.engine.deposed.done)
        assert standby.engine.serving, "it has had the time to take over"
        assert loop.time() - parted_s < LEASE_S + SILENT_S + 2 * LOOK_S + 2 * ENOUGH_S
        assert not target.engine.serving
        assert not waiting.done(), "its fate is the other one's to tell"
        assert "let_go" in names(cluster)
        assert "deposed" not in names(cluster)

    play(scenario())


def test_one_that_reaches_no_replica_keeps_the_volume_where_nobody_else_can_have_it() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, standby = await equals(cluster)
        standby.kill()
        await until(lambda: not target.engine.report().standbys)
        for replica in cluster.replicas[:2]:
            replica.kill()
        await asyncio.sleep(60)
        for replica in cluster.replicas[:2]:
            replica.restart()
        await target.healthy()
        assert await target.read(0, BLOCK_BYTES) == block_of(1)

    play(scenario())


def test_one_that_has_not_heard_of_the_other_one_lets_the_volume_go_as_well() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = cluster.start_target(stands_by=True)
        await until(lambda: target.engine.serving)
        assert await target.write(0, block_of(1)) is None
        cluster.network.dead.add(target.instance)
        standby = cluster.start_target(stands_by=True)
        await until(target.engine.deposed.done)
        assert standby.engine.serving, "it has had the time to take over"
        assert "standby_waits" not in names(cluster)
        assert await standby.read(0, BLOCK_BYTES) == block_of(1)

    play(scenario())


@pytest.mark.parametrize("after_s", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_one_that_reaches_too_few_replicas_lets_the_volume_go_to_one_that_reaches_the_others(
    after_s: float,
) -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, standby = await equals(cluster)
        await asyncio.sleep(after_s)
        for number, replica in enumerate(cluster.replicas):
            cut_off = target if number else standby
            cluster.network.parted.add((cut_off.instance, replica.address))
        await until(target.engine.deposed.done)
        await until(lambda: standby.engine.serving)
        assert await standby.read(0, BLOCK_BYTES) == block_of(1)

    play(scenario())


def test_one_that_would_not_stand_by_keeps_the_volume() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, _ = await pair(cluster)
        await until(lambda: bool(target.engine.report().standbys))
        cluster.network.dead.add(target.instance)
        await asyncio.sleep(60)
        assert "let_go" not in names(cluster)

    play(scenario())


def test_where_all_replicas_were_away_one_of_two_serves_again() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, standby = await equals(cluster)
        for replica in cluster.replicas:
            replica.kill()
        await until(target.engine.deposed.done)
        assert not standby.engine.serving
        for replica in cluster.replicas:
            replica.restart()
        await until(lambda: standby.engine.serving)
        assert await standby.read(0, BLOCK_BYTES) == block_of(1)

    play(scenario())


def test_one_that_gives_its_lease_back_is_followed_at_once() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, standby = await pair(cluster)
        await until(lambda: bool(target.engine.report().standbys))
        target.engine.succession.leave_to(target.engine.succession.standbys[0])
        await until(lambda: target.engine.succession.is_successor_ready)
        assert standby.engine.succession.role is Role.TAKING_OVER
        assert target.engine.serving, "it serves until it has nothing more in flight"
        assert await target.write(BLOCK_BYTES, block_of(7)) is None
        assert await target.engine.close()
        closed_s = asyncio.get_running_loop().time()
        await until(lambda: standby.engine.serving)
        assert asyncio.get_running_loop().time() - closed_s < LOOK_S
        assert await standby.read(BLOCK_BYTES, BLOCK_BYTES) == block_of(7)
        assert "leaving" in names(cluster)
        assert "taking_over" in names(cluster)

    play(scenario())


def test_one_to_which_it_is_not_left_gives_the_other_one_the_time_to_open_it() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, first = await pair(cluster)
        second = cluster.start_target(stands_by=True)
        await until(lambda: len(target.engine.report().standbys) == 2)
        chosen = next(
            one
            for one in target.engine.succession.standbys
            if one.target_instance == second.instance
        )
        target.engine.succession.leave_to(chosen)
        await until(lambda: target.engine.succession.is_successor_ready)
        await target.engine.close()
        left_s = asyncio.get_running_loop().time()
        await until(lambda: second.engine.serving)
        assert [one.disk.promised_epoch for one in cluster.replicas] == [2, 2, 2]
        second.kill()
        await until(lambda: first.engine.serving)
        assert asyncio.get_running_loop().time() - left_s > LEASE_S
        assert await first.read(0, BLOCK_BYTES) == block_of(1)

    play(scenario())


def test_one_that_follows_is_not_followed_by_itself() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, standby = await pair(cluster)
        target.kill()
        await until(lambda: standby.engine.serving)
        await asyncio.sleep(10)
        assert standby.engine.report().standbys == []
        assert "standby_waits" not in names(cluster)[names(cluster).index("taking_over") :]

    play(scenario())


def test_where_the_chosen_one_does_not_open_it_another_one_does() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, first = await pair(cluster)
        second = cluster.start_target(stands_by=True)
        await until(lambda: len(target.engine.report().standbys) == 2)
        target.engine.succession.leave_to(target.engine.succession.standbys[0])
        await until(lambda: target.engine.succession.is_successor_ready)
        first.kill()
        await target.engine.close()
        await until(lambda: second.engine.serving)
        assert await second.read(0, BLOCK_BYTES) == block_of(1)

    play(scenario())


def test_one_that_was_to_follow_stands_by_again_where_it_is_not_left() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, standby = await pair(cluster)
        await until(lambda: bool(target.engine.report().standbys))
        target.engine.succession.leave_to(target.engine.succession.standbys[0])
        await until(lambda: standby.engine.succession.role is Role.TAKING_OVER)
        target.engine.succession.stay()
        await until(lambda: standby.engine.succession.role is Role.STANDBY)
        await asyncio.sleep(10)
        assert target.engine.serving
        assert not standby.engine.serving

    play(scenario())


def test_two_that_stand_by_follow_one_after_the_other() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, first = await pair(cluster)
        second = cluster.start_target(stands_by=True)
        await until(lambda: len(target.engine.report().standbys) == 2)
        target.kill()
        await until(lambda: first.engine.serving or second.engine.serving)
        await asyncio.sleep(30)
        serving = [one for one in (first, second) if one.engine.serving]
        assert len(serving) == 1, "one of them serves, and stays"
        assert await serving[0].read(0, BLOCK_BYTES) == block_of(1)

    play(scenario())


def test_a_member_that_has_just_been_started_is_not_taken_for_one_without_a_target() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, standby = await pair(cluster)
        for replica in cluster.replicas:
            replica.kill()
            await asyncio.sleep(LEASE_S)
            replica.restart()
            await target.healthy()
        assert target.engine.serving
        assert not standby.engine.serving

    play(scenario())


def test_one_that_no_replica_answers_says_so_and_waits() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, standby = await pair(cluster)
        target.kill()
        for replica in cluster.replicas[:2]:
            replica.kill()
        await asyncio.sleep(30)
        assert not standby.engine.serving
        cluster.replicas[2].kill()
        await until(lambda: "no replica" in standby.engine.report().reason)
        for replica in cluster.replicas:
            replica.restart()
        await until(lambda: standby.engine.serving)
        assert await standby.read(0, BLOCK_BYTES) == block_of(1)

    play(scenario())


def test_one_that_stands_by_no_more_is_not_told_of_any_longer() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, standby = await pair(cluster)
        await until(lambda: bool(target.engine.report().standbys))
        await until(lambda: bool(target.engine.report().standbys))
        standby.kill()
        await until(lambda: not target.engine.report().standbys)
        another = cluster.start_target(stands_by=True)
        await until(lambda: bool(target.engine.report().standbys))
        ended_s = asyncio.get_running_loop().time()
        await another.engine.close()
        await until(lambda: not target.engine.report().standbys)
        assert asyncio.get_running_loop().time() - ended_s < 2 * RENEWED_S, "it said that it ends"
        assert names(cluster).count("standby_waits") == names(cluster).count("standby_gone") == 2

    play(scenario())


def test_with_a_witness_the_witness_has_a_say() -> None:
    async def scenario() -> None:
        cluster = Cluster(2, witness=True)
        target, standby = await pair(cluster)
        cluster.replicas[0].kill()
        await asyncio.sleep(30)
        assert target.engine.serving
        assert not standby.engine.serving, "the witness and the other one still give a lease"
        target.kill()
        await until(lambda: standby.engine.serving)
        assert await standby.read(0, BLOCK_BYTES) == block_of(1)

    play(scenario())


def test_one_that_serves_is_asked_to_leave_where_initiators_want_that() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, standby = await pair(cluster)
        asked: list[str] = []
        target.engine.succession.on_wanted = lambda one: asked.append(one.target_instance)
        await asyncio.sleep(SETTLED_S)
        assert asked == []
        standby.engine.succession.want()
        await until(lambda: bool(asked))
        target.engine.succession.leave_to(target.engine.succession.standbys[0])
        asked.clear()
        await asyncio.sleep(2 * WANTED_S)
        assert asked == [], "it is leaving already, and nobody has asked again"
        assert names(cluster).count("wanted") == 1
        assert set(asked) <= {standby.instance}

    play(scenario())


def test_one_that_has_not_opened_the_volume_yet_is_not_asked_to_leave_it() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target, standby = await pair(cluster)
        target.kill()
        succession = cluster.start_target().engine.succession
        asked: list[str] = []
        succession.on_wanted = lambda one: asked.append(one.target_instance)
        wants = replica_pb2.Standby(target_instance=standby.instance, portal="b:3260", wanted=True)
        succession.heard("replica", [wants])
        assert succession.standbys == [wants]
        assert asked == []

    play(scenario())


def test_one_that_opened_the_volume_a_moment_ago_is_not_asked_to_leave_it() -> None:
    """Two initiators that have lost each another path would have it go to and fro."""

    async def scenario() -> None:
        cluster = Cluster()
        target, standby = await pair(cluster)
        opened_s = asyncio.get_running_loop().time()
        asked_s: list[float] = []
        target.engine.succession.on_wanted = lambda _: asked_s.append(
            asyncio.get_running_loop().time()
        )
        standby.engine.succession.want()
        await until(lambda: bool(target.engine.report().standbys))
        while asyncio.get_running_loop().time() < opened_s + SETTLED_S + 5:
            standby.engine.succession.want()
            await asyncio.sleep(1)
        assert opened_s + SETTLED_S - ENOUGH_S < asked_s[0] < opened_s + SETTLED_S + 5
        await asyncio.sleep(WANTED_S + 5)
        asked_s.clear()
        await asyncio.sleep(10)
        assert asked_s == [], "what was wanted long ago is wanted no more"

    play(scenario())
