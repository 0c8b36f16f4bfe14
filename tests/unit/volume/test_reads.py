"""Reads by hand: who is asked, what is believed, and when it is handed on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cstor_core.checksums import block_checksum
from cstor_core.errors import UnavailableError
from cstor_core.frames import ANSWER, encode_read_response
from cstor_core.generated.cstor.v1 import stream_pb2
from cstor_core.rows import ROW
from cstor_target.volume.backing import Buffer, Failure
from cstor_target.volume.reads import slice_pieces
from tests.unit.volume.reading import ONE, TWO, Reading
from tests.unit.volume.standins import OPENING, SALT

MEDIUM_ERROR = stream_pb2.READ_STATUS_MEDIUM_ERROR
NOT_IN_SYNC = stream_pb2.READ_STATUS_NOT_IN_SYNC


@pytest.fixture
def reading() -> Reading:
    return Reading()


def test_bursts_go_to_the_member_with_the_least_to_do(reading: Reading) -> None:
    reading.read(0, 8)
    reading.read(8, 4)
    reading.read(12, 4)
    asked = [[question[2] for question in link.stream.questions()] for link in reading.links]
    assert asked == [[0], [8, 12]]


def test_answer_that_passes_its_checksums_is_handed_on(reading: Reading) -> None:
    reading.read(4, 2)
    reading.links[0].stream.answer(1, 4, [(3, ONE), (9, TWO)])
    assert reading.heard == [(None, ONE + TWO)]


def test_read_says_that_it_must_not_be_older_than_what_is_completed(reading: Reading) -> None:
    reading.write(7)
    reading.order.advance(11, 0)
    reading.read(4)
    assert reading.links[0].stream.questions() == [(1, 11, 4, 1)]


def test_read_of_a_block_in_flight_waits_for_the_write(reading: Reading) -> None:
    reading.write(4)
    reading.read(4)
    assert not reading.links[0].streams
    reading.order.advance(11, 0)
    assert reading.links[0].stream.questions() == [(1, 11, 4, 1)]


def test_answer_is_held_until_a_quorum_has_the_version_in_it(reading: Reading) -> None:
    reading.read(4)
    reading.write(4)
    reading.links[0].stream.answer(1, 4, [(11, TWO)])
    assert reading.heard == []
    reading.order.advance(11, 0)
    assert reading.heard == [(None, TWO)]


@pytest.mark.parametrize("completed_first", [False, True])
def test_without_a_write_cache_an_answer_is_held_until_a_quorum_has_flushed_it(
    reading: Reading, completed_first: bool
) -> None:
    reading.reads.start(OPENING, SALT, write_cache=False)
    reading.read(4)
    reading.write(4)
    if completed_first:
        reading.order.advance(11, 10)
    reading.links[0].stream.answer(1, 4, [(11, TWO)])
    reading.order.advance(11, 10)
    assert reading.heard == []
    reading.order.advance(11, 11)
    assert reading.heard == [(None, TWO)]


def test_held_answer_ends_with_busy_where_no_quorum_comes(reading: Reading) -> None:
    reading.read(4)
    reading.write(4)
    reading.links[0].stream.answer(1, 4, [(11, TWO)])
    reading.order.expire(1.0)
    assert [error for error, _ in reading.heard] == [Failure.BUSY]


def test_misplaced_block_does_not_pass(reading: Reading) -> None:
    reading.read(4)
    row = ROW.pack(5, 1, 3, 3, 0)
    reading.links[0].stream.on_message(encode_read_response(ANSWER.pack(1, 1, 0), [row], [ONE]))
    assert reading.counters.checksum_errors == 1
    reading.links[1].stream.answer(1, 4, [(3, ONE)])
    assert reading.heard == [(None, ONE)]


@pytest.mark.parametrize("status", [MEDIUM_ERROR, NOT_IN_SYNC])
def test_another_member_is_asked_where_one_cannot_answer(reading: Reading, status: int) -> None:
    reading.read(4)
    reading.links[0].stream.refuse(1, status)
    reading.links[1].stream.answer(1, 4, [(3, ONE)])
    assert reading.heard == [(None, ONE)]


def test_only_when_every_copy_is_bad_the_read_fails(reading: Reading) -> None:
    reading.read(4)
    reading.links[0].stream.refuse(1, MEDIUM_ERROR)
    reading.links[1].stream.refuse(1, NOT_IN_SYNC)
    assert reading.heard == []
    reading.reads.kick()
    reading.links[1].stream.refuse(1, MEDIUM_ERROR)
    assert reading.heard == [(Failure.MEDIUM_ERROR, b"")]


def test_copy_of_a_member_whose_stream_broke_just_now_is_waited_for(reading: Reading) -> None:
    reading.read(0)
    reading.read(4)
    reading.links[1].stream.on_closed(UnavailableError("lost"))
    reading.links[0].stream.refuse(2, MEDIUM_ERROR)
    reading.links[0].stream.answer(1, 0, [(3, ONE)])
    assert reading.heard == [(None, ONE)]
    reading.clock.run_put_off()
    reading.links[1].stream.answer(2, 4, [(3, TWO)])
    assert reading.heard == [(None, ONE), (None, TWO)]


def test_lost_member_s_questions_go_to_another(reading: Reading) -> None:
    reading.read(4)
    reading.reads.remove(reading.members[0])
    assert reading.links[0].stream.closed
    reading.links[1].stream.answer(1, 4, [(3, ONE)])
    assert reading.heard == [(None, ONE)]


@pytest.mark.parametrize(
    "answer",
    [
        encode_read_response(ANSWER.pack(99, 1, 0), [ROW.pack(4, 1, 3, 3, 0)], [ONE]),
        encode_read_response(ANSWER.pack(1, 2, 0), [ROW.pack(4, 1, 3, 3, 0)] * 2, [ONE, ONE]),
        b"\xff\xff",
        b"",
    ],
    ids=["not asked", "another count", "no message", "no format"],
)
def test_answer_against_the_protocol_ends_the_stream_and_loses_no_question(
    reading: Reading, answer: bytes
) -> None:
    reading.read(4)
    reading.links[0].stream.on_message(answer)
    assert reading.links[0].stream.closed
    reading.links[1].stream.answer(1, 4, [(3, ONE)])
    assert reading.heard == [(None, ONE)]


def test_answer_with_too_few_rows_or_data_is_a_bad_copy(reading: Reading) -> None:
    reading.read(4, 2)
    reading.links[0].stream.on_message(encode_read_response(ANSWER.pack(1, 2, 0), [], []))
    rows = [ROW.pack(block, 1, 3, 3, 0) for block in (4, 5)]
    reading.links[1].stream.on_message(
        encode_read_response(ANSWER.pack(1, 2, 0), rows, [ONE[:100]])
    )
    assert reading.counters.checksum_errors == 2
    assert reading.heard == [(Failure.MEDIUM_ERROR, b"")]


def test_member_that_stands_still_is_passed_over(reading: Reading) -> None:
    reading.read(4)
    reading.clock.now_s = 11.0
    reading.reads.drop_stuck(1.0)
    assert reading.links[0].stream.closed
    reading.links[1].stream.answer(1, 4, [(3, ONE)])
    assert reading.heard == [(None, ONE)]


def test_member_that_is_slow_is_asked_less_and_tried_again_in_time(reading: Reading) -> None:
    asked: list[int] = []

    def read_after(durations_s: tuple[float, float], number: int) -> None:
        """One read, which takes as long as the member that is asked takes."""
        before = [reading.asked_of(link) for link in (0, 1)]
        reading.read(4)
        member = 0 if reading.asked_of(0) > before[0] else 1
        asked.append(member)
        reading.clock.now_s += durations_s[member]
        reading.links[member].stream.answer(number, 4, [(3, ONE)])

    for number in range(1, 21):
        read_after((0.001, 0.010), number)
    assert asked[:2] == [0, 1]
    assert asked[2:] == [0] * 18
    for _ in range(10):
        reading.reads.drop_stuck(0.0)  # once a second
    for number in range(21, 31):
        read_after((0.010, 0.001), number)
    assert asked[20:].count(1) >= 8


def test_question_that_takes_unusually_long_is_asked_of_another_member_too(
    reading: Reading,
) -> None:
    reading.read(4)
    reading.links[0].stream.answer(1, 4, [(3, ONE)])
    reading.clock.run_put_off()
    reading.read(5)
    reading.clock.now_s = 0.004
    reading.clock.run_put_off()
    assert [reading.asked_of(link) for link in (0, 1)] == [2, 0]
    reading.clock.now_s = 0.006
    reading.clock.run_put_off()
    assert [reading.asked_of(link) for link in (0, 1)] == [2, 1]
    assert reading.counters.reads_hedged == 1
    reading.clock.now_s = 0.1
    reading.clock.run_put_off()
    assert [reading.asked_of(link) for link in (0, 1)] == [2, 1]  # two are enough
    reading.links[1].stream.answer(2, 5, [(3, TWO)])
    reading.links[0].stream.answer(2, 5, [(3, TWO)])
    assert reading.heard == [(None, ONE), (None, TWO)]
    assert reading.counters.read_retries == 0


def test_bad_answer_to_a_hedged_question_waits_for_the_other_one(reading: Reading) -> None:
    bad: list[tuple[str, str, int, int]] = []
    reading.reads.on_bad = lambda one, other, block, count: bad.append(
        (one.replica_uuid, other.replica_uuid, block, count)
    )
    reading.read(4)
    reading.clock.now_s = 1.0
    reading.clock.run_put_off()
    first, second = reading.links
    first.stream.refuse(1, MEDIUM_ERROR)
    assert reading.heard == []
    assert [reading.asked_of(link) for link in (0, 1)] == [1, 1]
    second.stream.answer(1, 4, [(3, ONE)])
    assert reading.heard == [(None, ONE)]
    assert bad == [("a", "b", 4, 1)]


def test_hedged_question_survives_the_loss_of_either_member(reading: Reading) -> None:
    reading.read(4)
    reading.clock.now_s = 1.0
    reading.clock.run_put_off()
    reading.reads.remove(reading.members[0])
    assert reading.asked_of(1) == 1
    reading.links[1].stream.answer(1, 4, [(3, ONE)])
    assert reading.heard == [(None, ONE)]


def test_read_that_nobody_answers_ends_with_busy_once(reading: Reading) -> None:
    reading.read(4)
    reading.clock.now_s = 30.0
    reading.reads.expire(10.0)
    reading.reads.expire(10.0)
    assert reading.heard == [(Failure.BUSY, b"")]
    reading.links[0].stream.answer(1, 4, [(3, ONE)])
    assert reading.heard == [(Failure.BUSY, b"")]
    assert not reading.links[0].stream.closed


def test_long_read_is_split_and_put_together_in_order(reading: Reading) -> None:
    reading.read(0, 300)
    first, second = sorted(
        question
        for link in reading.links
        for stream in link.streams
        for question in stream.questions()
    )
    assert [(first[2], first[3]), (second[2], second[3])] == [(0, 256), (256, 44)]
    stream = reading.links[0].stream
    stream.answer(second[0], 256, [(3, TWO)] * 44)
    assert reading.heard == []
    stream.answer(first[0], 0, [(3, ONE)] * 256)
    assert reading.heard == [(None, ONE * 256 + TWO * 44)]


def test_slices_of_pieces_are_the_slices_of_the_whole() -> None:
    pieces = [b"abc", b"", b"defgh", b"ij"]
    whole = b"".join(pieces)
    for start in range(len(whole)):
        for length in range(len(whole) - start + 1):
            found = b"".join(slice_pieces(pieces, start, length))
            assert found == whole[start : start + length]


def test_member_that_is_given_up_by_what_an_answer_brings_is_not_heard_further(
    reading: Reading,
) -> None:
    first, second = reading.members

    def done(error: Failure | None, pieces: Sequence[Buffer]) -> None:
        reading.heard.append((error, b"".join(pieces)))
        reading.reads.remove(first)

    reading.reads.read_blocks(4, 1, done)
    reading.reads.read_blocks(5, 1, lambda error, pieces: reading.heard.append((error, b"5")))
    reading.reads.kick()
    rows = [ROW.pack(at, 1, 3, 3, block_checksum(ONE, SALT, at)) for at in (4, 5)]
    heads = b"".join(ANSWER.pack(number, 1, 0) for number in (1, 2))
    stream = reading.links[0].stream
    stream.on_message(encode_read_response(heads, rows, [ONE, ONE]))
    assert reading.heard == [(None, ONE)]
    assert [question[2] for question in reading.links[1].stream.questions()] == [5]
    assert second in [reader.member for reader in reading.reads._readers]


@pytest.mark.parametrize(
    ("first", "count", "is_torn"), [(250, 10, True), (299, 1, True), (300, 8, False)]
)
def test_a_long_read_that_an_atomic_write_came_over_is_read_again_alone(
    reading: Reading, first: int, count: int, is_torn: bool
) -> None:
    alone: list[tuple[int, int]] = []
    reading.reads.read_alone = lambda block, count, done: alone.append((block, count))
    reading.read(0, 300)
    reading.reads.written_whole(first, count)
    stream = reading.links[0].stream
    for number, _, block, blocks in stream.questions():
        assert (block, blocks) in ((0, 256), (256, 44))
        stream.answer(number, block, [(3, ONE)] * blocks)
    assert alone == ([(0, 300)] if is_torn else [])
    assert reading.heard == ([] if is_torn else [(None, ONE * 300)])
    reading.read(0, 8)
    reading.reads.written_whole(0, 8)
    assert len(alone) == is_torn, "a read in one question sees all of a write or nothing"
