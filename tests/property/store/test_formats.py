"""The declarations of the formats and the code that is fast agree; what was sealed opens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cstor_core.checksums import crc32c
from cstor_core.errors import CstorError
from cstor_core.files import File
from replica.store.envelope import ENVELOPE, sealed, unsealed
from replica.store.journal import START, Journal, JournalImage, Point
from replica.store.map_run import PAGE_HEAD, PAGE_HEAD_BYTES, PAGE_HEAD_FAST, PAGE_MAGIC
from replica.store.records import (
    CHECKSUM_FAST,
    JOURNAL_MAGIC,
    JOURNAL_OFFSET,
    RECORD_HEAD,
    RECORD_HEAD_BYTES,
    RECORD_HEAD_FAST,
    Kind,
)
from tests.unit.store.memory_files import Inode, MemoryFile, MemoryFilesystem

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
CAPACITY = 4096
TAG = 99


@given(kind=st.integers(0, 2**16 - 1), numbers=st.tuples(U32, U32, U64, U64, U64, U32), check=U32)
def test_a_record_head_is_what_its_declaration_says(
    kind: int, numbers: tuple[int, int, int, int, int, int], check: int
) -> None:
    fast = RECORD_HEAD_FAST.pack(JOURNAL_MAGIC, kind, *numbers) + CHECKSUM_FAST.pack(check)
    names = (
        *("payload_bytes", "previous_checksum", "number", "applied_seq", "durable_number"),
        "replica_tag",
    )
    fields = dict(zip(names, numbers, strict=True))
    assert RECORD_HEAD.build({"kind": kind, "checksum": check, **fields}) == fast
    assert RECORD_HEAD.sizeof() == RECORD_HEAD_BYTES == len(fast)


@given(numbers=st.tuples(U32, U32, U64, U64))
def test_a_page_head_is_what_its_declaration_says(numbers: tuple[int, int, int, int]) -> None:
    checksum, *rest = numbers
    names = ("checksum", "row_count", "run_number", "page_number")
    fast = PAGE_HEAD_FAST.pack(checksum, PAGE_MAGIC, *rest)
    assert PAGE_HEAD.build(dict(zip(names, numbers, strict=True))) == fast
    assert PAGE_HEAD.sizeof() == PAGE_HEAD_BYTES


@given(magic=st.binary(min_size=8, max_size=8), payload=st.binary(max_size=300), more=st.binary())
def test_what_was_sealed_opens(magic: bytes, payload: bytes, more: bytes) -> None:
    content = sealed(magic, payload)
    assert unsealed(content, magic, "it") == (payload, len(content))
    assert unsealed(content + more, magic, "it", exact=False) == (payload, len(content))
    assert ENVELOPE.parse(content).checksum == crc32c(content[:-4])


@given(payload=st.binary(max_size=60), data=st.data())
def test_an_envelope_with_any_bit_flipped_does_not_open(
    payload: bytes, data: st.DataObject
) -> None:
    content = bytearray(sealed(b"cStorXyz", payload))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CstorError, match="it is"):
        unsealed(bytes(content), b"cStorXyz", "it")


@given(content=st.binary(max_size=200))
def test_hostile_envelopes_are_refused(content: bytes) -> None:
    with pytest.raises(CstorError):
        unsealed(b"cStorXyz" + content, b"cStorXyz", "it")


@given(lengths=st.lists(st.integers(0, CAPACITY // 8), min_size=1, max_size=60))
def test_a_journal_reads_back_whatever_was_not_released(lengths: list[int]) -> None:
    inode = Inode()
    inode.content.extend(bytes(JOURNAL_OFFSET + CAPACITY))
    file: File = MemoryFile(MemoryFilesystem(), inode)
    journal = Journal(file, CAPACITY, TAG, START, 0)
    points: list[Point] = []
    for number, length in enumerate(lengths, 1):
        while not journal.fits(length):
            journal.oldest = points[[point[0] for point in points].index(journal.oldest) + 1][0]
        points.append(journal.append(Kind.RUN, bytes([number]) * length, number * 10))
        if len(points) == 1:
            journal.oldest = 0
        image = JournalImage(bytes(inode.content[JOURNAL_OFFSET:]), TAG)
        first = next(point for point in points if point[0] >= journal.oldest)
        found = list(image.records(first))
        assert [record.number for record in found] == list(range(first[1], number + 1))
        assert [bytes(record.payload) for record in found] == [
            bytes([n]) * lengths[n - 1] for n in range(first[1], number + 1)
        ]
        assert [record.point for record in found] == points[first[1] - 1 :]
        assert found[-1].next_point == journal.end
        assert image.later_than(number) == []
        assert not list(JournalImage(bytes(inode.content[JOURNAL_OFFSET:]), 7).records(first))
