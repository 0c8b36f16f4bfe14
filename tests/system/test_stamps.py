"""The stamped writer's ledger sees every way in which a disk can be wrong."""

from __future__ import annotations

from random import Random

import pytest

from tests.system.stamps import BLOCK_BYTES, ZEROS, Ledger, Stamp

BLOCK_COUNT = 64


@pytest.fixture
def ledger() -> Ledger:
    """A ledger that has chosen nothing yet."""
    return Ledger(BLOCK_COUNT, Random(7))


def rewrite(ledger: Ledger, block: int) -> Stamp:
    """The next write that hits `block`; whatever else comes before it is acknowledged."""
    while (stamp := ledger.next()).block != block:
        ledger.acknowledge(stamp)
    return stamp


def test_a_stamp_is_read_back_whole_or_not_at_all() -> None:
    stamp = Stamp(cycle=3, number=17, block=5)
    data = stamp.data()
    assert len(data) == BLOCK_BYTES
    assert Stamp.parse(data) == stamp
    for at in (0, 8, 31, 32, BLOCK_BYTES - 1):
        torn = bytearray(data)
        torn[at] ^= 1
        assert Stamp.parse(bytes(torn)) is None


def test_the_last_acknowledged_write_is_what_a_block_holds(ledger: Ledger) -> None:
    old = ledger.next()
    ledger.acknowledge(old)
    new = rewrite(ledger, old.block)
    ledger.acknowledge(new)
    assert ledger.problem(old.block, new.data()) is None
    assert "acknowledged was" in str(ledger.problem(old.block, old.data()))


def test_zeros_are_wrong_once_a_write_was_acknowledged(ledger: Ledger) -> None:
    stamp = ledger.next()
    ledger.give_up(stamp)
    assert ledger.problem(stamp.block, ZEROS) is None
    assert ledger.problem(stamp.block, stamp.data()) is None
    ledger.acknowledge(rewrite(ledger, stamp.block))
    assert "zeros" in str(ledger.problem(stamp.block, ZEROS))


def test_after_a_write_without_an_answer_old_and_new_are_both_right(ledger: Ledger) -> None:
    old = ledger.next()
    ledger.acknowledge(old)
    lost = rewrite(ledger, old.block)
    ledger.give_up(lost)
    assert ledger.problem(old.block, old.data()) is None
    assert ledger.problem(old.block, lost.data()) is None
    settled = rewrite(ledger, old.block)
    ledger.acknowledge(settled)
    assert ledger.problem(old.block, settled.data()) is None
    assert ledger.problem(old.block, lost.data()) is not None


def test_another_blocks_write_and_a_torn_one_are_wrong(ledger: Ledger) -> None:
    stamp, other = ledger.next(), ledger.next()
    ledger.acknowledge(stamp)
    ledger.acknowledge(other)
    torn = stamp.data()[:2048] + other.data()[2048:]
    assert ledger.problem(stamp.block, other.data()) is not None
    assert "no whole write" in str(ledger.problem(stamp.block, torn))


def test_no_block_has_two_writes_in_flight_and_half_of_them_overwrite() -> None:
    ledger = Ledger(100_000, Random(1))
    fresh = 0
    in_flight: list[Stamp] = []
    for _ in range(4000):
        fresh -= len(ledger.written())
        stamp = ledger.next()
        fresh += len(ledger.written())
        assert stamp.block not in {other.block for other in in_flight}
        in_flight.append(stamp)
        if len(in_flight) == 16:
            ledger.acknowledge(in_flight.pop(0))
    assert 1800 < fresh < 2200


def test_a_block_at_rest_is_not_chosen_for_a_write(ledger: Ledger) -> None:
    with ledger.at_rest() as block:
        assert block is None, "nothing was written yet"
    known = ledger.next()
    with ledger.at_rest() as block:
        assert block is None, "it is being written"
    ledger.acknowledge(known)
    with ledger.at_rest() as block:
        assert block == known.block
        others = [ledger.next() for _ in range(BLOCK_COUNT - 1)]
        assert known.block not in {stamp.block for stamp in others}
        ledger.acknowledge(others[0])
    assert rewrite(ledger, known.block).block == known.block


def disk_of(blocks: dict[int, bytes]) -> bytes:
    """A disk with these, and zeros elsewhere."""
    return b"".join(blocks.get(block, ZEROS) for block in range(BLOCK_COUNT))


def test_a_snapshot_has_each_block_as_it_may_have_been_in_its_moment(ledger: Ledger) -> None:
    old = ledger.next()
    ledger.acknowledge(old)
    kept = rewrite(ledger, old.block)
    ledger.acknowledge(kept)
    before = {block: ledger.acknowledged(block) for block in ledger.written()}
    writing = next(stamp for stamp in iter(ledger.next, None) if stamp.block != kept.block)
    moment = ledger.moment()
    ledger.acknowledge(writing)
    new = rewrite(ledger, kept.block)
    ledger.acknowledge(new)
    moment.over(ledger)
    late = rewrite(ledger, kept.block)
    whole = {block: Stamp(0, number, block).data() for block, number in before.items() if number}
    for stamp in (kept, new):
        held, problems = moment.read(disk_of(whole | {kept.block: stamp.data()}))
        assert problems == []
        assert held[kept.block] == stamp
    for wrong in (old.data(), late.data(), ZEROS, Stamp(0, 1, kept.block + 1).data(), b"x" * 4096):
        assert len(moment.read(disk_of(whole | {kept.block: wrong}))[1]) == 1
    assert moment.read(disk_of(whole | {writing.block: writing.data()}))[1] == []


def test_after_going_back_blocks_hold_what_was_found_and_a_dropped_write_is_wrong(
    ledger: Ledger,
) -> None:
    old = ledger.next()
    ledger.acknowledge(old)
    moment = ledger.moment()
    moment.over(ledger)
    new = rewrite(ledger, old.block)
    ledger.acknowledge(new)
    held, problems = moment.read(disk_of({old.block: old.data()}))
    assert problems == []
    ledger.go_back(held)
    assert ledger.problem(old.block, old.data()) is None
    assert ledger.problem(old.block, new.data()) is not None
    assert ledger.moment().may == {old.block: {old}}
    assert ledger.next().number > new.number
