"""Merged writes against a plain array: each changes its own bytes and no others.

Reads are answered and writes get their places in any order that the test draws; the gate may hold
a merged write back, or end it.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Buffer, Done, Failure, ReadDone
from cstor_target.volume.merging import Merger, whole_block_pieces, whole_blocks

BLOCKS = 4
STEP = 512


class Disk:
    """An array of blocks; each call waits in `pending` until the test lets it happen."""

    def __init__(self) -> None:
        self.held = bytearray(BLOCKS * BLOCK_BYTES)
        self.pending: list[Callable[[], None]] = []
        self.gate_fails = False

    def read(self, block: int, count: int, done: ReadDone) -> None:
        """The answer is that of the moment of the question: nothing may have changed since."""
        start = block * BLOCK_BYTES
        content = bytes(self.held[start : start + count * BLOCK_BYTES])
        self.pending.append(lambda: done(None, [content]))

    def place(
        self, first: int, data: Buffer, durable: bool, done: Done, unlock: Callable[[], None]
    ) -> None:
        """A merged write gets its place, or none."""
        assert not durable

        def go() -> None:
            if self.gate_fails:
                unlock()
                done(Failure.BUSY)
                return
            start = first * BLOCK_BYTES
            self.held[start : start + len(data)] = data
            unlock()
            self.pending.append(lambda: done(None))

        self.pending.append(go)


class Command:
    """A write of a stretch of bytes, in units of 512."""

    def __init__(self, start: int, count: int, mark: int) -> None:
        self.offset = start * STEP
        self.data = bytes([mark]) * (count * STEP)
        self.answers: list[Failure | None] = []

    @property
    def whole(self) -> bool:
        """Whether it covers whole blocks only."""
        return not self.offset % BLOCK_BYTES and not len(self.data) % BLOCK_BYTES


class Update:
    """An update of a stretch of bytes: each 512 of them become one more than they were."""

    def __init__(self, start: int, count: int) -> None:
        self.offset, self.length = start * STEP, count * STEP
        self.seen: list[bytes] = []
        self.answers: list[Failure | None] = []

    def change(self, held: Buffer) -> Buffer:
        self.seen.append(bytes(held))
        return bytes(byte + 1 & 0xFF for byte in held)


STRETCHES = st.tuples(st.integers(0, BLOCKS * 8 - 1), st.integers(1, 20)).map(
    lambda stretch: (stretch[0], min(stretch[1], BLOCKS * 8 - stretch[0]))
)


@settings(max_examples=300)
@given(st.lists(STRETCHES, min_size=1, max_size=12), st.data())
def test_no_write_undoes_another(stretches: list[tuple[int, int]], data: st.DataObject) -> None:
    disk = Disk()
    merger = Merger(disk.read, disk.place)
    commands = [Command(*stretch, mark) for mark, stretch in enumerate(stretches, 1)]

    def start(command: Command) -> None:
        if not command.whole:
            merger.write(command.offset, [command.data], False, command.answers.append)
            return
        first, count = command.offset // BLOCK_BYTES, len(command.data) // BLOCK_BYTES
        if not merger.wait(first, count, lambda: start(command)):
            disk.held[command.offset : command.offset + len(command.data)] = command.data
            command.answers.append(None)

    waiting = list(commands)
    while waiting or disk.pending:
        before = bytes(disk.held)
        if waiting and (not disk.pending or data.draw(st.booleans())):
            start(waiting.pop(0))
        else:
            disk.gate_fails = data.draw(st.integers(0, 9)) == 0
            disk.pending.pop(data.draw(st.integers(0, len(disk.pending) - 1)))()
        check_marks(before, bytes(disk.held), commands)
    assert all(len(command.answers) == 1 for command in commands), "each is answered once"
    for command in commands:
        if command.answers == [None]:
            overwritten = [other for other in commands if other is not command]
            check_present(command, bytes(disk.held), overwritten)


@settings(max_examples=200)
@given(st.lists(STRETCHES, min_size=1, max_size=8), st.data())
def test_no_update_overlooks_another(stretches: list[tuple[int, int]], data: st.DataObject) -> None:
    disk = Disk()
    merger = Merger(disk.read, disk.place)
    updates = [Update(*stretch) for stretch in stretches]
    waiting = list(updates)
    while waiting or disk.pending:
        if waiting and (not disk.pending or data.draw(st.booleans())):
            update = waiting.pop(0)
            merger.update(update.offset, update.length, update.change, False, update.answers.append)
        else:
            disk.gate_fails = data.draw(st.integers(0, 9)) == 0
            disk.pending.pop(data.draw(st.integers(0, len(disk.pending) - 1)))()
    assert all(len(update.answers) == len(update.seen) == 1 for update in updates)
    done = [update for update in updates if update.answers == [None]]
    for at in range(0, len(disk.held), STEP):
        over = [one for one in done if one.offset <= at < one.offset + one.length]
        assert disk.held[at : at + STEP] == bytes([len(over)]) * STEP, "each counted once"


def test_an_update_that_changes_nothing_writes_nothing_and_lets_others_go_on() -> None:
    disk = Disk()
    merger = Merger(disk.read, disk.place)
    answers: list[Failure | None] = []
    merger.update(0, 2 * BLOCK_BYTES, lambda held: None, False, answers.append)
    second = Update(4, 4)
    merger.update(second.offset, second.length, second.change, False, answers.append)
    assert len(disk.pending) == 1, "the second one waits"
    disk.pending.pop()()
    assert answers == [None]
    while disk.pending:
        disk.pending.pop()()
    assert answers == [None, None]
    assert second.seen == [bytes(4 * STEP)]


def test_an_update_whose_read_fails_writes_nothing_and_unlocks() -> None:
    reads: list[ReadDone] = []
    disk = Disk()
    merger = Merger(lambda block, count, done: reads.append(done), disk.place)
    answers: list[Failure | None] = []
    update = Update(0, 8)
    merger.update(update.offset, update.length, update.change, False, answers.append)
    reads.pop()(Failure.MEDIUM_ERROR, ())
    assert answers == [Failure.MEDIUM_ERROR]
    assert update.seen == []
    assert not merger.wait(0, BLOCKS, lambda: None)


def test_a_read_alone_holds_changes_back() -> None:
    disk = Disk()
    merger = Merger(disk.read, disk.place)
    heard: list[bytes] = []
    merger.read_alone(1, 2, lambda failure, pieces: heard.append(b"".join(pieces)))
    retried: list[int] = []
    assert merger.wait(2, 1, lambda: retried.append(2))
    assert not merger.wait(0, 1, lambda: retried.append(0))
    disk.pending.pop()()
    assert heard == [bytes(2 * BLOCK_BYTES)]
    assert retried == [2]


def check_marks(before: bytes, after: bytes, commands: list[Command]) -> None:
    """A byte changes only to the mark of a command that covers it, and not back to an old one."""
    for at in range(0, len(before), STEP):
        if before[at] != after[at]:
            command = commands[after[at] - 1]
            assert command.offset <= at < command.offset + len(command.data)
            assert after[at] != 0


def check_present(command: Command, held: bytes, others: list[Command]) -> None:
    """What no other command covers shows the mark of this one."""
    for at in range(command.offset, command.offset + len(command.data), STEP):
        if not any(other.offset <= at < other.offset + len(other.data) for other in others):
            assert held[at : at + STEP] == command.data[:STEP], f"the write at {at} is gone"


@given(st.integers(0, 5 * BLOCK_BYTES), st.integers(0, 5 * BLOCK_BYTES))
def test_whole_blocks_lie_within_the_stretch(offset: int, length: int) -> None:
    inside = [
        block
        for block in range(11)
        if offset <= block * BLOCK_BYTES and (block + 1) * BLOCK_BYTES <= offset + length
    ]
    first, count = whole_blocks(offset, length)
    assert list(range(first, first + count)) == inside


@given(st.lists(st.integers(1, 3 * BLOCK_BYTES), min_size=1, max_size=5))
def test_whole_block_pieces_keep_the_bytes(lengths: list[int]) -> None:
    rest = -sum(lengths) % BLOCK_BYTES
    pieces = [bytes([number]) * length for number, length in enumerate([*lengths, rest])]
    whole = whole_block_pieces(pieces)
    assert b"".join(whole) == b"".join(pieces)
    assert all(len(piece) % BLOCK_BYTES == 0 for piece in whole)
