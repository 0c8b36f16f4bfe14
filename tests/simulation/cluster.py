"""Machines with replica daemons, and targets on machines of their own, in one world."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path
from uuid import UUID

from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.units import BLOCK_BYTES, KIB
from cstor_target.volume.engine import Engine
from cstor_target.volume.settings import EngineSettings
from replica.host import ReplicaHost
from replica.store.limits import StoreLimits
from tests.simulation.disk import SimulatedDisk
from tests.simulation.network import Network, SimulatedDialler, SimulatedLink
from tests.simulation.world import Process, ProcessClock, SimulatedLoop

POOL = Path("/pool")
BLOCKS = 64
LIMITS = StoreLimits(
    journal_bytes=64 * KIB,
    tail_bytes=96 * BLOCK_BYTES,
    growth_bytes=32 * BLOCK_BYTES,
    reserve_bytes=64 * KIB,
    hole_bytes=8 * BLOCK_BYTES,
    map_cache_bytes=64 * KIB,
    unflushed_freed_bytes=32 * BLOCK_BYTES,
    run_rows_max=512,
)
SETTINGS = EngineSettings(
    backlog_bytes_max=128 * KIB, batch_bytes_max=32 * KIB, write_timeout_s=5.0
)


class Machine:
    """A machine with a disk, a clock, and a process or none."""

    def __init__(self, name: str, cluster: Cluster, rate: float) -> None:
        self.name = name
        self.cluster = cluster
        self.clock = ProcessClock(cluster.loop, rate, cluster.chance.random() * 1000)
        self.disk = SimulatedDisk(cluster.chance)
        self.boots = 1
        self._may_have_lost = False
        self.has_rotted = False
        """Some of its blocks may be bad."""
        self.is_broken = False
        """Its disk has failed for good."""
        self.process: Process | None = None
        self.host: ReplicaHost | None = None
        self.error = ""
        """Why the daemon could not be started the last time."""

    @property
    def is_up(self) -> bool:
        """Whether its daemon runs, paused or not."""
        return self.process is not None and not self.process.is_dead

    def start(self) -> None:
        """Start the daemon of its pool."""
        self.disk.restart()
        self.process = Process(self.name, self.cluster.loop)
        self.process.run(self._open())

    async def _open(self) -> None:
        cluster = self.cluster
        self.error = ""
        try:
            self.host = await ReplicaHost.open(
                self.disk,
                POOL,
                clock=self.clock,
                dialler=SimulatedDialler(cluster.network, self, cluster.machine),
                new_uuid=cluster.new_uuid,
                boot_id=f"{self.name}-{self.boots}",
                limits=LIMITS,
                marks=Path("/run/marks"),
            )
        except Exception as error:  # noqa: BLE001 - the daemon ends with it
            self.error = f"{type(error).__name__}: {error}"
            self.kill()

    def kill(self) -> None:
        """End the daemon, as SIGKILL does."""
        process, self.process, self.host = self.process, None, None
        if process is not None:
            process.kill()
            self.cluster.network.lost(process)

    def lose_power(self) -> None:
        """End everything, and with it a part of what no flush has covered."""
        self.kill()
        self.disk.lose_power()
        self.boots += 1
        self._may_have_lost = True

    @property
    def may_have_lost(self) -> bool:
        """Whether a power loss may have taken something that nobody has brought back yet."""
        if self.is_broken or self.has_rotted:
            return True
        if self._may_have_lost and self.host is not None and self.host.nodes:
            self._may_have_lost = any(node.store.short for node in self.host.nodes.values())
        return self._may_have_lost


class Target:
    """One process that serves the volume, or tries to."""

    def __init__(self, name: str, cluster: Cluster) -> None:
        self.name = name
        self.host: ReplicaHost | None = None
        self.process: Process | None = Process(name, cluster.loop)
        self.clock = ProcessClock(cluster.loop, cluster.rate(), cluster.chance.random() * 1000)
        self.events: list[tuple[float, str]] = []
        self.engine: Engine | None = None
        self._cluster = cluster
        self.process.run(self._start())

    @property
    def is_up(self) -> bool:
        """Whether the process runs and has not been deposed."""
        engine = self.engine
        return (
            self.process is not None
            and not self.process.is_dead
            and engine is not None
            and not engine.deposed.done()
        )

    async def _start(self) -> None:
        cluster = self._cluster
        self.engine = Engine(
            "vol",
            [machine.name for machine in cluster.machines],
            lambda address: SimulatedLink(cluster.network, self, cluster.machine(address)),
            self.clock,
            SETTINGS,
            self.name,
            lambda name, facts: cluster.note(f"{self.name}: {name} {facts}"),
        )
        self.engine.start()

    def kill(self) -> None:
        """End it, as SIGKILL does."""
        assert self.process is not None
        self.process.kill()
        self._cluster.network.lost(self.process)


class Cluster:
    """The replicas of one volume."""

    def __init__(self, seed: int, loop: SimulatedLoop) -> None:
        self.seed = seed
        self.loop = loop
        self.chance = random.Random(seed)
        self.network = Network(loop, self.chance)
        self.trace: list[str] = []
        self._uuids = count(1)
        self._targets = count(1)
        replicas = self.chance.choice((1, 2, 3, 3, 3, 4, 5))
        self.machines = [
            Machine(f"node-{number}:7778", self, self.rate()) for number in range(replicas)
        ]
        self.write_cache = self.chance.random() < 0.6

    def rate(self) -> float:
        """How fast a machine's clock runs; any two are at most a tenth apart."""
        return self.chance.choice((1.0, 1.0, self.chance.uniform(0.95, 1.045)))

    def new_uuid(self) -> str:
        """The next one."""
        return str(UUID(int=next(self._uuids)))

    def machine(self, address: str) -> Machine:
        """That of an address."""
        return next(machine for machine in self.machines if machine.name == address)

    def note(self, what: str) -> None:
        """Put a line into the trace."""
        self.trace.append(f"{self.loop.time():10.4f}  {what}")

    async def found(self) -> None:
        """Start the daemons and found the volume."""
        identity = volume_pb2.VolumeIdentity(
            volume_uuid=self.new_uuid(),
            name="vol",
            size_bytes=BLOCKS * BLOCK_BYTES,
            logical_block_bytes=512,
            physical_block_bytes=4096,
            checksum_salt=self.chance.getrandbits(32),
            write_cache=self.write_cache,
        )
        members = []
        for machine in self.machines:
            machine.start()
            assert machine.process is not None
            created: list[str] = []

            async def create(machine: Machine = machine, created: list[str] = created) -> None:
                while machine.host is None:
                    await machine.clock.sleep(0.001)
                request = replica_pb2.CreateReplicaRequest(identity=identity)
                created.append((await machine.host.create_replica(request)).replica.replica_uuid)

            await machine.process.run(create())
            members.append(volume_pb2.Member(replica_uuid=created[0], address=machine.name))
        configuration = volume_pb2.Configuration(number=1, members=members)
        founding = replica_pb2.FoundReplicaRequest(
            volume_uuid=identity.volume_uuid, configuration=configuration
        )
        for machine in self.machines:
            assert machine.process is not None
            assert machine.host is not None
            await machine.process.run(machine.host.found_replica(founding))
        self.identity = identity

    def start_target(self) -> Target:
        """Another target process."""
        return Target(f"target-{next(self._targets)}", self)
