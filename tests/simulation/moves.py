"""Daemons that come back under another address, and what has to be right about that.

A UUID identifies a replica, and an address only finds it.  A daemon may answer where nobody has
been before, or two of them at each other's addresses: then whatever is meant for the one is refused
by the other.  An operator tells the target with `cstor replica move`, or starts one with the new
addresses and says nothing for a while; some err first, and name the address of somebody else.  What
was answered is written down: every later configuration names that address, until the daemon moves
again.
"""

from __future__ import annotations

import asyncio

from cstor_core.errors import CstorError, InputError
from tests.simulation.changes import Changes
from tests.simulation.clients import Clients
from tests.simulation.clones import Clones
from tests.simulation.cluster import Target
from tests.simulation.machines import Machine

AGAIN_S = 0.3
PATIENCE_S = 15.0
"""So long an operator waits for one answer."""
SAYS_NOTHING_S = 8.0
"""So long somebody waits who has started, or will start, a target with the new addresses."""
TOLD, ERRS, UNTOLD = "told", "told wrongly first", "not told"


class Moves:
    """Of one life."""

    def __init__(self, clients: Clients, changes: Changes, clones: Clones) -> None:
        self._clients = clients
        self._clones = clones
        self._cluster = clients.cluster
        self._changes = changes

    def move(self, machine: Machine, how: str) -> str:
        """Have a daemon answer at a new address, once it is started; its address, and nothing
        where it has no member, or something else is asked of the members.
        """
        if not self._may_move(machine):
            return ""
        old, address = machine.address, self._cluster.move(machine)
        self._changes.begin(self._tell({machine: old}, how))
        return address

    def swap(self, machine: Machine, other: Machine, how: str) -> bool:
        """Have two daemons answer at each other's addresses, once they are started; False as
        above.
        """
        if machine is other or not (self._may_move(machine) and self._may_move(other)):
            return False
        first, second = machine.address, other.address
        self._cluster.move(machine, second)
        self._cluster.move(other, first)
        self._changes.begin(self._tell({machine: first, other: second}, how))
        return True

    def _may_move(self, machine: Machine) -> bool:
        is_busy = self._changes.is_busy or self._clones.are_changing
        return machine in self._cluster.members and not (is_busy or machine.is_broken)

    async def _tell(self, moved: dict[Machine, str], how: str) -> None:
        """Tell whichever target there is of each, with the addresses at which they were."""
        configurations = self._cluster.configurations
        uuids = {machine: configurations.uuid_at(machine.name) for machine in moved}
        for uuid in uuids.values():
            configurations.has_left(uuid)
        if how == UNTOLD:
            await asyncio.sleep(SAYS_NOTHING_S)
        others = [one for one in self._cluster.members if one not in moved]
        if how == ERRS and others:
            await self._tell_wrongly(next(iter(uuids.values())), others[0])
        left = list(moved)
        old = moved[left[0]] if len(moved) == 1 else ""
        while left:  # in turns: it may take all of them to have a quorum that writes them down
            machine = left.pop(0)
            if not await self._is_told(uuids[machine], machine, old):
                left.append(machine)
                await self._cluster.loop.after(AGAIN_S)
            old = ""  # for another target it may be the address of another member

    async def _tell_wrongly(self, uuid: str, other: Machine) -> None:
        """Say of a member that it is where another one is; that is not believed."""
        answer = await self._ask(uuid, other.address)
        if isinstance(answer, str):
            self._clients.broken.append(f"{uuid} is said to be found at {other.name}, and is not")

    async def _is_told(self, uuid: str, machine: Machine, old: str) -> bool:
        """Whether a target says that a member is looked for where it is; or it is none any more,
        or nobody is left to ask.
        """
        configurations = self._cluster.configurations
        if self._clients.is_over or machine.is_broken:
            return True
        if uuid not in {member.replica_uuid for member in configurations.current.members}:
            return True
        answer = await self._ask(old or uuid, machine.address)
        if answer == uuid:
            configurations.told_place(uuid, machine.address)
        elif isinstance(answer, str):
            self._clients.broken.append(f"{answer} is said to be found at {machine.address}")
        elif isinstance(answer, InputError) and not (old or self._is_excused(uuid, machine)):
            self._clients.broken.append(f"{uuid} is not believed to be at {machine.name}: {answer}")
        else:
            return False
        return True

    def _is_excused(self, uuid: str, machine: Machine) -> bool:
        """Whether it is no member any more, or its disk was replaced meanwhile."""
        members = self._cluster.configurations.current.members
        return machine.is_broken or uuid not in {member.replica_uuid for member in members}

    async def _ask(self, replica: str, address: str) -> str | CstorError | None:
        """What a target says when it is told of a move; None where it ends without an answer."""
        targets = [target for target in self._clients.targets if target.is_up]
        if not targets:
            return None
        target = targets[-1]
        assert target.process is not None
        task = target.process.run(_moved(target, replica, address))
        await target.wait(task, PATIENCE_S)
        if not task.done():
            task.cancel()
            return None
        answer: str | CstorError = task.result()
        return answer


async def _moved(target: Target, replica: str, address: str) -> str | CstorError:
    assert target.engine is not None
    try:
        return await target.engine.changes.move(replica, address)
    except CstorError as error:
        return error
