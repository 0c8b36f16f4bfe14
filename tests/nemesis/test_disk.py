"""A disk of two paths: what one target does not do, the other one does, and nobody hears of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from cstor_target.scsi.asymmetric_access import AccessState
from cstor_target.volume.backing import Failure
from tests.nemesis import disk, paths
from tests.nemesis.disk import PathsDisk
from tests.nemesis.paths import PathLostError, RefusedError, open_path
from tests.rfc7143.initiator import NAME, TARGET
from tests.rfc7143.portal import Portal
from tests.rfc7143.wire import read_10
from tests.system.stamps import BLOCK_BYTES

BLOCK = b"\xa5" * BLOCK_BYTES


@dataclass
class Pair:
    """Two targets over volumes of their own, and a disk that may use either."""

    first: Portal
    second: Portal
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def disk(self) -> PathsDisk:
        portals = [self.first.address, self.second.address]
        return PathsDisk(portals, TARGET, NAME, self.notes.append, self.problems.append)


@contextlib.asynccontextmanager
async def portal() -> AsyncIterator[Portal]:
    made = Portal()
    await made.listen()
    try:
        yield made
    finally:
        await made.server.drain(0)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with portal() as first, portal() as second:
        yield Pair(first, second)


async def test_a_block_comes_back_as_it_was_written(pair: Pair) -> None:
    disk = pair.disk()
    await asyncio.gather(*(disk.write(block, BLOCK) for block in range(20)))
    assert await disk.read(7) == BLOCK
    assert disk.portal == "{}:{}".format(*pair.first.address)
    assert pair.problems == []
    disk.close()


async def test_commands_whose_path_is_lost_are_done_by_the_other(pair: Pair) -> None:
    disk = pair.disk()
    await disk.write(1, BLOCK)
    pair.first.volume.is_holding = True
    writes = [asyncio.create_task(disk.write(block, BLOCK)) for block in range(2, 6)]
    await pair.first.until_held(4)
    await pair.first.server.drain(0)
    await asyncio.gather(*writes)
    assert disk.portal == "{}:{}".format(*pair.second.address)
    assert any("is lost" in note for note in pair.notes)
    disk.close()


async def test_a_silent_target_is_left(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "PING_S", 0.01)
    monkeypatch.setattr(paths, "SILENCE_S", 0.05)
    path = await open_path(pair.first.address, TARGET, NAME, pair.problems.append)
    # Nobody reads what comes on its connection any more.
    path._tasks[0].cancel()
    with pytest.raises(PathLostError, match="silent"):
        await path.ask(read_10(0, 8), reads=BLOCK_BYTES)


async def test_a_target_that_is_not_ready_is_no_path(pair: Pair) -> None:
    disk = pair.disk()
    await disk.write(1, BLOCK)
    pair.first.volume.is_holding = True
    write = asyncio.create_task(disk.write(2, BLOCK))
    await pair.first.until_held(1)
    pair.first.volume.end(Failure.NOT_READY)
    await write
    assert disk.portal == "{}:{}".format(*pair.second.address)
    assert any("not ready" in note for note in pair.notes)
    disk.close()


async def test_a_target_that_stands_by_is_asked_to_serve_where_no_other_answers(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "INSIST_S", 0.1)
    unit = pair.second.nodes.served[0].device.unit
    asked: list[float] = []
    unit.access_changed(AccessState.STANDBY)

    def serve() -> None:
        asked.append(asyncio.get_running_loop().time())
        unit.access_changed(AccessState.ACTIVE_OPTIMIZED)

    unit.on_access_wanted = serve
    began_s = asyncio.get_running_loop().time()
    await pair.first.server.drain(0)
    paths_disk = pair.disk()
    await paths_disk.write(1, BLOCK)
    assert paths_disk.portal == "{}:{}".format(*pair.second.address)
    assert len(asked) == 1
    assert asked[0] > began_s + 0.1, "the other one might have come back"
    paths_disk.close()


async def test_a_busy_target_is_asked_again(pair: Pair) -> None:
    disk = pair.disk()
    await disk.write(1, BLOCK)
    pair.first.volume.is_holding = True
    write = asyncio.create_task(disk.write(2, BLOCK))
    await pair.first.until_held(1)
    pair.first.volume.end(Failure.BUSY)
    await pair.first.until_held(1)
    pair.first.volume.let_go()
    await write
    assert disk.portal == "{}:{}".format(*pair.first.address)
    disk.close()


async def test_a_write_that_is_refused_says_so(pair: Pair) -> None:
    disk = pair.disk()
    await disk.write(1, BLOCK)
    pair.first.volume.is_holding = True
    write = asyncio.create_task(disk.write(2, BLOCK))
    await pair.first.until_held(1)
    pair.first.volume.end(Failure.SPACE)
    with pytest.raises(RefusedError, match="sense"):
        await write
    disk.close()


async def test_where_nobody_answers_there_is_no_path(pair: Pair) -> None:
    address = pair.first.address
    await pair.first.server.drain(0)
    with pytest.raises(PathLostError):
        await open_path(address, TARGET, NAME, pair.problems.append)
