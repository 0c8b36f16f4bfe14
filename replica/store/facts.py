"""What a replica says of itself: where it stands, what it uses, what it has."""

from __future__ import annotations

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History, Reign
from cstor_core.units import BLOCK_BYTES
from replica.store.durability import Durability
from replica.store.operations import Snapshot
from replica.store.parts import Parts
from replica.store.state_file import StateFile


class StoreFacts:
    """The part of a store that is only looked at."""

    _parts: Parts
    _state_file: StateFile
    _durability: Durability

    @property
    def configuration(self) -> volume_pb2.Configuration | None:
        """The volume's configuration; None before the founding."""
        return self._parts.standing.configuration

    @property
    def history(self) -> History:
        """What the replica votes with; while rebuilding, the one held when it was flagged."""
        return self._parts.standing.history

    @property
    def applied_seq(self) -> int:
        """The last entry applied; while rebuilding, of the stream."""
        return self._parts.standing.applied_seq

    @property
    def durable_seq(self) -> int:
        """Every entry up to here is on stable storage."""
        return self._durability.durable_seq

    @property
    def rebuilding(self) -> bool:
        """Whether it takes new entries while it lacks old ones."""
        return self._parts.standing.rebuilding

    @property
    def short(self) -> bool:
        """Whether a power loss may have taken what the replica had acknowledged and not flushed.

        Its position is then what it still holds, all of it; it stays short until `made_whole`.
        """
        return self._state_file.state.short

    @property
    def promised_epoch(self) -> int:
        """The highest epoch ever promised."""
        return self._state_file.state.promised_epoch

    @property
    def promised_instance(self) -> str:
        """The target instance that it was promised to."""
        return self._state_file.state.promised_instance

    @property
    def failed_reason(self) -> str | None:
        """Why the replica was given up, as a sentence; None while it works."""
        return self._parts.failed_reason

    @property
    def checkpoint_error(self) -> str:
        """Why the last checkpoint could not be made (it is tried again); empty when it was."""
        return self._durability.checkpoint_error

    @property
    def used_bytes(self) -> int:
        """Bytes of the data file that are not free: with data, recent entries, on their way."""
        return self._parts.allocator.used_units * BLOCK_BYTES

    @property
    def room_bytes(self) -> int:
        """What `used_bytes` may grow to before more of the file system is taken."""
        return self._parts.allocator.room_units * BLOCK_BYTES

    @property
    def logical_bytes(self) -> int:
        """What the volume has data of, snapshots aside, as of the last checkpoint.

        After a revert it is known again when what that hid has been destroyed.
        """
        return max(self._parts.block_map.held_blocks, 0) * BLOCK_BYTES

    @property
    def shared_bytes(self) -> int:
        """What a clone has in other replicas' data files, as of the last checkpoint."""
        placed, own = self._parts.block_map.placed, self._parts.own_file
        in_own = sum(units.count() for units in placed.shares_of(own).values())
        return (placed.count() - in_own) * BLOCK_BYTES

    @property
    def map_bytes(self) -> int:
        """The size of the map on disk, without what came since the last checkpoint."""
        return self._parts.block_map.file_bytes

    @property
    def journal_used_bytes(self) -> int:
        """What of the journal may not be overwritten: an opening or the tail needs it."""
        return self._parts.journal.used

    @property
    def reserved_bytes(self) -> int:
        """Of the file system, what data never take: the room to checkpoint and to delete."""
        return self._parts.limits.reserve_bytes + self.map_bytes

    @property
    def loss_possible(self) -> bool:
        """Whether initiators have not been told yet that something acknowledged may be gone."""
        return self._parts.standing.operations.loss_possible

    @property
    def properties(self) -> volume_pb2.VolumeProperties:
        """What has been set of the volume."""
        return self._parts.standing.operations.properties

    @property
    def reservations(self) -> volume_pb2.Reservations:
        """Who has registered with the logical unit, and who has reserved it."""
        return self._parts.standing.operations.reservations

    @property
    def sanitization(self) -> volume_pb2.Sanitization:
        """What SANITIZE has begun and not ended, or that it has failed."""
        return self._parts.standing.operations.sanitization

    @property
    def deleted(self) -> bool:
        """Whether the volume has been deleted, and nobody is to serve it any more."""
        return self._parts.standing.operations.deleted

    @property
    def learner(self) -> bool:
        """Whether the replica was brought to the open volume as a new one."""
        return self._parts.standing.operations.learner

    @property
    def member_by(self) -> Reign | None:
        """The entry that made such a one a member; see `Operations`."""
        return self._parts.standing.operations.member_by

    @property
    def operations_seq(self) -> int:
        """Of the last entry that changed snapshots, size, configuration or contents as a whole."""
        return self._parts.standing.operations.last_seq

    @property
    def is_reverted(self) -> bool:
        """Whether the volume does not see all entries: a revert has hidden some."""
        return not self._parts.standing.operations.head.is_everything

    @property
    def size_bytes(self) -> int:
        """The size of the volume."""
        return self._parts.standing.operations.size_bytes

    @property
    def snapshots(self) -> list[Snapshot]:
        """In the order of their entries."""
        return list(self._parts.standing.operations.snapshots.values())
