"""Scrubs that operators ask for, and what has to be right about them.

No disk here forgets what was written down in its map, so that no copy is ever older, other or
unknown: whoever is accused of that had a write on its way.  Data that do not match their checksum
are only on machines whose disks have rotted, lied or failed reads.  And when everything is healed,
a scrub leaves no bad block, since all but one machine have good ones.
"""

from __future__ import annotations

import asyncio

from cstor_core.errors import UnavailableError
from cstor_target.volume.engine import Engine
from cstor_target.volume.scrub_plan import Wrong
from tests.simulation.clients import Clients
from tests.simulation.cluster import Cluster, Target

LEFT_S_MAX = 90.0
"""So long scrubs may take to put everything right."""
AGAIN_S = 1.0


class Scrubbing:
    """Of one life."""

    def __init__(self, cluster: Cluster, clients: Clients) -> None:
        self._cluster = cluster
        self._clients = clients
        self.have_failed_reads: set[str] = set()
        """Machines of which blocks could not be read for a while."""
        cluster.on_mismatch = self._accused

    def ask(self) -> str:
        """Ask the target that there is for a scrub; its name."""
        target = self._target()
        return "" if target is None else self._start(target)

    async def look(self) -> list[str]:
        """What is wrong after scrubs, when all replicas that are not lost should be equal."""
        deadline_s = self._cluster.loop.time() + LEFT_S_MAX
        left = await self._bad()
        while left and self._cluster.loop.time() < deadline_s:
            self.ask()
            await asyncio.sleep(AGAIN_S)
            left = await self._bad()
        return [f"scrubs have left bad blocks: {', '.join(left)}"] if left else []

    def _target(self) -> Target | None:
        return next((one for one in reversed(self._clients.targets) if one.is_up), None)

    def _start(self, target: Target) -> str:
        engine, process = target.engine, target.process
        assert engine is not None
        assert process is not None
        process.run(_started(engine))
        return target.name

    async def _bad(self) -> list[str]:
        found = []
        for machine in self._cluster.members:
            node = machine.node
            if machine.is_broken or not machine.has_rotted or node is None:
                continue
            for views in ((), node.store.views_of_snapshots()):
                async for _, bad in node.store.scan(0, views):
                    found += [f"{block} on {machine.name}" for block in bad.tolist()]
        return found

    def _accused(self, facts: dict[str, object]) -> None:
        """A target has found copies of somebody wrong."""
        machine = self._cluster.home(str(facts["replica"]), str(facts["address"]))
        is_excused = machine.has_rotted or machine.name in self.have_failed_reads
        if facts["kind"] != Wrong.BAD_CHECKSUM.value or not is_excused:
            self._cluster.loop.errors.append(f"a scrub has accused {machine.name}: {facts}")


async def _started(engine: Engine) -> None:
    try:
        engine.scrubs.start()
    except UnavailableError:
        return  # it is not open, and whoever asked does without
