"""Clients of the volume: they write stamps, read them back, flush, and note what was answered."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import Any

from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Failure, ReadDone
from cstor_target.volume.engine import Engine
from tests.simulation.cluster import BLOCKS, Cluster, Target
from tests.simulation.oracle import NEVER, Registers

SHARED_BLOCKS = BLOCKS // 2
"""Blocks before this one are anybody's; each one behind it is one client's own."""
SPAN_MAX = 4
SAME_BLOCKS = 12
IN_ORDER = 10
SECTOR_BYTES = 512
ZEROS = bytes(BLOCK_BYTES)
RATE = 8.8
"""Commands a second, all clients together, in the mean; some seconds are busy, others calm."""
ENOUGH = 506
"""From so many commands on a life counts, and its clients slow down."""
PACE_S = 3.0
_WEIGHTS = list(accumulate((28, 30, 4, 10, 4, 4, 14, 2)))
"""How often a client does each thing that it can."""
_READS_IN_ORDER = 4
"""How often, beside these, one reads block after block, where there is a read cache."""


_COPIES = 0.1
"""How often one copies blocks instead, where somebody does."""


def content_of(stamp: int) -> bytes:
    """A block that tells which write it is of."""
    return stamp.to_bytes(8, "little") * (BLOCK_BYTES // 8)


def stamp_of(content: bytes) -> int:
    """The stamp of a block; -1 where it is torn or of no write."""
    stamp = content[:8]
    return int.from_bytes(stamp, "little") if content == stamp * (BLOCK_BYTES // 8) else -1


class Clients:
    """All clients of one life."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.chance = random.Random(f"{cluster.seed} clients")
        clients = self.chance.choice((4, 6, 8))
        self.registers = Registers()
        self.answers: Counter[str] = Counter()
        self.commands = 0
        self.good = 0
        self.targets: list[Target] = []
        """Those that somebody may still talk to."""
        self.losses = 0
        """How often somebody said that something may be gone."""
        self.is_over = False
        self.broken: list[str] = []
        self.shared_blocks = SHARED_BLOCKS
        """So many are anybody's."""
        self.on_loss: Callable[[bool], None] = lambda is_forced: None
        """Told where something may be gone, and whether by a forced opening."""
        self.copy: Callable[[Client, Target], Coroutine[Any, Any, None]] | None = None
        """How one copies blocks, where somebody does."""
        self.on_revert: Callable[[], None] = lambda: None
        self._stamps = 0
        self._pace_until_s = 0.0
        self._pace = 1.0
        own = (BLOCKS - SHARED_BLOCKS) // clients
        self._all: list[Client] = []
        self._own = [
            range(SHARED_BLOCKS + number * own, SHARED_BLOCKS + (number + 1) * own)
            for number in range(clients)
        ]

    def begin(self) -> list[Any]:
        """Start all of them; the tasks end some time after `is_over` is set."""
        loop = self.cluster.loop
        self._all = [Client(self, number, blocks) for number, blocks in enumerate(self._own)]
        return [loop.create_task(client.live()) for client in self._all]

    def loss_said(self, *, is_forced: bool = False) -> None:
        """A target has said that something acknowledged may be gone; with a forced opening also
        what was flushed.
        """
        self.losses += 1
        self.registers.loss_said(self.cluster.loop.time())
        self.on_loss(is_forced)
        for client in self._all:
            client.own.lost(is_forced=is_forced)

    def revert_begins(self, contents: Mapping[int, bytes]) -> None:
        """Somebody asks for a revert to a snapshot with these blocks, and zeros elsewhere."""
        self.on_revert()
        for client in self._all:
            client.own.revert_begins(contents)

    def revert_ends(self, *, is_done: bool) -> None:
        """It was answered; or not, and may have happened before this or never does."""
        self.on_revert()
        for client in self._all:
            client.own.revert_ends(is_done=is_done)

    def pause_s(self) -> float:
        """How long a client pauses, in the mean, as things are."""
        now_s = self.cluster.loop.time()
        if now_s > self._pace_until_s:
            self._pace_until_s = now_s + PACE_S
            self._pace = self.chance.choice((0.3, 1.0, 1.0, 2.0))
        pause_s = len(self._own) / RATE * self._pace
        return pause_s * 3 if self.commands > min(RATE * now_s, ENOUGH) else pause_s / 3

    def next_stamp(self) -> int:
        """A value that was never written."""
        self._stamps += 1
        return self._stamps << 8 | 1


class Client:
    """One that does one thing after another."""

    def __init__(self, clients: Clients, number: int, own: range) -> None:
        self._clients = clients
        self._number = number
        self._chance = random.Random(f"{clients.cluster.seed} client {number}")
        self.own = OwnBlocks(own)
        self._losses = 0
        """How many had been said when the last command was begun."""
        self._loop = clients.cluster.loop

    async def live(self) -> None:
        """Until it is over."""
        clients, chance = self._clients, self._chance
        steps = [
            *(self._write, self._read, self._flush, self._write_own, self._write_part),
            *(self._unmap_own, self._read_own, self._write_same),
        ]
        weights = _WEIGHTS
        if clients.cluster.settings.read_cache_bytes:
            steps.append(self._read_in_order)
            weights = [*_WEIGHTS, _WEIGHTS[-1] + _READS_IN_ORDER]
        while not clients.is_over:
            await self._loop.after(2 * chance.random() * clients.pause_s())
            targets = [target for target in clients.targets if target.is_up]
            if not targets:
                continue
            target = chance.choice(targets)
            (step,) = chance.choices(steps, cum_weights=weights)
            self.own.is_busy = True
            if clients.copy is not None and chance.random() < _COPIES:
                await clients.copy(self, target)
            else:
                await step(target)
            self.own.command_ends()

    async def ask(self, target: Target, ask: Any) -> tuple[Failure | None, Any] | None:
        """A command and its answer; None where the target ended without one."""
        clients = self._clients
        clients.commands += 1
        self._losses = clients.losses
        answered: asyncio.Future[Any] = self._loop.create_future()

        def ended(_target: object) -> None:
            if not answered.done():
                answered.set_result(None)

        def done(error: Failure | None, pieces: Any = ()) -> None:
            if not answered.done():
                answered.set_result((error, [bytes(piece) for piece in pieces]))

        def send() -> None:
            engine = target.engine
            assert engine is not None
            ask(engine, done)
            engine.kick()

        assert target.process is not None
        target.process.call(send)
        target.ended.add_done_callback(ended)
        answer = await answered
        target.ended.remove_done_callback(ended)
        if answer is None:
            return None
        error, pieces = answer
        clients.answers["GOOD" if error is None else error.name] += 1
        clients.good += error is None
        return error, pieces

    async def _write(self, target: Target) -> None:
        chance, clients = self._chance, self._clients
        first = chance.randrange(clients.shared_blocks)
        count = min(chance.choice((1, 1, 1, 2, SPAN_MAX)), clients.shared_blocks - first)
        await self._write_stamps(target, first, [clients.next_stamp() for _ in range(count)])

    async def _write_same(self, target: Target) -> None:
        """WRITE SAME: one block's data over many."""
        shared = self._clients.shared_blocks
        first = self._chance.randrange(shared)
        count = min(SAME_BLOCKS, shared - first)
        await self._write_stamps(target, first, [self._clients.next_stamp()] * count)

    async def _write_stamps(self, target: Target, first: int, stamps: list[int]) -> None:
        clients = self._clients
        durable = self.is_durable()
        start_s = self._loop.time()
        who = f"client {self._number} at {target.name}"
        for index, stamp in enumerate(stamps):
            clients.registers.wrote(first + index, stamp, start_s, NEVER, who)
        answer = await self.ask(
            target,
            lambda engine, done: engine.write(
                first * BLOCK_BYTES, [content_of(stamp) for stamp in stamps], durable, done
            ),
        )
        if answer is not None and answer[0] is None:
            for index, stamp in enumerate(stamps):
                clients.registers.wrote(first + index, stamp, start_s, self._loop.time(), who)

    def is_durable(self) -> bool:
        """Whether a write has FUA, or there is no write cache."""
        return not self._clients.cluster.write_cache or self._chance.random() < 0.1

    async def _read(self, target: Target) -> None:
        chance, shared = self._chance, self._clients.shared_blocks
        first = chance.randrange(shared)
        count = min(chance.choice((1, 1, 2, SPAN_MAX)), shared - first)
        await self._read_blocks(target, first, count)

    async def _read_in_order(self, target: Target) -> None:
        """One block after another, as somebody who reads a file; others write to it meanwhile."""
        first = self._chance.randrange(self._clients.shared_blocks - IN_ORDER)
        writes_at = self._chance.randrange(first, first + IN_ORDER)
        writing: asyncio.Task[None] | None = None
        for block in range(first, first + IN_ORDER):
            if block == writes_at:
                ahead = self._chance.randrange(block, first + IN_ORDER)
                stamp = self._clients.next_stamp()
                writing = self._loop.create_task(self._write_stamps(target, ahead, [stamp]))
            if not target.is_up:
                break
            await self._read_blocks(target, block, 1)
        if writing is not None:
            await writing

    async def _read_blocks(self, target: Target, first: int, count: int) -> None:
        clients = self._clients
        start_s = self._loop.time()
        answer = await self.ask(
            target,
            lambda engine, done: read(engine, first * BLOCK_BYTES, count * BLOCK_BYTES, done),
        )
        if answer is None or answer[0] is not None:
            return
        content = b"".join(answer[1])
        who = f"client {self._number} at {target.name}"
        for index in range(count):
            stamp = stamp_of(content[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES])
            clients.registers.read(first + index, stamp, start_s, self._loop.time(), who)

    async def _flush(self, target: Target) -> None:
        answer = await self.ask(target, lambda engine, done: engine.flush(done))
        if answer is not None and answer[0] is None and self._losses == self._clients.losses:
            self.own.durable(self.own.blocks)

    async def _write_own(self, target: Target) -> None:
        block = self._chance.choice(self.own.blocks)
        stamp = self._clients.next_stamp()
        durable = self.is_durable()
        await self._change(
            target,
            block,
            lambda _content: content_of(stamp),
            lambda engine, done: engine.write(
                block * BLOCK_BYTES, [content_of(stamp)], durable, done
            ),
            durable,
        )

    async def _write_part(self, target: Target) -> None:
        """Some sectors of a block: the target merges them."""
        block = self._chance.choice(self.own.blocks)
        start = self._chance.randrange(BLOCK_BYTES // SECTOR_BYTES) * SECTOR_BYTES
        stamp = self._clients.next_stamp()
        part = content_of(stamp)[: min(SECTOR_BYTES * 2, BLOCK_BYTES - start)]
        durable = self.is_durable()
        await self._change(
            target,
            block,
            lambda content: content[:start] + part + content[start + len(part) :],
            lambda engine, done: engine.write(block * BLOCK_BYTES + start, [part], durable, done),
            durable,
        )

    async def _unmap_own(self, target: Target) -> None:
        block = self._chance.choice(self.own.blocks)
        durable = self.is_durable()
        await self._change(
            target,
            block,
            lambda _content: ZEROS,
            lambda engine, done: engine.unmap([(block * BLOCK_BYTES, BLOCK_BYTES)], durable, done),
            durable,
        )

    async def _change(
        self,
        target: Target,
        block: int,
        change: Callable[[bytes], bytes],
        ask: Any,
        durable: bool,
    ) -> None:
        self.own.begin(block, change)
        await self.finish(target, [block], ask, durable)

    async def finish(self, target: Target, blocks: list[int], ask: Any, durable: bool) -> None:
        """Have a change be made that has begun, and note how that was answered."""
        answer = await self.ask(target, ask)
        if answer is not None and answer[0] is None and self._losses == self._clients.losses:
            for block in blocks:
                self.own.done(block)
            if durable:
                self.own.durable(blocks)

    async def _read_own(self, target: Target) -> None:
        block = self._chance.choice(self.own.blocks)
        answer = await self.ask(
            target, lambda engine, done: read(engine, block * BLOCK_BYTES, BLOCK_BYTES, done)
        )
        if answer is None or answer[0] is not None:
            return
        self.check(block, b"".join(answer[1]), target)

    def check(self, block: int, content: bytes, target: Target) -> None:
        """An own block was read."""
        wrong = self.own.read(block, content)
        if wrong:
            self._clients.broken.append(
                f"block {block}: its only client {self._number} read {wrong} "
                f"from {target.name} at {self._loop.time():.4f}"
            )


def read(engine: Engine, offset: int, length: int, done: ReadDone) -> None:
    """Read, as the unit has it done: not while it is sanitized."""
    if engine.sanitizing.now.state:
        asyncio.get_running_loop().call_soon(done, Failure.SANITIZING, ())
    else:
        engine.read(offset, length, done)


class OwnBlocks:
    """Blocks that only one client writes: what each of them may hold."""

    def __init__(self, blocks: range, contents: Mapping[int, bytes] = MappingProxyType({})) -> None:
        """Those that are not among the contents are zeros at first."""
        self.blocks = list(blocks)
        first = {block: contents.get(block, ZEROS) for block in blocks}
        self._may_hold: dict[int, dict[bytes, None]] = {
            at: {one: None} for at, one in first.items()
        }
        self._changed: dict[int, dict[bytes, None]] = {}
        self._last_change: dict[int, Callable[[bytes], bytes]] = {}
        self._since_durable: dict[int, dict[bytes, None]]
        self._since_durable = {block: dict(may_hold) for block, may_hold in self._may_hold.items()}
        self._ever = {block: dict(may_hold) for block, may_hold in self._may_hold.items()}
        """Whatever each may have held at some time."""
        self._noted: dict[str, dict[int, dict[bytes, None]]] = {}
        """What each block may have held at some time since a moment, by the name of that."""
        self._unanswered: dict[int, None] = {}
        """The last change of these has not been answered."""
        self.is_busy = False
        """A command is under way."""
        self._reverted: dict[int, dict[bytes, None]] = {}
        """What blocks may hold where a revert happens that is under way, or was when the present
        command began.
        """
        self._is_over = self._is_done = False

    def note_from_now_on(self, name: str) -> None:
        """Note what each block may hold from now on."""
        self._noted[name] = {block: dict(held) for block, held in self._may_hold.items()}

    def noted(self, name: str) -> dict[int, dict[bytes, None]]:
        """What was noted since then, and no more of it."""
        return self._noted.pop(name)

    def _note(self, block: int, contents: dict[bytes, None]) -> None:
        for noted in self._noted.values():
            noted[block] |= contents

    def revert_begins(self, contents: Mapping[int, bytes]) -> None:
        """A revert has been asked for: each block may get what it had then, and a change that is
        under way may come on top of that.
        """
        self._is_over = False  # one before it, during the same command, counts as not answered
        for block in self.blocks:
            content = contents.get(block, ZEROS)
            reverted = self._reverted.setdefault(block, {})
            reverted[content] = None
            if block in self._unanswered:
                reverted[self._last_change[block](content)] = None
            self._note(block, reverted)
            self._may_hold[block] |= reverted
            self._since_durable[block] |= reverted
            self._ever[block] |= reverted

    def revert_ends(self, *, is_done: bool) -> None:
        """It was answered; or not, and may have happened before this or never does."""
        self._is_over, self._is_done = True, is_done
        self._settle()

    def command_ends(self) -> None:
        """No command is under way."""
        self.is_busy = False
        self._settle()

    def _settle(self) -> None:
        """A revert is over, and so is the command that was under way meanwhile."""
        if self.is_busy or not self._is_over:
            return
        for block, may_hold in self._reverted.items():
            if self._is_done:
                self._may_hold[block] = dict(may_hold)
                self._since_durable[block] = dict(may_hold)
        self._reverted.clear()
        self._is_over = False

    def begin(self, block: int, change: Callable[[bytes], bytes]) -> None:
        """A change has been asked for: it may come to be, or not."""
        if block in self._reverted:
            self._reverted[block] |= dict.fromkeys(map(change, self._reverted[block]))
        may_hold = self._may_hold[block]
        self._changed[block] = dict.fromkeys(change(content) for content in may_hold)
        self._ever[block] |= self._changed[block]
        if self._noted:
            self._note(block, self._changed[block])
        self._last_change[block] = change
        self._unanswered[block] = None
        may_hold |= self._changed[block]
        self._since_durable[block] |= may_hold

    def done(self, block: int) -> None:
        """It was answered with GOOD."""
        self._unanswered.pop(block, None)
        self._may_hold[block] = self._changed[block] | self._reverted.get(block, {})

    def durable(self, blocks: list[int]) -> None:
        """What some blocks hold is on stable storage of W members."""
        for block in blocks:
            self._since_durable[block] = dict(self._may_hold[block])

    def lost(self, *, is_forced: bool = False) -> None:
        """All machines may have lost what was not on stable storage; with a forced opening, a
        block may hold whatever it ever had.

        A change that is under way may come to be on top of that.
        """
        for block in self.blocks:
            held = self._ever if is_forced else self._since_durable
            may_hold = dict(held[block])
            if block in self._last_change:
                may_hold |= dict.fromkeys(map(self._last_change[block], may_hold))
            self._may_hold[block] = may_hold
            self._since_durable[block] = dict(may_hold)

    def read(self, block: int, content: bytes) -> str:
        """A block was read: what is wrong with that, or nothing; now it is known what it holds."""
        may_hold = self._may_hold[block]
        if content not in may_hold:
            return f"{_stamps(content)}, and it may hold one of {[*map(_stamps, may_hold)]}"
        self._may_hold[block] = {content: None} | self._reverted.get(block, {})
        return ""


def _stamps(content: bytes) -> str:
    """The stamps of the sectors, each once."""
    sectors = range(0, BLOCK_BYTES, SECTOR_BYTES)
    found = dict.fromkeys(int.from_bytes(content[at : at + 8], "little") for at in sectors)
    return "+".join(map(hex, found))
