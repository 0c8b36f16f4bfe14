"""Whatever is killed and whenever: no acknowledged write is lost, and no read goes back in time.

Clients write stamps that only grow, each to places of its own, so that what a read may return is
known: at least the last stamp that was acknowledged, or returned by a read, before the read began,
at most the last one that was issued.  A seed decides delays, kills and clients.
"""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from cstor_core.units import BLOCK_BYTES, KIB
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import Cluster, Target
from tests.scenario.volume.virtual_time import play

PLACES = 16
SECTOR = 512


class Place:
    """A stretch of bytes that one client writes."""

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length
        self.issued = 0
        self.known = 0
        """The highest stamp that no later read may be older than."""

    def content(self, stamp: int) -> bytes:
        """What a write of a stamp leaves here; stamp 0 is a place never written."""
        return stamp.to_bytes(8, "little") * (self.length // 8)


class Story:
    """A cluster, its present target, and clients that go on over its restarts."""

    def __init__(self, seed: int, replicas: int, sectors: bool) -> None:
        self.random = Random(seed)
        settings = EngineSettings(
            backlog_bytes_max=64 * KIB, batch_bytes_max=16 * KIB, write_timeout_s=3.0
        )
        self.cluster = Cluster(replicas, seed, tail_entries_max=10, settings=settings)
        length = SECTOR if sectors else BLOCK_BYTES
        self.places = [Place(number * length, length) for number in range(PLACES)]
        self.target: Target | None = None
        self.acknowledged = 0
        self.over = False

    async def write_on(self, place: Place) -> None:
        """Write ever higher stamps to a place."""
        while not self.over:
            target = await self.some_target()
            place.issued += 1
            stamp = place.issued
            write = target.write(place.offset, place.content(stamp))
            if await target.answers(write) and write.result() is None:
                place.known = max(place.known, stamp)
                self.acknowledged += 1

    async def read_on(self) -> None:
        """Read any place, over and over."""
        while not self.over:
            await self.check(await self.some_target(), self.random.choice(self.places))

    async def some_target(self) -> Target:
        """The present target, after a moment."""
        await asyncio.sleep(self.random.uniform(0, 0.1))
        assert self.target is not None
        return self.target

    async def check(self, target: Target, place: Place) -> bool:
        """Read a place; whether there was an answer, which must be one that is allowed."""
        known = place.known
        read = target.read(place.offset, place.length)
        if not await target.answers(read):
            return False
        found = read.result()
        if not isinstance(found, bytes):
            return False
        stamp = int.from_bytes(found[:8], "little")
        assert found == place.content(stamp), "the write of one stretch was torn"
        assert known <= stamp <= place.issued, f"place {place.offset}: {stamp} of {known}"
        place.known = max(place.known, stamp)
        return True

    async def harm(self) -> None:
        """One misfortune: a member or the target is killed, or all of them are."""
        loop_s = self.random.uniform(0.05, 1.5)
        await asyncio.sleep(loop_s)
        replicas = self.cluster.replicas
        chance = self.random.random()
        if chance < 0.5:
            victim = self.random.choice(replicas)
            victim.kill()
            asyncio.get_running_loop().call_later(self.random.uniform(0.05, 2), victim.restart)
        elif chance < 0.6:
            victim = self.random.choice(replicas)
            victim.stalled = True
            asyncio.get_running_loop().call_later(self.random.uniform(0.05, 2), victim.restart)
        else:
            assert self.target is not None
            self.target.kill()
            if chance > 0.9:
                for replica in replicas:
                    replica.kill()
                    asyncio.get_running_loop().call_later(
                        self.random.uniform(0.05, 1), replica.restart
                    )
            self.target = self.cluster.start_target()

    async def play(self, harms: int) -> None:
        """The whole story."""
        self.target = await self.cluster.serving_target()
        clients = [asyncio.ensure_future(self.write_on(place)) for place in self.places]
        clients += [asyncio.ensure_future(self.read_on()) for _ in range(4)]
        for _ in range(harms):
            await self.harm()
        await asyncio.sleep(3)
        assert self.target is not None
        await self.target.healthy()
        self.over = True
        await asyncio.gather(*clients)
        for place in self.places:
            assert await self.check(self.target, place)
        assert await self.target.flush() is None
        await asyncio.sleep(1)
        first = self.cluster.replicas[0].disk
        for replica in self.cluster.replicas[1:]:
            assert replica.disk.blocks == first.blocks
            assert replica.disk.history == first.history


@pytest.mark.parametrize("sectors", [False, True], ids=["blocks", "sectors"])
@pytest.mark.parametrize(("seed", "replicas"), [(0, 1), (1, 2), (2, 3), (3, 3), (4, 3), (5, 5)])
def test_no_acknowledged_write_is_lost(seed: int, replicas: int, sectors: bool) -> None:
    story = Story(seed, replicas, sectors)
    play(story.play(harms=20))
    assert story.acknowledged > 100


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 160))
def test_no_acknowledged_write_is_lost_over_many_seeds(seed: int) -> None:
    story = Story(seed, replicas=3, sectors=bool(seed % 2))
    play(story.play(harms=60))
    assert story.acknowledged > 100
