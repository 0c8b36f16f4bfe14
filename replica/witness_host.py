"""A directory of witnesses, one a volume, as something that answers.

Its methods are the calls of proto/cstor/v1/replica.proto that a witness has, with the messages of
that file, and raise CstorError.  It holds no data, so it has no streams, and is never a source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import ceil
from pathlib import Path

import structlog

from cstor_core.clock import Clock
from cstor_core.errors import (
    CorruptError,
    CstorError,
    ForeignReplicaError,
    InputError,
    NoSpaceError,
    UnknownVolumeError,
)
from cstor_core.files import File, Filesystem
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from replica.errors import OrderError
from replica.identities import check_identity, check_promise, names_of
from replica.leases import LeaseGiven
from replica.promises import Fence
from replica.store.envelope import parsed, read_file, replace_file, sealed, unsealed
from replica.store.pool import MARKS, make_durable_directory
from replica.store.records import POOL
from replica.witness_file import WitnessFile

DIRECTORY_MAGIC = b"cStorWdr"
IDENTITY_NAME = "witness"
SUFFIX = ".witness"
CONFIGURATION_BYTES_MAX = 64 << 10
TEXT_BYTES_MAX = 1024
TRY_AGAIN_S = 1.0
"""So long after it found no space a file is left alone."""
_OURS_WHEN_UNFINISHED = {"lock", "lost+found", f"{IDENTITY_NAME}.new"}

log = structlog.get_logger()


class WitnessNode:
    """The witness of one volume."""

    def __init__(self, file: WitnessFile, clock: Clock) -> None:
        self.file = file
        self.fence = Fence(file)
        self.lease = LeaseGiven(clock, may_be_given=file.promised_epoch > 0)
        self.log = log.bind(volume=file.identity.name, witness=file.replica_uuid)

    def state(self) -> replica_pb2.ReplicaState.ValueType:
        """One word for what it is."""
        if self.file.failed_reason is not None:
            return replica_pb2.REPLICA_STATE_FAILED
        if self.file.configuration is None:
            return replica_pb2.REPLICA_STATE_UNFOUNDED
        return replica_pb2.REPLICA_STATE_COMPLETE

    def report(self) -> replica_pb2.ReplicaReport:
        """What it says of itself."""
        held = self.file.held
        report = replica_pb2.ReplicaReport(
            identity=self.file.identity,
            replica_uuid=held.replica_uuid,
            state=self.state(),
            configuration=self.file.configuration,
            promised_epoch=self.fence.epoch,
            promised_instance=self.fence.instance,
            durable_seq=held.record_seq,
            size_bytes=self.file.identity.size_bytes,
            reason=self.file.failed_reason or "",
            witness=True,
            out_of_date_mark=replica_pb2.OutOfDateMark(
                epoch=held.record_epoch, number=held.number, replica_uuid=held.out_of_date
            ),
        )
        if held.record_epoch:
            report.history.reigns.add(epoch=held.record_epoch, last_seq=held.record_seq)
        return report

    def check_identity(self, volume_uuid: str, replica_uuid: str) -> None:
        """Raise ForeignReplicaError where another one than this is meant."""
        if replica_uuid != self.file.replica_uuid:
            raise ForeignReplicaError(
                f"witness {replica_uuid} of volume {volume_uuid} is asked for, and here is "
                f"{self.file.replica_uuid}: a wiped witness is a new one"
            )


class WitnessHost:
    """The witnesses in one directory."""

    def __init__(
        self,
        filesystem: Filesystem,
        path: Path,
        lock: File,
        uuid: str,
        clock: Clock,
        new_uuid: Callable[[], str],
        boot_id: str,
        marks: Path,
    ) -> None:
        """Use `open`."""
        self.path = path
        self.uuid = uuid
        """What identifies the directory."""
        self.nodes: dict[str, WitnessNode] = {}
        """By UUID of the volume."""
        self.failed: dict[str, str] = {}
        """Volumes whose file could not be opened, and why."""
        self._found_full: set[str] = set()
        """Those of them for which there was no space."""
        self._try_again_s = 0.0
        self._naming = asyncio.Lock()
        """No file is given its name, or loses it, while another one is."""
        self._filesystem = filesystem
        self._lock = lock
        self._clock = clock
        self._new_uuid = new_uuid
        self._boot_id = boot_id
        self._marks = marks

    @classmethod
    async def open(
        cls,
        filesystem: Filesystem,
        path: Path,
        *,
        clock: Clock,
        new_uuid: Callable[[], str],
        boot_id: str,
        marks: Path = MARKS,
    ) -> WitnessHost:
        """Open a directory of witnesses; one that is absent or empty becomes one.

        A file that cannot be read is set aside, and harms no other.  Raises InputError where the
        directory is none, is of another format or in use, CorruptError where its identity is
        damaged.
        """
        try:
            names = set(filesystem.list(path)) if filesystem.exists(path) else set()
            if "pool" in names:
                raise InputError(
                    f"{path} is a pool of replicas with data: start its daemon without --witness"
                )
            if IDENTITY_NAME not in names and names - _OURS_WHEN_UNFINISHED:
                raise InputError(
                    f"{path} is not empty and has no witness: name an empty directory, or one that "
                    "does not exist yet"
                )
            await make_durable_directory(filesystem, path)
            try:
                lock = filesystem.lock(path / "lock")
            except BlockingIOError as error:
                raise InputError(f"{path} is in use by another process: stop that first") from error
            try:
                uuid = await _identity(filesystem, path / IDENTITY_NAME, new_uuid)
                host = cls(filesystem, path, lock, uuid, clock, new_uuid, boot_id, marks)
                await host._open_all()
            except BaseException:
                lock.close()
                raise
        except OSError as error:
            raise InputError(f"{path} cannot be used: {error.strerror}") from error
        log.info("witness_opened", path=str(path), uuid=uuid, volumes=len(host.nodes))
        return host

    @property
    def found_full(self) -> bool:
        """Whether some file could not be opened because there was no space."""
        return bool(self._found_full)

    async def describe_pool(
        self, _request: replica_pb2.DescribePoolRequest
    ) -> replica_pb2.DescribePoolResponse:
        """The directory and its witnesses; those that could not be opened are FAILED."""
        await self._open_again()
        total, available = self._filesystem.space(self.path)
        reports = [node.report() for node in self.nodes.values()]
        reports.extend(
            replica_pb2.ReplicaReport(
                identity=volume_pb2.VolumeIdentity(volume_uuid=volume_uuid),
                state=replica_pb2.REPLICA_STATE_FAILED,
                reason=reason,
                witness=True,
            )
            for volume_uuid, reason in self.failed.items()
        )
        return replica_pb2.DescribePoolResponse(
            pool_uuid=self.uuid,
            path=str(self.path),
            capacity_bytes=total,
            available_bytes=available,
            replicas=reports,
            witness=True,
        )

    async def create_replica(
        self, request: replica_pb2.CreateReplicaRequest
    ) -> replica_pb2.CreateReplicaResponse:
        """Make the witness of a volume, or find the one that this call has made before.

        Raises InputError where the identity is not one of a volume, or there is another volume of
        that UUID or name; NoSpaceError, CorruptError.
        """
        await self._open_again()
        async with self._naming:
            return await self._create(request.identity)

    async def _create(
        self, identity: volume_pb2.VolumeIdentity
    ) -> replica_pb2.CreateReplicaResponse:
        check_identity(identity)
        for volume_uuid, node in self.nodes.items():
            same = (volume_uuid == identity.volume_uuid, node.file.identity == identity)
            if same[0] != same[1] or (not same[0] and node.file.identity.name == identity.name):
                raise InputError(
                    f"{self.path} has a witness of a volume {node.file.identity.name} already, "
                    f"{volume_uuid}: name the new one otherwise"
                )
        if identity.volume_uuid not in self.nodes:
            self._check_not_failed(identity.volume_uuid)
            file = await WitnessFile.create(
                self._filesystem,
                self._file(identity.volume_uuid),
                identity,
                self._new_uuid(),
                self._marks,
                self._boot_id,
            )
            node = self.nodes.setdefault(identity.volume_uuid, WitnessNode(file, self._clock))
            node.log.info("witness_created")
        report = self.nodes[identity.volume_uuid].report()
        return replica_pb2.CreateReplicaResponse(replica=report)

    async def delete_replica(
        self, request: replica_pb2.DeleteReplicaRequest
    ) -> replica_pb2.DeleteReplicaResponse:
        """Forget a volume.  Raises ForeignReplicaError where another witness is here, CorruptError
        where the disk does not let it be removed.
        """
        async with self._naming:
            return await self._delete(request)

    async def _delete(
        self, request: replica_pb2.DeleteReplicaRequest
    ) -> replica_pb2.DeleteReplicaResponse:
        volume_uuid = request.volume_uuid
        node = self.nodes.get(volume_uuid)
        if node is not None:
            node.check_identity(volume_uuid, request.replica_uuid)
            del self.nodes[volume_uuid]
        self._found_full.discard(volume_uuid)
        if node is not None or self.failed.pop(volume_uuid, None) is not None:
            try:
                self._filesystem.remove(self._file(volume_uuid))
                await self._filesystem.sync_directory(self.path)
            except OSError as error:
                raise CorruptError(
                    f"{self._file(volume_uuid)} cannot be removed: {error.strerror}"
                ) from error
            log.info("witness_deleted", volume=volume_uuid, witness=request.replica_uuid)
        return replica_pb2.DeleteReplicaResponse()

    async def found_replica(
        self, request: replica_pb2.FoundReplicaRequest
    ) -> replica_pb2.FoundReplicaResponse:
        """Store the founding configuration; the same one again changes nothing.

        Raises InputError where it does not name this one as the witness, ForeignReplicaError where
        another one is stored.
        """
        await self._open_again()
        node = self._node(request.volume_uuid)
        named = [one.replica_uuid for one in request.configuration.members if one.witness]
        if named != [node.file.replica_uuid]:
            raise InputError(
                f"the founding configuration of volume {node.file.identity.name} must name one "
                f"witness, and {node.file.replica_uuid} is it"
            )
        await node.file.found(request.configuration)
        node.log.info("witness_founded")
        return replica_pb2.FoundReplicaResponse(replica=node.report())

    def aliases(self, volume: str, with_parents: bool) -> frozenset[str]:
        """All names of a volume that is witnessed here; see `names_of`."""
        if volume in self.failed:
            return frozenset({volume})
        return names_of(volume, [node.report() for node in self.nodes.values()], with_parents)

    async def inquire(self, request: replica_pb2.InquireRequest) -> replica_pb2.InquireResponse:
        """What it says of itself, by name or UUID of the volume."""
        await self._open_again()
        for node in self.nodes.values():
            if node.file.identity.name == request.volume:
                return replica_pb2.InquireResponse(replica=node.report())
        return replica_pb2.InquireResponse(replica=self._node(request.volume).report())

    async def stand_by(self, request: replica_pb2.StandByRequest) -> replica_pb2.StandByResponse:
        """Told by a target that stands by: whether another one may still serve."""
        report = (await self.inquire(replica_pb2.InquireRequest(volume=request.volume))).replica
        return self.nodes[report.identity.volume_uuid].lease.stand_by(request, report)

    async def promise(self, request: replica_pb2.PromiseRequest) -> replica_pb2.PromiseResponse:
        """Promise an epoch to a target instance; it takes no words of lower epochs from then on."""
        await self._open_again()
        node = self.node(request.volume_uuid, request.replica_uuid)
        node.file.check_usable()
        check_promise(request)
        if len(request.target_instance.encode()) > TEXT_BYTES_MAX:
            raise InputError(f"an instance has a name of up to {TEXT_BYTES_MAX} bytes")
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
        await self._open_again()
        orders = request.orders
        node = self.node(orders.volume_uuid, orders.replica_uuid)
        node.file.check_usable()
        if node.file.configuration is None:
            raise OrderError(f"witness {node.file.replica_uuid} is not founded")
        granted = (orders.epoch, orders.target_instance) == (node.fence.epoch, node.fence.instance)
        if granted:
            duration_s = request.duration_ms / 1000
            node.lease.renew(orders.target_instance, duration_s, request.successor)
        return replica_pb2.LeaseResponse(
            granted=granted, promised_epoch=node.fence.epoch, standbys=node.lease.standbys
        )

    async def attest(self, request: replica_pb2.AttestRequest) -> replica_pb2.AttestResponse:
        """Hold what the target says that the promise was given to; see `WitnessFile.attest`.

        Raises InputError where it cannot be so, and what the fence raises.
        """
        await self._open_again()
        orders, configuration = request.orders, request.configuration
        node = self.node(orders.volume_uuid, orders.replica_uuid)
        members = {one.replica_uuid for one in configuration.members if not one.witness}
        if (
            not (request.number and request.record_seq and members)
            or request.out_of_date_replica_uuid not in members | {""}
            or configuration.ByteSize() > CONFIGURATION_BYTES_MAX
        ):
            raise InputError(
                "a witness is told of an epoch's record, with a number, of the members, and which "
                "of those with data is out of date"
            )
        await node.file.attest(
            request, lambda: node.fence.check(orders.epoch, orders.target_instance)
        )
        node.log.info(
            "witness_told",
            epoch=orders.epoch,
            number=request.number,
            out_of_date=request.out_of_date_replica_uuid,
        )
        return replica_pb2.AttestResponse(replica=node.report())

    async def close(self) -> None:
        """Let another process have the directory."""
        self._lock.close()

    def node(self, volume_uuid: str, replica_uuid: str) -> WitnessNode:
        """The one that is meant; raises UnknownVolumeError, ForeignReplicaError, CorruptError, and
        NoSpaceError where it could not be opened yet for want of space.
        """
        node = self._node(volume_uuid)
        node.check_identity(volume_uuid, replica_uuid)
        return node

    def _node(self, volume_uuid: str) -> WitnessNode:
        node = self.nodes.get(volume_uuid)
        if node is None:
            self._check_not_failed(volume_uuid)
            raise UnknownVolumeError(
                f"{self.path} has no witness of volume {volume_uuid or '(none)'}"
            )
        return node

    def _check_not_failed(self, volume_uuid: str) -> None:
        if volume_uuid in self._found_full:
            raise NoSpaceError(self.failed[volume_uuid])
        if volume_uuid in self.failed:
            raise CorruptError(
                f"the witness of volume {volume_uuid} could not be opened: "
                f"{self.failed[volume_uuid]}: remove it from the volume, delete it here, and add "
                "it as a new one"
            )

    def _file(self, volume_uuid: str) -> Path:
        return self.path / f"{volume_uuid}{SUFFIX}"

    async def _open_all(self) -> None:
        for name in self._filesystem.list(self.path):
            if name.endswith(SUFFIX):
                await self._open_one(name.removesuffix(SUFFIX))

    async def _open_again(self) -> None:
        """Open those that found no space before, when somebody asks for one.

        They answer nothing before they could be written: what was read may not be on stable
        storage yet.
        """
        if self._found_full and self._clock.monotonic() >= self._try_again_s:
            self._try_again_s = self._clock.monotonic() + TRY_AGAIN_S
            async with self._naming:
                for volume_uuid in list(self._found_full):
                    if await self._open_one(volume_uuid):
                        log.info("witness_opened_again", volume=volume_uuid)

    async def _open_one(self, volume_uuid: str) -> bool:
        """Open a file, or note why it cannot be; whether it is open."""
        was_full, path = volume_uuid in self._found_full, self._file(volume_uuid)
        try:
            file = await WitnessFile.open(self._filesystem, path, self._marks, self._boot_id)
        except NoSpaceError as error:
            self._found_full.add(volume_uuid)
            self.failed[volume_uuid] = f"{error}; it is tried again when a target asks"
        except (CstorError, OSError) as error:
            self._found_full.discard(volume_uuid)
            self.failed[volume_uuid] = str(error)
        else:
            self._found_full.discard(volume_uuid)
            self.failed.pop(volume_uuid, None)
            self.nodes[file.identity.volume_uuid] = WitnessNode(file, self._clock)
            return True
        if not (was_full and volume_uuid in self._found_full):
            reason = self.failed[volume_uuid]
            log.error("witness_not_opened", volume=volume_uuid, reason=reason)
        return False


async def _identity(filesystem: Filesystem, file: Path, new_uuid: Callable[[], str]) -> str:
    """The UUID of the directory; a new one where there is none yet."""
    if filesystem.exists(file):
        payload, _ = unsealed(read_file(filesystem, file), DIRECTORY_MAGIC, str(file))
        return str(parsed(POOL, payload, str(file)).pool_uuid)
    uuid = new_uuid()
    await replace_file(filesystem, file, sealed(DIRECTORY_MAGIC, POOL.build({"pool_uuid": uuid})))
    return uuid
