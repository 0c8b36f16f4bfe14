"""Flipped bits and cut files are found, with a sentence that names the file."""

from __future__ import annotations

import pytest

from cstor_core.errors import CorruptError, InputError
from replica.store.envelope import sealed, unsealed
from replica.store.records import MAP_MAGIC
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import (
    POOL,
    SMALL,
    VOLUME,
    block_of,
    content_of,
    open_pool,
    open_store,
    writes,
)

DIRECTORY = POOL / "volumes" / VOLUME


async def stopped_store(*, cleanly: bool = True) -> MemoryFilesystem:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    for seq in range(2, 60):
        store.append(writes(seq, 1, (seq % 20, block_of(seq))))
    if cleanly:
        await store.close()
    else:
        await store.checkpoint()
        for seq in range(60, 80):
            store.append(writes(seq, 1, (seq % 20, block_of(seq))))
    filesystem.restart()
    return filesystem


@pytest.mark.parametrize("name", ["identity", "state", "map"])
async def test_a_flipped_bit_anywhere_in_a_small_file_is_found(name: str) -> None:
    filesystem = await stopped_store()
    content = filesystem.inodes[DIRECTORY / name].content
    for bit in range(0, 8 * len(content), 37):
        content[bit // 8] ^= 1 << bit % 8
        pool = await open_pool(filesystem)
        assert not pool.replicas, bit
        assert name in pool.failed[VOLUME]
        content[bit // 8] ^= 1 << bit % 8
        filesystem.restart()
    pool = await open_pool(filesystem)
    assert not pool.failed
    assert content_of(pool.replicas[VOLUME], 19) == block_of(59)


@pytest.mark.parametrize("name", ["identity", "state", "map", "data"])
async def test_a_file_that_was_cut_or_is_missing_is_found(name: str) -> None:
    filesystem = await stopped_store()
    whole = bytes(filesystem.inodes[DIRECTORY / name].content)
    for length in (0, 5, 20, len(whole) // 2, len(whole) - 1):
        filesystem.inodes[DIRECTORY / name].content[:] = whole[:length]
        if name == "data" and length == len(whole) - 1:
            continue  # behind the last block that is used
        pool = await open_pool(filesystem)
        assert name in pool.failed[VOLUME], length
        filesystem.restart()


async def test_a_record_damaged_in_the_middle_of_the_journal_is_found() -> None:
    filesystem = await stopped_store(cleanly=False)
    content = filesystem.inodes[DIRECTORY / "data"].content
    journal = bytes(content[4096 : 4096 + SMALL.journal_bytes])
    last = journal.rindex(b"cSjr")
    found = 0
    for offset in range(0, last, 61):
        content[4096 + offset] ^= 16
        pool = await open_pool(filesystem)
        if VOLUME in pool.failed:
            assert "journal is damaged" in pool.failed[VOLUME]
            found += 1
        else:
            assert offset < 200  # before the first record that is still needed
            assert pool.replicas[VOLUME].applied_seq == 79
        content[4096 + offset] ^= 16
        filesystem.restart()
    assert found > 50


async def test_a_replica_that_is_damaged_harms_no_other() -> None:
    filesystem = await stopped_store()
    pool = await open_pool(filesystem)
    identity = type(pool.replicas[VOLUME].identity)()
    identity.CopyFrom(pool.replicas[VOLUME].identity)
    identity.volume_uuid = VOLUME[:-1] + "2"
    other = await pool.create(identity)
    await pool.close()
    filesystem.inodes[DIRECTORY / "map"].content[40] ^= 1
    filesystem.restart()
    pool = await open_pool(filesystem)
    assert list(pool.failed) == [VOLUME]
    assert list(pool.replicas) == [identity.volume_uuid]
    assert pool.replicas[identity.volume_uuid].replica_uuid == other.replica_uuid
    with pytest.raises(CorruptError):
        await pool.create(type(identity)(volume_uuid=VOLUME, size_bytes=4096))


async def test_files_of_another_replica_are_not_taken() -> None:
    filesystem = await stopped_store()
    pool = await open_pool(filesystem)
    identity = type(pool.replicas[VOLUME].identity)()
    identity.CopyFrom(pool.replicas[VOLUME].identity)
    identity.volume_uuid = VOLUME[:-1] + "2"
    await pool.create(identity)
    await pool.close()
    other = POOL / "volumes" / identity.volume_uuid
    for name in ("map", "data"):
        filesystem.restart()
        mine = filesystem.inodes[DIRECTORY / name]
        filesystem.inodes[DIRECTORY / name] = filesystem.inodes[other / name]
        assert "another replica" in (await open_pool(filesystem)).failed[VOLUME]
        filesystem.inodes[DIRECTORY / name] = mine


def test_an_envelope_of_another_release_says_so() -> None:
    content = bytearray(sealed(b"cStorPol", b"payload"))
    assert unsealed(bytes(content), b"cStorPol", "it") == (b"payload", len(content))
    content[8] = 2
    with pytest.raises(InputError, match="format 2 and this release reads format 1"):
        unsealed(bytes(content), b"cStorPol", "it")
    with pytest.raises(InputError, match="format 2"):
        unsealed(bytes(content[:-3]), b"cStorPol", "it")
    with pytest.raises(CorruptError, match="not ours"):
        unsealed(bytes(content), b"cStorMap", "it")


def test_an_envelope_with_something_behind_it_is_one_only_where_that_is_expected() -> None:
    content = sealed(b"cStorPol", b"payload") + b"more"
    assert unsealed(content, b"cStorPol", "it", exact=False)[0] == b"payload"
    with pytest.raises(CorruptError):
        unsealed(content, b"cStorPol", "it")


async def test_a_map_of_another_declaration_is_refused_in_a_sentence() -> None:
    filesystem = await stopped_store()
    filesystem.inodes[DIRECTORY / "map"].content[:] = sealed(MAP_MAGIC, bytes(40))
    pool = await open_pool(filesystem)
    assert "map cannot be read" in pool.failed[VOLUME]


@pytest.mark.parametrize("name", ["identity", "state", "map", "run-00000001", "data"])
async def test_a_replica_that_does_not_open_leaves_no_file_open(name: str) -> None:
    filesystem = await stopped_store()
    content = filesystem.inodes[DIRECTORY / name].content
    content[-1] ^= 1
    if name == "data":
        del content[5000:]
    filesystem.open_files = 0
    assert (await open_pool(filesystem)).failed
    assert filesystem.open_files == 0
