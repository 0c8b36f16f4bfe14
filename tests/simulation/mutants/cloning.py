"""Mistakes with clones."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cstor_core.errors import UnavailableError, UnknownVolumeError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_target.volume import clone_plan, cloning
from cstor_target.volume.changes import Changes
from cstor_target.volume.clone_plan import ClonePlan
from cstor_target.volume.members import Member
from replica.host import ReplicaHost
from replica.replica_node import ReplicaNode
from replica.store import cloning as store_cloning
from replica.store import family, pool
from replica.store.bits import Bits, Units
from replica.store.data_files import BASE_PREFIX
from replica.store.operations import Snapshot
from replica.store.replica_store import ReplicaStore
from replica.store.writer import Writer
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


@_found.breaks("What a volume frees is kept while a clone holds it.")
def forget_what_a_clone_holds() -> None:
    """The volume takes for free whatever it does not need itself."""

    def careless(self: family.Space, replica: str, shares: Mapping[int, Bits]) -> None:
        self._held |= {(replica, share): Bits() for share in shares}

    family.Space.hold = careless  # type: ignore[method-assign]


@_found.breaks("What a clone lets go is free only where the volume does not need it either.")
def free_what_a_clone_lets_go() -> None:
    """What the clone no longer needs is given to whoever wants it."""

    def careless(self: family.Space, replica: str, share: int, units: Units) -> None:
        self._held[replica, share].remove(units)
        self._kept.remove(units)
        if self._allocator is not None:
            self._allocator.release(units.tolist())

    family.Space.let_go = careless  # type: ignore[method-assign]


@_found.breaks("A clone begins as exactly what the snapshot holds.")
def clone_what_came_later() -> None:
    """It begins as the volume is by now."""
    make = store_cloning.Cloning._make

    async def careless(
        self: store_cloning.Cloning,
        directory: Path,
        identity: volume_pb2.VolumeIdentity,
        replica_uuid: str,
        boot_id: str,
        snapshot: Snapshot,
        *arguments: Any,
        **named: Any,
    ) -> None:
        head = self._parts.standing.operations.head
        now = replace(snapshot, view=head)
        await make(self, directory, identity, replica_uuid, boot_id, now, *arguments, **named)

    store_cloning.Cloning._make = careless  # type: ignore[method-assign]


@_found.breaks("A clone is a volume of its own: what is meant for it is done to no other.")
def take_the_volume_for_its_clone() -> None:
    """Whatever is asked of a clone is asked of the first replica of the pool."""

    def first(self: ReplicaHost, volume_uuid: str) -> ReplicaNode:
        for node in self.nodes.values():
            return node
        raise UnknownVolumeError(f"the pool has no replica of volume {volume_uuid}")

    ReplicaHost._node_of = first  # type: ignore[method-assign]
    ReplicaNode.check_identity = lambda *_: None  # type: ignore[method-assign]


@_found.breaks("A clone is made where each of its members has stored who they are.")
def say_that_a_clone_is_made_before_it_is_founded() -> None:
    """The first one that stores it is enough."""

    async def careless(
        self: cloning.Cloning,
        volume_uuid: str,
        configuration: volume_pb2.Configuration,
        there: Mapping[str, replica_pb2.ReplicaReport],
    ) -> volume_pb2.VolumeIdentity:
        link = self._link_to(configuration.members[0].address)
        request = replica_pb2.FoundReplicaRequest(
            volume_uuid=volume_uuid, configuration=configuration
        )
        return (await link.found(request)).identity

    cloning.Cloning._finish = careless  # type: ignore[method-assign]


@_found.breaks("A clone is durable on each of its members before somebody is told of it.")
def tell_of_a_clone_before_it_is_durable() -> None:
    """Its files have their name, and no flush has covered that."""

    take_in = pool.Pool._take_in

    async def careless(self: pool.Pool, directory_name: str) -> ReplicaStore:
        names = self._filesystem.list(self._fresh(directory_name))
        if not any(name.startswith(BASE_PREFIX) for name in names):
            return await take_in(self, directory_name)
        self._filesystem.rename(self._fresh(directory_name), self.path / "volumes" / directory_name)
        replica = await self._open_replica(directory_name)
        self.replicas[directory_name] = replica
        return replica

    pool.Pool._take_in = careless  # type: ignore[method-assign]


@_found.breaks("A clone begins with as many members as are a quorum of the volume.")
def found_a_clone_of_whoever_has_made_it() -> None:
    """Those whose replica of it was not made are left out, whoever is left."""

    async def careless(
        self: cloning.Cloning, wanted: clone_plan.WantedClone, identity: volume_pb2.VolumeIdentity
    ) -> volume_pb2.Configuration:
        asked = [self._make_at(member, wanted, identity) for member in self._roster.in_sync]
        results = await asyncio.gather(*asked, return_exceptions=True)
        members = [one for one in results if isinstance(one, volume_pb2.Member)]
        if not members:
            raise UnavailableError("nobody has made the clone")
        return volume_pb2.Configuration(number=1, members=members)

    cloning.Cloning._make = careless  # type: ignore[method-assign]


@_found.breaks("There is one clone of a name: what is there of it is gone on with.")
def make_a_clone_anew_when_it_is_asked_for_again() -> None:
    """What some pools have of it is not looked at."""

    def careless(wanted: clone_plan.WantedClone, pools: Any) -> ClonePlan:
        return ClonePlan("", None, ())

    cloning.plan_clone = careless  # type: ignore[attr-defined]


@_found.breaks("A change of a clone's members is done when W of the new ones hold it.")
def tell_of_a_change_of_a_clone_before_it_is_held() -> None:
    """It is done when it has been sent."""
    order_change = Changes._order_change

    async def careless(
        self: Changes, configuration: volume_pb2.Configuration, learner: Member | None
    ) -> None:
        if not self._tenure.identity.name.startswith("clone"):
            await order_change(self, configuration, learner)
            return
        ordering = asyncio.ensure_future(order_change(self, configuration, learner))
        ordering.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.sleep(0)

    Changes._order_change = careless  # type: ignore[method-assign]


@_found.breaks("A clone that is reverted goes on needing what it has of its volume.")
def forget_what_a_reverted_clone_holds() -> None:
    """What came before is the past: the volume takes it for free where it does not need it."""
    append = Writer.append_operation

    def careless(self: Writer, operation: volume_pb2.Operation) -> Any:
        releasing: Any = self._parts.reclaimer._release
        if operation.HasField("revert"):
            for space in releasing._spaces[:-1]:
                space.forget(releasing._clone)
                space._held[releasing._clone] = Bits()
        return append(self, operation)

    Writer.append_operation = careless  # type: ignore[method-assign]
