"""The map beside dicts: whatever is put, discarded, snapshotted, reverted, written and merged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW, UNMAP, Rows, has_data, rows_of
from replica.store.bits import Units
from replica.store.block_map import BlockMap
from replica.store.map_run import PAGE_ROWS, MapRun, write_run
from replica.store.map_writing import Outcome, merged, resolved
from replica.store.operations import Operations
from replica.store.pace import AT_ONCE, finished
from replica.store.places import PlaceSet
from replica.store.recent import Recent
from replica.store.row_sets import compressed, expanded, with_data
from replica.store.views import EVERYTHING, View
from tests.unit.store.memory_files import MemoryFilesystem

BLOCKS = 4 * PAGE_ROWS
BLOCK = st.integers(0, BLOCKS - 1)
EPOCH = 3


class MapAndModel(RuleBasedStateMachine):
    """Rows have rising seqs, as the entries of an order have."""

    def __init__(self) -> None:
        super().__init__()
        self.filesystem = MemoryFilesystem()
        self.map = BlockMap([], PlaceSet(), 24 * 1024)
        self.model: dict[int, tuple[int, int]] = {}
        """For each block its place (or UNMAP) and seq."""
        self.numbers = count(1)
        self.freed: list[int] = []
        self.given: set[int] = set()
        self.frozen: tuple[Recent, ...] = ()
        self.checkpoints: list[ExitStack] = []
        """Each wants levels to stay as they are."""
        self.operations = Operations(1 << 40)
        self.snapshots: dict[str, dict[int, tuple[int, int]]] = {}
        self.hidden: list[dict[int, tuple[int, int]]] = []
        """What views hold that are of nobody, until they are destroyed."""

    @rule(blocks=st.lists(BLOCK, min_size=1, max_size=60))
    def put(self, blocks: list[int]) -> None:
        rows = b""
        for block in blocks:
            number = next(self.numbers)
            rows += ROW.pack(block, number, number, EPOCH, number & 0xFFFF)
            self.model[block] = number, number
            self.given.add(number)
        self.map.put(rows, self.freed)

    @rule(first=BLOCK, length=st.integers(1, 300))
    def put_consecutive(self, first: int, length: int) -> None:
        self.put(list(range(first, min(first + length, BLOCKS))))

    @precondition(lambda self: self.operations.views() == (EVERYTHING,))
    @rule(block=BLOCK)
    def remove(self, block: int) -> None:
        """As a copy of a block that its source never held."""
        self.map.put(ROW.pack(block, 0, 0, 0, 0), self.freed)
        self.model.pop(block, None)

    @rule(block=BLOCK)
    def put_tombstone(self, block: int) -> None:
        seq = next(self.numbers)
        self.map.put(ROW.pack(block, UNMAP, seq, EPOCH, 0), self.freed)
        self.model[block] = UNMAP, seq

    @rule(first=BLOCK, length=st.integers(1, BLOCKS), age=st.integers(0, 50))
    def discard(self, first: int, length: int, age: int) -> None:
        """Of a version that may be older than some rows, as at the end of a rebuild."""
        seq = next(self.numbers)
        if self.operations.views() == (EVERYTHING,):
            seq = max(seq - age, 1)
        self.map.discard(first, length, EPOCH, seq, self.freed)
        for block in range(first, min(first + length, BLOCKS)):
            if block in self.model and self.model[block][1] < seq:
                self.model[block] = UNMAP, seq

    @rule()
    def snapshot(self) -> None:
        seq = next(self.numbers)
        name = f"s{seq}"
        self._operate(create_snapshot=volume_pb2.SnapshotCreation(name=name), seq=seq)
        self.snapshots[name] = self.model.copy()

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.snapshots)))
        self._operate(delete_snapshot=volume_pb2.SnapshotDeletion(name=name))
        self.hidden.append(self.snapshots.pop(name))

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.snapshots)))
        self._operate(revert=volume_pb2.Reversion(name=name))
        self.hidden.append(self.model)
        self.model = self.snapshots[name].copy()

    def _operate(self, seq: int | None = None, **what: Any) -> None:
        operation = volume_pb2.Operation(seq=next(self.numbers) if seq is None else seq, **what)
        self.operations.check(operation)
        self.operations.apply(operation)
        self.map.begin_layer(self.operations.head)

    @rule()
    def destroy(self) -> None:
        """What is hidden goes with the next run that is made of all."""
        self.operations.completed_seq = next(self.numbers)
        self.operations.forget(self.operations.destroyable(1 << 60))
        assert not self.operations.hidden
        self.hidden.clear()
        garbage = self.map.placed.copy()
        for places in self._places_of(self.map.runs):
            garbage.remove(places)
        outcome = Outcome()
        rows = merged(self.map.runs, self.operations.views(), AT_ONCE, outcome, is_everything=True)
        self.map.runs = [self._run(rows)]
        self.freed += garbage.places().tolist()
        placed = self.map.placed.copy()
        placed.remove_all(garbage)
        self.map.take_placed(placed, outcome.held_blocks)

    @rule()
    def freeze(self) -> None:
        """Also over rows that are frozen already: a checkpoint overtakes another one."""
        self.frozen = self.map.freeze(self.freed)
        checkpoint = ExitStack()
        checkpoint.enter_context(self.map.keeping_levels())
        self.checkpoints.append(checkpoint)

    @precondition(lambda self: len(self.checkpoints) > 1)
    @rule()
    def overtaken_ends(self) -> None:
        self.checkpoints.pop().close()

    @precondition(lambda self: self.frozen)
    @rule()
    def write_frozen(self) -> None:
        outcome = Outcome()
        assert self.map.are_closed(self.frozen)
        views = self.operations.views()
        run = self._run(resolved(self.frozen, self.map.runs, views, AT_ONCE, outcome))
        self.checkpoints.pop().close()
        self.freed += outcome.freed.tolist()
        placed = PlaceSet()
        for places in self._places_of([run, *self.map.runs]):
            placed.put(places)
        for rows in self.map.levels_are_run(self.frozen, run, placed, outcome.held_blocks):
            rows.clear()
        self.frozen = ()

    @rule(newest=st.integers(2, 4))
    def merge(self, newest: int) -> None:
        old = self.map.runs[:newest]
        is_everything = len(old) == len(self.map.runs)
        views = self.operations.views()
        run = self._run(merged(old, views, AT_ONCE, is_everything=is_everything))
        self.map.runs = [run, *self.map.runs[len(old) :]]

    @rule(cached=st.booleans())
    def page_cache(self, cached: bool) -> None:
        self.filesystem.cached = cached

    def _run(self, source: AsyncIterator[Rows]) -> MapRun:
        number = next(self.numbers)
        file = self.filesystem.open(Path(f"/run-{number}"), create=True)
        head, index = finished(write_run(file, number, source, AT_ONCE, 40 * (number % 2)))
        return MapRun(file, head, index, f"run {number}")

    def _places_of(self, runs: list[MapRun]) -> list[Units]:
        async def places() -> list[Units]:
            return [
                rows["place"][with_data(rows)]
                async for rows in merged(runs, self.operations.views(), AT_ONCE, is_everything=True)
            ]

        return finished(places())

    @invariant()
    def holds_the_same(self) -> None:
        first = len(self.freed) % (BLOCKS - 60)
        for many in (60, 9):  # many are looked up together, few one by one
            asked = [(first + 7 * number) % BLOCKS for number in range(many)]
            rows = self.map.gather(np.array(asked, dtype=np.uint64))
            assert [(int(row["place"]), int(row["seq"])) for row in rows] == [
                self.model.get(block, (0, 0)) for block in asked
            ]
            assert rows["block"].tolist() == asked
        for block in range(0, BLOCKS, 7):
            place, seq = self.model.get(block, (0, 0))
            found = ROW.unpack(self.map.row_at_once(block))
            assert found[1:3] == (place, seq)

    @invariant()
    def scan_gives_every_block(self) -> None:
        assert self._scanned() == self.model
        for name, held in self.snapshots.items():
            assert self._scanned(self.operations.snapshots[name].view) == held

    def _scanned(self, *views: View) -> dict[int, tuple[int, int]]:
        async def scanned() -> dict[int, tuple[int, int]]:
            found = {}
            async for rows in self.map.scan(0, views, AT_ONCE):
                found.update({int(r["block"]): (int(r["place"]), int(r["seq"])) for r in rows})
            return found

        return finished(scanned())

    def _needed(self) -> set[int]:
        held = [self.model, *self.snapshots.values(), *self.hidden]
        return {place for one in held for place, _ in one.values() if has_data(place)}

    @invariant()
    def no_place_is_freed_twice_or_while_it_is_needed(self) -> None:
        needed = self._needed()
        assert len(set(self.freed)) == len(self.freed)
        assert needed.isdisjoint(self.freed)

    def teardown(self) -> None:
        """When everything is in runs, what nobody needs has been freed."""
        self.freeze()
        if self.frozen:
            self.write_frozen()
        self.destroy()
        needed = self._needed()
        placed = self.map.placed.places().tolist()
        assert set(placed) == needed == self.given.difference(self.freed)
        assert self.map.held_blocks == sum(has_data(place) for place, _ in self.model.values())
        self.holds_the_same()


MapAndModel.TestCase.settings = settings(max_examples=200, stateful_step_count=30)
TestMapAndModel = MapAndModel.TestCase


@given(
    pieces=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 300), st.booleans(), st.integers(1, 3)),
        max_size=8,
    )
)
def test_tombstones_in_a_row_come_apart_again(
    pieces: list[tuple[int, int, bool, int]],
) -> None:
    rows = b""
    block = 0
    for gap, length, is_discarded, seq in pieces:
        block += gap
        for _ in range(length):
            rows += ROW.pack(block, UNMAP if is_discarded else block + 1, seq, EPOCH, 0)
            block += 1
    many = rows_of(rows)
    few = compressed(many)
    assert expanded(few).tobytes() == rows
    counts = (few["place"][few["place"] & np.uint64(UNMAP) != 0] ^ np.uint64(UNMAP)).tolist()
    assert all(1 <= found <= 128 for found in counts)
    assert len(few) == len(many) - sum(counts) + len(counts)
