"""Machines with replica daemons: each has a disk, a clock, a process or none, and an address."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cstor_core.errors import NoSpaceError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.units import BLOCK_BYTES, KIB
from replica.host import ReplicaHost
from replica.replica_node import ReplicaNode
from replica.store.limits import StoreLimits
from replica.witness_file import Held
from replica.witness_host import WitnessHost
from tests.simulation.disk import JOURNAL_BYTES, SimulatedDisk
from tests.simulation.links import SimulatedDialler
from tests.simulation.world import Process, ProcessClock

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

POOL = Path("/pool")
LIMITS = StoreLimits(
    journal_bytes=JOURNAL_BYTES,
    tail_bytes=96 * BLOCK_BYTES,
    growth_bytes=32 * BLOCK_BYTES,
    reserve_bytes=64 * KIB,
    hole_bytes=8 * BLOCK_BYTES,
    map_cache_bytes=64 * KIB,
    unflushed_freed_bytes=32 * BLOCK_BYTES,
    unflushed_copies_bytes=32 * BLOCK_BYTES,
    long_read_blocks=4,
    run_rows_max=512,
    kept_rows=8,
    shares_max=3,
)


class Machine:
    """A machine with a disk, a clock, and a process or none."""

    def __init__(self, name: str, cluster: Cluster, *, is_witness: bool = False) -> None:
        self.name = name
        """By which the lives know it, wherever its daemon answers."""
        self.address = name
        """Where its daemon answers now; at first that is its name."""
        self.moves = 0
        """How often it has got another one."""
        self.cluster = cluster
        self.is_witness = is_witness
        self.held: Callable[[], Held | None] = lambda: None
        """What its witness holds on disk, whether its daemon runs or not."""
        self.chance = random.Random(f"{cluster.seed} {name}")
        self.clock = ProcessClock(cluster.loop, *clock_of(self.chance))
        self.disk = SimulatedDisk(self.chance)
        self.boots = 1
        self._may_have_lost = False
        self.has_rotted = False
        """Some of its blocks may be bad."""
        self.is_broken = False
        """Its replica is lost for good: the disk has failed, or was wiped."""
        self.process: Process | None = None
        self.host: ReplicaHost | WitnessHost | None = None
        self.error = ""
        """Why the daemon could not be started the last time."""

    @property
    def is_up(self) -> bool:
        """Whether its daemon runs, paused or not."""
        return self.process is not None and not self.process.is_dead

    @property
    def has_target(self) -> bool:
        """Whether a target runs in the process of its daemon."""
        return self.process is not None and self.process.on_end is not None

    def start(self) -> None:
        """Start the daemon of its pool."""
        self.disk.restart()
        self.process = Process(self.name, self.cluster.loop)
        self.process.run(self._open())

    async def _open(self) -> None:
        cluster = self.cluster
        self.error = ""
        try:
            if self.is_witness:
                self.host = await self._open_witness()
                return
            self.host = await ReplicaHost.open(
                self.disk,
                POOL,
                clock=self.clock,
                dialler=SimulatedDialler(cluster.network, self),
                new_uuid=cluster.new_uuid,
                boot_id=f"{self.name}-{self.boots}",
                limits=LIMITS,
                marks=Path("/run/marks"),
            )
            self._note_replicas(self.host)
        except Exception as error:  # noqa: BLE001 - the daemon ends with it
            self.error = f"{type(error).__name__}: {error}"
            self.kill()

    def _note_replicas(self, host: ReplicaHost) -> None:
        """Have it known which replicas are here, also of those that are made later."""
        homes, add = self.cluster.homes, host._add
        homes |= dict.fromkeys((node.store.replica_uuid for node in host.nodes.values()), self)

        def added(volume_uuid: str) -> ReplicaNode:
            node = add(volume_uuid)
            homes[node.store.replica_uuid] = self
            return node

        host._add = added  # type: ignore[method-assign]

    async def _open_witness(self) -> WitnessHost:
        host = await WitnessHost.open(
            self.disk,
            POOL,
            clock=self.clock,
            new_uuid=self.cluster.new_uuid,
            boot_id=f"{self.name}-{self.boots}",
            marks=Path("/run/marks"),
        )
        self.held = lambda: next((node.file.held for node in host.nodes.values()), None)
        return host

    @property
    def could_not_open(self) -> bool:
        """Whether its daemon runs, could not open what it has, and does not try again."""
        if self.host is None or not self.host.failed:
            return False
        found_full = self.host if isinstance(self.host, WitnessHost) else self.host._pool
        return not found_full.found_full

    def kill(self) -> None:
        """End the daemon, as SIGKILL does."""
        process, self.process, self.host = self.process, None, None
        if process is not None:
            process.kill()
            self.cluster.network.lost(process)

    def move(self, address: str) -> None:
        """End the daemon; it answers at another address from now on, when it is started."""
        self.kill()
        self.address = address
        self.moves += 1

    def lose_power(self, seed: int) -> None:
        """End everything, and with it a part of what no flush has covered."""
        self.kill()
        self.disk.lose_power(random.Random(seed))
        self.boots += 1
        self._may_have_lost = not self.is_witness

    def renew(self) -> None:
        """Somebody puts an empty disk in, and starts the daemon."""
        self.kill()
        self.disk = SimulatedDisk(self.chance)
        self.is_broken = self.has_rotted = self._may_have_lost = False
        self.start()

    def wipe(self) -> None:
        """Somebody puts an empty disk in, and makes a new replica there."""
        has_rotted = self.has_rotted
        self.renew()
        self.is_broken, self.has_rotted = True, has_rotted
        assert self.process is not None
        self.process.run(self.create_replica())

    async def create_replica(self) -> str:
        """Make an empty replica of the volume, as soon as the disk lets it; its UUID."""
        request = replica_pb2.CreateReplicaRequest(identity=self.cluster.identity)
        while True:
            if self.host is not None:
                with suppress(NoSpaceError):
                    made = (await self.host.create_replica(request)).replica
                    self.cluster.homes[made.replica_uuid] = self
                    return made.replica_uuid
            await self.clock.sleep(0.001)

    @property
    def node(self) -> ReplicaNode | None:
        """Its replica of the volume, if that is open."""
        return self.node_of(self.cluster.identity.volume_uuid)

    @property
    def has_failed(self) -> bool:
        """Whether its daemon says that the disk has, of what it has of the volume."""
        node = self.host.nodes.get(self.cluster.identity.volume_uuid) if self.host else None
        return node is not None and node.report().state == replica_pb2.REPLICA_STATE_FAILED

    def node_with(self, replica_uuid: str) -> ReplicaNode | None:
        """Its replica of this UUID, if that is open."""
        host = self.host
        nodes = host.nodes.values() if isinstance(host, ReplicaHost) else ()
        return next((node for node in nodes if node.store.replica_uuid == replica_uuid), None)

    def node_of(self, volume_uuid: str) -> ReplicaNode | None:
        """Its replica of any volume, if that is open."""
        if not isinstance(self.host, ReplicaHost):
            return None
        return self.host.nodes.get(volume_uuid)

    @property
    def may_have_lost(self) -> bool:
        """Whether a power loss may have taken something that nobody has brought back yet."""
        if self.is_broken or self.has_rotted:
            return True
        if self._may_have_lost and self.node is not None:
            self._may_have_lost = self.node.store.short
        return self._may_have_lost


def clock_of(chance: random.Random) -> tuple[float, float]:
    """How fast a clock runs, and where it stands; any two are at most a tenth apart."""
    return chance.choice((1.0, 1.0, chance.uniform(0.95, 1.045))), chance.random() * 1000
