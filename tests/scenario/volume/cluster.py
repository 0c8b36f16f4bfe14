"""A cluster for scenarios: replicas, a network with delays between, and targets on top.

Everything runs in one thread in virtual time, and a seed decides every delay, so that a scenario
happens again exactly as it did.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar, cast
from uuid import UUID

from cstor_core.errors import CstorError, RefusedError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2, volume_pb2
from cstor_core.message_stream import MessageStream, OnClosed, OnMessage
from cstor_core.units import BLOCK_BYTES
from cstor_target.events import KINDS
from cstor_target.volume.backing import Buffer, Failure
from cstor_target.volume.engine import Engine
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.clones import Clones, borrow
from tests.scenario.volume.disks import Disk
from tests.scenario.volume.network import Network, Wire
from tests.scenario.volume.replicas import AppendSession, ReadSession, Replica, Session
from tests.scenario.volume.scrubbed import repair_blocks, repair_rows, scrub_blocks
from tests.scenario.volume.virtual_time import VirtualClock
from tests.scenario.volume.witnesses import Witness

Answer = TypeVar("Answer")
SALT = 0x5EED5A17
VOLUME_BLOCKS = 1 << 16
STALL_POLL_S = 0.01


class SimulatedStream:
    """A stream between a target and a session of a replica."""

    def __init__(
        self,
        owner: SimulatedLink,
        make: type[AppendSession | ReadSession],
        on_message: OnMessage,
        on_closed: OnClosed,
    ) -> None:
        self._owner = owner
        self._on_message = on_message
        self._on_closed = on_closed
        self._stalled: deque[bytes] = deque()
        self._up = Wire(owner.network, self._arrived)
        self._down = Wire(owner.network, self._answered)
        self._session: Session = make(owner.replica, self._down.send, self._ended)

    def send(self, message: bytes) -> None:
        if self._owner.alive:
            self._up.send(message)

    def close(self) -> None:
        self._down.cut = True
        self._owner.later(lambda: self._session.end(UnavailableError("the target hung up")))

    def _answered(self, message: bytes) -> None:
        if self._owner.alive:
            self._on_message(message)

    def _arrived(self, message: bytes) -> None:
        if self._owner.replica.stalled or self._stalled:
            self._stalled.append(message)
            if len(self._stalled) == 1:
                asyncio.get_running_loop().call_later(STALL_POLL_S, self._unstall)
        elif self._session.open:
            self._session.receive(message)

    def _unstall(self) -> None:
        if self._owner.replica.stalled:
            asyncio.get_running_loop().call_later(STALL_POLL_S, self._unstall)
            return
        while self._stalled and self._session.open:
            self._session.receive(self._stalled.popleft())
        self._stalled.clear()

    def _ended(self, error: CstorError) -> None:
        def tell() -> None:
            if not self._down.cut and self._owner.alive:
                self._down.cut = True
                self._on_closed(error)

        self._owner.later(tell)


class SimulatedLink:
    """The link of one target to one replica."""

    def __init__(self, address: str, cluster: Cluster, instance: str) -> None:
        self.address = address
        self.network = cluster.network
        self.replica = cluster.at(address)
        self._cluster = cluster
        self._instance = instance

    @property
    def alive(self) -> bool:
        """Whether the target's process still runs, and reaches the replica."""
        return self.network.reaches(self._instance, self.address)

    def later(self, call: Callable[[], None]) -> None:
        """Call after the network's delay."""
        asyncio.get_running_loop().call_later(self.network.delay_s(), call)

    async def _travel(self) -> None:
        await self.network.travel(self._instance, self.address)

    async def _there_and_back(self, ask: Callable[[], Answer]) -> Answer:
        await self._travel()
        answer = ask()
        await self._travel()
        return answer

    async def inquire(self, volume: str) -> replica_pb2.ReplicaReport:
        await self._travel()
        self.replica.check_reachable()
        clone = self._cluster.clones.inquire(self.address, volume)
        return clone or self.replica.report()

    async def create(self, identity: Any, origin: Any = None) -> replica_pb2.ReplicaReport:
        await self._travel()
        self.replica.check_reachable()
        self.replica.disk.add_to(origin)
        return self.replica.report()

    async def delete(self, request: replica_pb2.DeleteReplicaRequest) -> None:
        await self._travel()
        self.replica.check_reachable()
        if request.volume_uuid == self.replica.disk.identity.volume_uuid:
            if self.replica.disk.replica_uuid != f"{request.replica_uuid}-again":
                self.replica.delete(request)
        else:
            self._cluster.clones.delete(self.address, request)
            await self._travel()

    async def clone(self, request: replica_pb2.CloneReplicaRequest) -> replica_pb2.ReplicaReport:
        return await self._asked(lambda clones: clones.make(self.replica, request))

    async def found(self, request: replica_pb2.FoundReplicaRequest) -> replica_pb2.ReplicaReport:
        return await self._asked(lambda clones: clones.found(self.address, request))

    async def _asked(self, ask: Callable[[Clones], Answer]) -> Answer:
        await self._travel()
        self.replica.check_reachable()
        answer = ask(self._cluster.clones)
        await self._travel()
        return answer

    async def promise(self, request: replica_pb2.PromiseRequest) -> replica_pb2.PromiseResponse:
        return await self._there_and_back(lambda: self.replica.promise(request))

    async def lease(self, request: replica_pb2.LeaseRequest) -> replica_pb2.LeaseResponse:
        return await self._there_and_back(lambda: self.replica.lease(request))

    async def stand_by(self, request: replica_pb2.StandByRequest) -> replica_pb2.StandByResponse:
        return await self._there_and_back(lambda: self.replica.stand_by(request))

    async def attest(self, request: replica_pb2.AttestRequest) -> replica_pb2.ReplicaReport:
        await self._travel()
        witness = self._cluster.witness_at(self.address)
        if witness is None:
            raise RefusedError("a replica with data is no witness")
        while witness.stalled and self.alive:  # noqa: ASYNC110
            await asyncio.sleep(STALL_POLL_S)
        answer = witness.attest(request)
        await self._travel()
        return answer

    async def make_whole(self, request: replica_pb2.MakeWholeRequest) -> replica_pb2.ReplicaReport:
        await self._travel()
        self.replica.check(request.orders)
        self.replica.short = False
        return self.replica.report()

    async def set_pace(self, request: replica_pb2.SetPaceRequest) -> None:
        await self._travel()
        self.replica.check(request.orders)
        self.replica.disk.paces.append(request.bytes_per_s)

    async def repair_blocks(
        self, request: replica_pb2.RepairBlocksRequest
    ) -> replica_pb2.RepairBlocksResponse:
        repair = repair_rows if request.rows else repair_blocks
        source = self._cluster.at(request.source.address)
        return await self._there_and_back(lambda: repair(self.replica, request, source))

    async def scrub_blocks(
        self, request: replica_pb2.ScrubBlocksRequest
    ) -> replica_pb2.ScrubBlocksResponse:
        await self._travel()
        self.replica.check_reachable()
        answer = scrub_blocks(self.replica, request)
        await self._travel()
        self.replica.check_reachable()
        return answer

    async def borrow(self, request: replica_pb2.BorrowRequest) -> replica_pb2.BorrowResponse:
        await self._travel()
        return borrow(self.replica, request)

    async def catch_up(self, request: replica_pb2.CatchUpRequest) -> replica_pb2.ReplicaReport:
        await self._travel()
        self.replica.catch_up(request, self._cluster.at(request.source.address))
        await self._travel()
        return self.replica.report()

    async def begin_rebuild(
        self, request: replica_pb2.BeginRebuildRequest
    ) -> replica_pb2.ReplicaReport:
        await self._travel()
        self.replica.begin_rebuild(request)
        await self._travel()
        return self.replica.report()

    async def stage(
        self, request: replica_pb2.StageRequest
    ) -> AsyncGenerator[replica_pb2.StageResponse]:
        await self._travel()
        self.replica.stage(request, self._cluster.at(request.source.address))
        await self._travel()
        history = self.replica.report().history
        yield replica_pb2.StageResponse(complete=True, history=history)

    async def rebuild(
        self, request: replica_pb2.RebuildRequest
    ) -> AsyncGenerator[replica_pb2.RebuildResponse]:
        for _ in range(1000):
            await self._travel()
            if self.replica.appending is not None:
                break
        peer = self._cluster.at(request.source.address)
        async for progress in self.replica.rebuild(request, peer):
            await self._travel()
            yield progress

    async def describe_pool(self) -> replica_pb2.DescribePoolResponse:
        await self._travel()
        self.replica.check_reachable()
        return replica_pb2.DescribePoolResponse(
            path=f"/pools/{self.address}",
            replicas=[self.replica.report(), *self._cluster.clones.reports(self.address)],
            witness=self._cluster.witness_at(self.address) is not None,
        )

    async def diff_snapshots(
        self, request: replica_pb2.DiffSnapshotsRequest
    ) -> AsyncGenerator[replica_pb2.DiffSnapshotsResponse]:
        await self._travel()
        self.replica.asked.append("diff_snapshots")
        for extent in self.replica.disk.changes(request):
            self.replica.check_reachable()
            yield replica_pb2.DiffSnapshotsResponse(extents=[extent])
            await self._travel()

    def open_append(self, on_message: OnMessage, on_closed: OnClosed) -> MessageStream:
        return SimulatedStream(self, AppendSession, on_message, on_closed)

    def open_read(self, on_message: OnMessage, on_closed: OnClosed) -> MessageStream:
        return SimulatedStream(self, ReadSession, on_message, on_closed)

    async def close(self) -> None:
        await asyncio.sleep(0)


class Cluster:
    """Replicas of one founded volume, and the targets that are started over them."""

    def __init__(
        self,
        replicas: int = 3,
        seed: int = 0,
        tail_entries_max: int = 1000,
        settings: EngineSettings | None = None,
        *,
        witness: bool = False,
        write_cache: bool = True,
    ) -> None:
        self.network = Network(seed)
        self.left: list[Replica] = []
        """Where nobody answers any more."""
        self.settings = settings or EngineSettings()
        self.events: list[tuple[str, dict[str, object]]] = []
        self.clones = Clones()
        self._instances = 0
        self._disks = replicas
        uuids = [str(UUID(int=number + 1)) for number in range(replicas)]
        addresses = [f"replica-{number}:7778" for number in range(replicas)]
        identity = volume_pb2.VolumeIdentity(
            volume_uuid=str(UUID(int=0xC5)),
            name="vol",
            size_bytes=VOLUME_BLOCKS * BLOCK_BYTES,
            checksum_salt=SALT,
            write_cache=write_cache,
        )
        configuration = volume_pb2.Configuration(
            number=1,
            members=[
                volume_pb2.Member(replica_uuid=uuid, address=address)
                for uuid, address in zip(uuids, addresses, strict=True)
            ],
        )
        self.witnesses: list[Witness] = []
        if witness:
            configuration.members.add(
                replica_uuid=str(UUID(int=0xEE)), address="witness-0:7778", witness=True
            )
            disk = Disk(str(UUID(int=0xEE)), identity, configuration)
            self.witnesses.append(Witness("witness-0:7778", disk))
        self.replicas = [
            Replica(address, Disk(uuid, identity, configuration), tail_entries_max)
            for uuid, address in zip(uuids, addresses, strict=True)
        ]

    @property
    def members(self) -> list[Replica | Witness]:
        """All daemons."""
        return [*self.replicas, *self.witnesses]

    def at(self, address: str) -> Replica:
        """The replica at an address; a witness answers what it can of the same calls."""
        everybody = (*self.members, *self.left)
        return cast("Replica", next(one for one in everybody if one.address == address))

    def witness_at(self, address: str) -> Witness | None:
        """The witness at an address, if there is one."""
        return next((one for one in self.witnesses if one.address == address), None)

    @property
    def witness(self) -> Witness:
        """The only one."""
        (witness,) = self.witnesses
        return witness

    def new_witness(self) -> Witness:
        """A daemon that witnesses, and has nothing of the volume yet."""
        number = len(self.witnesses)
        identity = self.replicas[0].disk.identity
        disk = Disk(str(UUID(int=0xEE + number)), identity, volume_pb2.Configuration())
        self.witnesses.append(Witness(f"witness-{number}:7778", disk))
        return self.witnesses[-1]

    def note_event(self, name: str, facts: dict[str, object]) -> None:
        """Something has happened; people must be able to be told of it."""
        assert KINDS[name].facts <= facts.keys(), (name, facts)
        self.events.append((name, facts))

    def serve_clone(self, volume_uuid: str) -> None:
        """From here on the replicas are those of a clone, and new targets serve that."""
        self.replicas = [
            Replica(replica.address, self.clones.at(replica.address).pop(volume_uuid))
            for replica in self.replicas
            if volume_uuid in self.clones.at(replica.address)
        ]

    def move(self, replica: Replica, address: str) -> Replica:
        """Its process ends, and another one has its disk at another address."""
        replica.kill()
        self.left.append(replica)
        moved = Replica(address, replica.disk)
        self.replicas[self.replicas.index(replica)] = moved
        return moved

    def move_witness(self, address: str) -> Witness:
        """The same with the witness."""
        witness = self.witness
        witness.kill()
        self.left.append(cast("Replica", witness))
        self.witnesses = [Witness.moved(witness, address)]
        return self.witness

    def new_replica(self, host: str = "") -> Replica:
        """A daemon with an empty pool, which makes a replica when it is asked to."""
        number = len(self.replicas)
        address = f"{host or f'replica-{number}'}:{7778 + number * bool(host)}"
        replica = Replica(address, self.empty_disk())
        self.replicas.append(replica)
        return replica

    def empty_disk(self) -> Disk:
        """A disk with a replica that holds nothing."""
        self._disks += 1
        identity = self.replicas[0].disk.identity
        return Disk(str(UUID(int=self._disks)), identity, volume_pb2.Configuration())

    def start_target(self, *, stands_by: bool = False) -> Target:
        """Start a new target instance over all replicas, which opens the volume or stands by."""
        self._instances += 1
        return Target(self, f"instance-{self._instances}", stands_by)

    async def serving_target(self) -> Target:
        """A new target, once it serves."""
        target = self.start_target()
        await until(lambda: target.engine.serving)
        return target


class Target:
    """One target instance, driven as the SCSI side drives it."""

    def __init__(self, cluster: Cluster, instance: str, stands_by: bool) -> None:
        self._network = cluster.network
        self.instance = instance
        self._killed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.engine = Engine(
            "vol",
            [member.address for member in cluster.members],
            lambda address: SimulatedLink(address, cluster, instance),
            VirtualClock(),
            cluster.settings,
            instance,
            cluster.note_event,
            replica_pb2.Standby(target_instance=instance, portal=instance) if stands_by else None,
        )
        self.engine.start()

    def write(
        self, offset: int, data: Buffer, *, durable: bool = False, is_atomic: bool = False
    ) -> asyncio.Future[Failure | None]:
        """Write; the answer comes later."""
        done: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
        self.engine.write(offset, [data], durable, done.set_result, is_atomic)
        self.engine.kick()
        return done

    def unmap(self, offset: int, length: int) -> asyncio.Future[Failure | None]:
        """Discard; the answer comes later."""
        done: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
        self.engine.unmap([(offset, length)], False, done.set_result)
        self.engine.kick()
        return done

    def flush(self) -> asyncio.Future[Failure | None]:
        """SYNCHRONIZE CACHE; the answer comes later."""
        done: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
        self.engine.flush(done.set_result)
        self.engine.kick()
        return done

    def read(self, offset: int, length: int) -> asyncio.Future[bytes | Failure]:
        """Read; the answer comes later."""
        done: asyncio.Future[bytes | Failure] = asyncio.get_running_loop().create_future()
        self.engine.read(
            offset, length, lambda error, data: done.set_result(error or b"".join(data))
        )
        self.engine.kick()
        return done

    async def answers(self, command: asyncio.Future[Any]) -> bool:
        """Wait for a command; False where the target was killed before it had answered."""
        await asyncio.wait((command, self._killed), return_when=asyncio.FIRST_COMPLETED)
        return command.done()

    def kill(self) -> None:
        """End the process at once: it hears and says nothing any more; what it sent arrives."""
        self._network.dead.add(self.instance)
        if not self._killed.done():
            self._killed.set_result(None)
        membership = self.engine._membership
        for task in membership._tasks:
            task.cancel()
        self.engine._ticks.end()
        scrubs = self.engine.scrubs
        for other in (scrubs._task, scrubs._by_the_clock, self.engine.sanitizing._task):
            if other is not None:
                other.cancel()

    @property
    def status(self) -> control_pb2.VolumeStatus.ValueType:
        """The one word for the volume."""
        return self.engine.report().status

    def member(self, number: int) -> control_pb2.MemberReport:
        """What the target reports about the replica of this number."""
        uuid = str(UUID(int=number + 1))
        members = self.engine.report().members
        return next(member for member in members if member.member.replica_uuid == uuid)

    async def healthy(self) -> None:
        """Wait until every member is in sync."""
        await until(lambda: self.status == control_pb2.VOLUME_STATUS_HEALTHY)


async def until(holds: Callable[[], bool], limit_s: float = 120.0) -> None:
    """Wait until something holds; fails when it does not within the limit."""
    deadline_s = asyncio.get_running_loop().time() + limit_s
    while not holds():
        assert asyncio.get_running_loop().time() < deadline_s, "it did not come to hold"
        await asyncio.sleep(0.005)


def block_of(stamp: int) -> bytes:
    """The contents of a block that was written with a stamp."""
    return stamp.to_bytes(8, "little") * (BLOCK_BYTES // 8)
