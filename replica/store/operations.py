"""What ordered operations have left: the size of the volume, its snapshots, what it sees.

Nothing that an operation takes away is destroyed before W members hold that operation: it is only
hidden, and kept as a view of nobody, until the store has been told so (`completed`) and everything
that only it needed has been freed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from cstor_core.errors import CorruptError, ProtocolError
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import Reign
from cstor_core.limits import (
    COPY_BLOCKS_MAX,
    REGISTRATIONS_MAX,
    SNAPSHOT_NAME_BYTES_MAX,
    SNAPSHOTS_MAX,
)
from cstor_core.properties import set_property
from cstor_core.units import BLOCK_BYTES
from cstor_core.words import reign_from, reign_message
from replica.store.views import EVERYTHING, View


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The volume as it was at one entry."""

    name: str
    seq: int
    created_unix_s: int
    view: View
    size_bytes: int
    """Of the volume, then."""

    def message(self) -> volume_pb2.Snapshot:
        """For a file, or for a report."""
        return volume_pb2.Snapshot(
            name=self.name,
            seq=self.seq,
            created_unix_s=self.created_unix_s,
            ranges=self.view.message(),
            size_bytes=self.size_bytes,
        )


@dataclass(frozen=True, slots=True)
class Hidden:
    """What somebody saw before an entry took it away."""

    by_seq: int
    view: View


class Operations:
    """Of one replica; changed by entries in their order."""

    __slots__ = (
        "blocks_copied",
        "completed_seq",
        "deleted",
        "head",
        "hidden",
        "last_seq",
        "learner",
        "loss_possible",
        "member_by",
        "properties",
        "reservations",
        "sanitization",
        "size_bytes",
        "snapshots",
    )

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.snapshots: dict[str, Snapshot] = {}
        """By name, in the order of their entries."""
        self.head = EVERYTHING
        """What the volume itself sees."""
        self.hidden: list[Hidden] = []
        self.completed_seq = 0
        """W members hold every entry up to here."""
        self.last_seq = 0
        """Of the last entry that changed any of that, or the configuration."""
        self.loss_possible = False
        """Initiators have not been told yet that something acknowledged may be gone."""
        self.properties = volume_pb2.VolumeProperties()
        """What has been set."""
        self.reservations = volume_pb2.Reservations()
        self.sanitization = volume_pb2.Sanitization()
        self.deleted = False
        """The volume has been deleted: nobody is to serve it any more."""
        self.blocks_copied = False
        """Blocks have been copied here within the volume."""
        self.learner = False
        """The replica was brought to the open volume as a new one."""
        self.member_by: Reign | None = None
        """The entry that made such a one a member; (0, 0) where that is not known."""

    def views(self) -> tuple[View, ...]:
        """Whoever must go on seeing what it sees."""
        return (*self.views_in_use(), *(hidden.view for hidden in self.hidden))

    def views_in_use(self) -> tuple[View, ...]:
        """Those of the volume and of its snapshots."""
        return (self.head, *(snapshot.view for snapshot in self.snapshots.values()))

    def destroyable(self, through_seq: int) -> list[Hidden]:
        """What may be destroyed of that which entries up to this one have hidden."""
        last = min(through_seq, self.completed_seq)
        return [hidden for hidden in self.hidden if hidden.by_seq <= last]

    def check(self, operation: volume_pb2.Operation) -> None:
        """Raise ProtocolError where it cannot be applied: the target should have known."""
        match operation.WhichOneof("kind"):
            case "create_snapshot":
                name = operation.create_snapshot.name
                if not 0 < len(name.encode()) <= SNAPSHOT_NAME_BYTES_MAX or name in self.snapshots:
                    raise ProtocolError(f"a snapshot cannot be called {name!r}")
                if len(self.snapshots) >= SNAPSHOTS_MAX:
                    raise ProtocolError(f"there are {SNAPSHOTS_MAX} snapshots, and no more may be")
            case "delete_snapshot" | "revert" as kind:
                self._check_name(getattr(operation, kind).name)
            case "resize":
                self._check_size(operation.resize.size_bytes)
            case "loss_told":
                pass
            case "set_property":
                if operation.set_property.WhichOneof("property") is None:
                    raise ProtocolError("a property is one that this version does not know")
            case "delete_volume":
                if self.properties.delete_protection:
                    raise ProtocolError("the volume is protected against its deletion")
            case "set_reservations":
                count = len(operation.set_reservations.registrations)
                if count > REGISTRATIONS_MAX:
                    raise ProtocolError(
                        f"there are {count} registrations, and at most {REGISTRATIONS_MAX} may be"
                    )
            case "set_sanitization":
                if operation.set_sanitization.state not in volume_pb2.SanitizationState.values():
                    raise ProtocolError("a sanitization is in a state that this version knows not")
            case "copy_blocks":
                self._check_copy(operation.copy_blocks)
            case _:
                raise ProtocolError("an operation is of a kind that this version does not know")

    def apply(self, operation: volume_pb2.Operation) -> None:
        """Change what is there, as `check` allows."""
        seq = operation.seq
        if not operation.HasField("loss_told"):
            self.last_seq = seq
        match operation.WhichOneof("kind"):
            case "create_snapshot":
                what = operation.create_snapshot
                view = self.head.closed_at(seq)
                self.snapshots[what.name] = Snapshot(
                    what.name, seq, what.created_unix_s, view, self.size_bytes
                )
            case "delete_snapshot":
                deleted = self.snapshots.pop(operation.delete_snapshot.name)
                self.hidden.append(Hidden(seq, deleted.view))
            case "revert":
                self.hidden.append(Hidden(seq, self.head.closed_at(seq)))
                self.head = self.snapshots[operation.revert.name].view.going_on_behind(seq)
            case "resize":
                self.size_bytes = operation.resize.size_bytes
            case "loss_told":
                self.loss_possible = False
            case "set_property":
                set_property(self.properties, operation.set_property)
            case "delete_volume":
                self.deleted = True
            case "set_reservations":
                self.reservations.CopyFrom(operation.set_reservations)
            case "set_sanitization":
                self.sanitization.CopyFrom(operation.set_sanitization)

    def forget(self, destroyed: Sequence[Hidden]) -> None:
        """What only these needed has been freed."""
        self.hidden = [hidden for hidden in self.hidden if hidden not in destroyed]

    def message(self) -> volume_pb2.OperationsState:
        """For a file."""
        by = self.member_by
        return volume_pb2.OperationsState(
            size_bytes=self.size_bytes,
            snapshots=[snapshot.message() for snapshot in self.snapshots.values()],
            head_ranges=self.head.message(),
            hidden_views=[
                volume_pb2.HiddenView(hidden_by_seq=hidden.by_seq, ranges=hidden.view.message())
                for hidden in self.hidden
            ],
            completed_seq=self.completed_seq,
            loss_possible=self.loss_possible,
            last_seq=self.last_seq,
            properties=self.properties,
            reservations=self.reservations,
            sanitization=self.sanitization,
            deleted=self.deleted,
            learner=self.learner,
            blocks_copied=self.blocks_copied,
            member_by=None if by is None else reign_message(by),
        )

    @classmethod
    def parsed(cls, content: bytes, what: str) -> Operations:
        """From what `message` gave.  Raises CorruptError."""
        try:
            return cls.of(volume_pb2.OperationsState.FromString(content))
        except DecodeError as error:
            raise CorruptError(f"{what} is damaged: {error}") from error

    @classmethod
    def of(cls, found: volume_pb2.OperationsState) -> Operations:
        """From what `message` gave."""
        operations = cls(found.size_bytes)
        operations.completed_seq = found.completed_seq
        operations.loss_possible = found.loss_possible
        operations.last_seq = found.last_seq
        operations.properties.CopyFrom(found.properties)
        operations.reservations.CopyFrom(found.reservations)
        operations.sanitization.CopyFrom(found.sanitization)
        operations.deleted = found.deleted
        operations.learner = found.learner
        operations.blocks_copied = found.blocks_copied
        if found.HasField("member_by"):
            operations.member_by = reign_from(found.member_by)
        operations.head = View.of(found.head_ranges)
        operations.hidden = [
            Hidden(one.hidden_by_seq, View.of(one.ranges)) for one in found.hidden_views
        ]
        for one in found.snapshots:
            operations.snapshots[one.name] = Snapshot(
                one.name, one.seq, one.created_unix_s, View.of(one.ranges), one.size_bytes
            )
        return operations

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes < self.size_bytes or size_bytes % BLOCK_BYTES:
            raise ProtocolError(
                f"a volume of {self.size_bytes} bytes cannot get {size_bytes}: "
                f"it only grows, by multiples of {BLOCK_BYTES}"
            )

    def _check_copy(self, copy: volume_pb2.BlockCopy) -> None:
        source, destination, blocks = copy.source_block, copy.destination_block, copy.blocks
        if (
            not 0 < blocks <= COPY_BLOCKS_MAX
            or (max(source, destination) + blocks) * BLOCK_BYTES > self.size_bytes
            or abs(source - destination) < blocks
        ):
            raise ProtocolError(
                f"{blocks} blocks from {source} on cannot be copied to {destination}: they have to "
                f"be within the volume, apart from each other, and at most {COPY_BLOCKS_MAX}"
            )

    def _check_name(self, name: str) -> None:
        if name not in self.snapshots:
            raise ProtocolError(f"there is no snapshot {name!r}")
