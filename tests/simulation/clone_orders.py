"""What operators ask of a clone: that replicas come, go and take another's place, snapshots,
reverts to them, and a larger size.

It is a volume like any other, so what is right of a volume is right of it: its configurations make
one chain of their own, a snapshot holds what the blocks held at its moment, and a revert brings
exactly that back.  Nobody spares its members; but none is removed while those left would not
survive what has happened to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.volume.quorum import write_quorum
from replica.replica_node import ReplicaNode
from tests.simulation.changes import Asked, Changes
from tests.simulation.clients import ZEROS, Clients
from tests.simulation.clone_targets import CloneClient, CloneTarget
from tests.simulation.cluster import BLOCKS, Cluster
from tests.simulation.configurations import Configurations
from tests.simulation.disk import SimulatedDisk
from tests.simulation.machines import Machine
from tests.simulation.snapshots import Content, Snapshots

LARGER = 100
"""By so many blocks a clone grows at least, which is more than any volume does."""


@dataclass(slots=True)
class Clone:
    """One that somebody has asked for."""

    name: str
    snapshot: str
    client: CloneClient
    contents: Mapping[int, bytes]
    """What the snapshot holds: of each block that has something."""
    configurations: Configurations
    parent: Clone | None = None
    """The clone that this is one of, where it is not of the volume."""
    uuid: str = ""
    """Once somebody was told that it is made."""
    founding: volume_pb2.Configuration = field(default_factory=volume_pb2.Configuration)
    originals: dict[str, SimulatedDisk] = field(default_factory=dict)
    """The disks of those that made it, which its parent's pools say of, by machine."""
    disks: dict[str, SimulatedDisk] = field(default_factory=dict)
    """Of its members, by machine, since before it was founded, or they were added."""
    quorum: int = BLOCKS
    """The smallest of what it was a clone of, since it was asked for."""
    is_refused: bool = False
    """Its snapshot is gone."""
    may_be_gone: bool = False
    """Somebody has asked to delete it."""
    target: CloneTarget | None = None
    changes: CloneChanges | None = None
    snapshots: CloneSnapshots | None = None
    losses: int = 0
    """How often a target of it said that something may be gone."""

    def made(
        self, uuid: str, founding: volume_pb2.Configuration, disks: Mapping[str, SimulatedDisk]
    ) -> None:
        """Somebody was told that it is made; `disks` were there before he asked."""
        self.uuid, self.founding = uuid, founding
        self.configurations.in_force(0, founding, True)
        self.disks = {name: disks[name] for name in self.configurations.addresses}
        self.originals = dict(self.disks)

    def lost(self) -> None:
        """A target of it has said that something may be gone."""
        self.losses += 1
        self.client.own.lost()

    def is_lost(self, machine: Machine) -> bool:
        """Whether what a machine had of it is lost for good."""
        return machine.is_broken or self.disks.get(machine.name) is not machine.disk

    def left(self, cluster: Cluster) -> list[Machine]:
        """The machines of its members that are not lost."""
        machines = map(cluster.machine, self.configurations.addresses)
        return [machine for machine in machines if not self.is_lost(machine)]

    def lost_names(self, cluster: Cluster) -> list[str]:
        """The names of all machines on which a replica of it is lost, or may be bad."""
        machines = map(cluster.machine, self.disks)
        return [one.name for one in machines if one.has_rotted or self.is_lost(one)]

    def short_names(self, cluster: Cluster) -> list[str]:
        """The names of those that may have lost something, as far as they say."""
        machines = map(cluster.machine, self.disks)
        nodes = ((machine.name, machine.node_of(self.uuid)) for machine in machines)
        return [name for name, node in nodes if node is not None and node.store.short]

    def is_findable(self, cluster: Cluster) -> bool:
        """Whether the pools of any quorum of what it is a clone of have it, from its making or
        since a replica was added there that is a member for certain.
        """
        of_parent = (cluster if self.parent is None else self.parent).configurations
        members = set.intersection(*map(set, self.configurations.possible()))
        added = {name: disk for name, disk in self.disks.items() if name in members}
        machines = map(cluster.machine, [*self.originals, *added])
        known = {**self.originals, **added}
        there = {one.name for one in machines if one.disk is known[one.name]}
        return all(
            sum(name in there for name in names) > len(names) - write_quorum(len(names))
            for names in of_parent.possible()
        )


class CloneChanges(Changes):
    """What is asked of the members of one clone."""

    def __init__(self, clients: Clients, clone: Clone) -> None:
        super().__init__(clients)
        self._clone = clone

    @property
    def _configurations(self) -> Configurations:
        return self._clone.configurations

    def _targets(self) -> Sequence[Asked]:
        return _targets(self._clone)

    def _hurt(self) -> list[str]:
        """Of those whose daemon does not run nobody knows whether they have lost something."""
        machines = list(map(self._cluster.machine, self._clone.disks))
        unknown = [one.name for one in machines if one.node_of(self._clone.uuid) is None]
        lost = self._clone.lost_names(self._cluster)
        return [*{*unknown, *lost, *self._clone.short_names(self._cluster)}]

    def _make_ready(self, machine: Machine) -> None:
        self._cluster.use(machine)
        self._clone.disks[machine.name] = machine.disk
        self._clone.originals.pop(machine.name, None)  # what is left of it there may be deleted

    def change(self, kind: str, at: int) -> str:
        """Have a member added, removed or replaced, one that is lost first; what is begun."""
        machines, names = self._cluster.machines, self._configurations.addresses
        turn = at % len(machines)
        fresh = [
            one
            for one in (*machines[turn:], *machines[:turn])
            if self._may_add(one) and not (one.is_witness or one.is_broken)
        ]
        leaving = self._cluster.machine(names[at % len(names)])
        lost = [one for one in map(self._cluster.machine, names) if self._clone.is_lost(one)]
        if kind == "remove":
            return f"- {leaving.name}" if self.remove(leaving) else ""
        if not fresh:
            return ""
        if kind == "add":
            return f"+ {fresh[0].name}" if self.add(fresh[0]) else ""
        leaving = lost[0] if lost else leaving
        return f"{leaving.name} by {fresh[0].name}" if self.replace(leaving, fresh[0]) else ""


class CloneSnapshots(Snapshots):
    """What is asked of one clone beside its client."""

    def __init__(self, clients: Clients, clone: Clone, size_bytes: int) -> None:
        """`size_bytes` has been asked of its parent, and no more."""
        super().__init__(clients)
        self._clone = clone
        self._size_bytes, self._asked_bytes = 0, size_bytes
        self._may_hold: dict[str, dict[int, dict[bytes, None]]] = {}
        """What each block may hold in each snapshot."""

    @property
    def _losses(self) -> int:
        return self._clone.losses

    def _targets(self) -> Sequence[Asked]:
        return _targets(self._clone)

    def _replicas(self) -> list[tuple[Machine, ReplicaNode]]:
        left = self._clone.left(self._clients.cluster)
        nodes = [(machine, machine.node_of(self._clone.uuid)) for machine in left]
        return [(machine, node) for machine, node in nodes if node is not None]

    def _is_taking(self, name: str) -> None:
        self._clone.client.own.note_from_now_on(name)

    def _was_taken(self, name: str) -> None:
        self._may_hold[name] = self._clone.client.own.noted(name)

    def _revert_begins(self, name: str, blocks: Mapping[int, bytes]) -> Callable[[bool], None]:
        own = self._clone.client.own
        own.revert_begins(blocks)
        return lambda is_done: own.revert_ends(is_done=is_done)

    def _read(self, name: str, content: Content) -> None:
        """What a snapshot holds was in the blocks at some time between question and answer."""
        asked = self._asked.get(name)
        if asked is None or asked.is_clouded or name not in self._may_hold:
            return
        for block, may_hold in self._may_hold[name].items():
            if content.get(block, (0, ZEROS))[1] not in may_hold:
                what = f"{name} of {self._clone.name} holds what block {block} did not at its time"
                self._clients.broken.append(what)


def _targets(clone: Clone) -> Sequence[Asked]:
    return [clone.target] if clone.target is not None and clone.target.serves else []
