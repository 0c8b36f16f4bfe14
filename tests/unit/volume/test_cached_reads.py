"""Reads through the cache by hand: what is asked of members, and what is handed on."""

from __future__ import annotations

import pytest

from cstor_core.generated.cstor.v1 import stream_pb2
from cstor_core.units import MIB
from cstor_target.volume.backing import Failure
from tests.unit.volume.reading import ONE, SIZE_BLOCKS, TWO, Reading
from tests.unit.volume.standins import OPENING, SALT


@pytest.fixture
def reading() -> Reading:
    return Reading(cache_bytes=MIB)


def asked(reading: Reading) -> list[tuple[int, int]]:
    """(block, count) of all questions, in the order of their numbers."""
    streams = [stream for link in reading.links for stream in link.streams]
    questions = sorted(question for stream in streams for question in stream.questions())
    return [(block, count) for _, _, block, count in questions]


def answer(reading: Reading, number: int, seq: int, data: bytes) -> None:
    """Answer a question, whomever it was asked of, with the same data in all its blocks."""
    for link in reading.links:
        for stream in link.streams:
            for question, _, block, count in stream.questions():
                if question == number:
                    stream.answer(number, block, [(seq, data)] * count)


def write(reading: Reading, block: int) -> None:
    """A write that a quorum holds at once."""
    reading.write(block)
    reading.order.advance(reading.order.last_seq, 0)


def test_block_that_was_read_is_not_asked_for_again(reading: Reading) -> None:
    reading.read(4)
    answer(reading, 1, 3, ONE)
    reading.read(4)
    assert reading.heard == [(None, ONE)] * 2
    assert asked(reading) == [(4, 1)]
    assert reading.counters.reads_cached == 1


def test_answer_out_of_the_cache_comes_with_the_kick_and_never_from_inside_the_call(
    reading: Reading,
) -> None:
    reading.read(4)
    answer(reading, 1, 3, ONE)
    heard: list[bytes] = []
    reading.cached.read_blocks(4, 1, lambda error, pieces: heard.append(b"".join(pieces)))
    assert heard == []
    reading.cached.kick()
    assert heard == [ONE]


def test_block_that_is_written_is_asked_for_again_once_a_quorum_has_it(reading: Reading) -> None:
    reading.read(4)
    answer(reading, 1, 3, ONE)
    reading.write(4)
    reading.read(4)
    assert asked(reading) == [(4, 1)]  # it waits for the write
    reading.order.advance(11, 0)
    answer(reading, 2, 11, TWO)
    assert reading.heard == [(None, ONE), (None, TWO)]


def test_answer_that_a_write_has_overtaken_is_handed_on_and_not_kept(reading: Reading) -> None:
    reading.read(4)
    write(reading, 4)
    answer(reading, 1, 3, ONE)  # the member had not applied the write when it was asked
    reading.read(4)
    assert asked(reading) == [(4, 1), (4, 1)]


@pytest.mark.parametrize("how", ["unmap", "revert"])
def test_discard_and_revert_empty_the_cache_of_their_blocks(reading: Reading, how: str) -> None:
    reading.read(4)
    answer(reading, 1, 3, ONE)
    if how == "unmap":
        reading.order.unmap(0, SIZE_BLOCKS, False, None)
        reading.order.kick()
    else:
        reading.order.operate(lambda seq, completed_seq: b"", None, SIZE_BLOCKS)
    reading.order.advance(11, 11)
    reading.read(4)
    assert asked(reading) == [(4, 1), (4, 1)]


def test_entry_that_changes_no_block_leaves_the_cache_alone(reading: Reading) -> None:
    reading.read(4)
    answer(reading, 1, 3, ONE)
    reading.order.operate(lambda seq, completed_seq: b"", None)
    reading.read(4)
    assert reading.counters.reads_cached == 1


def test_nothing_is_handed_on_out_of_the_cache_without_a_lease(reading: Reading) -> None:
    reading.read(4)
    answer(reading, 1, 3, ONE)
    reading.clock.now_s = 2e6
    reading.read(4)
    assert reading.counters.reads_cached == 0
    answer(reading, 2, 3, ONE)
    assert len(reading.heard) == 1
    reading.lease.renewed("a", 2e6)
    assert reading.heard == [(None, ONE)] * 2


def test_what_no_quorum_has_on_stable_storage_is_not_kept_without_a_write_cache(
    reading: Reading,
) -> None:
    reading.reads.start(OPENING, SALT, write_cache=False)
    write(reading, 4)
    reading.read(4)
    answer(reading, 1, 11, TWO)
    reading.read(4)
    assert asked(reading) == [(4, 1), (4, 1)]
    assert reading.heard == []


def test_failed_read_is_not_kept(reading: Reading) -> None:
    reading.read(4)
    for number in (0, 1):
        reading.links[number].stream.refuse(1, stream_pb2.READ_STATUS_MEDIUM_ERROR)
    reading.read(4)
    assert reading.heard == [(Failure.MEDIUM_ERROR, b"")]
    assert asked(reading)[-1] == (4, 1)
    assert reading.counters.reads_cached == 0


def test_long_read_goes_past_the_cache(reading: Reading) -> None:
    reading.read(0, 17)
    answer(reading, 1, 3, ONE)
    reading.read(0, 17)
    reading.read(0)
    assert asked(reading) == [(0, 17), (0, 17), (0, 1)]


def test_third_read_in_order_is_read_ahead_of(reading: Reading) -> None:
    for block in (8, 9, 10):
        reading.read(block)
    assert asked(reading) == [(8, 1), (9, 1), (10, 1), (11, 32)]
    for number in range(1, 5):
        answer(reading, number, 3, ONE)
    reading.read(11)
    assert reading.heard == [(None, ONE)] * 4
    assert reading.counters.blocks_read_ahead == 32


def test_read_of_what_is_being_read_ahead_waits_for_it(reading: Reading) -> None:
    for block in (8, 9, 10, 11):
        reading.read(block)
    assert len(asked(reading)) == 4
    answer(reading, 4, 3, TWO)
    assert reading.heard == [(None, TWO)]


def test_read_that_waits_for_what_a_write_has_overtaken_is_asked_for_itself(
    reading: Reading,
) -> None:
    for block in (8, 9, 10):
        reading.read(block)
    write(reading, 20)
    reading.read(11)
    reading.read(20)
    answer(reading, 4, 3, ONE)  # without the write: an old version of block 20
    assert reading.heard == []
    assert asked(reading)[4:] == [(11, 1), (20, 1)]


def test_failure_of_what_is_read_ahead_is_not_that_of_a_read(reading: Reading) -> None:
    for block in (8, 9, 10, 11):
        reading.read(block)
    for link in reading.links:
        for stream in link.streams:
            if any(question[0] == 4 for question in stream.questions()):
                stream.refuse(4, stream_pb2.READ_STATUS_MEDIUM_ERROR)
    assert asked(reading)[-1] == (11, 1)


def test_read_that_waits_ends_with_busy_where_nobody_answers(reading: Reading) -> None:
    for block in (8, 9, 10, 11):
        reading.read(block)
    reading.clock.now_s = 30.0
    reading.reads.expire(10.0)
    assert reading.heard == [(Failure.BUSY, b"")] * 4
