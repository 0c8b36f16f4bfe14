"""Real daemons that are killed under load: nothing that was acknowledged is lost.

The pool has a small journal, so that checkpoints are under way most of the time; snapshots are
taken and deleted; every second cycle somebody reads and verifies everything meanwhile.  After each
kill the pool is checked as `cstor-replica check` does it, and compared with what was acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import uuid
from pathlib import Path

import grpc
import pytest

from cstor_core.files import OsFilesystem
from cstor_core.frames import FORMAT
from cstor_core.generated.cstor.v1 import stream_pb2, volume_pb2
from replica.daemon import boot_id
from replica.store.limits import StoreLimits
from replica.store.look import ReplicaLook, data_of, look_at_pool, recovery_of
from replica.store.pace import AT_ONCE, finished
from replica.store.pool import Pool
from tests.scenario.replica.clients import IDENTITY, Client, found, run_message
from tests.scenario.replica.test_daemon import Daemon

SMALL_JOURNAL = StoreLimits(journal_bytes=32 * 1024, tail_bytes=1 << 20)
ACKNOWLEDGED_MIN = 1000
BATCH_BLOCKS_MAX = 16
AHEAD_MAX = 256
"""Entries on their way before an acknowledgement is waited for."""
SNAPSHOTS_MAX = 5
NO_BLOCK = -1
HOT_BLOCKS = 64
BLOCKS = 16384


class Load:
    """Writes in one order, and how many of them were acknowledged."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.blocks = [NO_BLOCK, NO_BLOCK]
        """By seq; the first entry is the record of the epoch."""
        self.operations: dict[int, volume_pb2.Operation] = {}
        """By seq."""
        self.acknowledged_seq = 1

    async def run(self, client: Client, wanted: int) -> None:
        """Write until the daemon is gone; returns once `wanted` more were acknowledged."""
        stream = await client.append_stream(1)
        goal = self.acknowledged_seq + wanted
        del self.blocks[self.acknowledged_seq + 1 :]
        self.operations = {
            seq: operation
            for seq, operation in self.operations.items()
            if seq <= self.acknowledged_seq
        }
        while self.acknowledged_seq < goal:
            while len(self.blocks) - self.acknowledged_seq < AHEAD_MAX:
                first = len(self.blocks)
                self.blocks += [self._block() for _ in range(self._size())]
                flush = self.random.random() < 0.1
                await stream.call.write(
                    run_message(1, first, tuple(self.blocks[first:]), flush=flush)
                )
                if self.random.random() < 0.1:
                    await stream.call.write(self._operation())
            self.acknowledged_seq = max(self.acknowledged_seq, (await stream.answer()).applied_seq)
        self.stream = stream

    def _operation(self) -> bytes:
        """Take a snapshot, or delete the oldest of some; earlier deletions may be carried out."""
        operation = volume_pb2.Operation(seq=len(self.blocks))
        names = self.snapshots(len(self.blocks))
        if len(names) < SNAPSHOTS_MAX:
            operation.create_snapshot.name = f"s{operation.seq}"
        else:
            operation.delete_snapshot.name = next(iter(names))
        self.operations[operation.seq] = operation
        self.blocks.append(NO_BLOCK)
        request = stream_pb2.AppendRequest(
            format=FORMAT,
            completed_seq=self.acknowledged_seq,
            entries=[volume_pb2.Entry(operation=operation)],
        )
        return request.SerializeToString()

    def snapshots(self, seq: int) -> dict[str, int]:
        """Those that there are after an entry, with the entries that made them."""
        found: dict[str, int] = {}
        for at, operation in self.operations.items():
            if at > seq:
                break
            if operation.HasField("create_snapshot"):
                found[operation.create_snapshot.name] = at
            else:
                del found[operation.delete_snapshot.name]
        return found

    def _size(self) -> int:
        return self.random.randint(1, BATCH_BLOCKS_MAX)

    def _block(self) -> int:
        """Every second write overwrites one of a few blocks."""
        return self.random.randrange(HOT_BLOCKS if self.random.random() < 0.5 else BLOCKS)

    def last_writes(self, seq: int) -> dict[int, int]:
        """For each block the last entry up to `seq` that wrote it."""
        written = enumerate(self.blocks[: seq + 1])
        return {block: at for at, block in written if block != NO_BLOCK}


def compare(path: Path, load: Load) -> int:
    """Check the stopped pool, and compare; returns the position."""
    look = look_at_pool(OsFilesystem(threads=1), path, boot_id(), is_verifying=True)
    assert not look.is_damaged, list(look.all_findings())
    (replica,) = look.replicas
    assert replica.recovery is not None
    seq = replica.recovery.standing.applied_seq
    assert load.acknowledged_seq <= seq < len(load.blocks)
    held = load.snapshots(seq)
    expected = {name: load.last_writes(at) for name, at in held.items()}
    assert finished(versions(replica)) == {"": load.last_writes(seq), **expected}
    return seq


async def versions(look: ReplicaLook) -> dict[str, dict[int, int]]:
    """For each block the last entry that wrote it: in the volume, and in each snapshot."""
    filesystem = OsFilesystem(threads=1)
    stack = contextlib.ExitStack()
    recovery = recovery_of(filesystem, look.directory, data_of(filesystem, look, stack), look)
    recovery.replay(power_lost=False)
    operations = recovery.standing.operations
    views = {name: snapshot.view for name, snapshot in operations.snapshots.items()}
    found: dict[str, dict[int, int]] = {}
    for name, view in {"": operations.head, **views}.items():
        held = found[name] = {}
        async for rows in recovery.block_map.scan(0, (view,), AT_ONCE):
            held.update(zip(rows["block"].tolist(), rows["seq"].tolist(), strict=True))
    recovery.block_map.close()
    stack.close()
    return found


async def scan_for_ever(client: Client) -> None:
    """Read and verify everything, again and again, until the daemon is gone."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while True:
            await client.scan()


async def cycle(path: Path, load: Load, *, scanning: bool) -> None:
    """One daemon's life."""
    daemon = Daemon(path)
    try:
        client = Client((await daemon.ready())["grpc"])
        await client.inquire()
        scanner = asyncio.create_task(scan_for_ever(client)) if scanning else None
        await load.run(client, ACKNOWLEDGED_MIN)
        assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
        if scanner is not None:
            await scanner
        await client.close()
    finally:
        daemon.process.kill()
        daemon.process.wait()
    load.acknowledged_seq = compare(path, load)


async def make_pool(path: Path) -> None:
    """A founded replica with a small journal, which it keeps."""
    pool = await Pool.open(
        OsFilesystem(threads=1), path, lambda: str(uuid.uuid4()), boot_id(), SMALL_JOURNAL
    )
    await pool.create(IDENTITY)
    await pool.close()
    daemon = Daemon(path)
    try:
        client = Client((await daemon.ready())["grpc"])
        await found([client])
        stream = await client.append_stream(1)
        await stream.record(1, 1)
        await client.close()
        assert daemon.end(signal.SIGTERM) == 0
    finally:
        daemon.process.kill()
        daemon.process.wait()


async def killed(path: Path, cycles: int) -> None:
    await make_pool(path)
    load = Load(1)
    for number in range(cycles):
        await cycle(path, load, scanning=number % 2 == 1)
    assert len(load.blocks) > cycles * ACKNOWLEDGED_MIN


async def test_a_daemon_killed_under_load_has_all_that_it_acknowledged(tmp_path: Path) -> None:
    await killed(tmp_path / "pool", 3)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_a_daemon_killed_a_hundred_times_has_all_that_it_acknowledged(
    tmp_path: Path,
) -> None:
    await killed(tmp_path / "pool", 100)
