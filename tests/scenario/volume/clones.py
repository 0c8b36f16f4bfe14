"""Clones in the pools of a scenario: made, founded and deleted beside their parent's replicas."""

from __future__ import annotations

from collections.abc import Callable

from cstor_core.errors import InputError, RefusedError, UnavailableError, UnknownVolumeError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.words import history_from
from tests.scenario.volume.disks import Disk
from tests.scenario.volume.replicas import Replica


class Clones:
    """Of all pools, by the addresses of their daemons."""

    def __init__(self) -> None:
        self.pools: dict[str, dict[str, Disk]] = {}
        """By address, and by UUID of the clone."""
        self._made = 0
        self.calls = 0
        self.on_call: Callable[[int], None] = lambda number: None
        """Told of each call that changed something, from 1 on, before it is answered."""
        self.knows_read_only = True
        """The daemons are of a version that knows that of clones."""
        self.deaf: set[str] = set()
        """Replicas that have not heard yet that a quorum holds the snapshot."""

    def at(self, address: str) -> dict[str, Disk]:
        """What clones there are in the pool of a daemon."""
        return self.pools.setdefault(address, {})

    def reports(self, address: str) -> list[replica_pb2.ReplicaReport]:
        """What a daemon says of them."""
        return [self._report(address, disk) for disk in self.at(address).values()]

    def inquire(self, address: str, volume: str) -> replica_pb2.ReplicaReport | None:
        """What a daemon says of one."""
        for uuid, disk in self.at(address).items():
            if volume in (uuid, disk.identity.name):
                return self._report(address, disk)
        return None

    def make(
        self, parent: Replica, request: replica_pb2.CloneReplicaRequest
    ) -> replica_pb2.ReplicaReport:
        """Make one, or find it."""
        pool, wanted = self.at(parent.address), request.clone
        if parent.disk.rebuilding or parent.address in self.deaf:
            raise UnavailableError("clone a little later")
        if request.snapshot not in parent.disk.snapshots:
            raise InputError(f"there is no snapshot {request.snapshot!r}")
        if any(
            disk.identity.name == wanted.name and uuid != wanted.volume_uuid
            for uuid, disk in pool.items()
        ):
            raise InputError(f"the pool has a volume {wanted.name} already")
        if wanted.volume_uuid not in pool:
            snapshot, blocks = parent.disk.snapshots[request.snapshot]
            self._made += 1
            disk = Disk(f"clone-{self._made}", wanted, volume_pb2.Configuration())
            disk.blocks = dict(blocks)
            disk.history = parent.disk.history.up_to(snapshot.seq)
            disk.applied_seq = snapshot.seq
            disk.properties.read_only = request.read_only and self.knows_read_only
            disk.promised_epoch = disk.history.end.epoch
            disk.origin = volume_pb2.CloneOrigin(
                volume_uuid=request.volume_uuid,
                snapshot=snapshot.name,
                snapshot_seq=snapshot.seq,
                base_replica_uuids=[parent.disk.replica_uuid],
            )
            pool[wanted.volume_uuid] = disk
            self._called()
        return self._report(parent.address, pool[wanted.volume_uuid])

    def found(
        self, address: str, request: replica_pb2.FoundReplicaRequest
    ) -> replica_pb2.ReplicaReport:
        """Store the founding configuration."""
        disk = self.at(address).get(request.volume_uuid)
        if disk is None:
            raise UnknownVolumeError("there is no such clone")
        if disk.configuration.members and disk.configuration != request.configuration:
            raise RefusedError("it was founded with another configuration")
        disk.configuration = request.configuration
        self._called()
        return self._report(address, disk)

    def delete(self, address: str, request: replica_pb2.DeleteReplicaRequest) -> None:
        """Delete one."""
        disk = self.at(address).pop(request.volume_uuid, None)
        assert disk is None or disk.replica_uuid == request.replica_uuid
        self._called()

    def _called(self) -> None:
        self.calls += 1
        self.on_call(self.calls)

    def _report(self, address: str, disk: Disk) -> replica_pb2.ReplicaReport:
        report = Replica(address, disk).report()
        assert history_from(report.history) == disk.history
        return report


def borrow(replica: Replica, request: replica_pb2.BorrowRequest) -> replica_pb2.BorrowResponse:
    """There is no other volume in its pool."""
    replica.check(request.orders)
    replica.disk.borrowed.append(request)
    return replica_pb2.BorrowResponse()
