"""The seam between the engine and a replica, wherever that runs.

A link is made for an address and speaks to whatever replica of the volume answers there.  Its
calls raise the errors of `cstor_core.errors`: UnavailableError when nobody answers or a
connection is lost, FencedError when another target reigns, ForeignReplicaError when the wrong
replica answers.  Promises travel on a connection of their own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.message_stream import MessageStream, OnClosed, OnMessage


class ReplicaLink(Protocol):
    """The calls of one replica daemon that a target uses."""

    address: str

    async def inquire(self, volume: str) -> replica_pb2.ReplicaReport:
        """A question without effect, by name or UUID of the volume."""

    async def create(
        self,
        identity: volume_pb2.VolumeIdentity,
        origin: volume_pb2.CloneOrigin | None = None,
    ) -> replica_pb2.ReplicaReport:
        """Have the daemon make an empty replica, or find the one that it has of the volume."""

    async def clone(self, request: replica_pb2.CloneReplicaRequest) -> replica_pb2.ReplicaReport:
        """Have the daemon make a clone of a snapshot, or find the one that it has."""

    async def found(self, request: replica_pb2.FoundReplicaRequest) -> replica_pb2.ReplicaReport:
        """Have a replica store its founding configuration."""

    async def delete(self, request: replica_pb2.DeleteReplicaRequest) -> None:
        """Have the daemon delete the replica that it has of the volume."""

    async def promise(self, request: replica_pb2.PromiseRequest) -> replica_pb2.PromiseResponse:
        """Ask for a promise."""

    async def lease(self, request: replica_pb2.LeaseRequest) -> replica_pb2.LeaseResponse:
        """Ask for a lease, or give it back."""

    async def stand_by(self, request: replica_pb2.StandByRequest) -> replica_pb2.StandByResponse:
        """Say that this target stands by, and ask whether another one may still serve."""

    async def attest(self, request: replica_pb2.AttestRequest) -> replica_pb2.ReplicaReport:
        """Tell a witness what it is to hold."""

    async def make_whole(self, request: replica_pb2.MakeWholeRequest) -> replica_pb2.ReplicaReport:
        """Tell a replica that it is short no longer."""

    async def set_pace(self, request: replica_pb2.SetPaceRequest) -> None:
        """Have the replica copy so fast from now on."""

    async def repair_blocks(
        self, request: replica_pb2.RepairBlocksRequest
    ) -> replica_pb2.RepairBlocksResponse:
        """Have the replica replace bad blocks by a peer's copies."""

    async def scrub_blocks(
        self, request: replica_pb2.ScrubBlocksRequest
    ) -> replica_pb2.ScrubBlocksResponse:
        """Have the replica read and verify a range of blocks, and say what it has."""

    async def borrow(self, request: replica_pb2.BorrowRequest) -> replica_pb2.BorrowResponse:
        """Have the replica be ready to share data with one of another volume in its pool."""

    async def catch_up(self, request: replica_pb2.CatchUpRequest) -> replica_pb2.ReplicaReport:
        """Have the replica fetch entries from a peer, in order."""

    async def begin_rebuild(
        self, request: replica_pb2.BeginRebuildRequest
    ) -> replica_pb2.ReplicaReport:
        """Have the replica flag itself."""

    def stage(self, request: replica_pb2.StageRequest) -> AsyncGenerator[replica_pb2.StageResponse]:
        """Have the replica get to another history in one step; progress, then `complete`."""

    def rebuild(
        self, request: replica_pb2.RebuildRequest
    ) -> AsyncGenerator[replica_pb2.RebuildResponse]:
        """Have the replica copy what it lacks from a peer; progress, then `complete`."""

    async def describe_pool(self) -> replica_pb2.DescribePoolResponse:
        """The pool that the replica is in: its space, and all replicas in it."""

    def diff_snapshots(
        self, request: replica_pb2.DiffSnapshotsRequest
    ) -> AsyncGenerator[replica_pb2.DiffSnapshotsResponse]:
        """What differs between two snapshots, or a snapshot and the volume, as the replica is."""

    def open_append(self, on_message: OnMessage, on_closed: OnClosed) -> MessageStream:
        """Open the stream of entries; messages as `cstor_core.frames` encodes them."""

    def open_read(self, on_message: OnMessage, on_closed: OnClosed) -> MessageStream:
        """Open the stream of reads."""

    async def close(self) -> None:
        """Give the connections up."""


LinkFactory = Callable[[str], ReplicaLink]
"""Makes the link to an address, HOST:PORT."""
