"""Updates and atomic writes: nothing comes between, nothing is there in part."""

from __future__ import annotations

import asyncio
import random

from cstor_core.units import BLOCK_BYTES, MIB
from cstor_target.volume.backing import Buffer, Change, Failure
from tests.scenario.volume.cluster import Cluster, Target, block_of
from tests.scenario.volume.test_members import assert_equal_replicas
from tests.scenario.volume.virtual_time import play

SECTOR = 512
COUNTERS = 3


def update(
    target: Target, offset: int, length: int, change: Change
) -> asyncio.Future[Failure | None]:
    """Write what is made of what is there; the answer comes later."""
    done: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
    target.engine.update(offset, length, change, False, done.set_result)
    target.engine.kick()
    return done


def one_more(held: Buffer) -> bytes:
    """A sector that counts."""
    number = int.from_bytes(held[:8], "little")
    return (number + 1).to_bytes(8, "little") * (SECTOR // 8)


async def count_up(target: Target, sector: int, times: int) -> int:
    """Add one so often; how often that was acknowledged, the target's death aside."""
    acknowledged = 0
    for _ in range(times):
        updated = update(target, sector * SECTOR, SECTOR, one_more)
        if not await target.answers(updated):
            break
        acknowledged += updated.result() is None
    return acknowledged


async def counted(target: Target, sector: int) -> int:
    sector_bytes = await target.read(sector * SECTOR, SECTOR)
    assert isinstance(sector_bytes, bytes)
    assert sector_bytes == sector_bytes[:8] * (SECTOR // 8), "never half"
    return int.from_bytes(sector_bytes[:8], "little")


def test_updates_of_many_that_count_in_one_block_lose_none() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        counts = await asyncio.gather(
            *(count_up(target, number % COUNTERS, 20) for number in range(4 * COUNTERS))
        )
        assert sum(counts) == 4 * COUNTERS * 20
        for sector in range(COUNTERS):
            assert await counted(target, sector) == 80
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_updates_are_whole_or_absent_when_the_target_dies() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        moments = random.Random(5)
        acknowledged = started = 0
        for _ in range(12):
            target = await cluster.serving_target()
            before = await counted(target, 0)
            assert acknowledged <= before <= started
            counting = [asyncio.ensure_future(count_up(target, 0, 1000)) for _ in range(4)]
            await asyncio.sleep(moments.uniform(0.005, 0.2))
            target.kill()
            acknowledged = before + sum(await asyncio.gather(*counting))
            started = acknowledged + len(counting)

    play(scenario())


def test_an_update_that_leaves_everything_orders_nothing() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        assert await target.write(0, block_of(1)) is None
        last_seq = target.engine.report().last_seq
        seen: list[bytes] = []
        assert (
            await update(target, 0, 2 * BLOCK_BYTES, lambda held: seen.append(bytes(held))) is None
        )
        assert seen == [block_of(1) + bytes(BLOCK_BYTES)]
        assert target.engine.report().last_seq == last_seq
        assert target.engine.counters.updates == 1

    play(scenario())


def test_an_update_without_a_quorum_waits_and_ends_busy() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        for replica in cluster.replicas[1:]:
            replica.kill()
        assert await update(target, 0, SECTOR, one_more) is Failure.BUSY

    play(scenario())


def test_no_read_sees_a_part_of_an_atomic_write() -> None:
    """Reads of more than a question's blocks, which are asked for in parts, among them."""

    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        blocks = MIB // BLOCK_BYTES
        over = False
        seen: set[int] = set()

        async def write_on() -> None:
            stamp = 0
            while not over:
                stamp += 1
                data = block_of(stamp) * 32
                assert await target.write((blocks - 16) * BLOCK_BYTES, data, is_atomic=True) is None

        async def read_on(first: int, count: int) -> None:
            while not over:
                data = await target.read(first * BLOCK_BYTES, count * BLOCK_BYTES)
                assert isinstance(data, bytes)
                at = (blocks - 16 - first) * BLOCK_BYTES
                written = data[at : at + 32 * BLOCK_BYTES]
                assert written == written[:BLOCK_BYTES] * 32
                seen.add(hash(written))

        tasks = [asyncio.ensure_future(write_on())]
        tasks += [asyncio.ensure_future(read_on(*where)) for where in ((0, 272), (200, 100))]
        await asyncio.sleep(2)
        over = True
        await asyncio.gather(*tasks)
        assert len(seen) > 20

    play(scenario())
