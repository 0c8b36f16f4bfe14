"""Streams of copies: what a source gives, what it refuses, and what its asker believes."""

from __future__ import annotations

import numpy as np
import pytest

from cstor_core.errors import CorruptError, FencedError, ProtocolError, UnavailableError
from cstor_core.frames import FORMAT, decode_copies, encode_copies_request
from cstor_core.generated.cstor.v1 import replica_pb2, stream_pb2, volume_pb2
from cstor_core.rows import ROW, ROW_BYTES
from replica import copies
from replica.copies import WAITING_BLOCKS_MAX, Copies, CopiesSession
from replica.errors import OrderError
from replica.peers import Peer
from tests.unit.replica.worlds import Ends, World, block_data, opening_of, orders_of, turns, until


@pytest.fixture
async def world() -> World:
    """r0 has blocks 0 to 9 of epoch 1, with entries 2 to 11."""
    made = World()
    await made.promise(1)
    made.append_stream(0).open(1).record(1, 1).write(1, 2, *range(10))
    return made


class Asker(Ends):
    """A peer's side of a stream of copies from r0."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.session = CopiesSession(world.find, self.wake, self.closed.append)

    def open(self, epoch: int = 1) -> Asker:
        opening = opening_of("r0", epoch, "", rebuilding=False)
        request = stream_pb2.PullCopiesRequest(format=FORMAT, opening=opening)
        self.session.receive(request.SerializeToString())
        return self

    def ask(self, *blocks: int) -> Asker:
        self.session.receive(encode_copies_request(np.array(blocks, dtype="<u8").tobytes()))
        return self

    def answer(self) -> list[tuple[int, int]] | None:
        """Blocks and the seqs that wrote them, of the next message, whose data are theirs."""
        message = self.session.take_answer()
        if message is None:
            return None
        run = decode_copies(message)
        rows = [(block, seq) for block, _, seq, _, _ in ROW.iter_unpack(run.table)]
        assert run.data == b"".join(block_data(block, seq) for block, seq in rows if seq)
        return rows


@pytest.fixture
def asker(world: World) -> Asker:
    return Asker(world).open()


async def test_blocks_come_in_the_order_in_which_they_were_asked_for(asker: Asker) -> None:
    asker.ask(7, 2, 9)
    assert asker.answer() == [(7, 9), (2, 4), (9, 11)]
    assert asker.answer() is None


async def test_block_never_written_comes_without_a_version(asker: Asker) -> None:
    assert asker.ask(500, 1).answer() == [(500, 0), (1, 3)]


async def test_others_have_their_turn_between_two_messages(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "BATCH_BLOCKS", 2)
    asker.ask(1, 2, 3).ask(4)
    for expected in ([(1, 3), (2, 4)], [(3, 5)], [(4, 6)]):
        assert asker.answer() == expected
        wakes = asker.wakes
        assert asker.answer() is None
        await turns(1)
        assert asker.wakes == wakes + (expected != [(4, 6)])


async def test_what_is_not_in_the_page_cache_comes_later(world: World, asker: Asker) -> None:
    world.stores[0].missing = {3}
    assert asker.ask(3).ask(4).answer() is None
    await until(lambda: asker.wakes > 0)
    assert asker.answer() == [(3, 5)]
    assert asker.answer() is None
    await turns(1)
    assert asker.answer() == [(4, 6)]


@pytest.mark.parametrize("is_missing", [False, True])
async def test_bad_block_ends_the_stream(world: World, asker: Asker, is_missing: bool) -> None:
    world.stores[0].broken = {3}
    world.stores[0].missing = {3} if is_missing else set()
    assert asker.ask(3, 4).answer() is None
    await until(lambda: bool(asker.closed))
    assert isinstance(asker.closed[0], CorruptError)
    assert asker.answer() is None


async def test_higher_promise_ends_the_stream(world: World, asker: Asker) -> None:
    asker.ask(1, 2)
    assert await world.nodes[0].fence.promise(2, "target-b")
    assert [type(error) for error in asker.closed] == [FencedError]
    assert asker.answer() is None


async def test_blocks_read_from_the_disk_are_not_given_after_a_promise(
    world: World, asker: Asker
) -> None:
    world.stores[0].missing = {3}
    assert asker.ask(3).answer() is None
    assert await world.nodes[0].fence.promise(2, "target-b")
    await turns(5)
    assert asker.answer() is None


async def test_epoch_that_was_not_promised_is_refused(world: World) -> None:
    with pytest.raises(FencedError):
        Asker(world).open(2)


async def test_replica_that_is_rebuilding_gives_nothing(world: World, asker: Asker) -> None:
    asker.ask(1)
    await world.stores[0].begin_rebuild()
    assert asker.answer() is None
    assert [type(error) for error in asker.closed] == [OrderError]
    with pytest.raises(OrderError, match="no source"):
        Asker(world).open()


async def test_more_than_can_be_waited_for_is_refused(asker: Asker) -> None:
    with pytest.raises(ProtocolError, match="at a time"):
        asker.ask(*[1] * (WAITING_BLOCKS_MAX + 1))


async def test_block_beyond_the_volume_is_refused(asker: Asker) -> None:
    with pytest.raises(ProtocolError, match="1024 blocks"):
        asker.ask(1024)


async def test_question_before_the_opening_is_refused(world: World) -> None:
    with pytest.raises(ProtocolError, match="no opening"):
        Asker(world).ask(1)


def copies_from(world: World) -> Copies:
    source = replica_pb2.Source(address="r0", replica_uuid="r0")
    return Copies(Peer(world.nodes[1].dialler, source), orders_of("r1", 1))


async def test_asker_gets_what_it_asked_for(world: World) -> None:
    stream = copies_from(world)
    stream.ask(np.array([4, 2], dtype=np.uint64))
    stream.ask(np.array([9], dtype=np.uint64))
    assert stream.asked_blocks == 3
    blocks = []
    while stream.asked_blocks:
        run = await stream.next()
        blocks += [row[0] for row in ROW.iter_unpack(run.table)]
    assert blocks == [4, 2, 9]
    stream.close()


async def test_asker_names_a_source_that_is_not_there(world: World) -> None:
    del world.network.nodes["r0"]
    stream = copies_from(world)
    stream.ask(np.array([4], dtype=np.uint64))
    with pytest.raises(UnavailableError, match=r"r0.*nobody answers"):
        await stream.next()


@pytest.mark.parametrize("rows", [0, 2])
async def test_answer_with_other_than_what_was_asked_for_is_refused(
    world: World, rows: int
) -> None:
    stream = copies_from(world)
    stream.ask(np.array([4], dtype=np.uint64))
    run = volume_pb2.Run(table=bytes(rows * ROW_BYTES))
    stream._heard(stream_pb2.PullCopiesResponse(format=FORMAT, run=run).SerializeToString())
    with pytest.raises(ProtocolError):
        await stream.next()
