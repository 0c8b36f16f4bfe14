"""The end of a volume: ordered first, and held by a quorum on stable storage, before any replica of
it is destroyed.

So no opening can serve the volume any more: whoever finds the entry in its history destroys what is
left instead.  A replica that was away has not heard of it; it is found when its members are asked
again while enough of them are there, and else it stays in its pool, alone, where it can open
nothing, until somebody has it deleted there by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from cstor_core.errors import CstorError, UnavailableError, UnknownVolumeError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.units import format_size
from cstor_target.volume.events import EventSink
from cstor_target.volume.members import Member
from cstor_target.volume.operations import Operations
from cstor_target.volume.roster import Roster

_GONE = "the volume has been deleted"


@dataclass(frozen=True, slots=True)
class Left:
    """A replica that could not be destroyed, and why."""

    member: volume_pb2.Member
    reason: str


class Deletion:
    """Of one volume."""

    def __init__(
        self,
        roster: Roster,
        operations: Operations,
        events: EventSink,
        identity: Callable[[], volume_pb2.VolumeIdentity | None],
    ) -> None:
        self._roster = roster
        self._operations = operations
        self._events = events
        self._identity = identity
        self._one_at_a_time = asyncio.Lock()
        self._is_held = False
        """A quorum has the entry on stable storage."""
        self.is_done = False
        self.on_done: Callable[[], None] = lambda: None
        """Told when every replica that answered is destroyed."""

    def sentence(self) -> str:
        """What it would do, for a person.

        Raises InputError where the volume is protected, UnavailableError where it is not open.
        """
        identity = self._opened()
        self._operations.check_deletable()
        addresses = ", ".join(member.link.address for member in self._roster.receivers)
        snapshots = len(self._operations.snapshots)
        return (
            f"volume {identity.name} ({identity.volume_uuid}) of "
            f"{format_size(self._operations.size_bytes)} is destroyed for ever, with its "
            f"{snapshots} snapshots, on its replicas at {addresses}; clones keep what they share"
        )

    async def delete(self) -> list[Left]:
        """Delete the volume; the replicas that are left, since their daemons did not answer.

        It goes on to its end though whoever asked for it has given up.

        Raises InputError where it is protected, and UnavailableError where it is not open, or no
        quorum has answered in time: if it was ordered then it is carried out (`is_ordered`).
        """
        async with self._one_at_a_time:
            if not self._is_held:
                self._opened()
                await self._operations.delete_volume()
                self._is_held = True
                self._roster.stop(_GONE)
            destroying = asyncio.ensure_future(self._destroy())
            destroying.add_done_callback(lambda task: task.cancelled() or task.exception())
            return await asyncio.shield(destroying)

    async def carry_on(self) -> None:
        """Destroy what is left of a volume whose history says that it has been deleted, and which
        a quorum of its members holds.
        """
        async with self._one_at_a_time:
            await self._destroy()

    @property
    def is_ordered(self) -> bool:
        """Whether nothing takes it back any more."""
        return self._operations.is_deleted

    def _opened(self) -> volume_pb2.VolumeIdentity:
        identity = self._identity()
        if identity is None or not (self._roster.serving or self._is_held):
            raise UnavailableError(
                "the volume is not open, and only a quorum of its replicas can agree that it is "
                "deleted: start them"
            )
        return identity

    async def _destroy(self) -> list[Left]:
        """Those first that may not have heard of it: as long as the others are there, with their
        witness, a target that takes over finds what it has to go on with.
        """
        known_seq = max(self._operations.deleted_seq, 1)
        left = []
        for has_heard in (False, True):
            group = [
                member
                for member in self._roster.receivers
                if (member.is_witness or member.durable_seq >= known_seq) is has_heard
            ]
            results = await asyncio.gather(*map(self._destroy_at, group))
            left += [one for one in results if one is not None]
        count = len(self._roster.receivers)
        self._events("volume_deleted", {"replicas": count - len(left), "left": len(left)})
        for one in left:
            self._events(
                "replica_left",
                {
                    "replica": one.member.replica_uuid,
                    "address": one.member.address,
                    "reason": one.reason,
                },
            )
        self.is_done = True
        self.on_done()
        return left

    async def _destroy_at(self, member: Member) -> Left | None:
        """Have a daemon destroy its replica; what is left, where it did not."""
        identity = self._identity()
        assert identity is not None, "who the members are was said by replicas"
        request = replica_pb2.DeleteReplicaRequest(
            volume_uuid=identity.volume_uuid, replica_uuid=member.replica_uuid
        )
        try:
            await member.link.delete(request)
        except UnknownVolumeError:
            return None
        except CstorError as error:
            named = volume_pb2.Member(replica_uuid=member.replica_uuid, address=member.link.address)
            return Left(named, str(error))
        return None
