"""Where a replica stands beside its blocks: its history, its configuration, its flag.

The store changes it as entries are applied, recovery by the same methods as it replays the
journal, and a checkpoint keeps it.
"""

from __future__ import annotations

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History, Reign
from cstor_core.words import history_from
from replica.store.block_map import BlockMap
from replica.store.discards import RANGES_MAX, Discards
from replica.store.operations import Hidden, Operations

UNKNOWN = Reign(0, 0)
"""Some entry, in whatever history: what an earlier one said of it counts for good."""
_WITHOUT_A_LAYER = frozenset(("loss_told", "set_reservations", "set_sanitization"))
"""No block looks different behind these, and reservations may come often."""


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
        "replica_uuid",
    )

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self.replica_uuid = ""
        """By which configurations name this replica."""
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

    @property
    def point(self) -> tuple[int, int, bool]:
        """What changes with whatever a replica takes, but for copies."""
        return self.applied_seq, self.epoch, self.rebuilding

    def found(self, configuration: volume_pb2.Configuration) -> None:
        """Take the founding configuration."""
        self.configuration = configuration

    def adopt(self, record: volume_pb2.EpochRecord) -> None:
        """Apply an epoch's record; while rebuilding only the place in the stream moves."""
        if not self.rebuilding:
            self._reigns = self.history.adopted(record.epoch, record.seq)
            self.epoch = record.epoch
        if record.HasField("configuration"):
            self._take(record.configuration, Reign(record.epoch, record.seq))
            self.operations.last_seq = record.seq
        self.operations.loss_possible = record.loss_possible
        self.applied_seq = record.seq

    def reconfigure(self, change: volume_pb2.ConfigurationChange) -> None:
        """Apply a change of the configuration."""
        self._take(change.configuration, Reign(self.epoch, change.seq))
        self.operations.last_seq = change.seq
        self.applied_seq = change.seq

    def operate(self, operation: volume_pb2.Operation, block_map: BlockMap) -> None:
        """Apply an ordered operation."""
        self.operations.apply(operation)
        self.applied_seq = operation.seq
        if operation.WhichOneof("kind") not in _WITHOUT_A_LAYER:
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
        """Clear the flag: the replica now holds exactly this history, and nothing that an entry
        discarded which is not in it.
        """
        self._discard(block_map, freed, history)
        self.rebuilding = False
        self.load(history, history.end.last_seq)

    def switch(self, staged: volume_pb2.StagedMap) -> None:
        """A staged map takes the place of the old one, which ends a rebuild as well.

        What the old one had is hidden: once W members hold the new history, it goes.
        """
        before, operations = self.operations, Operations.of(staged.operations)
        history = history_from(staged.history)
        operations.completed_seq = max(operations.completed_seq, before.completed_seq)
        operations.hidden.append(Hidden(history.end.last_seq, before.head))
        operations.blocks_copied |= before.blocks_copied
        operations.learner = before.learner or self.configuration is None
        operations.member_by = before.member_by
        self.operations = operations
        self.rebuilding = False
        self.discards.clear()
        self.load(history, history.end.last_seq)
        if staged.HasField("configuration"):
            self._take(staged.configuration, UNKNOWN)

    def load(self, history: History, applied_seq: int) -> None:
        """Take a history and a place in the stream as they were stored."""
        self._reigns = history
        self.epoch = history.end.epoch
        self.applied_seq = applied_seq

    def _take(self, configuration: volume_pb2.Configuration, by: Reign) -> None:
        """Take a configuration from an entry; a learner keeps which one made it a member.

        Where that entry was dropped with its history, a later one may do so again.
        """
        self.configuration = configuration
        operations = self.operations
        if operations.learner and any(
            member.replica_uuid == self.replica_uuid for member in configuration.members
        ):
            known = operations.member_by
            if known is None or not self.history.holds(known):
                operations.member_by = UNKNOWN if self.rebuilding else by

    def _discard(
        self, block_map: BlockMap, freed: list[int], history: History | None = None
    ) -> None:
        for first, count, epoch, seq in self.discards:
            if history is None or history.holds(Reign(epoch, seq)):
                block_map.discard(first, count, epoch, seq, freed)
        self.discards.clear()
