"""A volume as dicts, and what to do to it."""

from __future__ import annotations

from hypothesis import strategies as st

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History, Reign
from cstor_core.units import BLOCK_BYTES
from tests.unit.store.volumes import BLOCKS, Change

NUMBERS = st.one_of(st.integers(0, 40), st.integers(4070, 4110), st.integers(0, BLOCKS - 70))
CHANGES = st.lists(
    st.tuples(NUMBERS, st.one_of(st.just(0), st.integers(1, 60))), min_size=1, max_size=4
)
"""Of one entry: writes of a block (0), or unmaps of so many."""


Blocks = dict[int, tuple[tuple[int, int], bytes | None]]
"""For each block that was written its version and its data; None where it was discarded."""


class Model:
    """One replica as dicts."""

    def __init__(self) -> None:
        self.blocks: Blocks = {}
        self.snapshots: dict[str, Blocks] = {}
        self.size_bytes = BLOCKS * BLOCK_BYTES
        self.reigns: list[tuple[int, int]] = []
        self.seq = 0

    def adopt(self, epoch: int) -> None:
        self.seq += 1
        self.reigns.append((epoch, self.seq))

    def apply(self, entries: list[list[Change]]) -> None:
        epoch, _ = self.reigns[-1]
        for changes in entries:
            self.seq += 1
            for block, change in changes:
                if isinstance(change, bytes):
                    self.blocks[block] = ((epoch, self.seq), change)
                else:
                    for held in self.blocks:
                        if block <= held < block + change and self.blocks[held][0] < (
                            epoch,
                            self.seq,
                        ):
                            self.blocks[held] = ((epoch, self.seq), None)
        self.reigns[-1] = (epoch, self.seq)

    def operate(self, operation: volume_pb2.Operation) -> None:
        self.seq += 1
        self.reigns[-1] = (self.reigns[-1][0], self.seq)
        match operation.WhichOneof("kind"):
            case "create_snapshot":
                self.snapshots[operation.create_snapshot.name] = self.blocks.copy()
            case "delete_snapshot":
                del self.snapshots[operation.delete_snapshot.name]
            case "revert":
                self.blocks = self.snapshots[operation.revert.name].copy()
            case "resize":
                self.size_bytes = operation.resize.size_bytes
            case "copy_blocks":
                self._copy(operation.copy_blocks)

    def _copy(self, copy: volume_pb2.BlockCopy) -> None:
        version = self.reigns[-1][0], self.seq
        for number in range(copy.blocks):
            _, content = self.blocks.get(copy.source_block + number, (version, None))
            block = copy.destination_block + number
            if content is not None or block in self.blocks:
                self.blocks[block] = version, content

    def history(self) -> History:
        return History(tuple(Reign(*reign) for reign in self.reigns))
