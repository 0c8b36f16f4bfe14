"""Replicas added and removed while the volume is used: nothing waits, and nothing is lost."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from cstor_core.errors import CstorError, InputError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2, volume_pb2
from cstor_core.units import BLOCK_BYTES, KIB
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import Cluster, SimulatedLink, Target, block_of, until
from tests.scenario.volume.test_members import assert_equal_replicas
from tests.scenario.volume.virtual_time import play

SMALL = EngineSettings(backlog_bytes_max=64 * KIB, batch_bytes_max=16 * KIB, write_timeout_s=5.0)
BLOCKS = 16


class Writers:
    """Write growing stamps to blocks of their own, and know what was acknowledged."""

    def __init__(self, target: Target, pause_s: float = 0.001) -> None:
        self.target = target
        self._pause_s = pause_s
        self.issued = [0] * BLOCKS
        self.acknowledged = [0] * BLOCKS
        self._over = False
        self._tasks = [asyncio.ensure_future(self._write(block)) for block in range(BLOCKS)]

    async def _write(self, block: int) -> None:
        while not self._over:
            target = self.target
            self.issued[block] += 1
            stamp = self.issued[block]
            write = target.write(block * BLOCK_BYTES, block_of(stamp))
            if await target.answers(write) and write.result() is None:
                self.acknowledged[block] = stamp
            await asyncio.sleep(self._pause_s)

    async def end(self) -> None:
        """No more; and everything that was acknowledged is there."""
        self._over = True
        await asyncio.gather(*self._tasks)
        for block in range(BLOCKS):
            read = await self.target.read(block * BLOCK_BYTES, BLOCK_BYTES)
            assert isinstance(read, bytes)
            stamp = int.from_bytes(read[:8], "little")
            assert self.acknowledged[block] <= stamp <= self.issued[block]


async def next_entry(target: Target) -> None:
    """Wait until something is ordered: it is on its way then."""
    last_seq = target.engine.report().last_seq
    while target.engine.report().last_seq == last_seq:  # noqa: ASYNC110
        await asyncio.sleep(0.0005)


def uuids(target: Target) -> list[str]:
    return [member.member.replica_uuid[-1] for member in target.engine.report().members]


def test_replicas_are_added_and_removed_under_load() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=SMALL, tail_entries_max=50)
        target = await cluster.serving_target()
        await target.healthy()
        writers = Writers(target)
        for _ in range(2):
            await asyncio.sleep(0.5)
            await target.engine.changes.add(cluster.new_replica().address)
        assert uuids(target) == ["1", "2", "3", "4", "5"]
        await target.healthy()
        for replica in (0, 2, 1, 4):
            await asyncio.sleep(0.5)
            await target.healthy()
            await target.engine.changes.remove(cluster.replicas[replica].address)
        assert uuids(target) == ["4"]
        before = sum(writers.acknowledged)
        await asyncio.sleep(1)
        assert sum(writers.acknowledged) > before
        await writers.end()
        assert target.status == control_pb2.VOLUME_STATUS_HEALTHY
        target.kill()
        target = await cluster.serving_target()
        assert uuids(target) == ["4"]
        assert cluster.replicas[3].disk.configuration.number == 7

    play(scenario())


def test_lost_replica_is_replaced() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        writers = Writers(target)
        lost = cluster.replicas[2]
        lost.kill()
        fresh = cluster.new_replica()
        await target.engine.changes.add(fresh.address)
        await target.engine.changes.remove(lost.disk.replica_uuid)
        await target.healthy()
        assert uuids(target) == ["1", "2", "4"]
        lost.restart()
        await asyncio.sleep(5)
        await writers.end()
        await target.healthy()
        assert uuids(target) == ["1", "2", "4"]
        assert lost.disk.promised_epoch == target.engine.report().epoch
        await asyncio.sleep(1)
        cluster.replicas.remove(lost)
        assert_equal_replicas(cluster)

    play(scenario())


def test_wiped_replica_is_replaced_by_a_new_one_at_its_address() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        writers = Writers(target)
        wiped = cluster.replicas[2]
        lost = wiped.disk.replica_uuid
        wiped.kill()
        assert await target.engine.changes.add(wiped.address) == lost
        wiped.disk = cluster.empty_disk()
        wiped.restart()
        fresh = await target.engine.changes.add(wiped.address)
        assert fresh == wiped.disk.replica_uuid
        target.kill()
        target = writers.target = await cluster.serving_target()
        assert uuids(target) == ["1", "2", "3", "4"]
        await target.engine.changes.remove(lost)
        await target.healthy()
        assert uuids(target) == ["1", "2", "4"]
        await writers.end()
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def addresses(target: Target) -> list[str]:
    tenure = target.engine._membership.tenure
    assert tenure is not None
    return [member.address for member in tenure.configuration.members]


@pytest.mark.parametrize("copies", [2, 3])
def test_moved_replica_is_found_at_its_new_address(copies: int) -> None:
    async def scenario() -> None:
        cluster = Cluster(copies, settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        writers = Writers(target)
        moved = cluster.replicas[1]
        old = moved.address
        moved = cluster.move(moved, "elsewhere:7778")
        for name in (old, old, moved.disk.replica_uuid):
            found = await target.engine.changes.move(name, moved.address)
            assert found == moved.disk.replica_uuid
        await target.healthy()
        assert addresses(target)[1] == moved.address
        assert [name for name, _ in cluster.events].count("member_moved") == 1
        await writers.end()
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_target_that_is_told_the_new_addresses_writes_them_down() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        target.kill()
        for number, replica in enumerate(list(cluster.replicas)):
            cluster.move(replica, f"elsewhere-{number}:7778")
        target = await cluster.serving_target()
        await target.healthy()
        await until(lambda: addresses(target) == [one.address for one in cluster.replicas])
        number = cluster.replicas[0].disk.configuration.number
        assert number == 2
        target.kill()
        target = await cluster.serving_target()
        await target.healthy()
        assert cluster.replicas[0].disk.configuration.number == number

    play(scenario())


def test_member_is_not_looked_for_where_it_is_not() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        first, second, third = cluster.replicas
        move = target.engine.changes.move
        with pytest.raises(InputError, match="no replica 'nobody'"):
            await move("nobody", "nowhere:7778")
        with pytest.raises(InputError, match="and not"):
            await move(first.address, second.address)
        third.kill()
        with pytest.raises(UnavailableError):
            await move(first.address, third.address)
        assert addresses(target) == [one.address for one in cluster.replicas]
        assert "member_moved" not in [name for name, _ in cluster.events]

    play(scenario())


def test_changes_may_be_asked_for_again() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        fresh = cluster.new_replica()
        added = [await target.engine.changes.add(fresh.address) for _ in range(2)]
        assert added[0] == added[1] == fresh.disk.replica_uuid
        for _ in range(2):
            await target.engine.changes.remove(fresh.address)
        assert len(target.engine.report().members) == 3

    play(scenario())


def test_removed_replica_is_deleted_and_comes_back_as_a_new_one() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        changes = target.engine.changes
        gone = cluster.replicas[2]
        uuid = gone.disk.replica_uuid
        with pytest.raises(InputError, match="is a member of the volume: remove it first"):
            await changes.delete(gone.address)
        await changes.remove(gone.address)
        with pytest.raises(InputError, match=f"cstor replica delete {gone.address}"):
            await changes.add(gone.address)
        known = gone.disk.configuration
        gone.disk.configuration = volume_pb2.Configuration(number=9, members=known.members)
        with pytest.raises(UnavailableError, match="another target"):
            await changes.delete(gone.address)
        gone.disk.configuration = known
        assert await changes.delete(gone.address) == uuid
        assert await changes.add(gone.address) != uuid
        await target.healthy()
        assert_equal_replicas(cluster)

    play(scenario())


def test_change_that_nobody_waits_for_any_more_is_done_all_the_same() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        changes = target.engine.changes
        removing = asyncio.ensure_future(changes.remove(cluster.replicas[2].address))
        await next_entry(target)
        removing.cancel()
        await changes.add(cluster.new_replica().address)
        held = cluster.replicas[0].disk.configuration
        assert held.number == 3
        assert [one.replica_uuid[-1] for one in held.members] == ["1", "2", "4"]
        names = [name for name, _ in cluster.events]
        assert names.count("member_removed") == names.count("member_added") == 1

    play(scenario())


def test_what_cannot_be_is_refused_with_a_sentence() -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas=1)
        target = cluster.start_target()
        with pytest.raises(UnavailableError, match="is not open"):
            await target.engine.changes.add("somewhere:1")
        await until(lambda: target.engine.serving)
        changes = target.engine.changes
        with pytest.raises(InputError, match="only replica"):
            await changes.remove(cluster.replicas[0].address)
        beside = cluster.new_replica(host="replica-0")
        with pytest.raises(InputError, match="on the same host"):
            await changes.add(beside.address)
        await changes.add(beside.address, same_host=True)
        beside.kill()
        await asyncio.sleep(1)
        with pytest.raises(UnavailableError, match="are in sync, and 1 are needed"):
            await changes.remove(cluster.replicas[0].address)
        beside.restart()
        await target.healthy()
        stranger = cluster.new_replica()
        stranger.disk.configuration = cluster.replicas[0].disk.configuration
        with pytest.raises(InputError, match="holds something"):
            await changes.add(stranger.address)
        away = cluster.new_replica()
        away.kill()
        with pytest.raises(UnavailableError):
            await changes.add(away.address)
        assert uuids(target) == ["1", "2"]

    play(scenario())


def test_one_that_is_removed_while_it_comes_back_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        _, other, away = cluster.replicas
        away.kill()
        await until(lambda: len(target.engine._roster.in_sync) == 2)
        is_asked, may_answer = asyncio.Event(), asyncio.Event()
        promise = SimulatedLink.promise

        async def late(self: SimulatedLink, request: replica_pb2.PromiseRequest) -> Any:
            answer = await promise(self, request)
            if self.replica is away:
                is_asked.set()
                await may_answer.wait()
            return answer

        monkeypatch.setattr(SimulatedLink, "promise", late)
        away.restart()
        await is_asked.wait()
        await target.engine.changes.remove(away.disk.replica_uuid)
        may_answer.set()
        await asyncio.sleep(1)
        roster = target.engine._roster
        assert roster.in_sync == roster.members
        other.kill()
        await until(lambda: not roster.has_quorum)
        write = target.write(0, block_of(1))
        await asyncio.sleep(2)
        assert not write.done()
        assert not away.disk.blocks

    play(scenario())


def test_write_behind_a_change_is_acknowledged_by_the_new_quorum_only() -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas=1)
        target = await cluster.serving_target()
        fresh = cluster.new_replica()
        adding = asyncio.ensure_future(target.engine.changes.add(fresh.address))
        await until(lambda: bool(target.engine._roster.learners))
        await until(lambda: target.engine._roster.learners[0].is_caught_up)
        fresh.stalled = True
        await until(lambda: target.engine._roster.is_changing)
        write = target.write(0, block_of(1))
        await asyncio.sleep(2)
        assert not write.done()
        assert not adding.done()
        fresh.stalled = False
        await adding
        assert await write is None
        assert fresh.disk.blocks.keys() == {0}

    play(scenario())


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(6, 60))]
)
def test_nothing_is_lost_where_targets_and_replicas_die_during_changes(seed: int) -> None:
    async def scenario() -> None:
        random = Random(seed)
        cluster = Cluster(settings=SMALL, seed=seed, tail_entries_max=20)
        target = await cluster.serving_target()
        await target.healthy()
        writers = Writers(target)
        wanted = 0
        for _ in range(5):
            changing = asyncio.ensure_future(change(writers.target, cluster, random))
            await asyncio.sleep(random.uniform(0, 0.4))
            if random.random() < 0.6:
                writers.target.kill()
                writers.target = cluster.start_target()
            elif len(writers.target.engine.report().members) > 2:
                victim = random.choice(cluster.replicas)
                victim.kill()
                await asyncio.sleep(random.uniform(0, 0.5))
                victim.restart()
            await asyncio.wait((changing,), timeout=20)
            changing.cancel()
            await until(lambda: writers.target.engine.serving)
            await writers.target.healthy()
            wanted += 1
        await writers.end()
        await writers.target.healthy()
        assert wanted == 5
        members = {member.member.replica_uuid for member in writers.target.engine.report().members}
        cluster.replicas = [one for one in cluster.replicas if one.disk.replica_uuid in members]
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


async def change(target: Target, cluster: Cluster, random: Random) -> None:
    """Add or remove somebody, if that may be."""
    members = target.engine.report().members
    try:
        if len(members) < 2 or (len(members) < 5 and random.random() < 0.5):
            await target.engine.changes.add(cluster.new_replica().address)
        else:
            await target.engine.changes.remove(random.choice(members).member.replica_uuid)
    except CstorError:
        return  # it may not be now
