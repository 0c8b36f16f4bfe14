"""Targets that stand by, in some lives: beside the one that serves there is one that follows it.

Nobody starts another target there while one stands by: if it does not take over, the volume is not
healed.  And it takes over from nobody who is well.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

from cstor_target.volume.succession import Role
from tests.simulation import coverage
from tests.simulation.clients import Clients
from tests.simulation.cluster import Target

Deed = tuple[str, tuple[str | float, ...]]

STANDING_BY = 0.1
"""In so many of the lives whose targets are processes of their own."""
ORDERS: tuple[tuple[Deed, float], ...] = (
    (("leave", ()), 6.0),
    (("kill_target", ("last target", 0.0)), 12.0),
    (("kill_standby", ()), 30.0),
)
"""What happens there: a target is drained, is killed, and one that stands by is; and the pause
between two of a kind, in the mean.
"""
STARTED_S_MAX = 6.0
TOLD_S_MAX = 5.0
POLL_S = 0.05
WELL_S = 3.0
"""A target whose lease has held for so long is not to be followed; the looks of one that stands by
take a moment.
"""
MEMBERS_MIN = 3
"""Of fewer members one whose clock jumps may say alone that no lease runs."""


class Standbys:
    """Of one life."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._cluster = clients.cluster
        self._loop = clients.cluster.loop
        self._chance = random.Random(f"{self._cluster.seed} standbys")
        can_be = not self._cluster.is_in_one_process
        self.is_on = can_be and self._chance.random() < STANDING_BY
        self.broken: list[str] = []
        self._one: Target | None = None
        self._next_s = self._chance.uniform(0.5, STARTED_S_MAX)
        self._held_since_s: dict[Target, float] = {}
        self._cluster.on_takeover = self._takes_over

    def follow(self, names: Iterable[str]) -> None:
        """A script says what is done: one without any of these was made where none stood by."""
        self.is_on = self.is_on and not {"leave", "kill_standby"}.isdisjoint(names)

    def orders(self, until_s: float) -> list[tuple[float, Deed]]:
        """What happens to targets of this life before a moment."""
        planned: list[tuple[float, Deed]] = []
        for deed, pause_s in ORDERS:
            at_s = 2.0
            while self.is_on and (at_s := at_s + self._chance.expovariate(1 / pause_s)) < until_s:
                planned.append((at_s, deed))
        return planned

    @property
    def waits(self) -> bool:
        """Whether one stands by: nobody needs to start another target."""
        return self._one is not None

    def tend(self) -> None:
        """Start one where none is, and see whether the one that there is has taken over."""
        if not self.is_on:
            return
        now_s = self._loop.time()
        for target in self._clients.targets:
            engine = target.engine
            if engine is None or not (engine.serving and engine._lease.holds):
                self._held_since_s.pop(target, None)
            else:
                self._held_since_s.setdefault(target, now_s)
        one = self._one
        if one is not None and one.ended.done():
            self._one = None
        elif one is not None and one.engine is not None:
            if one.engine.succession.role is Role.SERVING:
                self._one = None
                self._clients.targets.append(one)
        elif one is None and now_s >= self._next_s and self._clients.targets:
            self._one = self._cluster.start_target(stands_by=True)
            self._cluster.note(f"{self._one.name} stands by")
            self._next_s = now_s + self._chance.uniform(0.5, STARTED_S_MAX)

    def forget_lost(self, used: set[str]) -> None:
        """Somebody has noticed that it may not find all replicas: that one ends."""
        if self._one is not None and used - {*self._one.addresses}:
            self._one.kill()
            self._one = None

    def kill_standby(self) -> str:
        """End the one that stands by, as SIGKILL does."""
        one, self._one = self._one, None
        if one is None:
            return ""
        one.kill()
        return one.name

    def leave(self) -> str:
        """Drain the target that serves, where it knows of one that stands by."""
        targets = self._clients.targets
        engine = targets[-1].engine if targets else None
        if engine is None or not engine.serving or not engine.succession.standbys:
            return ""
        standby = engine.succession.standbys[0]
        engine.succession.leave_to(standby)
        self._loop.create_task(self._leave(targets[-1]))
        return f"{targets[-1].name} to {standby.target_instance}"

    async def _leave(self, target: Target) -> None:
        assert target.engine is not None
        succession = target.engine.succession
        deadline_s = self._loop.time() + TOLD_S_MAX
        while not succession.is_successor_ready:
            if self._loop.time() > deadline_s or target.ended.done():
                coverage.count("succession: not left")
                succession.stay()
                return
            await asyncio.sleep(POLL_S)
        if not target.ended.done() and target.is_up:
            coverage.count("succession: left")
            target.close()

    def _takes_over(self, follower: Target) -> None:
        """One that stood by begins to open the volume."""
        coverage.count("succession: takes over")
        now_s = self._loop.time()
        for target in self._clients.targets:
            engine = target.engine
            since_s = self._held_since_s.get(target, now_s)
            is_well = target.is_up and engine is not None and not engine.succession.successor
            are_enough = engine is not None and len(engine._roster.members) >= MEMBERS_MIN
            if target is not follower and is_well and are_enough and now_s - since_s > WELL_S:
                self.broken.append(
                    f"{follower.name} takes over at {now_s:.4f} from {target.name}, whose lease "
                    f"has held since {since_s:.4f}"
                )
