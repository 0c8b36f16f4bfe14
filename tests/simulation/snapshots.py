"""What operators ask of the volume beside its clients: snapshots, and a larger size.

A snapshot reads all blocks at one moment between the first time it was asked for and the answer:
each of its blocks is a read of that block's register, and no replica has another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from cstor_core.errors import CstorError, UnavailableError, UnknownSnapshotError
from cstor_core.frames import RunView
from cstor_core.rows import ROW_BYTES, UNMAP, rows_of
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.operations import Operations
from replica.replica_node import ReplicaNode
from replica.store.operations import Snapshot
from tests.simulation.changes import Asked
from tests.simulation.clients import SHARED_BLOCKS, ZEROS, Clients, stamp_of
from tests.simulation.cluster import BLOCKS
from tests.simulation.machines import Machine
from tests.simulation.oracle import NEVER
from tests.simulation.watch import counts, reverted, rows_of_node

AGAIN_S = 0.3
LOOK_AGAIN_S = 2.0

Ask = Callable[[Operations], Awaitable[object]]
Content = dict[int, tuple[int, bytes]]
"""The seq of the version and the data of each block that has some."""


@dataclass(slots=True)
class AskedSnapshot:
    """A snapshot that somebody has asked for."""

    start_s: float
    end_s: float = NEVER
    """When it was answered."""
    is_clouded: bool = False
    """Meanwhile somebody said that something may be gone."""
    may_be_gone: bool = False
    """Somebody has asked to delete it, too."""
    is_gone: bool = False
    is_pinned: bool = False
    """Somebody has asked to revert to it: it is not deleted any more."""


class Snapshots:
    """Of one life."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._loop = clients.cluster.loop
        self._asked: dict[str, AskedSnapshot] = {}
        self._size_bytes = BLOCKS * BLOCK_BYTES
        self._asked_bytes = self._size_bytes
        """More than that has been asked of nobody."""
        self._is_reverting = False

    @property
    def _losses(self) -> int:
        """How often somebody said that something may be gone."""
        return self._clients.losses

    def _targets(self) -> Sequence[Asked]:
        """Who can be asked."""
        return [target for target in self._clients.targets if target.is_up]

    def _replicas(self) -> list[tuple[Machine, ReplicaNode]]:
        """Those that are not lost, with their machines."""
        machines = [one for one in self._clients.cluster.members if not one.is_broken]
        return [(machine, machine.node) for machine in machines if machine.node is not None]

    def _is_taking(self, name: str) -> None:
        """A snapshot is asked for."""

    def _was_taken(self, name: str) -> None:
        """It is there."""

    @property
    def asked_bytes(self) -> int:
        """The largest size that anybody has asked for."""
        return self._asked_bytes

    def take(self, name: str, *, tries: float = NEVER) -> bool:
        """Ask for a snapshot, so often or until it is there; False where that was done before."""
        if name in self._asked:
            return False
        asked = self._asked[name] = AskedSnapshot(self._loop.time())
        losses = self._losses
        self._is_taking(name)

        def answered() -> None:
            self._was_taken(name)
            asked.end_s = self._loop.time()
            asked.is_clouded = losses != self._losses

        self._begin(lambda operations: operations.create_snapshot(name), answered, tries)
        return True

    def delete(self, name: str, *, tries: float = NEVER) -> bool:
        """Ask to delete one that is there until it is not, or so often; False where it was asked
        for before.
        """
        asked = self._asked.get(name)
        if asked is None or asked.end_s == NEVER or asked.may_be_gone or asked.is_pinned:
            return False
        asked.may_be_gone = True

        def answered() -> None:
            asked.is_gone = True

        self._begin(lambda operations: operations.delete_snapshot(name), answered, tries)
        return True

    def revert(self, name: str) -> bool:
        """Ask once for a revert; False where there is no such snapshot, or another one is under
        way.
        """
        asked = self._asked.get(name)
        if asked is None or asked.end_s == NEVER or asked.may_be_gone or self._is_reverting:
            return False
        asked.is_pinned = self._is_reverting = True
        self._loop.create_task(self._revert(name))
        return True

    async def _revert(self, name: str) -> None:
        try:
            content = await self.known_content(name)
            if content is not None:
                await self._revert_to(name, content)
        finally:
            self._is_reverting = False

    async def known_content(self, name: str) -> Content | None:
        """What a snapshot holds, as a replica has it that has adopted the newest epoch and tells
        no lies; None where there is none.
        """
        nodes = [node for machine, node in self._replicas() if not machine.has_rotted]
        return await content_known_to(nodes, name)

    async def _revert_to(self, name: str, content: Content) -> None:
        """Ask one target for it, and note what may become of that."""
        targets = self._targets()
        if not targets or self._clients.is_over:
            return
        losses = self._losses
        ends = self._revert_begins(name, {block: data for block, (_, data) in content.items()})
        is_done = await self._ask(targets[-1], lambda operations: operations.revert(name))
        is_done = is_done and losses == self._losses
        ends(is_done)
        self._was_reverted(name, is_done=is_done)

    def _was_reverted(self, name: str, *, is_done: bool) -> None:
        """A revert was answered, or nobody knows what became of it."""
        self._clients.cluster.note(f"revert to {name}: {'done' if is_done else 'nobody knows'}")

    def _revert_begins(self, name: str, blocks: Mapping[int, bytes]) -> Callable[[bool], None]:
        """A revert to these blocks is asked for; what is to be told whether it was answered."""
        clients = self._clients
        stamps = {block: stamp_of(blocks.get(block, ZEROS)) for block in range(SHARED_BLOCKS)}
        revert = clients.registers.revert(stamps, self._loop.time(), f"revert to {name}")
        clients.revert_begins(blocks)

        def ends(is_done: bool) -> None:
            if is_done:
                revert.end_s = self._loop.time()
            clients.revert_ends(is_done=is_done)

        return ends

    def forced(self) -> None:
        """A target was forced to open: it goes on with what some replicas have, whatever that is.

        Of what was asked for before nothing is known any more, and nobody asks for more of it.
        """
        for asked in self._asked.values():
            asked.is_clouded = asked.may_be_gone = True
            asked.is_gone = False
        self._size_bytes = BLOCKS * BLOCK_BYTES

    def newest(self) -> str:
        """The name of the newest one that nobody has asked to delete; empty where there is none."""
        there = [
            name
            for name, asked in self._asked.items()
            if asked.end_s != NEVER and not asked.may_be_gone
        ]
        return there[-1] if there else ""

    def taken(self, name: str) -> AskedSnapshot | None:
        """What is known of one that was taken, whoever has asked to delete it since; None where
        nobody was told that it was.
        """
        asked = self._asked.get(name)
        return asked if asked is not None and asked.end_s != NEVER else None

    def grow(self, size_bytes: int) -> None:
        """Ask for a larger volume until it has the size, or a larger one."""
        self._asked_bytes = max(self._asked_bytes, size_bytes)

        def answered() -> None:
            self._has_grown(size_bytes)

        self._begin(
            lambda operations: operations.resize(max(size_bytes, operations.size_bytes)), answered
        )

    def _has_grown(self, size_bytes: int) -> None:
        """It has this size, or a larger one."""
        self._size_bytes = max(self._size_bytes, size_bytes)

    async def look(self) -> list[str]:
        """What is wrong with what is there, when all replicas that are not lost should be equal.

        What somebody has asked for may be done just now: what is wrong is looked at once more.
        """
        broken = await self._look()
        if broken:
            await asyncio.sleep(LOOK_AGAIN_S)
            broken = await self._look()
        return broken

    async def _look(self) -> list[str]:
        found: dict[str, tuple[str, dict[str, Content]]] = {}
        broken: list[str] = []
        for machine, node in self._replicas():
            broken += self._missing(machine.name, node)
            if machine.has_rotted:
                continue
            contents = {}
            for snapshot in node.store.snapshots:
                contents[snapshot.name] = content = await _content_of(node, snapshot.name)
                broken += _torn(machine.name, node, snapshot, content)
            shape = repr([(one.name, one.seq, one.size_bytes) for one in node.store.snapshots])
            found[machine.name] = shape, contents
        for name, same in found.items():
            if same != next(iter(found.values())):
                broken.append(f"{name} has other snapshots than {next(iter(found))}")
        for _, contents in list(found.values())[:1]:
            for snapshot_name, content in contents.items():
                self._read(snapshot_name, content)
        return broken

    def _begin(self, ask: Ask, answered: Callable[[], None], tries: float = NEVER) -> None:
        self._loop.create_task(self._until_done(ask, answered, tries))

    async def _until_done(self, ask: Ask, answered: Callable[[], None], tries: float) -> None:
        """Ask one target after the other, so often, until one says that it is done."""
        while not self._clients.is_over and tries > 0:
            tries -= 1
            targets = self._targets()
            if targets and await self._ask(targets[-1], ask):
                answered()
                return
            await asyncio.sleep(AGAIN_S)

    async def _ask(self, target: Asked, ask: Ask) -> bool:
        """Whether a target says that it is done."""
        engine, process = target.engine, target.process
        assert engine is not None
        assert process is not None
        task = process.run(_asked(ask, engine.operations))
        await target.wait(task, NEVER)
        return bool(task.done() and task.result())

    def _missing(self, who: str, node: ReplicaNode) -> list[str]:
        """What somebody was told to be done, and a replica has not done."""
        broken = []
        there = {snapshot.name for snapshot in node.store.snapshots}
        for name, asked in self._asked.items():
            if asked.end_s != NEVER and not asked.may_be_gone and name not in there:
                broken.append(f"{who} does not have {name}, which was taken at {asked.end_s:.4f}")
            if asked.is_gone and name in there:
                broken.append(f"{who} has {name}, which was deleted")
        if node.store.size_bytes < self._size_bytes:
            broken.append(f"{who} has {node.store.size_bytes} bytes, of {self._size_bytes}")
        if node.store.size_bytes > self._asked_bytes:
            broken.append(f"{who} has {node.store.size_bytes} bytes, which nobody has asked for")
        return broken

    def _read(self, name: str, content: Content) -> None:
        """What a snapshot holds of blocks that anybody writes was read at its moment."""
        asked = self._asked[name]
        if asked.is_clouded:
            return
        for block in range(SHARED_BLOCKS):
            stamp = stamp_of(content.get(block, (0, ZEROS))[1])
            self._clients.registers.read(block, stamp, asked.start_s, asked.end_s, name)


async def _asked(ask: Ask, operations: Operations) -> bool:
    """Whether an operation is done."""
    try:
        await ask(operations)
    except (UnavailableError, UnknownSnapshotError):
        return False
    return True


async def content_known_to(nodes: Sequence[ReplicaNode], name: str) -> Content | None:
    """What a snapshot holds, as one of some replicas has it that has adopted the newest epoch."""
    complete = [node for node in nodes if counts(node)]
    newest = max((node.store.history.end.epoch for node in complete), default=0)
    for node in complete:
        names = {snapshot.name for snapshot in node.store.snapshots}
        if node.store.history.end.epoch == newest and name in names:
            try:
                return await _content_of(node, name)
            except CstorError:
                continue  # its disk does not let it be read now
    return None


async def _content_of(node: ReplicaNode, name: str) -> Content:
    return content_of_run(await node.store.read_snapshot(name, 0, BLOCKS))


def content_of_run(run: RunView) -> Content:
    """What is in rows and their data, as a store gives them."""
    data = bytes(run.data)
    rows = rows_of(bytes(run.table))
    assert len(run.table) == ROW_BYTES * len(rows)
    with_data = [row for row in rows.tolist() if row[1] and not row[1] & UNMAP]
    return {
        row[0]: (row[2], data[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES])
        for at, row in enumerate(with_data)
    }


def _torn(who: str, node: ReplicaNode, snapshot: Snapshot, content: Content) -> list[str]:
    """Where a snapshot holds what came after it, or not what was there before it."""
    broken = [
        f"{who}: {snapshot.name} of {snapshot.seq} holds block {block} of {seq}"
        for block, (seq, _) in content.items()
        if seq >= snapshot.seq
    ]
    after_seq, before_seq = reverted(node.store)
    if after_seq > snapshot.seq and before_seq != snapshot.seq:
        return broken  # the volume sees another snapshot, and what came behind that
    for row in rows_of_node(node).tolist():
        block, place, seq = row[:3]
        held = 0 if place & UNMAP else seq
        if seq < max(snapshot.seq, after_seq) and held != content.get(block, (0,))[0]:
            broken.append(f"{who}: {snapshot.name} of {snapshot.seq} lacks block {block} of {seq}")
    return broken
