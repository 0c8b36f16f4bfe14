"""When a batch has gathered: at once, behind a few idle turns, or as one of two halves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from cstor_core.frames import decode_append, encode_run_request
from cstor_core.units import BLOCK_BYTES, MIB
from cstor_target.volume.order import Order
from tests.unit.volume.hand_clock import HandClock

TURNS = 4
DATA = bytes(BLOCK_BYTES)


class Sending:
    """An order of which batches gather, and what it has sent."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        """So many entries each."""
        self.flushes = 0
        self.order = Order(HandClock(), self._sent, MIB, 64 * MIB, TURNS)
        self.order.start(1, 0, 0)

    def write(self, count: int) -> None:
        """A burst of writes."""
        for _ in range(count):
            self.order.write(self.order.last_seq, 1, [DATA], False, None)
        self.order.kick()

    def complete(self) -> None:
        """A quorum has all that was sent."""
        self.order.advance(self.order.sent_seq, 0)

    def _sent(self, message: bytes) -> None:
        frame = decode_append(message)
        self.flushes += frame.flush
        self.batches.append(self.order.sent_seq - sum(self.batches))


async def turns(count: int) -> None:
    """So many of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)


def played(scenario: Callable[[Sending], Coroutine[None, None, None]]) -> Sending:
    """What was sent in a scenario."""
    sending = Sending()
    asyncio.run(scenario(sending))
    return sending


def test_one_at_a_time_leaves_at_once() -> None:
    async def scenario(sending: Sending) -> None:
        for _ in range(3):
            sending.write(1)
            sending.complete()

    assert played(scenario).batches == [1, 1, 1]


def test_what_comes_behind_a_large_batch_gathers_while_more_comes() -> None:
    async def scenario(sending: Sending) -> None:
        sending.write(8)
        sending.complete()
        for _ in range(5):
            sending.write(1)
            await turns(TURNS - 1)
        assert sending.batches == [8]
        sending.write(1)

    assert played(scenario).batches == [8, 6]


def test_it_waits_for_a_few_turns_and_no_longer() -> None:
    async def scenario(sending: Sending) -> None:
        sending.write(8)
        sending.complete()
        sending.write(2)
        await turns(TURNS - 1)
        assert sending.batches == [8]
        await turns(2)
        assert sending.batches == [8, 2]
        sending.complete()
        sending.write(2)  # and the next one of two is no small one any more
        assert sending.batches == [8, 2, 2]

    played(scenario)


def test_half_of_what_is_under_way_leaves_while_the_other_half_is_unfinished() -> None:
    async def scenario(sending: Sending) -> None:
        sending.write(8)
        sending.write(3)
        assert sending.batches == [8]
        sending.write(1)
        assert sending.batches == [8, 4]

    played(scenario)


def test_few_at_a_time_make_no_halves() -> None:
    async def scenario(sending: Sending) -> None:
        sending.write(1)
        sending.write(2)
        assert sending.batches == [1]
        sending.complete()
        assert sending.batches == [1, 2]

    played(scenario)


def test_many_at_a_time_are_soon_forgotten() -> None:
    async def scenario(sending: Sending) -> None:
        sending.write(64)
        sending.complete()
        for _ in range(24):
            sending.write(1)
            await turns(TURNS + 1)
            sending.complete()
        sending.write(1)
        sending.write(2)  # not a half of what there once was at a time, and no half of two either
        assert sending.batches[-1] == 1

    played(scenario)


def test_a_flush_that_waits_alone_leaves_as_well() -> None:
    async def scenario(sending: Sending) -> None:
        sending.write(8)
        sending.complete()
        sending.order.flush(lambda _: None)
        sending.order.kick()
        await turns(TURNS + 1)
        assert sending.flushes == 1

    played(scenario)


def test_what_has_left_otherwise_is_not_sent_again() -> None:
    async def scenario(sending: Sending) -> None:
        sending.write(8)
        sending.complete()
        sending.write(1)
        sending.order.operate(lambda seq, done_seq: encode_run_request(b"", (), 0, 0, True), None)
        await turns(TURNS + 2)
        assert sending.batches[:2] == [8, 1]
        assert len(sending.batches) == 3

    played(scenario)
