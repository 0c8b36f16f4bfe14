"""Mistakes with daemons that come back under another address."""

from __future__ import annotations

from cstor_core.errors import ForeignReplicaError, InputError
from cstor_target.volume.changes import Changes
from replica.replica_node import ReplicaNode
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


@_found.breaks("A member is looked for at another address only where its UUID is there.")
def take_whoever_is_at_the_address_that_was_told() -> None:
    """Some replica of the volume is there: that will be the one."""
    move = Changes.move

    async def careless(self: Changes, replica: str, address: str) -> str:
        member = self._named(replica) or self._named(address)
        if member is None:
            raise InputError(f"the volume has no replica {replica!r}")
        await self._link_to(address).inquire(self._tenure.identity.volume_uuid)
        if member.link.address == address:
            return await move(self, replica, address)
        member.link = self._link_to(address)
        await self._until_quorum()
        await self.write_addresses_down()
        return member.replica_uuid

    Changes.move = careless  # type: ignore[method-assign]


@_found.breaks("A daemon of another replica at an old address refuses what is meant for that one.")
def answer_for_the_replica_that_was_here() -> None:
    """A replica of the same volume takes what is meant for another one."""

    def careless(self: ReplicaNode, volume_uuid: str, replica_uuid: str) -> None:
        if volume_uuid != self.store.identity.volume_uuid:
            raise ForeignReplicaError(f"replica {replica_uuid} is of another volume")

    ReplicaNode.check_identity = careless  # type: ignore[method-assign]


@_found.breaks("Where a replica is found is written down: every later target finds it there.")
def write_no_address_down() -> None:
    """The target that was told knows it, and nobody else."""

    async def careless(self: Changes) -> None:
        """It is left as it is."""

    Changes.write_addresses_down = careless  # type: ignore[method-assign]
