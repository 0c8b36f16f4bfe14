"""Mistakes in what brings members to the volume's history."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from cstor_core.frames import FrameEntry, RunView
from cstor_core.history import History
from cstor_target.volume.order import Backlog, Sent
from cstor_target.volume.returning import Returning
from replica import staging
from replica.replica_node import ReplicaNode
from replica.sessions import AppendSession
from replica.store.block_map import BlockMap
from replica.store.pace import BACKGROUND, Pace
from replica.store.rebuild import Lacking, Rebuild
from replica.store.replica_store import ReplicaStore
from replica.store.standing import Standing
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


@_found.breaks("A returning member that holds entries which the history dropped is not a prefix.")
def take_any_shorter_history_for_a_prefix() -> None:
    """Only its length is looked at, and neither stream nor store asks for the epoch's record."""
    begin, check_order = AppendSession._open, AppendSession._check_order

    def is_prefix_of(self: History, other: History) -> bool:
        return self.end.last_seq <= other.end.last_seq

    def careless(self: AppendSession, opening: Any) -> ReplicaNode:
        node = begin(self, opening)
        self._adopted = True
        return node

    def careless_order(self: AppendSession, node: ReplicaNode, entry: FrameEntry) -> int:
        if isinstance(entry, RunView) and not self.rebuilding:
            node.store._parts.standing.epoch = self.epoch
        return check_order(self, node, entry)

    History.is_prefix_of = is_prefix_of  # type: ignore[method-assign]
    AppendSession._open = careless  # type: ignore[method-assign]
    AppendSession._check_order = careless_order  # type: ignore[method-assign]


@_found.breaks("Each block whose version lies outside of the history is foreign and is replaced.")
def keep_foreign_blocks() -> None:
    """A rebuild asks for none of them."""

    async def none(self: Rebuild, history: History, pace: Pace = BACKGROUND) -> Any:
        return np.zeros(0, dtype=np.uint64)

    Rebuild.foreign_blocks = none  # type: ignore[method-assign]


@_found.breaks("What an entry discarded is not discarded where the history drops that entry.")
def discard_what_a_dropped_entry_discarded() -> None:
    """What came in a stream of a dropped reign is discarded at the end of the rebuild, too."""
    discard = Standing._discard

    def whatever(
        self: Standing, block_map: BlockMap, freed: list[int], history: History | None = None
    ) -> None:
        discard(self, block_map, freed)

    Standing._discard = whatever  # type: ignore[method-assign]


@_found.breaks("An entry that was sent rolls forward.")
def let_go_what_no_quorum_holds() -> None:
    """The backlog is bounded, whether anybody else has what it lets go or not."""
    append = Backlog.append

    def careless(self: Backlog, sent: Sent, completed_seq: int) -> None:
        append(self, sent, max(completed_seq, sent.first_seq - 1))

    Backlog.append = careless  # type: ignore[method-assign]


@_found.breaks("A member is made rebuilding only when R other in-sync members hold all it holds.")
def flag_whoever_is_behind() -> None:
    """Nobody else is asked."""

    async def at_once(self: Returning, seq: int) -> None:
        """It may be the last one that has something."""

    Returning._may_flag = lambda self: True  # type: ignore[method-assign]
    Returning._until_others_hold = at_once  # type: ignore[method-assign]


@_found.breaks("W members are brought to that position, in order or in one atomic step.")
def stage_without_the_blocks() -> None:
    """A staged map takes the history over, and nothing that was written in it."""
    pull = staging.pull_stacks

    async def careless(node: ReplicaNode, request: Any) -> AsyncIterator[Any]:
        async for message in pull(node, request):
            if not message.run.table:
                yield message

    staging.pull_stacks = careless


@_found.breaks("A block of a rebuild comes with every other one that the member lacks.")
def copy_half_of_the_blocks() -> None:
    """Every second one is left out."""
    copy_in = ReplicaStore.copy_in

    def careless(self: ReplicaStore, run: Any, history: History) -> None:
        if run.table[0] % 2:
            copy_in(self, run, history)

    ReplicaStore.copy_in = careless  # type: ignore[method-assign]


@_found.breaks("A copied block replaces another one if its version is higher.")
def find_an_older_block_good() -> None:
    """The comparison passes over the first block that differs."""
    lacking = ReplicaStore.lacking

    async def careless(self: ReplicaStore, table: bytes, history: History) -> Lacking:
        found = await lacking(self, table, history)
        return Lacking(found.blocks[1:], found.places[1:], found.verified)

    ReplicaStore.lacking = careless  # type: ignore[method-assign]
