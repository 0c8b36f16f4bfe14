"""Entries go in, in their order; blocks and recent entries come out again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cstor_core.errors import CorruptError, FencedError, ProtocolError, UnavailableError
from cstor_core.frames import ANSWER, RunView, encode_read_response
from cstor_core.rows import ROW, UNMAP
from cstor_core.units import BLOCK_BYTES
from replica.store import tail_reader
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import (
    BLOCKS,
    FOUNDING,
    IDENTITY,
    SMALL,
    block_of,
    content_of,
    entries_of,
    epoch_record,
    kill_and_open,
    open_pool,
    open_store,
    rows_and_data,
    run_of,
    version_of,
    writes,
)


async def test_blocks_read_back_as_written_and_later_writes_win() -> None:
    store = await open_store(MemoryFilesystem())
    store.append(writes(2, 1, (5, block_of(50)), (9, block_of(90)), (5, block_of(51))))
    assert content_of(store, 5) == block_of(51)
    assert content_of(store, 9) == block_of(90)
    assert content_of(store, 6) is None
    assert version_of(store, 5) == (1, 4)
    assert store.applied_seq == 4
    assert store.history.end.last_seq == 4
    assert store.used_bytes == 3 * BLOCK_BYTES


async def test_a_long_run_of_consecutive_blocks_crosses_chunks() -> None:
    store = await open_store(MemoryFilesystem())
    first = 4096 - 50
    store.append(run_of(2, 1, [[(first + i, block_of(i)) for i in range(100)]]))
    store.append(writes(3, 1, *[(first + i, block_of(1000 + i)) for i in range(100)]))
    assert store.applied_seq == 102
    found = store.read(first, 100)
    assert found is not None
    assert b"".join(found[1]) == b"".join(block_of(1000 + i) for i in range(100))
    assert [row[0] for row in ROW.iter_unpack(found[0])] == list(range(first, first + 100))


async def test_a_run_of_more_than_a_mebibyte_reads_back_and_is_verified() -> None:
    limits = replace(SMALL, journal_bytes=1 << 20, run_rows_max=1000)
    store = await open_store(MemoryFilesystem(), limits=limits)
    run = run_of(2, 1, [[(block, block_of(block)) for block in range(300)]])
    damaged = RunView(run.table, memoryview(bytes(run.data[:-1]) + b"?"))
    with pytest.raises(CorruptError, match="block 299 of entry 2"):
        store.append(damaged)
    store.append(run)
    assert [content_of(store, block) for block in (0, 255, 256, 299)] == [
        block_of(block) for block in (0, 255, 256, 299)
    ]


async def test_an_unmap_leaves_tombstones_only_where_something_was() -> None:
    store = await open_store(MemoryFilesystem())
    store.append(writes(2, 1, (3, block_of(3)), (7, block_of(7))))
    store.append(writes(4, 1, (0, BLOCKS), (7, block_of(8))))
    assert content_of(store, 3) is None
    assert version_of(store, 3) == (1, 4)
    assert content_of(store, 7) == block_of(8)
    assert version_of(store, 4) == (0, 0)


@pytest.mark.parametrize(
    "run",
    [
        writes(3, 1, (0, block_of(1))),
        writes(1, 1, (0, block_of(1))),
        writes(2, 2, (0, block_of(1))),
        writes(2, 1, (BLOCKS, block_of(1))),
        writes(2, 1, (BLOCKS - 1, 2)),
        writes(2, 1, (0, 0)),
        run_of(2, 1, []),
        RunView(memoryview(bytes(31)), memoryview(b"")),
        RunView(writes(2, 1, (0, block_of(1))).table, memoryview(2 * block_of(1))),
        RunView(writes(2, 1, (0, block_of(1))).table, memoryview(b"short")),
        RunView(memoryview(ROW.pack(0, 77, 2, 1, 0)), memoryview(b"")),
        RunView(memoryview(ROW.pack(2**63, UNMAP | 2**62, 2, 1, 0)), memoryview(b"")),
        writes(2, 1, *[(i, block_of(i)) for i in range(SMALL.run_rows_max + 1)]),
        RunView(
            memoryview(bytes(writes(2, 1, (0, 1)).table) + bytes(writes(4, 1, (1, 1)).table)),
            memoryview(b""),
        ),
    ],
    ids=lambda run: f"{len(run.table)}-{len(run.data)}",
)
async def test_what_is_not_the_next_run_is_refused_and_changes_nothing(run: RunView) -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    before = {path: bytes(inode.content) for path, inode in filesystem.inodes.items()}
    with pytest.raises(ProtocolError):
        store.append(run)
    assert store.applied_seq == 1
    assert {path: bytes(inode.content) for path, inode in filesystem.inodes.items()} == before


@pytest.mark.parametrize("count", [1, 100])
async def test_a_block_that_was_damaged_on_the_way_is_refused(count: int) -> None:
    store = await open_store(MemoryFilesystem())
    run = writes(2, 1, *[(i, block_of(i)) for i in range(count)])
    damaged = bytearray(run.data)
    damaged[-1] ^= 1
    with pytest.raises(CorruptError, match=f"block {count - 1} of entry {count + 1}"):
        store.append(RunView(run.table, memoryview(damaged)))
    assert store.applied_seq == 1
    store.append(run)
    assert content_of(store, count - 1) == block_of(count - 1)


async def test_an_epoch_is_adopted_in_order_and_only_upwards() -> None:
    store = await open_store(MemoryFilesystem())
    store.append(writes(2, 1, (1, block_of(1))))
    with pytest.raises(FencedError):
        store.append_epoch_record(epoch_record(3, 1))
    with pytest.raises(ProtocolError):
        store.append_epoch_record(epoch_record(4, 2))
    store.append_epoch_record(epoch_record(3, 2))
    with pytest.raises(ProtocolError):
        store.append(writes(4, 1, (1, block_of(2))))
    store.append(writes(4, 2, (1, block_of(2))))
    assert [(r.epoch, r.last_seq) for r in store.history.reigns] == [(1, 2), (2, 4)]


@pytest.mark.parametrize("count", [1, 40])
async def test_no_entry_comes_before_the_first_epoch(count: int) -> None:
    pool = await open_pool(MemoryFilesystem())
    store = await pool.create(IDENTITY)
    await store.found(FOUNDING)
    with pytest.raises(ProtocolError):
        store.append(writes(1, 0, *[(block, block_of(1)) for block in range(count)]))
    assert store.applied_seq == 0


async def test_the_tail_gives_back_exactly_what_was_appended() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    appended = []
    seq = 2
    for number in range(12):
        run = run_of(
            seq,
            1,
            [[(number, block_of(number)), (number + 1, block_of(100 + number))], [(number, 1)]],
        )
        store.append(run)
        appended += rows_and_data(run)
        seq += 2
    store.append_epoch_record(epoch_record(seq, 2))
    appended.append((seq, epoch_record(seq, 2).SerializeToString(), b""))
    assert await entries_of(store, 1) == appended
    assert await entries_of(store, 6) == [entry for entry in appended if entry[0] > 6]
    assert await entries_of(await kill_and_open(filesystem), 1) == appended


async def test_the_tail_divides_a_long_run_between_entries_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tail_reader, "BATCH_BYTES", 100 * BLOCK_BYTES)
    store = await open_store(MemoryFilesystem())
    entries = [[(i * 60 + j, block_of(i * 60 + j)) for j in range(60)] for i in range(3)]
    store.append(run_of(2, 1, entries))
    batches = [batch async for batch in store.entries_after(1, 4)]
    runs = [entry for batch in batches for entry in batch if isinstance(entry, RunView)]
    assert [len(run.data) // BLOCK_BYTES for run in runs] == [60, 60, 60]
    assert len(batches) == 3


async def test_the_tail_forgets_what_is_older_than_its_bounds() -> None:
    store = await open_store(MemoryFilesystem())
    for seq in range(2, 200):
        store.append(writes(seq, 1, (seq, block_of(seq))))
    assert store.reaches_back_to(199 - 64)
    assert not store.reaches_back_to(199 - 65)
    assert store.reaches_back_to(199)
    assert not store.reaches_back_to(200)
    with pytest.raises(UnavailableError, match="rebuild"):
        await entries_of(store, 10)


async def test_a_read_that_misses_the_page_cache_is_answered_off_the_loop() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (5, block_of(5)), (6, 1), (7, block_of(7))))
    filesystem.cached = False
    assert store.read(5, 3) is None
    rows, pieces = await store.read_off_loop(5, 3)
    assert b"".join(pieces) == block_of(5) + block_of(7)
    assert [row[2] for row in ROW.iter_unpack(rows)] == [2, 0, 4]


@pytest.mark.parametrize(("block", "count"), [(BLOCKS, 1), (0, 0), (BLOCKS - 1, 2)])
async def test_a_read_beyond_the_volume_is_refused(block: int, count: int) -> None:
    store = await open_store(MemoryFilesystem())
    with pytest.raises(ProtocolError):
        store.read(block, count)


async def test_the_answer_to_a_long_read_is_the_message_with_what_a_read_gives() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (5, block_of(5)), (6, 1), (7, block_of(7))))
    store.append(writes(5, 1, (6, block_of(60))))
    store.append(writes(6, 1, (5, 1)))
    for first, count in ((4, 6), (5, 1), (100, 3)):
        found = store.read(first, count)
        answer = store.answer(17, first, count)
        assert found is not None
        assert answer is not None
        rows, pieces = found
        expected = encode_read_response(ANSWER.pack(17, count, 0), (rows,), pieces)
        assert bytes(answer.message) == expected
    filesystem.cached = False
    assert store.answer(18, 5, 3) is None
    with pytest.raises(ProtocolError):
        store.answer(19, BLOCKS - 1, 2)
