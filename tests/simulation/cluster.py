"""Machines with replica daemons, and targets on machines of their own, in one world."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any
from uuid import UUID

from cstor_core.errors import CstorError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.units import BLOCK_BYTES, KIB, MIB
from cstor_target.local_links import local_links
from cstor_target.volume.engine import Engine
from cstor_target.volume.links import LinkFactory
from cstor_target.volume.quorum import write_quorum
from cstor_target.volume.settings import EngineSettings
from cstor_target.volume.witness import COPIES
from replica.host import ReplicaHost
from replica.replica_node import ReplicaNode
from tests.simulation import streams
from tests.simulation.configurations import Configurations
from tests.simulation.links import SimulatedLink
from tests.simulation.machines import Machine, clock_of
from tests.simulation.network import Network
from tests.simulation.oracle import NEVER
from tests.simulation.world import Process, ProcessClock, SimulatedLoop

REPLICAS: tuple[int, ...] = (1, 2, 3, 3, 3, 4, 5)
"""One of these is chosen for each life."""
WITNESSED = 0.7
"""So many of the lives with two replicas have a witness."""
IN_ONE_PROCESS = 0.5
"""So many of the lives with one replica have it in the target's process."""
BLOCKS = 64
SPARES = 3
"""So many machines more than the volume has replicas at first."""
OLD_ADDRESSES = 0.3
"""So many targets are started with the addresses of the founding, where those are enough."""
BACKLOG_BYTES = (8 * KIB, 128 * KIB, 128 * KIB)
"""The least is less than what clients send at a time."""
CACHE_BYTES = (0, 0, 0, 32 * KIB, 128 * KIB, 1 * MIB)
"""Of the read cache; none in half of the lives, so that all reads are of replicas there."""
AT_ONCE = 16
"""In one life of so many a member that copies is sent each entry when it is ordered."""
GATHERING = 8
"""In one life of so many batches gather as they do in a daemon; in all others each leaves as soon
as none is unfinished, which makes more of them."""
SETTINGS = EngineSettings(
    gathering_turns=0,
    batch_bytes_max=32 * KIB,
    write_timeout_s=5.0,
    rebuild_floor_bytes_per_s=64 * KIB,
    scrub_rate_bytes_per_s=64 * KIB,
    retry_s=0.4,
)


def settings_of(seed: int) -> EngineSettings:
    """The settings of all targets of a life."""
    settings = replace(
        SETTINGS,
        backlog_bytes_max=random.Random(f"{seed} backlog").choice(BACKLOG_BYTES),
        read_cache_bytes=random.Random(f"{seed} read cache").choice(CACHE_BYTES),
    )
    if seed % GATHERING == 6:
        settings = replace(settings, gathering_turns=EngineSettings().gathering_turns)
    return replace(settings, copying_held_s=0.0) if seed % AT_ONCE == 4 else settings


class Target:
    """One process that serves the volume, or tries to."""

    def __init__(
        self, name: str, cluster: Cluster, machine: Machine | None, *, stands_by: bool = False
    ) -> None:
        """`machine` is the one whose daemon is a part of the target's process, if any is."""
        self.name = name
        self._standby = (
            replica_pb2.Standby(target_instance=name, portal=name) if stands_by else None
        )
        self.host: ReplicaHost | None = None
        self._machine = machine
        chance = random.Random(f"{cluster.seed} {name}")
        self.process: Process | None
        if machine is None:
            self.process = Process(name, cluster.loop)
            self.clock = ProcessClock(cluster.loop, *clock_of(chance))
        else:
            self.process, self.clock = machine.process, machine.clock
            assert self.process is not None
            self.process.on_end = self._end
        self.engine: Engine | None = None
        self.ended: asyncio.Future[None] = cluster.loop.create_future()
        """The process has ended, or has been deposed."""
        self._cluster = cluster
        self.addresses = cluster.addresses(name)
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
            self.addresses,
            await self._links(),
            self.clock,
            cluster.settings,
            self.name,
            self._happened,
            self._standby,
        )
        cluster.configurations.watch(self.engine, lambda: cluster.on_moment("change"))
        self.engine.start()
        self.engine.deposed.add_done_callback(lambda _: self._deposed())
        self.engine.failed.add_done_callback(self._failed)

    async def _links(self) -> LinkFactory:
        """How it reaches replicas: one in its own process without a network."""
        network, machine = self._cluster.network, self._machine

        def others(address: str) -> SimulatedLink:
            return SimulatedLink(network, self, address)

        if machine is None:
            return others
        while machine.host is None:
            await self.clock.sleep(0)
        assert isinstance(machine.host, ReplicaHost)
        return local_links(machine.address, machine.host, others)

    async def wait(self, task: asyncio.Task[Any], patience_s: float) -> None:
        """Wait until a task of it is done, or it has ended, or so long."""
        await asyncio.wait(
            [task, self.ended],
            timeout=None if patience_s == NEVER else patience_s,
            return_when=asyncio.FIRST_COMPLETED,
        )

    def _failed(self, failed: asyncio.Future[BaseException | None]) -> None:
        """An error that nobody expected: the daemon would end with it."""
        self._cluster.loop.errors.append(f"{self.name} failed: {failed.result()!r}")

    def _happened(self, name: str, facts: dict[str, object]) -> None:
        tenure = self.engine._membership.tenure if self.engine is not None else None
        if name == "open" and tenure is not None:
            self._cluster.configurations.in_force(tenure.epoch, tenure.configuration, True)
            self._cluster.on_open(self, tenure.epoch, int(str(facts["after_seq"])) + 1)
        if name == "taking_over":
            self._cluster.on_takeover(self)
        self._cluster.happened(self.name, name, facts)

    async def _close(self) -> None:
        if self.engine is not None:
            await self.engine.close()
        if self._machine is not None and self._machine.host is not None:
            try:
                await self._machine.host.close()
            except CstorError as error:  # the daemon ends with it, and then all is as after a kill
                self._happened("ended", {"reason": str(error)})
        self.kill()

    def close(self) -> None:
        """Stop it cleanly: it drains, flushes and gives its lease back."""
        assert self.process is not None
        self.process.run(self._close())

    @property
    def reason(self) -> str:
        """Why it does not serve, as an operator is told; empty where it does."""
        return self.engine.report().reason if self.engine is not None else ""

    @property
    def members(self) -> str:
        """What it says of each member."""
        members = self.engine.report().members if self.engine is not None else ()
        return "; ".join(f"{member.member.address}: {member.reason}" for member in members)

    def kill(self) -> None:
        """End it, as SIGKILL does."""
        assert self.process is not None
        if self._machine is not None and self._machine.process is self.process:
            self._machine.kill()
            return
        self.process.kill()
        self._cluster.network.lost(self.process)
        self._end()

    def _deposed(self) -> None:
        """Its process would end with that; what else is in it does."""
        if self._machine is None:
            self._end()
        else:
            self.kill()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class Cluster:
    """The replicas of one volume."""

    def __init__(self, seed: int, loop: SimulatedLoop) -> None:
        self.seed = seed
        self.loop = loop
        self.network = Network(loop, random.Random(f"{seed} network"))
        streams.begin(self.network, seed)
        self.trace: list[str] = []
        self.events: Counter[str] = Counter()
        self.on_open: Callable[[Target, int, int], None] = lambda target, epoch, seq: None
        """Called when a target is about to serve, with its epoch and the seq of its record."""
        self.on_takeover: Callable[[Target], None] = lambda target: None
        """Called when a target that stood by is about to open the volume."""
        self.on_loss_said: Callable[[], None] = lambda: None
        """Called when a target says that something acknowledged may be gone."""
        self.forced = 0
        """How often a target was forced to open with what answered."""
        self.forced_silently = False
        """One was, and has not said yet that something may be gone."""
        self.on_mismatch: Callable[[dict[str, object]], None] = lambda facts: None
        """Called when a scrub has found copies wrong."""
        self.on_moment: Callable[[str], None] = lambda moment: None
        """Called with each event of a target, and with `change` when one is about to send a change
        of the configuration.
        """
        self._uuids = count(1)
        self._targets = count(1)
        chance = random.Random(f"{seed} cluster")
        replicas = chance.choice(REPLICAS)
        self.write_cache = chance.random() < 0.6
        self.settings = settings_of(seed)
        lot = random.Random(f"{seed} in one process").random()
        self.is_in_one_process = replicas == 1 and lot < IN_ONE_PROCESS
        self.witness: Machine | None = None
        if replicas == COPIES and random.Random(f"{seed} witness").random() < WITNESSED:
            self.witness = Machine("witness:7778", self, is_witness=True)
        spares = SPARES if self.witness is None else 0
        self.machines = [
            Machine(f"node-{number}:7778", self) for number in range(replicas + spares)
        ]
        """Also those that have no replica yet, and the witness."""
        self.founders = self.machines[:replicas]
        if self.witness is not None:
            self.machines.append(self.witness)
            self.founders.append(self.witness)
        self.used = list(self.founders)
        """Those that have a replica, or had one, and the witness."""
        self.network.answers_at = {machine.address: machine for machine in self.machines}
        self.homes: dict[str, Machine] = {}
        """The machine on which each replica has been made, by its UUID."""
        self.configurations = self.configurations_of_a_volume()
        self.knows_all = False
        """Whoever starts a target knows all addresses."""
        self.identity = volume_pb2.VolumeIdentity(
            volume_uuid=self.new_uuid(),
            name="vol",
            size_bytes=BLOCKS * BLOCK_BYTES,
            logical_block_bytes=512,
            physical_block_bytes=4096,
            checksum_salt=chance.getrandbits(32),
            write_cache=self.write_cache,
        )

    @property
    def members(self) -> list[Machine]:
        """The machines of the configuration in force."""
        return [self.machine(address) for address in self.configurations.addresses]

    @property
    def quorum(self) -> int:
        """W of that."""
        return write_quorum(len(self.configurations.addresses))

    @property
    def data_members(self) -> list[Machine]:
        """Those of them that have data."""
        return [machine for machine in self.members if not machine.is_witness]

    @property
    def may_lose(self) -> int:
        """N - W: so many members may be lost with everything on them."""
        return len(self.configurations.addresses) - self.quorum

    def has_everything(self, machine: Machine) -> bool:
        """Whether a machine could open the volume with the witness, by what that holds."""
        held = self.witness.held() if self.witness is not None else None
        node = machine.node
        if self.witness is None or self.witness.is_broken or held is None or node is None:
            return False
        if machine.may_have_lost or node.store.rebuilding:
            return False
        return not self.is_out_of_date(node)

    def is_out_of_date(self, node: ReplicaNode) -> bool:
        """Whether the witness, if there is one, says so of a replica."""
        held = self.witness.held() if self.witness is not None else None
        if held is None:
            return False
        adopted = node.store.history.end.epoch
        is_called = held.out_of_date == node.store.replica_uuid and held.record_epoch >= adopted
        return is_called or held.record_epoch > adopted

    @property
    def may_seem_lost(self) -> bool:
        """Whether one of two has lost power, beside a witness that may have held the other one out
        of date: it is not known then that none acknowledged anything alone in between.
        """
        nodes = [machine.node for machine in self.data_members]
        return self.witness is not None and any(n is not None and n.store.short for n in nodes)

    def use(self, machine: Machine) -> None:
        """A machine is to have a replica."""
        if machine not in self.used:
            self.used.append(machine)
            machine.start()

    def addresses(self, target: str) -> list[str]:
        """What somebody starts a target with: all addresses there are, or those of the founding,
        where from these all others can be found.
        """
        founders = [machine.name for machine in self.founders]
        left = sum(one in self.founders and not one.moves for one in self.members)
        are_enough = left >= self.quorum and not self.knows_all
        if are_enough and random.Random(f"{self.seed} {target}").random() < OLD_ADDRESSES:
            return founders
        return [machine.address for machine in self.used]

    def configurations_of_a_volume(self) -> Configurations:
        """What will be known of the configurations of one volume."""
        return Configurations(lambda member: self.home(member.replica_uuid, member.address).name)

    def home(self, replica_uuid: str, address: str) -> Machine:
        """The machine on which a replica is; or, of one that nobody knows, whoever answers at an
        address.
        """
        found = self.homes.get(replica_uuid) or self.network.answers_at[address]
        assert isinstance(found, Machine)
        return found

    def move(self, machine: Machine, address: str = "") -> str:
        """End a daemon, and have it answer elsewhere: at an address at which nobody has ever been,
        or at a given one, where nobody is any more; the address.
        """
        host = machine.name.partition(":")[0]
        new = address or f"{host}-moved-{machine.moves + 1}:7778"
        if self.network.at(machine.address) is machine:
            del self.network.answers_at[machine.address]
        machine.move(new)
        self.network.answers_at[new] = machine
        return new

    def happened(self, who: str, name: str, facts: dict[str, object]) -> None:
        """A target has told of something."""
        self.events[name] += 1
        said = ", ".join(f"{key}: {value}" for key, value in facts.items())
        self.note(f"{who}: {name} {said}")
        if name == "forced_open":
            self.forced += 1
            self.forced_silently = True
        if name == "loss_possible":
            self.on_loss_said()
            self.forced_silently = False
        if name == "block_mismatch":
            self.on_mismatch(facts)
        self.on_moment(name)

    def new_uuid(self) -> str:
        """The next one."""
        return str(UUID(int=next(self._uuids)))

    def machine(self, name: str) -> Machine:
        """That of a name."""
        return next(machine for machine in self.machines if machine.name == name)

    def note(self, what: str) -> None:
        """Put a line into the trace."""
        self.trace.append(f"{self.loop.time():10.4f}  {what}")

    async def found(self) -> None:
        """Start the daemons and found the volume."""
        members = []
        for machine in self.founders:
            machine.start()
            assert machine.process is not None
            replica_uuid = await machine.process.run(machine.create_replica())
            members.append(
                volume_pb2.Member(
                    replica_uuid=replica_uuid, address=machine.name, witness=machine.is_witness
                )
            )
        configuration = volume_pb2.Configuration(number=1, members=members)
        founding = replica_pb2.FoundReplicaRequest(
            volume_uuid=self.identity.volume_uuid, configuration=configuration
        )
        self.configurations.in_force(0, configuration, True)
        for machine in self.founders:
            assert machine.process is not None
            assert machine.host is not None
            await machine.process.run(machine.host.found_replica(founding))

    def start_target(self, *, stands_by: bool = False) -> Target:
        """Another target process, which opens the volume or stands by."""
        name = f"target-{next(self._targets)}"
        return Target(name, self, self._machine_of_a_target(), stands_by=stands_by)

    def _machine_of_a_target(self) -> Machine | None:
        """The one whose daemon is the next target's process, too; started where it is not up."""
        (machine, *_) = self.machines
        if not self.is_in_one_process or machine.is_broken or machine.has_target:
            return None
        if not machine.is_up:
            machine.start()
        return machine if machine.is_up else None
