"""What a replica of a scenario keeps over the end of its process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cstor_core.errors import InputError
from cstor_core.frames import FrameEntry
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.history import History, Reign
from cstor_core.properties import set_property
from cstor_core.units import BLOCK_BYTES
from cstor_core.words import reign_message

Version = tuple[int, int]
"""(epoch, seq)"""


@dataclass(slots=True)
class Held:
    """One block of a map: its version and its data, None of a discarded one."""

    version: Version
    data: bytes | None


@dataclass(slots=True)
class Disk:
    """What survives the kill of a replica's process."""

    replica_uuid: str
    identity: volume_pb2.VolumeIdentity
    configuration: volume_pb2.Configuration
    history: History = field(default_factory=History)
    applied_seq: int = 0
    rebuilding: bool = False
    promised_epoch: int = 0
    promised_instance: str = ""
    loss_possible: bool = False
    properties: volume_pb2.VolumeProperties = field(default_factory=volume_pb2.VolumeProperties)
    reservations: volume_pb2.Reservations = field(default_factory=volume_pb2.Reservations)
    sanitization: volume_pb2.Sanitization = field(default_factory=volume_pb2.Sanitization)
    deleted: bool = False
    reverted: bool = False
    learner: bool = False
    """It was brought to the open volume as a new one,"""
    member_by: Reign | None = None
    """and made a member by this entry."""
    origin: volume_pb2.CloneOrigin | None = None
    """What it is a clone of, if anything."""
    operations_seq: int = 0
    size_bytes: int = 0
    """Once it has been changed."""
    snapshots: dict[str, tuple[volume_pb2.Snapshot, dict[int, Held]]] = field(default_factory=dict)
    paces: list[int] = field(default_factory=list)
    """What it was told about that while it copied."""
    borrowed: list[replica_pb2.BorrowRequest] = field(default_factory=list)
    """Of what it was told that a copy follows."""
    blocks: dict[int, Held] = field(default_factory=dict)
    tail: dict[int, FrameEntry] = field(default_factory=dict)
    """Recent entries by the seq that they begin with."""

    def add_to(self, origin: volume_pb2.CloneOrigin | None) -> None:
        """Be a replica that is added to a clone, where it is none of anything yet."""
        if origin is not None and self.origin is None:
            self.origin = volume_pb2.CloneOrigin()
            self.origin.CopyFrom(origin)
            del self.origin.base_replica_uuids[:]

    def operate(self, operation: volume_pb2.Operation) -> None:
        """Apply an ordered operation."""
        if not operation.HasField("copy_blocks"):
            self.operations_seq = operation.seq
        match operation.WhichOneof("kind"):
            case "create_snapshot":
                name = operation.create_snapshot.name
                assert name not in self.snapshots
                message = volume_pb2.Snapshot(name=name, seq=operation.seq)
                self.snapshots[name] = message, dict(self.blocks)
            case "delete_snapshot":
                del self.snapshots[operation.delete_snapshot.name]
            case "revert":
                self.blocks = dict(self.snapshots[operation.revert.name][1])
            case "resize":
                assert operation.resize.size_bytes > (self.size_bytes or self.identity.size_bytes)
                self.size_bytes = operation.resize.size_bytes
            case "set_property":
                set_property(self.properties, operation.set_property)
            case "delete_volume":
                self.deleted = True
            case "set_reservations":
                self.reservations.CopyFrom(operation.set_reservations)
            case "set_sanitization":
                self.sanitization.CopyFrom(operation.set_sanitization)
            case "copy_blocks":
                self._copy(operation)
            case kind:
                raise AssertionError(kind)

    def _copy(self, operation: volume_pb2.Operation) -> None:
        copy = operation.copy_blocks
        version = (self.history.end.epoch, operation.seq)
        for number in range(copy.blocks):
            held = self.blocks.get(copy.source_block + number)
            block = copy.destination_block + number
            if (held is not None and held.data is not None) or block in self.blocks:
                self.blocks[block] = Held(version, held.data if held is not None else None)

    def told(self, **others: Any) -> replica_pb2.ReplicaReport:
        """What the replica says of itself."""
        return replica_pb2.ReplicaReport(
            properties=self.properties,
            reservations=self.reservations,
            sanitization=self.sanitization,
            copies_blocks=True,
            deleted=self.deleted,
            reverted=self.reverted,
            learner=self.learner,
            member_by=None if self.member_by is None else reign_message(self.member_by),
            origin=self.origin,
            **others,
        )

    def take(self, configuration: volume_pb2.Configuration, seq: int = 0) -> None:
        """Take a configuration, from an entry or, with no seq, from who knows where."""
        self.learner = self.learner or not self.configuration.members
        self.configuration = configuration
        is_named = any(one.replica_uuid == self.replica_uuid for one in configuration.members)
        is_known = self.member_by is not None and self.history.holds(self.member_by)
        if self.learner and is_named and not is_known:
            self.member_by = Reign(self.history.end.epoch if seq else 0, seq)

    def changes(self, request: replica_pb2.DiffSnapshotsRequest) -> list[replica_pb2.BlockExtent]:
        """Each block that differs between two snapshots, or a snapshot and the volume."""
        older, newer = request.older, request.newer
        for name in filter(None, (older, newer)):
            if name not in self.snapshots:
                raise InputError(f"there is no snapshot {name!r} here")
        before = self.snapshots[older][1] if older else {}
        after = self.snapshots[newer][1] if newer else self.blocks
        nothing = Held((0, 0), None)
        both = [
            (block, before.get(block, nothing), after.get(block, nothing))
            for block in sorted(before.keys() | after.keys())
        ]
        told = [
            replica_pb2.BlockExtent(block=block, count=1, hole=now.data is None)
            for block, old, now in both
            if old.version != now.version and (old.data is not None or now.data is not None)
        ]
        told = [extent for extent in told if extent.block >= request.block]
        return told[: request.blocks_told_max or None]

    def become(self, other: Disk) -> None:
        """Hold what another replica holds."""
        self.blocks = dict(other.blocks)
        self.history, self.applied_seq = other.history, other.applied_seq
        self.operations_seq, self.size_bytes = other.operations_seq, other.size_bytes
        self.snapshots = dict(other.snapshots)
        self.properties, self.deleted = volume_pb2.VolumeProperties(), other.deleted
        self.properties.CopyFrom(other.properties)
        self.reservations.CopyFrom(other.reservations)
        self.sanitization.CopyFrom(other.sanitization)
        self.take(other.configuration)
        self.rebuilding = False
        self.tail.clear()


def copied_so_far(total: int, blocks: int) -> replica_pb2.RebuildResponse:
    """What a replica says of its rebuild after so many blocks of all."""
    done = min(blocks, total)
    return replica_pb2.RebuildResponse(
        blocks_total=total, blocks_done=done, bytes_copied=done * BLOCK_BYTES
    )
