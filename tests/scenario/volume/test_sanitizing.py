"""A sanitization is begun and ended by entries of the order: whoever serves the volume goes on with
it until all is erased, and nobody else writes meanwhile.
"""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.errors import UnavailableError
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.awaiting import answer_of
from cstor_target.volume.backing import Failure
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.test_mapping import mapping
from tests.scenario.volume.virtual_time import play

ERASE = volume_pb2.Sanitization()
SECTOR = b"\xa5\x5a" * 256
OVERWRITE = volume_pb2.Sanitization(logical_block=SECTOR, unrestricted_exit=True)
UNDER_WAY = volume_pb2.SANITIZATION_STATE_UNDER_WAY
FAILED = volume_pb2.SANITIZATION_STATE_FAILED


async def sanitize(
    target: Target, wanted: volume_pb2.Sanitization | None, *, waits: bool = True
) -> Failure | None:
    """Sanitize the volume, or leave a failure."""
    return await answer_of(lambda done: target.engine.sanitize(wanted, waits, done))


def state(target: Target) -> int:
    return target.engine.report().sanitization


def test_all_is_erased_and_nothing_is_mapped() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        for block in (0, 17, 100):
            assert await target.write(block * BLOCK_BYTES, block_of(block + 1)) is None
        assert await sanitize(target, ERASE) is None
        assert state(target) == 0
        size = target.engine.size_bytes
        assert await target.read(0, 128 * BLOCK_BYTES) == bytes(128 * BLOCK_BYTES)
        assert await mapping(target, 0, 128 * BLOCK_BYTES) == [(False, 128 * BLOCK_BYTES)]
        assert target.engine._order.durable_seq >= target.engine._order.completed_seq - 1
        assert await target.write(size - BLOCK_BYTES, block_of(7)) is None
        assert [name for name, _ in cluster.events if name.startswith("sanitize")] == [
            "sanitize_started",
            "sanitize_ended",
        ]

    play(scenario())


def test_every_logical_block_holds_the_pattern() -> None:
    async def scenario() -> None:
        target = await Cluster().serving_target()
        assert await target.write(5 * BLOCK_BYTES, block_of(3)) is None
        assert await sanitize(target, OVERWRITE) is None
        size = target.engine.size_bytes
        for offset in (0, 5 * BLOCK_BYTES, size - BLOCK_BYTES):
            assert await target.read(offset, BLOCK_BYTES) == SECTOR * 8
        assert target.engine.sanitizing.progress == 1.0

    play(scenario())


def test_nobody_else_writes_until_it_is_over() -> None:
    """Neither what comes later nor what has to read before it writes."""

    async def scenario() -> None:
        cluster = Cluster(settings=EngineSettings(write_timeout_s=30.0))
        target = await cluster.serving_target()
        await target.healthy()
        assert await target.write(0, block_of(1)) is None
        for replica in cluster.replicas[1:]:
            replica.kill()
        await until(lambda: not target.engine._roster.has_quorum)
        earlier = [target.write(BLOCK_BYTES, block_of(2)), target.write(512, bytes(512))]
        sanitizing = asyncio.ensure_future(sanitize(target, ERASE))
        await asyncio.sleep(1)
        for replica in cluster.replicas[1:]:
            replica.restart()
        await until(lambda: state(target) == UNDER_WAY)
        later = [
            target.write(2 * BLOCK_BYTES, block_of(3)),
            target.write(3 * BLOCK_BYTES + 512, bytes(512)),
            target.unmap(0, BLOCK_BYTES),
        ]
        snapshot = asyncio.ensure_future(target.engine.operations.create_snapshot("s"))
        assert await asyncio.gather(*later) == [Failure.SANITIZING] * 3
        assert await sanitize(target, ERASE) is Failure.SANITIZING
        with pytest.raises(UnavailableError, match="sanitized"):
            await snapshot
        assert await asyncio.gather(*earlier, sanitizing) == [None] * 3
        assert await target.read(0, 4 * BLOCK_BYTES) == bytes(4 * BLOCK_BYTES)

    play(scenario())


@pytest.mark.parametrize("waits_s", [0.0, 0.002, 0.004, 0.01, 0.05])
def test_the_next_target_goes_on_with_it(waits_s: float) -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        assert await target.write(5 * BLOCK_BYTES, block_of(3)) is None
        assert await sanitize(target, OVERWRITE, waits=False) is None
        await asyncio.sleep(waits_s)
        target.kill()
        target = await cluster.serving_target()
        await until(lambda: state(target) == 0)
        size = target.engine.size_bytes
        for offset in (0, 5 * BLOCK_BYTES, size - BLOCK_BYTES):
            assert await target.read(offset, BLOCK_BYTES) == SECTOR * 8
        assert await target.write(0, block_of(1)) is None

    play(scenario())


def test_snapshots_would_keep_what_is_to_be_gone() -> None:
    async def scenario() -> None:
        target = await Cluster().serving_target()
        await target.engine.operations.create_snapshot("s")
        assert await sanitize(target, ERASE) is Failure.SNAPSHOTS
        await target.engine.operations.delete_snapshot("s")
        assert await sanitize(target, ERASE) is None

    play(scenario())


def test_a_failure_is_remembered_until_another_one_or_who_may_leaves_it() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        assert await sanitize(target, None) is None
        for replica in cluster.replicas:
            replica.granted_bytes = 0
        await asyncio.sleep(2)
        assert await sanitize(target, OVERWRITE) is Failure.SPACE
        assert state(target) == FAILED
        target.kill()
        target = await cluster.serving_target()
        assert state(target) == FAILED
        assert await target.write(0, block_of(1)) is Failure.SANITIZING
        assert await sanitize(target, None) is None
        assert state(target) == 0
        restricted = volume_pb2.Sanitization(logical_block=SECTOR)
        assert await sanitize(target, restricted) is Failure.SPACE
        assert await sanitize(target, None) is Failure.SANITIZING
        assert await sanitize(target, ERASE) is None
        assert state(target) == 0

    play(scenario())


def test_none_is_begun_where_a_daemon_does_not_know_it() -> None:
    async def scenario() -> None:
        target = await Cluster().serving_target()
        report = target.engine._roster.members[1].report
        assert report is not None
        report.ClearField("sanitization")
        assert await sanitize(target, ERASE) is Failure.BUSY
        assert state(target) == 0

    play(scenario())


def test_a_member_that_was_away_knows_what_is_under_way() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[2].kill()
        for replica in cluster.replicas:
            replica.granted_bytes = 0
        await asyncio.sleep(2)
        assert await sanitize(target, OVERWRITE) is Failure.SPACE
        for replica in cluster.replicas:
            replica.granted_bytes = 1 << 40
        cluster.replicas[2].restart()
        await target.healthy()
        await asyncio.sleep(1)
        assert [replica.disk.sanitization.state for replica in cluster.replicas] == [FAILED] * 3

    play(scenario())
