"""What operators ask of the members of the volume: that replicas come, go and take another's place.

One thing at a time is asked for, of whichever target there is, until it is done or the operator
loses patience.  What was answered holds from then on.  None is removed while those left would not
survive what has happened to them: the engine knows who is in sync, and not whose disk rots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from cstor_core.errors import CstorError, InputError, UnavailableError
from cstor_target.volume.engine import Engine
from tests.simulation.clients import Clients
from tests.simulation.cluster import Cluster
from tests.simulation.configurations import Addresses, Configurations, Edit
from tests.simulation.machines import Machine
from tests.simulation.world import Process

AGAIN_S = 0.3
PATIENCE_S = 10.0
"""So long an operator waits for one answer."""
TRIES = 3
REPLICAS_MAX = 5
_EMPTY_TRIES = 20

Ask = Callable[[Engine], Awaitable[str | None]]


class Asked(Protocol):
    """A target that somebody asks."""

    engine: Engine | None
    process: Process | None

    @property
    def is_up(self) -> bool:
        """Whether it can still do what it was asked for."""

    async def wait(self, task: asyncio.Task[Any], patience_s: float) -> None:
        """Wait until a task of it is done, or it has ended, or so long."""


class Changes:
    """Of one life."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._cluster: Cluster = clients.cluster
        self._loop = clients.cluster.loop
        self._is_busy = False

    @property
    def is_busy(self) -> bool:
        """Whether somebody asks for something, or what he has asked for may still come to be."""
        return self._is_busy or len(self._configurations.possible()) > 1

    @property
    def _configurations(self) -> Configurations:
        """Of the volume whose members these are."""
        return self._cluster.configurations

    def _targets(self) -> Sequence[Asked]:
        """Who can be asked."""
        return [target for target in self._clients.targets if target.is_up]

    def _hurt(self) -> list[str]:
        """The machines on which something may be lost."""
        return [machine.name for machine in self._cluster.used if machine.may_have_lost]

    def add(self, machine: Machine) -> bool:
        """Ask for a replica on a machine; False where there is one, or may not be."""
        if not self._may_add(machine):
            return False
        self.begin(self._add(machine))
        return True

    def remove(self, machine: Machine) -> bool:
        """Ask for a volume without the replica of a machine; False where that may not be."""
        if self._is_busy or not self._may_remove(machine):
            return False
        self.begin(self._remove(machine))
        return True

    def replace(self, machine: Machine, fresh: Machine) -> bool:
        """Ask for a replica on a fresh machine in the place of a member; False where that may not
        be.
        """
        if machine.name not in self._configurations.addresses or not self._may_add(fresh):
            return False
        self.begin(self._replace(machine, fresh))
        return True

    def _may_add(self, machine: Machine) -> bool:
        possible = self._configurations.possible()
        return (
            not self._is_busy
            and all(machine.name not in addresses for addresses in possible)
            and max(map(len, possible)) < REPLICAS_MAX
            and self._survives(_with(machine))
        )

    def _may_remove(self, machine: Machine) -> bool:
        addresses = self._configurations.addresses
        return (
            machine.name in addresses and len(addresses) > 1 and self._survives(_without(machine))
        )

    def _survives(self, edit: Edit) -> bool:
        return self._configurations.survive(self._hurt(), edit)

    def begin(self, work: Awaitable[object]) -> None:
        """Ask for nothing else until this is over."""
        self._is_busy = True

        async def whole() -> None:
            try:
                await work
            finally:
                self._is_busy = False

        self._loop.create_task(whole())

    async def _replace(self, machine: Machine, fresh: Machine) -> None:
        """As the command does: first one more, then one fewer."""
        if not await self._add(fresh):
            return
        for _ in range(_EMPTY_TRIES):
            if self._may_remove(machine):
                await self._remove(machine)
                return
            await asyncio.sleep(AGAIN_S)

    async def _add(self, machine: Machine) -> bool:
        self._make_ready(machine)
        address = machine.address

        async def ask(engine: Engine) -> str:
            changes = engine.changes
            try:
                return await changes.add(address)
            except InputError:
                await changes.delete(address)
                return await changes.add(address)

        uuid = await self._until_done(ask, _with(machine))
        if uuid:
            self._configurations.told(uuid, is_member=True)
        return bool(uuid)

    def _make_ready(self, machine: Machine) -> None:
        """A machine is about to get a replica."""
        if machine.is_broken:
            machine.renew()
        self._cluster.use(machine)

    async def _remove(self, machine: Machine) -> None:
        configurations = self._configurations
        uuid = configurations.uuid_at(machine.name)
        configurations.asked_to_remove(uuid)

        async def ask(engine: Engine) -> str:
            await engine.changes.remove(uuid)
            return uuid

        if await self._until_done(ask, _without(machine)):
            configurations.told(uuid, is_member=False)

    async def _until_done(self, ask: Ask, edit: Edit) -> str:
        """Ask one target after the other; what was answered, or nothing."""
        wish = self._configurations.wish(edit)
        abandoned: list[Asked] = []
        wish.is_possible = lambda: True
        answer: str | None = None
        tries = 0
        while answer is None and tries < TRIES and not self._clients.is_over:
            tries += 1
            if targets := self._targets():
                answer = await self._ask(targets[-1], ask, abandoned)
            if answer is None:
                await asyncio.sleep(AGAIN_S * tries)
        wish.is_possible = lambda: any(target.is_up for target in abandoned)
        return answer or ""

    async def _ask(self, target: Asked, ask: Ask, abandoned: list[Asked]) -> str | None:
        """Ask one; None where it is to be asked again, and nothing where that makes no sense."""
        engine, process = target.engine, target.process
        assert engine is not None
        assert process is not None
        task = process.run(_answered(ask, engine))
        await target.wait(task, PATIENCE_S)
        if task.done():
            answer: str | None = task.result()
            return answer
        task.cancel()
        abandoned.append(target)
        return None


async def _answered(ask: Ask, engine: Engine) -> str | None:
    try:
        return await ask(engine)
    except UnavailableError:
        return None
    except CstorError:
        return ""


def _with(machine: Machine) -> Edit:
    def edit(addresses: Addresses) -> Addresses:
        return addresses if machine.name in addresses else (*addresses, machine.name)

    return edit


def _without(machine: Machine) -> Edit:
    def edit(addresses: Addresses) -> Addresses:
        return tuple(address for address in addresses if address != machine.name)

    return edit
