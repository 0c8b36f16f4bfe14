"""Mistakes in rebuilds: what a replica is that takes new entries while it lacks old ones."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from cstor_core.history import History, Reign
from cstor_core.words import history_message
from cstor_target.volume.members import Member
from cstor_target.volume.returning import Returning
from cstor_target.volume.roster import Roster
from replica import copies, pulls, sources, staging
from replica.copies import CopiesSession
from replica.errors import OrderError
from replica.host import ReplicaHost
from replica.replica_node import ReplicaNode
from replica.sources import Giving
from replica.store.pace import BACKGROUND, Pace
from replica.store.reader import Reader
from replica.store.rebuild import Rebuild
from replica.store.records import Kind
from replica.store.replica_store import ReplicaStore
from replica.store.standing import Standing
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


@_found.breaks("A rebuilding replica votes with the position that it held before its stream.")
def vote_while_rebuilding() -> None:
    """It votes as a complete one, with the position of its stream, and is taken for one then."""

    def history(self: Standing) -> History:
        if not self._reigns.reigns:
            return self._reigns
        return self._reigns.extended(max(self.applied_seq, self._reigns.end.last_seq))

    promise = ReplicaHost.promise

    async def careless(self: ReplicaHost, request: Any) -> Any:
        node = self.node(request.volume_uuid, request.replica_uuid)
        node.store._parts.standing.rebuilding = False
        return await promise(self, request)

    Standing.history = property(history)  # type: ignore[assignment, method-assign]
    ReplicaHost.promise = careless  # type: ignore[method-assign]


@_found.breaks("A replica has written down that it is rebuilding before its first such entry.")
def forget_the_flag_over_a_restart() -> None:
    """A daemon that is started takes its replica for complete."""
    open_host = ReplicaHost.open

    async def careless(*arguments: Any, **named: Any) -> ReplicaHost:
        host = await open_host(*arguments, **named)
        for node in host.nodes.values():
            node.store._parts.standing.rebuilding = False
        return host

    ReplicaHost.open = careless  # type: ignore[method-assign]


@_found.breaks("A rebuilding replica serves no read.")
def serve_reads_while_rebuilding() -> None:
    """It is asked as soon as it has a stream, and answers."""
    rebuild_started = Roster.rebuild_started

    def careless(self: Roster, member: Member) -> None:
        rebuild_started(self, member)
        if member.append_stream is not None:
            self._reads.add(member)

    ReplicaNode.serves_reads = lambda self, epoch: True  # type: ignore[method-assign]
    Roster.rebuild_started = careless  # type: ignore[method-assign]


def _any_may_give() -> None:
    def check(node: ReplicaNode, epoch: int) -> None:
        node.check_usable()
        node.fence.check_epoch(epoch)

    patched: Any = (copies, sources, staging)
    for module in patched:
        module.check_source = check


@_found.breaks("A rebuilding replica is no source.")
def be_a_source_while_rebuilding() -> None:
    """Whoever has a stream that is far enough is asked, those being rebuilt first; and nobody looks
    how far the source was before its stream.
    """

    async def source_at(
        self: Returning,
        member: Member,
        seq: int,
        *,
        needs_stream: bool = True,
        tried: Collection[Member] = (),
    ) -> Member:
        while True:
            able = [
                other
                for other in self._roster.receivers
                if other is not member
                and other not in tried
                and other.append_stream is not None
                and other.applied_seq >= seq
            ]
            if able:
                return min(able, key=lambda other: other in self._roster.in_sync)
            if not self._roster.in_sync or (needs_stream and member.append_stream is None):
                raise OrderError("no member is left to copy from")
            await self._clock.sleep(0.01)

    copy = pulls.Rebuild._copy

    async def trusting(self: pulls.Rebuild, peer: Any, copies: Any) -> History:
        await copy(self, peer, copies)
        return self._history

    _any_may_give()
    Returning._source_at = source_at  # type: ignore[method-assign]
    pulls.Rebuild._copy = trusting  # type: ignore[method-assign]


@_found.breaks("A copied block replaces another one only if its version is higher.")
def copy_over_what_is_newer() -> None:
    """A copy is taken whatever its version is."""

    def careless(self: Rebuild, run: Any, history: History) -> None:
        theirs = self._checked(run)
        if theirs["seq"].size:
            self.max_copied_seq = max(self.max_copied_seq, int(theirs["seq"].max()))
        self._take(theirs, np.ones(len(theirs), dtype=np.bool_), run.data)

    Rebuild.copy_in = careless  # type: ignore[method-assign]


@_found.breaks("A range is skipped only if neither side has anything beyond what they share.")
def skip_what_is_older_than_the_own_end() -> None:
    """The source is asked for what it has behind the member's own end, be that shared or not."""

    compare = pulls.Rebuild._compare

    async def careless(
        self: pulls.Rebuild, peer: Any, copies: Any, since: Reign, asked: Any
    ) -> History:
        return await compare(self, peer, copies, self._node.store.history.end, asked)

    pulls.Rebuild._compare = careless  # type: ignore[method-assign]


@_found.breaks("A rebuild ends when the stream has reached every version that was copied.")
def be_in_sync_before_the_stream_caught_up() -> None:
    """The flag is cleared when the last block has come."""

    async def reached(self: ReplicaNode, seq: int) -> None:
        """Nobody waits for the stream."""

    ReplicaNode.reached = reached  # type: ignore[method-assign]


@_found.breaks("Flush, then clear the flag, then it is in sync.")
def clear_the_flag_before_the_flush() -> None:
    """The record that clears it is written, and nobody waits until anything is flushed."""

    async def careless(self: ReplicaStore, history: History) -> None:
        parts = self._parts
        standing = parts.standing
        if standing.applied_seq > history.end.last_seq:
            self._durability.went_back(history.end.last_seq)
        payload = history_message(history).SerializeToString()
        point = self._writer.record(Kind.REBUILD_END, payload, history.end.last_seq)
        freed: list[int] = []
        standing.end_rebuild(history, parts.block_map, freed)
        parts.reclaimer.put(freed, point[1])

    promote = Roster.promote

    def promoted(self: Roster, member: Member) -> None:
        if member.durable_seq == 0:
            member.durable_seq = member.applied_seq
        promote(self, member)

    ReplicaStore.finish_rebuild = careless  # type: ignore[method-assign]
    Roster.promote = promoted  # type: ignore[method-assign]


@_found.breaks("An unmapped block keeps its version as a tombstone.")
def forget_what_was_unmapped() -> None:
    """A source names no block that has no data any more."""

    changed_since = Reader.changed_since

    async def careless(self: Reader, point: Reign, pace: Pace = BACKGROUND) -> Any:
        _, written = await changed_since(self, point, pace)
        return written[:0], written

    Reader.changed_since = careless  # type: ignore[method-assign]


@_found.breaks("Copies carry the epoch and are fenced by it.")
def copy_for_an_earlier_epoch() -> None:
    """A source gives to whoever asks, and goes on where another target has taken over."""

    def check(node: ReplicaNode, epoch: int) -> None:
        node.check_usable()
        if node.store.rebuilding:
            raise OrderError("it is rebuilding")

    patched: Any = (copies, sources, staging)
    for module in patched:
        module.check_source = check
    Giving.check = lambda self: None  # type: ignore[method-assign]
    CopiesSession.close = lambda self, error: None  # type: ignore[method-assign]
