"""Clones of snapshots that operators ask for, and what has to be right about them.

A clone begins as exactly what its snapshot holds, on each of its replicas, and from then on neither
it nor the volume that it is of sees what is written to the other, whatever becomes of the snapshot.
Once somebody was told that it is made, all its members know who they are.  There is one clone of a
name, or none.

A clone has the members that made it, which may be fewer than the volume has, and nobody spares
them: where more of their disks are lost than the clone survives, nothing is asked of it any more.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TypeVar

import numpy as np

from cstor_core.errors import (
    CorruptError,
    CstorError,
    NoSpaceError,
    UnavailableError,
    UnknownSnapshotError,
)
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_target.volume.cloning import Clone as Made
from cstor_target.volume.engine import Engine
from cstor_target.volume.quorum import write_quorum
from replica.host import ReplicaHost
from replica.replica_node import ReplicaNode
from tests.simulation.clients import SHARED_BLOCKS, ZEROS, Clients, stamp_of
from tests.simulation.clone_orders import Clone, CloneChanges, CloneSnapshots
from tests.simulation.clone_targets import CloneClient, CloneTarget
from tests.simulation.cluster import BLOCKS, OLD_ADDRESSES, Target
from tests.simulation.machines import Machine
from tests.simulation.oracle import NEVER
from tests.simulation.snapshots import Snapshots, content_known_to, content_of_run
from tests.simulation.watch import rows_of_node

T = TypeVar("T")
AGAIN_S = 0.3
TRIES = 40
DELETE_TRIES = 12
CLONES_MAX = 6
OPEN_S_MAX = 30.0
TRIES_OF_ANOTHER = 8
CLONED_AGAIN = 0.3
"""So many that somebody has used are cloned themselves."""
OF_A_CLONE = "of-a-clone"
"""The name of the snapshot then."""
BESIDE = 0.5
"""So many targets of clones are in the process of the one that serves the volume."""
_ALL = np.arange(BLOCKS, dtype=np.uint64)


class Clones:
    """Of one life."""

    def __init__(self, clients: Clients, snapshots: Snapshots) -> None:
        self._clients = clients
        self._cluster = clients.cluster
        self._loop = clients.cluster.loop
        self._snapshots = snapshots
        self._clones: list[Clone] = []
        self._asked = 0
        self._targets = 0
        self._chance = random.Random(f"{clients.cluster.seed} clone targets")

    def clone(self, snapshot: str, serve_s: float) -> str:
        """Ask for a clone of a snapshot until it is made, and let it be used for so long; its name,
        and nothing where there is no such snapshot or are clones enough.
        """
        if self._snapshots.taken(snapshot) is None or self._asked >= CLONES_MAX:
            return ""
        self._asked += 1
        name = f"clone-{self._asked}"
        clone = self._new(name, snapshot, {})
        self._clones.append(clone)
        self._loop.create_task(self._make(clone, serve_s))
        return f"{name} of {snapshot}"

    def _new(
        self, name: str, snapshot: str, contents: Mapping[int, bytes], parent: Clone | None = None
    ) -> Clone:
        client = CloneClient(self._clients, name, contents)
        configurations = self._cluster.configurations_of_a_volume()
        return Clone(name, snapshot, client, contents, configurations, parent)

    @property
    def served(self) -> Clone | None:
        """The first one that is open, and of which operators may ask something."""
        for clone in self._clones:
            is_asked = clone.changes is not None and not clone.may_be_gone
            if is_asked and clone.target is not None and clone.target.serves:
                return clone
        return None

    @property
    def are_changing(self) -> bool:
        """Whether the members of one change, or one is being made."""
        return any(
            not (clone.uuid or clone.may_be_gone or clone.is_refused)
            or (clone.changes is not None and clone.changes.is_busy)
            for clone in self._clones
        )

    def delete(self, number: int) -> str:
        """Ask to delete a clone, or what is half-made of it; its name, and nothing where that was
        asked before.
        """
        if number >= len(self._clones) or self._clones[number].may_be_gone:
            return ""
        clone = self._clones[number]
        clone.may_be_gone = True
        self._loop.create_task(self._delete(clone))
        return clone.name

    def kill_target(self) -> str:
        """End a target that serves a clone and nothing else; its name, or nothing."""
        for clone in self._clones:
            target = clone.target
            if target is not None and target.is_up and not target.is_beside:
                target.kill()
                return target.name
        return ""

    async def look(self) -> list[str]:
        """What is wrong with them, when everything is healed."""
        broken: list[str] = []
        for clone in self._clones:
            broken += self._founded_twice(clone)
            if clone.uuid and not clone.may_be_gone:
                broken += [f"{clone.name}: {what}" for what in await self._wrong(clone)]
        return broken

    async def _make(self, clone: Clone, serve_s: float) -> None:
        content = await self._snapshots.known_content(clone.snapshot)
        if content is None:
            clone.may_be_gone = True  # nobody asks, since nobody could say what has to be in it
            return
        clone.contents = {block: data for block, (_, data) in content.items()}
        clone.client = CloneClient(self._clients, clone.name, clone.contents)
        await self._until_made(clone, TRIES)
        if clone.uuid and serve_s:
            await self._use(clone, serve_s)
        if clone.uuid:
            await asyncio.sleep(self._chance.uniform(1.0, 6.0))
            if not clone.may_be_gone and clone.is_findable(self._cluster):
                await self._ask_for(clone)

    async def _until_made(self, clone: Clone, tries: int) -> None:
        for _ in range(tries):
            if clone.may_be_gone or clone.is_refused or clone.uuid:
                break
            await self._ask_for(clone)
            await asyncio.sleep(AGAIN_S)
        self._cluster.note(f"{clone.name} is {'made' if clone.uuid else 'not made'}")

    async def _make_another(self, parent: Clone) -> None:
        """Have a clone made of a clone, as it is."""

        async def snapshot(engine: Engine) -> None:
            with suppress(UnavailableError):
                await engine.operations.create_snapshot(OF_A_CLONE)

        if parent.target is None or not parent.target.serves:
            return
        await self._run(parent.target, snapshot)
        machines = [one for one in parent.left(self._cluster) if not one.has_rotted]
        nodes = self._nodes(parent, machines)
        content = await content_known_to(nodes, OF_A_CLONE)
        if content is None:
            return
        name, contents = f"{parent.name}-of-it", {at: data for at, (_, data) in content.items()}
        clone = self._new(name, OF_A_CLONE, contents, parent)
        self._clones.append(clone)
        await self._until_made(clone, TRIES_OF_ANOTHER)

    async def _ask_for(self, clone: Clone) -> None:
        disks = {machine.name: machine.disk for machine in self._cluster.machines}

        async def ask(engine: Engine) -> Made | None:
            try:
                return await engine.cloning.clone(
                    clone.snapshot, clone.name, self._cluster.new_uuid()
                )
            except UnknownSnapshotError:
                clone.is_refused = True
            except (UnavailableError, NoSpaceError, CorruptError) as error:
                self._cluster.note(f"{clone.name}: {error}")
            return None

        self._note_quorum(clone)
        made = await self._ask(clone, ask)
        self._note_quorum(clone)
        if made is None:
            return
        uuid = made.identity.volume_uuid
        if clone.uuid and uuid != clone.uuid and not clone.may_be_gone:
            broken = f"{clone.name} is {clone.uuid}, and was said to be {uuid} when asked for again"
            self._clients.broken.append(broken)
        if not clone.uuid and len(made.configuration.members) < clone.quorum:
            broken = f"{clone.name} has fewer members than the {clone.quorum} of a quorum"
            self._clients.broken.append(broken)
        if not clone.uuid:
            clone.made(uuid, made.configuration, disks)
            of_parent = clone.parent.snapshots if clone.parent is not None else self._snapshots
            assert of_parent is not None
            size_bytes = of_parent.asked_bytes
            clone.changes = CloneChanges(self._clients, clone)
            clone.snapshots = CloneSnapshots(self._clients, clone, size_bytes)

    def _note_quorum(self, clone: Clone) -> None:
        sizes = [len(addresses) for addresses in self._cluster.configurations.possible()]
        if clone.parent is not None:
            sizes = [len(names) for names in clone.parent.configurations.possible()]
        elif self._cluster.witness is not None:
            sizes = [2]  # the witness knows of no clones
        clone.quorum = min(clone.quorum, *map(write_quorum, sizes))

    async def _ask(self, clone: Clone, ask: Callable[[Engine], Awaitable[T]]) -> T | None:
        """Ask the target of what it is a clone of; None where it ends without an answer."""
        targets: list[Target | CloneTarget] = [one for one in self._clients.targets if one.is_up]
        if clone.parent is not None:
            of_parent = clone.parent.target
            targets = [of_parent] if of_parent is not None and of_parent.serves else []
        return await self._run(targets[-1], ask) if targets and not self._clients.is_over else None

    async def _run(
        self, target: Target | CloneTarget, ask: Callable[[Engine], Awaitable[T]]
    ) -> T | None:
        assert target.engine is not None
        assert target.process is not None
        task: asyncio.Task[T] = target.process.run(_awaited(ask(target.engine)))
        await target.wait(task, NEVER)
        return task.result() if task.done() else None

    async def _use(self, clone: Clone, serve_s: float) -> None:
        """Let its client ask whatever target there is; a new one where the last one has ended."""
        ends_s = self._loop.time() + serve_s
        while self._loop.time() < ends_s and not (clone.may_be_gone or self._clients.is_over):
            target = self._target_of(clone)
            if target.serves:
                await self._tell_of_moves(clone, target)
                await clone.client.step(target)
            await asyncio.sleep(clone.client.pause_s())
        if clone.target is not None and not clone.may_be_gone:
            if self._chance.random() < CLONED_AGAIN:
                await self._make_another(clone)
            clone.target.close()

    def _target_of(self, clone: Clone) -> CloneTarget:
        """The one that serves it, started where there is none."""
        if clone.target is None or not clone.target.is_up:
            self._targets += 1
            beside: Target | None = None
            if self._chance.random() < BESIDE:
                beside = next((one for one in self._clients.targets if one.is_up), None)
            clone.target = CloneTarget(
                f"clone-target-{self._targets}",
                self._cluster,
                clone.uuid,
                self._addresses(clone),
                clone.configurations,
                beside,
                clone.lost,
            )
        return clone.target

    def _addresses(self, clone: Clone) -> list[str]:
        """Where somebody looks for its members who starts a target: where they are, or where those
        that made it were, if from these all others can be found.
        """
        cluster, founding = self._cluster, clone.founding.members
        homes = {one.replica_uuid: cluster.home(one.replica_uuid, one.address) for one in founding}
        there = [one for one in founding if homes[one.replica_uuid].address == one.address]
        names = clone.configurations.addresses
        left = sum(homes[member.replica_uuid].name in names for member in there)
        are_enough = left >= write_quorum(len(names)) and not cluster.knows_all
        if are_enough and self._chance.random() < OLD_ADDRESSES:
            return [member.address for member in founding]
        return [cluster.machine(name).address for name in names]

    async def _tell_of_moves(self, clone: Clone, target: CloneTarget) -> None:
        """Say where members are that have moved since the target found them."""
        assert target.engine is not None
        for member in list(target.engine._roster.members):
            machine = self._cluster.home(member.replica_uuid, member.link.address)
            address, uuid = machine.address, member.replica_uuid
            if address == member.link.address or clone.is_lost(machine):
                continue

            async def move(engine: Engine, uuid: str = uuid, address: str = address) -> None:
                with suppress(CstorError):
                    await engine.changes.move(uuid, address)

            await self._run(target, move)

    async def _delete(self, clone: Clone) -> None:
        async def discard(engine: Engine) -> bool:
            with suppress(UnavailableError):
                await engine.cloning.discard(clone.name)
                return True
            return False

        for _ in range(DELETE_TRIES):
            if self._clients.is_over:
                return
            if not clone.uuid and await self._ask(clone, discard):
                return
            if clone.uuid and await self._delete_founded(clone):
                break
            await asyncio.sleep(AGAIN_S * 3)
        if clone.target is not None:
            clone.target.close()

    async def _delete_founded(self, clone: Clone) -> bool:
        """Whether the target of a clone says that it has been deleted."""
        target = self._target_of(clone)
        if not target.serves:
            return False

        async def delete(engine: Engine) -> bool:
            with suppress(UnavailableError):
                await engine.deletion.delete()
                return True
            return False

        return bool(await self._run(target, delete))

    def _founded_twice(self, clone: Clone) -> list[str]:
        """Where founded replicas under its name are of more than one volume."""
        found: dict[str, str] = {}
        for machine in self._cluster.machines:
            host = machine.host
            nodes = host.nodes.values() if isinstance(host, ReplicaHost) else ()
            for node in nodes:
                if node.store.identity.name == clone.name and node.report().configuration.members:
                    found[node.store.identity.volume_uuid] = machine.name
        if len(found) > 1 or (clone.uuid and any(uuid != clone.uuid for uuid in found)):
            return [f"{clone.name} has been founded as {found}, and was said to be {clone.uuid}"]
        return []

    async def _wrong(self, clone: Clone) -> list[str]:
        """What is wrong with a clone that was made and nobody has asked to delete."""
        cluster = self._cluster
        lost = clone.lost_names(cluster)
        if not clone.configurations.survive(lost):
            cluster.note(f"{clone.name} has lost more than it survives")
            return []
        broken = await self._not_there(clone)
        if broken:
            return broken
        if lost and not clone.configurations.survive([*{*lost, *clone.short_names(cluster)}]):
            cluster.note(f"{clone.name} has lost more than it survives")
            return []
        cluster.note(f"{clone.name} is looked at")
        if clone.client.has_asked:
            broken = await self._not_in_sync(clone)
        left = clone.left(cluster)
        for node in self._nodes(clone, left):
            if _who(node.report().configuration) != _who(clone.configurations.current):
                broken.append(f"replica {node.store.replica_uuid} has other members")
        broken += clone.configurations.broken
        if not broken and clone.snapshots is not None:
            try:
                broken = await clone.snapshots.look()
            except CstorError as error:
                broken = [f"a snapshot of it cannot be read: {error}"]
        return broken or await self._differences(clone, left)

    def _nodes(self, clone: Clone, machines: list[Machine]) -> list[ReplicaNode]:
        found = [machine.node_of(clone.uuid) for machine in machines]
        return [node for node in found if node is not None]

    async def _not_there(self, clone: Clone) -> list[str]:
        """Which members have no replica of it; a daemon looks once more when it is asked."""
        missing = left = clone.left(self._cluster)
        for _ in range(10):
            missing = [one for one in left if one.node_of(clone.uuid) is None]
            for machine in missing:
                if isinstance(machine.host, ReplicaHost) and machine.process is not None:
                    machine.process.run(_inquired(machine.host, clone.uuid))
            if not missing:
                break
            await asyncio.sleep(0.5)
        return [f"{machine.name} has no replica of it" for machine in missing]

    async def _not_in_sync(self, clone: Clone) -> list[str]:
        """Whether its members do not become equal, where somebody has used it."""
        deadline_s = self._loop.time() + OPEN_S_MAX
        why = ""
        while self._loop.time() < deadline_s:
            target = self._target_of(clone)
            left = clone.left(self._cluster)
            nodes = self._nodes(clone, left)
            if target.serves:
                assert target.engine is not None
                await self._tell_of_moves(clone, target)
                members = target.engine._roster.in_sync
                why = f"{len(members)} members are in sync"
                states = {(node.store.history.end.epoch, node.store.applied_seq) for node in nodes}
                is_changing = len(clone.configurations.possible()) > 1
                are_equal = len(members) == len(left) == len(nodes) and len(states) == 1
                if are_equal and not is_changing:
                    target.close()
                    return []
            elif target.engine is not None:
                why = target.engine.report().reason
            await asyncio.sleep(0.5)
        return [f"it does not heal: {why}"]

    async def _differences(self, clone: Clone, left: list[Machine]) -> list[str]:
        """Where its replicas differ from each other, or from what it has to be."""
        broken: list[str] = []
        nodes = {machine.name: self._nodes(clone, [machine])[0] for machine in left}
        rows = {name: rows_of_node(node).tobytes() for name, node in nodes.items()}
        broken += [
            f"{name} has other blocks than {next(iter(rows))}"
            for name, table in rows.items()
            if table != next(iter(rows.values()))
        ]
        for machine in left:
            if machine.has_rotted:
                continue
            try:
                run = await nodes[machine.name].store.read_verified(_ALL)
            except CstorError as error:
                broken.append(f"{machine.name} cannot be read: {error}")
                continue
            content = content_of_run(run)
            for block in range(BLOCKS):
                data = content.get(block, (0, ZEROS))[1]
                if wrong := clone.client.own.read(block, data):
                    broken.append(f"block {block} on {machine.name} is {wrong}")
        if not broken:
            self._read(clone)
        return broken

    def _read(self, clone: Clone) -> None:
        """What its client has not changed was read at the moment of the snapshot."""
        asked = self._snapshots.taken(clone.snapshot)
        if asked is None or asked.is_clouded:
            return
        for block in range(SHARED_BLOCKS):
            if block not in clone.client.changed:
                stamp = stamp_of(clone.contents.get(block, ZEROS))
                self._clients.registers.read(block, stamp, asked.start_s, asked.end_s, clone.name)


async def _awaited(asked: Awaitable[T]) -> T:
    return await asked


def _who(configuration: volume_pb2.Configuration) -> list[str]:
    """Its members, out of date or not."""
    return [member.replica_uuid for member in configuration.members]


async def _inquired(host: ReplicaHost, volume: str) -> None:
    with suppress(CstorError):
        await host.inquire(replica_pb2.InquireRequest(volume=volume))
