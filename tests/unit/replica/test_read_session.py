"""Read sessions: what is answered, when, and what waits."""

from __future__ import annotations

import pytest

from cstor_core.errors import ProtocolError
from cstor_core.frames import ANSWER
from cstor_core.generated.cstor.v1 import stream_pb2
from replica.counters import Histogram
from replica.sessions import PARKED_MAX, PARKED_S_MAX, QUESTIONS_MAX
from tests.unit.replica.worlds import AppendStream, ReadStream, World, block_data, until

GOOD = stream_pb2.READ_STATUS_UNSPECIFIED
MEDIUM_ERROR = stream_pb2.READ_STATUS_MEDIUM_ERROR
LONG_BLOCKS = 128
NOT_IN_SYNC = stream_pb2.READ_STATUS_NOT_IN_SYNC


@pytest.fixture
async def world() -> World:
    made = World()
    await made.promise(1)
    return made


@pytest.fixture
def append(world: World) -> AppendStream:
    return world.append_stream(0).open(1).record(1, 1).write(1, 2, 5, 6, 7)


@pytest.fixture
def read(world: World, append: AppendStream) -> ReadStream:
    return world.read_stream(0).open(1)


def answers(response: stream_pb2.ReadResponse | None) -> list[tuple[int, int, int]]:
    return [] if response is None else list(ANSWER.iter_unpack(response.answers))


def test_the_questions_of_a_message_are_answered_in_one(read: ReadStream) -> None:
    response = read.ask((1, 0, 5, 1), (2, 4, 6, 3)).answer()
    assert response is not None
    assert answers(response) == [(1, 1, GOOD), (2, 3, GOOD)]
    assert len(response.rows) == 4 * 32
    assert response.data == block_data(5, 2) + block_data(6, 3) + block_data(7, 4)
    assert read.answer() is None


def test_a_question_waits_for_the_entry_that_it_may_not_be_older_than(
    world: World, append: AppendStream, read: ReadStream
) -> None:
    assert read.ask((1, 5, 5, 1), (2, 6, 6, 1)).answer() is None
    append.write(1, 5, 5)
    assert read.wakes == 1
    response = read.answer()
    assert answers(response) == [(1, 1, GOOD)]
    assert response is not None
    assert response.data == block_data(5, 5)
    append.write(1, 6, 6)
    assert answers(read.answer()) == [(2, 1, GOOD)]
    assert not world.nodes[0].parked


def test_a_question_that_waited_too_long_is_refused(world: World, read: ReadStream) -> None:
    read.ask((1, 50, 5, 1))
    world.clock.advance(PARKED_S_MAX / 2)
    read.ask((2, 60, 5, 1))
    world.clock.advance(PARKED_S_MAX / 2)
    assert answers(read.answer()) == [(1, 0, NOT_IN_SYNC)]
    world.clock.advance(PARKED_S_MAX / 2)
    assert answers(read.answer()) == [(2, 0, NOT_IN_SYNC)]
    assert not world.nodes[0].parked


def test_no_more_than_so_many_questions_wait(read: ReadStream) -> None:
    read.ask(*((number, 50, 5, 1) for number in range(PARKED_MAX + 3)))
    refused = answers(read.answer())
    assert refused == [(PARKED_MAX + extra, 0, NOT_IN_SYNC) for extra in range(3)]


def test_a_long_question_has_an_answer_of_its_own(world: World, read: ReadStream) -> None:
    read.ask((1, 0, 5, 1), (2, 0, 5, LONG_BLOCKS), (3, 0, 6, 1))
    assert answers(read.answer()) == [(1, 1, GOOD), (2, LONG_BLOCKS, GOOD), (3, 1, GOOD)]
    response = read.ask((4, 0, 5, LONG_BLOCKS), (5, 0, 6, LONG_BLOCKS + 1), (6, 0, 7, 1)).answer()
    assert response is not None
    assert answers(response) == [(4, LONG_BLOCKS, GOOD)]
    assert len(response.rows) == LONG_BLOCKS * 32
    assert response.data == block_data(5, 2) + block_data(6, 3) + block_data(7, 4)
    assert answers(read.answer()) == [(5, LONG_BLOCKS + 1, GOOD)]
    assert answers(read.answer()) == [(6, 1, GOOD)]
    assert read.answer() is None
    assert world.nodes[0].counters.reads == 6


async def test_a_long_question_that_misses_the_page_cache_holds_up_nothing(
    world: World, read: ReadStream
) -> None:
    world.stores[0].missing = {5}
    read.ask((1, 0, 5, LONG_BLOCKS), (2, 0, 6, LONG_BLOCKS))
    assert answers(read.answer()) == [(2, LONG_BLOCKS, GOOD)]
    assert read.answer() is None
    await until(lambda: bool(read.wakes))
    assert answers(read.answer()) == [(1, LONG_BLOCKS, GOOD)]
    world.stores[0].missing, world.stores[0].broken = set(), {5}
    assert answers(read.ask((3, 0, 5, LONG_BLOCKS)).answer()) == [(3, 0, MEDIUM_ERROR)]


async def test_what_misses_the_page_cache_is_answered_later_and_holds_up_nothing(
    world: World, read: ReadStream
) -> None:
    world.stores[0].missing = {5}
    assert answers(read.ask((1, 0, 5, 1), (2, 0, 6, 1)).answer()) == [(2, 1, GOOD)]
    await until(lambda: bool(read.wakes))
    response = read.answer()
    assert answers(response) == [(1, 1, GOOD)]
    assert response is not None
    assert response.data == block_data(5, 2)


async def test_reads_are_in_flight_until_they_are_answered_and_their_time_is_counted(
    world: World, read: ReadStream
) -> None:
    node = world.nodes[0]
    node.counters.answers = Histogram(node.counters.answers.bounds_s)
    world.stores[0].missing = {5}
    read.ask((1, 0, 5, 1), (2, 0, 6, 1), (3, 99, 6, 1))
    assert [session.in_flight for session in node.read_sessions] == [3]
    assert answers(read.answer()) == [(2, 1, GOOD)]
    assert [session.in_flight for session in node.read_sessions] == [2]
    await until(lambda: bool(read.wakes))
    assert answers(read.answer()) == [(1, 1, GOOD)]
    assert sum(node.counters.answers.counts) == 3
    read.session.end()
    assert not node.read_sessions


async def test_a_block_that_cannot_be_read_is_a_medium_error(
    world: World, read: ReadStream
) -> None:
    world.stores[0].broken = {5}
    assert answers(read.ask((1, 0, 5, 1), (2, 0, 6, 1)).answer()) == [
        (2, 1, GOOD),
        (1, 0, MEDIUM_ERROR),
    ]
    world.stores[0].missing = {5}
    assert read.ask((3, 0, 5, 1)).answer() is None
    await until(lambda: bool(read.wakes))
    assert answers(read.answer()) == [(3, 0, MEDIUM_ERROR)]


async def test_a_replica_that_is_rebuilding_or_has_not_adopted_the_epoch_refuses(
    world: World, read: ReadStream
) -> None:
    await world.stores[0].begin_rebuild()
    assert answers(read.ask((1, 0, 5, 1)).answer()) == [(1, 0, NOT_IN_SYNC)]
    unadopted = world.read_stream(1).open(1).ask((1, 0, 5, 1), (2, 9, 5, 1))
    refused = sorted(answers(unadopted.answer()))
    assert refused == [(1, 0, NOT_IN_SYNC), (2, 0, NOT_IN_SYNC)]


@pytest.mark.parametrize(
    "question", [(1, 0, 1024, 1), (1, 0, 1020, 5), (1, 0, 0, 0), (1, 0, 0, 257)]
)
def test_a_question_beyond_the_volume_or_of_no_size_ends_the_stream(
    read: ReadStream, question: tuple[int, int, int, int]
) -> None:
    with pytest.raises(ProtocolError):
        read.ask(question)


def test_too_many_unanswered_questions_end_the_stream(read: ReadStream) -> None:
    with pytest.raises(ProtocolError, match="waiting"):
        read.ask(*((number, 0, 5, 1) for number in range(QUESTIONS_MAX + 1)))


def test_answers_come_in_messages_of_about_a_mebibyte(append: AppendStream, world: World) -> None:
    append.write(1, 5, *range(256))
    read = world.read_stream(0).open(1).ask(*((number, 0, 0, 256) for number in range(3)))
    sizes = []
    while (response := read.answer()) is not None:
        sizes.append(len(response.data))
    assert sizes == [256 * 4096] * 3
