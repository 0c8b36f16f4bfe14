"""A pool and the replicas in it, as something that answers: the daemon's heart.

Its methods are the calls of proto/cstor/v1/replica.proto, with the messages of that file, and
raise CstorError.  The daemon puts gRPC before it; a target that keeps its only replica in its own
process calls it directly, and a simulation does so across a network of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from math import ceil
from pathlib import Path

import structlog

from cstor_core.clock import Clock
from cstor_core.dialling import PeerDialler
from cstor_core.errors import CorruptError, CstorError, InputError, UnknownVolumeError
from cstor_core.files import Filesystem
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.lasting import Lasting
from cstor_core.secure.gate import Permit, permit_all
from replica import loans, pulls, repairs, scrubs, sources, staging
from replica.copies import CopiesSession
from replica.errors import OrderError
from replica.identities import check_identity, check_promise, names_of
from replica.pool_space import PoolSpace
from replica.replica_node import ReplicaNode
from replica.sessions import AppendSession, Closed, ReadSession, Wake
from replica.store.limits import StoreLimits
from replica.store.pool import MARKS, Pool

TRY_AGAIN_S = 1.0
"""So often replicas are opened again that found no space."""

log = structlog.get_logger()
_LIMITS = StoreLimits()


class ReplicaHost:
    """The replicas of one pool."""

    def __init__(self, pool: Pool, clock: Clock, dialler: PeerDialler) -> None:
        """Use `open`."""
        self._pool = pool
        self._clock = clock
        self._dialler = dialler
        self.stream_errors: dict[str, int] = {}
        self.nodes: dict[str, ReplicaNode] = {}
        self._try_again_s = 0.0
        self._lasting = Lasting()
        """What makes replicas, and takes them away: half of it must not stay."""
        self._space = PoolSpace(pool, clock, self.nodes)
        for volume_uuid in pool.replicas:
            self._add(volume_uuid)

    @classmethod
    async def open(
        cls,
        filesystem: Filesystem,
        path: Path,
        *,
        clock: Clock,
        dialler: PeerDialler,
        new_uuid: Callable[[], str],
        boot_id: str,
        limits: StoreLimits = _LIMITS,
        marks: Path = MARKS,
    ) -> ReplicaHost:
        """Open the pool in a directory, or make one where the directory is absent or empty.

        `marks` is a directory that lives as long as the boot of the machine.
        Raises InputError where the directory is not a pool, is another format's or is in use.
        """
        pool = await Pool.open(filesystem, path, new_uuid, boot_id, limits, marks)
        host = cls(pool, clock, dialler)
        for directory, reason in pool.failed.items():
            log.error("replica_not_opened", directory=directory, reason=reason)
        for node in host.nodes.values():
            if node.store.short:
                node.log.warning("replica_short", applied_seq=node.store.applied_seq)
        log.info("pool_opened", path=str(path), pool=pool.pool_uuid, replicas=len(host.nodes))
        return host

    @property
    def pool_uuid(self) -> str:
        """What identifies the pool, wherever it is mounted."""
        return self._pool.pool_uuid

    @property
    def failed(self) -> dict[str, str]:
        """Replicas that could not be opened, by directory, and why."""
        return self._pool.failed

    def space(self) -> tuple[int, int]:
        """(total, available) bytes of the file system, not older than half a second."""
        return self._space.asked()

    def used_bytes(self) -> int:
        """What all replicas of the pool use, and what clones need of deleted ones."""
        used = sum(node.store.used_bytes for node in self.nodes.values())
        return used + self.orphaned_bytes

    @property
    def orphaned_bytes(self) -> int:
        """What clones need of deleted replicas."""
        return self._pool.orphaned_bytes

    def reserved_bytes(self) -> int:
        """Of the file system, what data never take."""
        return self._space.reserved_bytes()

    def logical_bytes(self) -> int:
        """Data of the volumes themselves, as of their last checkpoints."""
        return sum(node.store.logical_bytes for node in self.nodes.values())

    def node(self, volume_uuid: str, replica_uuid: str) -> ReplicaNode:
        """The replica that is meant.

        Raises UnknownVolumeError where the pool has none of the volume, ForeignReplicaError where
        it is another one, CorruptError where it could not be opened.
        """
        node = self._node_of(volume_uuid)
        node.check_identity(volume_uuid, replica_uuid)
        return node

    def aliases(self, volume: str, with_parents: bool) -> frozenset[str]:
        """All names of a volume in the pool; see `names_of`."""
        if volume in self.failed:
            return frozenset({volume})
        return names_of(volume, [node.report() for node in self.nodes.values()], with_parents)

    def append_session(
        self, wake: Wake, closed: Closed, permit: Permit = permit_all
    ) -> AppendSession:
        """A session for a new append stream."""
        return AppendSession(self._permitted(permit), wake, closed)

    def read_session(self, wake: Wake, closed: Closed, permit: Permit = permit_all) -> ReadSession:
        """A session for a new read stream."""
        return ReadSession(self._permitted(permit), wake, closed)

    def copies_session(
        self, wake: Wake, closed: Closed, permit: Permit = permit_all
    ) -> CopiesSession:
        """A session for a new stream of copies."""
        return CopiesSession(self._permitted(permit), wake, closed)

    def count_stream_error(self, error: CstorError) -> None:
        """Count why a stream was closed, by the name of the error."""
        name = type(error).__name__
        self.stream_errors[name] = self.stream_errors.get(name, 0) + 1

    async def describe_pool(
        self, _request: replica_pb2.DescribePoolRequest
    ) -> replica_pb2.DescribePoolResponse:
        """The pool, its space and its replicas; those that could not be opened are FAILED."""
        total, available = self.space()
        reports = [node.report() for node in self.nodes.values()]
        reports.extend(
            replica_pb2.ReplicaReport(
                identity=volume_pb2.VolumeIdentity(volume_uuid=directory),
                state=replica_pb2.REPLICA_STATE_FAILED,
                reason=reason,
            )
            for directory, reason in self._pool.failed.items()
        )
        return replica_pb2.DescribePoolResponse(
            pool_uuid=self.pool_uuid,
            path=str(self._pool.path),
            capacity_bytes=total,
            available_bytes=available,
            used_bytes=self.used_bytes(),
            reserved_bytes=self.reserved_bytes(),
            logical_bytes=self.logical_bytes(),
            replicas=reports,
        )

    async def create_replica(
        self, request: replica_pb2.CreateReplicaRequest
    ) -> replica_pb2.CreateReplicaResponse:
        """Make an empty replica, or find the one that this call has made before.

        Raises InputError where the identity is not one of a volume, where the pool has another
        volume of that UUID or name, and where the replica is founded already.
        """
        return await self._lasting.run(self._create(request))

    async def _create(
        self, request: replica_pb2.CreateReplicaRequest
    ) -> replica_pb2.CreateReplicaResponse:
        identity, origin = request.identity, None
        self._check_new(identity)
        if request.origin.volume_uuid:
            origin = volume_pb2.CloneOrigin()
            origin.CopyFrom(request.origin)
            del origin.base_replica_uuids[:]
        await self._pool.create(identity, origin)
        node = self.nodes.get(identity.volume_uuid) or self._add(identity.volume_uuid)
        node.log.info("replica_created", size_bytes=identity.size_bytes)
        return replica_pb2.CreateReplicaResponse(replica=node.report())

    async def clone_replica(
        self, request: replica_pb2.CloneReplicaRequest
    ) -> replica_pb2.CloneReplicaResponse:
        """Make a clone of a snapshot, or find the one that this call has made before.

        Raises InputError where the identity cannot be that of such a clone or there is no such
        snapshot, UnavailableError where it cannot be cloned now, NoSpaceError.
        """
        return await self._lasting.run(self._clone(request))

    async def _clone(
        self, request: replica_pb2.CloneReplicaRequest
    ) -> replica_pb2.CloneReplicaResponse:
        identity = request.clone
        self._check_new(identity)
        source = self._node_of(request.volume_uuid)
        await self._pool.clone(
            request.volume_uuid, request.snapshot, identity, read_only=request.read_only
        )
        node = self.nodes.get(identity.volume_uuid) or self._add(identity.volume_uuid)
        node.log.info(
            "replica_cloned", source=source.store.identity.name, snapshot=request.snapshot
        )
        return replica_pb2.CloneReplicaResponse(replica=node.report())

    async def delete_replica(
        self, request: replica_pb2.DeleteReplicaRequest
    ) -> replica_pb2.DeleteReplicaResponse:
        """Remove a replica, whatever it is doing.

        Raises ForeignReplicaError where another one of the volume is here, CorruptError where the
        disk does not let it be removed.
        """
        volume_uuid = request.volume_uuid
        node = self.nodes.get(volume_uuid)
        if node is not None:
            node.check_identity(volume_uuid, request.replica_uuid)
            del self.nodes[volume_uuid]
            node.fence.close_all(
                UnknownVolumeError(f"volume {node.store.identity.name} has been deleted here")
            )
        await self._lasting.run(self._pool.delete(volume_uuid))
        log.info("replica_deleted", volume=volume_uuid, replica=request.replica_uuid)
        return replica_pb2.DeleteReplicaResponse()

    async def found_replica(
        self, request: replica_pb2.FoundReplicaRequest
    ) -> replica_pb2.FoundReplicaResponse:
        """Store the founding configuration; the same one again changes nothing.

        Raises InputError where the configuration does not name this replica, ForeignReplicaError
        where another one is stored.
        """
        node = self._node_of(request.volume_uuid)
        members = [member.replica_uuid for member in request.configuration.members]
        if node.store.replica_uuid not in members or len(set(members)) != len(members):
            raise InputError(
                f"the founding configuration of volume {node.store.identity.name} must name "
                f"each member once, and replica {node.store.replica_uuid} is one"
            )
        await node.store.found(request.configuration)
        node.log.info("replica_founded", members=len(members))
        return replica_pb2.FoundReplicaResponse(replica=node.report())

    async def inquire(self, request: replica_pb2.InquireRequest) -> replica_pb2.InquireResponse:
        """What a replica says of itself, by name or UUID of its volume."""
        await self._open_again()
        for node in self.nodes.values():
            if node.store.identity.name == request.volume:
                return replica_pb2.InquireResponse(replica=node.report())
        return replica_pb2.InquireResponse(replica=self._node_of(request.volume).report())

    async def stand_by(self, request: replica_pb2.StandByRequest) -> replica_pb2.StandByResponse:
        """Told by a target that stands by: whether another one may still serve."""
        report = (await self.inquire(replica_pb2.InquireRequest(volume=request.volume))).replica
        return self.nodes[report.identity.volume_uuid].lease.stand_by(request, report)

    async def promise(self, request: replica_pb2.PromiseRequest) -> replica_pb2.PromiseResponse:
        """Promise an epoch to a target instance; everything of lower epochs ends at once."""
        await self._open_again()
        node = self.node(request.volume_uuid, request.replica_uuid)
        node.check_usable(founded=False)
        check_promise(request)
        promised = await node.fence.promise(request.epoch, request.target_instance)
        left_s = node.lease.left_s(request.target_instance)
        node.log.info(
            "promise_given" if promised else "promise_refused",
            epoch=request.epoch,
            instance=request.target_instance,
        )
        return replica_pb2.PromiseResponse(
            promised=promised, replica=node.report(), lease_left_ms=ceil(left_s * 1000)
        )

    async def lease(self, request: replica_pb2.LeaseRequest) -> replica_pb2.LeaseResponse:
        """Let the target serve for a while to which the promise was given.

        Raises ForeignReplicaError, CorruptError, and OrderError where it is not founded.
        """
        orders = request.orders
        node = self._ordered(orders)
        node.check_usable()
        fence = node.fence
        granted = (orders.epoch, orders.target_instance) == (fence.epoch, fence.instance)
        if granted:
            duration_s = request.duration_ms / 1000
            node.lease.renew(orders.target_instance, duration_s, request.successor)
        total, available = self.space()
        return replica_pb2.LeaseResponse(
            granted=granted,
            promised_epoch=fence.epoch,
            pool_bytes=total,
            pool_available_bytes=max(0, available - self.reserved_bytes()),
            granted_bytes=node.granted_bytes(),
            standbys=node.lease.standbys,
            used_bytes=node.store.used_bytes,
            logical_bytes=node.store.logical_bytes,
        )

    async def attest(self, request: replica_pb2.AttestRequest) -> replica_pb2.AttestResponse:
        """Raises OrderError: a replica with data is no witness."""
        raise OrderError(
            f"replica {request.orders.replica_uuid} has data, and is no witness of volume "
            f"{request.orders.volume_uuid}"
        )

    async def make_whole(
        self, request: replica_pb2.MakeWholeRequest
    ) -> replica_pb2.MakeWholeResponse:
        """Be short no longer: the target that serves has brought the replica to its own position.

        Raises OrderError where the replica is being rebuilt or has not adopted that target's epoch,
        and what the fence raises.
        """
        node = self._ordered(request.orders)
        node.check_orders(request.orders)
        store = node.store
        if store.rebuilding or store.history.end.epoch != request.orders.epoch:
            raise OrderError(
                f"replica {store.replica_uuid} has not reached epoch {request.orders.epoch}: "
                "it is made whole when it has"
            )
        if store.short:
            await store.made_whole()
            node.log.info("replica_whole", applied_seq=store.applied_seq)
        return replica_pb2.MakeWholeResponse(replica=node.report())

    async def catch_up(self, request: replica_pb2.CatchUpRequest) -> replica_pb2.CatchUpResponse:
        """Fetch missing entries from a peer, in order; see `pulls.catch_up`."""
        node = self._ordered(request.orders)
        await pulls.catch_up(node, request)
        return replica_pb2.CatchUpResponse(replica=node.report())

    async def begin_rebuild(
        self, request: replica_pb2.BeginRebuildRequest
    ) -> replica_pb2.BeginRebuildResponse:
        """Flag the replica, durably; see `pulls.begin_rebuild`."""
        node = self._ordered(request.orders)
        await pulls.begin_rebuild(node, request)
        return replica_pb2.BeginRebuildResponse(replica=node.report())

    def rebuild(
        self, request: replica_pb2.RebuildRequest
    ) -> AsyncIterator[replica_pb2.RebuildResponse]:
        """Copy what is missing from a peer; see `pulls.Rebuild`."""
        return pulls.Rebuild(self._ordered(request.orders), request).run()

    def stage(self, request: replica_pb2.StageRequest) -> AsyncIterator[replica_pb2.StageResponse]:
        """Get to another history in one step; see `staging.Staging`."""
        return staging.Staging(self._ordered(request.orders), request).run()

    async def set_pace(self, request: replica_pb2.SetPaceRequest) -> replica_pb2.SetPaceResponse:
        """Copy so fast from now on; see `pulls.set_pace`."""
        pulls.set_pace(self._ordered(request.orders), request)
        return replica_pb2.SetPaceResponse()

    async def repair_blocks(
        self, request: replica_pb2.RepairBlocksRequest
    ) -> replica_pb2.RepairBlocksResponse:
        """Replace blocks that are bad here by a peer's copies; see `repairs.repair_blocks`."""
        return await repairs.repair_blocks(self._ordered(request.orders), request)

    async def scrub_blocks(
        self, request: replica_pb2.ScrubBlocksRequest
    ) -> replica_pb2.ScrubBlocksResponse:
        """Say what a range of blocks is, read and verified; see `scrubs.scrub_blocks`."""
        return await scrubs.scrub_blocks(self._ordered(request.orders), request)

    async def borrow(self, request: replica_pb2.BorrowRequest) -> replica_pb2.BorrowResponse:
        """Be ready to share data with another volume; see `loans.borrow`."""
        source = self.nodes.get(request.origin.volume_uuid)
        borrowing = loans.borrow(self._pool, self._ordered(request.orders), source, request)
        return await self._lasting.run(borrowing)

    def pull_stacks(
        self, request: replica_pb2.PullStacksRequest
    ) -> AsyncIterator[replica_pb2.PullStacksResponse]:
        """Give a peer what a staged map lacks; see `staging.pull_stacks`."""
        return staging.pull_stacks(self.node(request.volume_uuid, request.replica_uuid), request)

    def pull_entries(
        self, request: replica_pb2.PullEntriesRequest
    ) -> AsyncIterator[replica_pb2.PullEntriesResponse]:
        """Give a peer recent entries; see `sources.pull_entries`."""
        return sources.pull_entries(self.node(request.volume_uuid, request.replica_uuid), request)

    def pull_blocks(
        self, request: replica_pb2.PullBlocksRequest
    ) -> AsyncIterator[replica_pb2.PullBlocksResponse]:
        """Give a peer blocks; see `sources.pull_blocks`."""
        return sources.pull_blocks(self.node(request.volume_uuid, request.replica_uuid), request)

    def scan(self, request: replica_pb2.ScanRequest) -> AsyncIterator[replica_pb2.ScanResponse]:
        """Read and verify everything; see `sources.scan`."""
        return sources.scan(self._node_of(request.volume_uuid))

    def read_snapshot(
        self, request: replica_pb2.ReadSnapshotRequest
    ) -> AsyncIterator[replica_pb2.ReadSnapshotResponse]:
        """Blocks of a snapshot; see `sources.read_snapshot`."""
        return sources.read_snapshot(self._node_of(request.volume_uuid), request)

    def diff_snapshots(
        self, request: replica_pb2.DiffSnapshotsRequest
    ) -> AsyncIterator[replica_pb2.DiffSnapshotsResponse]:
        """What differs between two snapshots; see `sources.diff_snapshots`."""
        return sources.diff_snapshots(self._node_of(request.volume_uuid), request)

    def close_streams(self, error: CstorError) -> None:
        """End everything under way on all replicas."""
        for node in self.nodes.values():
            node.fence.close_all(error)

    async def close(self) -> None:
        """The clean stop: flush, checkpoint and mark every replica as cleanly stopped."""
        await self._lasting.close()
        await self._pool.close()

    async def _open_again(self) -> None:
        """Open replicas that found no space before, when a target asks for one."""
        if self._pool.found_full and self._clock.monotonic() > self._try_again_s:
            self._try_again_s = self._clock.monotonic() + TRY_AGAIN_S
            for volume_uuid in await self._pool.try_again():
                self._add(volume_uuid).log.info("replica_opened", reason="there is space again")

    def _check_new(self, identity: volume_pb2.VolumeIdentity) -> None:
        """Raise InputError where no replica can be made for this identity."""
        check_identity(identity)
        if identity.volume_uuid in self._pool.failed:
            self._node_of(identity.volume_uuid)
        for volume_uuid, node in self.nodes.items():
            if node.store.identity.name == identity.name and volume_uuid != identity.volume_uuid:
                raise InputError(
                    f"the pool has a volume {identity.name} already, {volume_uuid}: "
                    "name the new one otherwise"
                )

    def _add(self, volume_uuid: str) -> ReplicaNode:
        store = self._pool.replicas[volume_uuid]
        granted = partial(self._space.granted_bytes, store)
        node = ReplicaNode(store, self._clock, self._dialler, granted)
        self.nodes[volume_uuid] = node
        return node

    def _permitted(self, permit: Permit) -> Callable[[str, str], ReplicaNode]:
        """Finds a replica, for somebody who may have to do with its volume."""

        def find(volume_uuid: str, replica_uuid: str) -> ReplicaNode:
            permit(volume_uuid)
            return self.node(volume_uuid, replica_uuid)

        return find

    def _ordered(self, orders: replica_pb2.Orders) -> ReplicaNode:
        return self.node(orders.volume_uuid, orders.replica_uuid)

    def _node_of(self, volume_uuid: str) -> ReplicaNode:
        node = self.nodes.get(volume_uuid)
        if node is None:
            if volume_uuid in self._pool.failed:
                raise CorruptError(
                    f"the replica of volume {volume_uuid} could not be opened: "
                    f"{self._pool.failed[volume_uuid]}"
                )
            raise UnknownVolumeError(f"the pool has no replica of volume {volume_uuid or '(none)'}")
        return node
