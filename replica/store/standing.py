"""Where a replica stands beside its blocks: its history, its configuration, its flag.

The store changes it as entries are applied, recovery by the same methods as it replays the
journal, and a checkpoint keeps it.
"""

from __future__ import annotations

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History
from cstor_core.words import history_from
from replica.store.block_map import BlockMap
from replica.store.discards import RANGES_MAX, Discards
from replica.store.operations import Hidden, Operations


class Standing:
    """A replica that holds a prefix of the order, or (rebuilding) that is on its way to one."""

    __slots__ = (
        "_reigns",
        "applied_seq",
        "configuration",
        "discards",
        "epoch",
        "operations",
        "rebuilding",
    )

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self._reigns = History()
        self.applied_seq = 0
        """The last entry applied; while rebuilding, of the stream."""
        self.epoch = 0
        """The adopted one."""
        self.configuration: volume_pb2.Configuration | None = None
        self.rebuilding = False
        self.discards = Discards()

    @property
    def history(self) -> History:
        """What the replica votes with: while rebuilding, the history held when flagged."""
        if self.rebuilding or not self._reigns.reigns:
            return self._reigns
        return self._reigns.extended(self.applied_seq)

    def found(self, configuration: volume_pb2.Configuration) -> None:
        """Take the founding configuration."""
        self.configuration = configuration

    def adopt(self, record: volume_pb2.EpochRecord) -> None:
        """Apply an epoch's record; while rebuilding only the place in the stream moves."""
        if not self.rebuilding:
            self._reigns = self.history.adopted(record.epoch, record.seq)
            self.epoch = record.epoch
        if record.HasField("configuration"):
            self.configuration = record.configuration
        self.operations.loss_possible = record.loss_possible
        self.applied_seq = record.seq

    def reconfigure(self, change: volume_pb2.ConfigurationChange) -> None:
        """Apply a change of the configuration."""
        self.configuration = change.configuration
        self.applied_seq = change.seq

    def operate(self, operation: volume_pb2.Operation, block_map: BlockMap) -> None:
        """Apply an ordered operation."""
        self.operations.apply(operation)
        self.applied_seq = operation.seq
        if not operation.HasField("loss_told"):
            block_map.begin_layer(self.operations.head)

    def begin_rebuild(self, block_map: BlockMap, freed: list[int], *, loss_possible: bool) -> None:
        """Set the flag.  Where it is set and ranges to discard have piled up, discard them.

        No copy is under way then, so none can bring back what they discard.
        """
        self.operations.loss_possible = loss_possible
        if not self.rebuilding:
            self._reigns = self.history
            self.rebuilding = True
        elif len(self.discards) > RANGES_MAX // 2:
            self._discard(block_map, freed)

    def end_rebuild(self, history: History, block_map: BlockMap, freed: list[int]) -> None:
        """Clear the flag: the replica now holds exactly this history."""
        self._discard(block_map, freed)
        self.rebuilding = False
        self.load(history, history.end.last_seq)

    def switch(self, staged: volume_pb2.StagedMap) -> None:
        """A staged map takes the place of the old one.

        What the old one had is hidden: once W members hold the new history, it goes.
        """
        before, operations = self.operations, Operations.of(staged.operations)
        history = history_from(staged.history)
        operations.completed_seq = max(operations.completed_seq, before.completed_seq)
        operations.hidden.append(Hidden(history.end.last_seq, before.head))
        self.operations = operations
        if staged.HasField("configuration"):
            self.configuration = staged.configuration
        self.load(history, history.end.last_seq)

    def load(self, history: History, applied_seq: int) -> None:
        """Take a history and a place in the stream as they were stored."""
        self._reigns = history
        self.epoch = history.end.epoch
        self.applied_seq = applied_seq

    def _discard(self, block_map: BlockMap, freed: list[int]) -> None:
        for first, count, epoch, seq in self.discards:
            block_map.discard(first, count, epoch, seq, freed)
        self.discards.clear()
