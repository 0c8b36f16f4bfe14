"""Which configuration of the volume is in force, and which ones may be or come to be.

A configuration is in force when a target has opened with it, or says that a change is done.  Until
then a change that was ordered, or that somebody asks for, may come to be or may not: so many
replicas may be lost as every one of these configurations survives.

All that have ever been in force make one chain: a target that opens has the last one that any
target before it had in force, and two with one number are the same.  Two configurations of which
neither knows of the other would both acknowledge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.volume.engine import Engine
from cstor_target.volume.members import Member
from cstor_target.volume.quorum import write_quorum
from cstor_target.volume.tenure import Tenure

Addresses = tuple[str, ...]
Edit = Callable[[Addresses], Addresses]
Number = tuple[int, int]
"""The count of forced openings, and the number."""


class Wish:
    """A change that somebody asks for; until it is certain that nobody orders it any more."""

    def __init__(self, edit: Edit) -> None:
        self.edit = edit
        self.is_possible: Callable[[], bool] = lambda: True


class Configurations:
    """Of one volume."""

    def __init__(
        self, machine_of: Callable[[volume_pb2.Member], str] = lambda member: member.address
    ) -> None:
        """`machine_of` tells the name of the machine on which a replica is, wherever its daemon
        answers now.
        """
        self._machine_of = machine_of
        self.current = volume_pb2.Configuration()
        self.broken: list[str] = []
        self._reigns: dict[tuple[int, int], tuple[Number, Number]] = {}
        """The first and the last configuration in force under each count of forced openings and
        epoch.
        """
        self._last_reign = (0, 0)
        """In which a target has opened last."""
        self._members: dict[Number, frozenset[str]] = {}
        self._must: dict[str, bool] = {}
        """What somebody was told of a replica: whether it is a member."""
        self._must_be_at: dict[str, str] = {}
        """At which address somebody was told that a replica is looked for."""
        self._wishes: list[Wish] = []
        self._ordered: list[Addresses] = []

    @property
    def addresses(self) -> Addresses:
        """The names of the machines of the members of the one in force."""
        return self.machines_of(self.current)

    @property
    def is_changing(self) -> bool:
        """Whether a change has been ordered of which nobody knows what became of it."""
        return bool(self._ordered)

    def machines_of(self, configuration: volume_pb2.Configuration) -> Addresses:
        """The names of the machines of its members."""
        return tuple(map(self._machine_of, configuration.members))

    def uuid_at(self, name: str) -> str:
        """The member on a machine; empty where there is none."""
        members = self.current.members
        return next((one.replica_uuid for one in members if self._machine_of(one) == name), "")

    def ordered(self, reign: tuple[int, int], addresses: Addresses) -> None:
        """A target has ordered a change to these, in an epoch behind so many forced openings.

        Where another one has opened since, nothing comes of it.
        """
        if reign >= self._last_reign:
            self._ordered.append(addresses)

    def watch(self, engine: Engine, begun: Callable[[], None]) -> None:
        """Have each change noted that a target orders, when it is about to be sent to anybody,
        which is told then, too, and when the target takes it for done.
        """
        begin_change = engine._roster.begin_change

        def tenure() -> Tenure:
            found = engine._membership.tenure
            assert found is not None
            return found

        def ordering(
            seq: int, configuration: volume_pb2.Configuration, learner: Member | None
        ) -> None:
            reign = (tenure().configuration.forced_openings, tenure().epoch)
            self.ordered(reign, self.machines_of(configuration))
            begun()
            begin_change(seq, configuration, learner)

        def serving() -> None:
            asyncio.get_running_loop().call_soon(watch_ends)  # there are changes only then

        def watch_ends() -> None:
            changes = engine._membership.changes
            if changes is None:
                return  # it has been deleted
            order_change = changes._order_change

            async def ordered(
                configuration: volume_pb2.Configuration, learner: Member | None
            ) -> None:
                await order_change(configuration, learner)
                self.in_force(tenure().epoch, configuration, False)

            changes._order_change = ordered  # type: ignore[method-assign]

        engine._roster.begin_change = ordering  # type: ignore[method-assign]
        engine.when_serving(serving)

    def wish(self, edit: Edit) -> Wish:
        """Somebody asks for a change."""
        wish = Wish(edit)
        self._wishes.append(wish)
        return wish

    def possible(self, *more: Edit) -> list[Addresses]:
        """All that may be in force, or may come to be; with some more changes, too."""
        found = {self.addresses: None} | dict.fromkeys(self._ordered)
        if self._wishes:
            self._wishes = [wish for wish in self._wishes if wish.is_possible()]
        for edit in (*(wish.edit for wish in self._wishes), *more):
            found |= dict.fromkeys([edit(addresses) for addresses in found])
        return [addresses for addresses in found if addresses]

    def survive(self, lost: Sequence[str], *more: Edit) -> bool:
        """Whether all that are possible lose nothing where the replicas at these addresses are
        lost.
        """
        return all(
            sum(address in addresses for address in lost)
            <= len(addresses) - write_quorum(len(addresses))
            for addresses in self.possible(*more)
        )

    def in_force(self, epoch: int, configuration: volume_pb2.Configuration, is_open: bool) -> None:
        """A target of this epoch has opened with it, or says that the change to it is done.

        After a forced opening only this holds of what was said: those left out are no members.
        """
        number = (configuration.forced_openings, configuration.number)
        members = frozenset(member.replica_uuid for member in configuration.members)
        known = self._members.setdefault(number, members)
        if known != members:
            self.broken.append(f"configuration {number} is {sorted(known)} and {sorted(members)}")
        if is_open and number[0] < self.current.forced_openings:
            self.broken.append(f"a target has opened with {number} after a forced opening")
        reign = (number[0], epoch)
        first, last = self._reigns.get(reign, (number, number))
        self._reigns[reign] = (min(first, number), max(last, number))
        for earlier, (_, last) in self._reigns.items():
            for later, (first, _) in self._reigns.items():
                if earlier < later and last > first:
                    self.broken.append(
                        f"epoch {later} began with configuration {first}, and {last} was in force "
                        f"in epoch {earlier}"
                    )
        if number >= (self.current.forced_openings, self.current.number):
            if number[0] > self.current.forced_openings:
                self._must = {
                    member.replica_uuid: False
                    for member in self.current.members
                    if member.replica_uuid not in members
                }
                self._must_be_at.clear()
                self._ordered.clear()
            self.current = volume_pb2.Configuration()
            self.current.CopyFrom(configuration)
            self._check_promises()
        if is_open and reign >= self._last_reign:
            self._last_reign = reign
            self._ordered.clear()
        elif self.addresses in self._ordered:
            self._ordered.remove(self.addresses)

    def told(self, replica_uuid: str, *, is_member: bool) -> None:
        """Somebody was told that a replica is a member, or is none, from now on."""
        self._must[replica_uuid] = is_member
        self._check_promises()

    def told_place(self, replica_uuid: str, address: str) -> None:
        """Somebody was told that a replica is looked for at an address, from now on."""
        self._must_be_at[replica_uuid] = address
        self._check_promises()

    def has_left(self, replica_uuid: str) -> None:
        """Where a replica is looked for is open from now on."""
        self._must_be_at.pop(replica_uuid, None)

    def asked_to_remove(self, replica_uuid: str) -> None:
        """Whether it is a member is open from now on."""
        self._must.pop(replica_uuid, None)

    def _check_promises(self) -> None:
        members = {member.replica_uuid: member.address for member in self.current.members}
        for uuid, address in list(self._must_be_at.items()):
            if members.get(uuid, address) != address:
                self.broken.append(
                    f"replica {uuid} is looked for at {members[uuid]} by configuration "
                    f"{self.current.number}, and was said to be found at {address}"
                )
                del self._must_be_at[uuid]
        for uuid, must in list(self._must.items()):
            if must != (uuid in members):
                word = "was added, and is no member" if must else "was removed, and is a member"
                number = self.current.number
                self.broken.append(f"replica {uuid} {word} of configuration {number}")
                del self._must[uuid]
