"""What a replica fetches from another one when its target orders it to.

A short absence is made good in order, from the tail of a source (`catch_up`): the replica stays
complete throughout.  A longer one, or a history that parted, is made good block by block while an
append stream brings what is new (`Rebuild`): the replica is flagged before and until its stream
has reached every version that it copied.

A source first lists rows, which are compared with the own ones, and what differs is asked for by
number: so what an earlier rebuild has copied, under whatever target, is not copied again.  It is
asked for in the order in which it lies at the source, which reads what lies side by side at once.

Blocks that this replica has beyond the history of the volume are foreign and are replaced
whatever their version is.  The reigning epoch has one order only, so nothing written under it is
foreign, however far ahead of the own stream a source may be.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np

from cstor_core.errors import CorruptError, InputError, ProtocolError
from cstor_core.frames import BLOCK_NUMBER_BYTES, FrameEntry, RunView
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.history import History, Reign
from cstor_core.rows import ROW_BYTES
from cstor_core.units import BLOCK_BYTES
from cstor_core.words import history_from, history_message
from replica.copies import Copies
from replica.errors import OrderError
from replica.pacing import COMPARING, VERIFYING
from replica.peers import Peer, blame
from replica.replica_node import ReplicaNode
from replica.sessions import AppendSession
from replica.sources import NOTHING_SINCE
from replica.store.pace import BACKGROUND
from replica.store.rebuild import Lacking
from replica.store.row_sets import Blocks

PROGRESS_S = 0.25
STREAM_S_MAX = 5.0
ASKED_BLOCKS_MAX = 1 << 20
"""Blocks asked for by number in one request: 8 MiB of them."""
_ENDLESS_SEQ = 2**63 - 1


async def catch_up(node: ReplicaNode, request: replica_pb2.CatchUpRequest) -> None:
    """Fetch and apply the entries up to `through_seq`, in order.

    Raises DivergedError where the own history is no prefix of the source's, TailError where the
    source no longer keeps the entries, UnavailableError where it does not give them all, OrderError
    on a replica that is rebuilding, and EndedError where another order took this one's place.
    """
    node.check_orders(request.orders)
    if node.store.rebuilding:
        raise OrderError("a replica that is rebuilding is not caught up in order")
    node.end_append_session("the target ordered a catch-up")
    await node.start_job(request.orders.epoch, _catch_up(node, request)).result()


async def _catch_up(node: ReplicaNode, request: replica_pb2.CatchUpRequest) -> None:
    store = node.store
    peer = Peer(node.dialler, request.source)
    began_seq = store.applied_seq
    wanted = replica_pb2.PullEntriesRequest(
        volume_uuid=request.orders.volume_uuid,
        replica_uuid=request.source.replica_uuid,
        epoch=request.orders.epoch,
        history=history_message(store.history),
        through_seq=request.through_seq,
    )
    try:
        async for message in peer.pull_entries(wanted):
            for entry in message.entries:
                node.apply(_entry(entry))
            node.applied()
    except (CorruptError, ProtocolError) as error:
        raise blame(node, peer, error) from error
    finally:
        await peer.close()
    if store.applied_seq < request.through_seq:
        raise peer.unavailable(f"it gave entries up to {store.applied_seq} only")
    node.log.info("caught_up", from_seq=began_seq, through_seq=store.applied_seq)


def _entry(message: volume_pb2.Entry) -> FrameEntry:
    match message.WhichOneof("kind"):
        case "run":
            return RunView(memoryview(message.run.table), memoryview(message.run.data))
        case "epoch_record":
            return message.epoch_record
        case "configuration_change":
            return message.configuration_change
        case "operation":
            return message.operation
        case _:
            raise ProtocolError("an entry is of a kind that this version does not know")


async def begin_rebuild(node: ReplicaNode, request: replica_pb2.BeginRebuildRequest) -> None:
    """Write the flag, durably, before the first entry out of order."""
    node.check_orders(request.orders)
    node.end_append_session("the target ordered a rebuild")
    node.end_job("the rebuild begins anew")
    await node.store.begin_rebuild(loss_possible=request.loss_possible)
    node.log.info("rebuild_flagged", epoch=request.orders.epoch)


def set_pace(node: ReplicaNode, request: replica_pb2.SetPaceRequest) -> None:
    """Copy as fast as the target says from now on."""
    node.check_orders(request.orders, founded=False)
    node.pace.set(request.bytes_per_s)


class Rebuild:
    """One run of a rebuild: from the comparison to the clearing of the flag."""

    def __init__(self, node: ReplicaNode, request: replica_pb2.RebuildRequest) -> None:
        """Check the order.  Raises what the fence raises, OrderError, InputError."""
        node.check_orders(request.orders)
        if not node.store.rebuilding:
            raise OrderError("the replica is not flagged: order the rebuild to begin first")
        self._node = node
        self._request = request
        self._history = history_from(request.history)
        if not self._history.reigns or self._history.end.epoch > request.orders.epoch:
            raise InputError("the history of a rebuild is empty, or later than its epoch")
        self._comparison = _with_reigning(self._history, request.orders.epoch)
        node.pace.set(request.bytes_per_s)
        self._progress = replica_pb2.RebuildResponse()

    async def run(self) -> AsyncIterator[replica_pb2.RebuildResponse]:
        """Do it; progress comes every quarter of a second, `complete` at the end.

        Raises UnavailableError where the source does not give what it should, EndedError where the
        append stream broke or another order took this one's place, and FencedError.
        """
        job = self._node.start_job(self._request.orders.epoch, self._counted())
        try:
            while not job.task.done():
                await asyncio.wait((job.task,), timeout=PROGRESS_S)
                if not job.task.done():
                    yield self._snapshot()
            await job.result()
            yield self._snapshot()
        finally:
            job.task.cancel()

    def _snapshot(self) -> replica_pb2.RebuildResponse:
        copy = replica_pb2.RebuildResponse()
        copy.CopyFrom(self._progress)
        return copy

    async def _counted(self) -> None:
        with self._node.counters.rebuild():
            await self._work()

    async def _work(self) -> None:
        node, store = self._node, self._node.store
        session = await self._stream()
        peer = Peer(node.dialler, self._request.source)
        copies = Copies(peer, self._request.orders)
        try:
            source_history = await self._copy(peer, copies)
        finally:
            copies.close()
            await peer.close()
        if not self._history.is_prefix_of(source_history):
            raise peer.unavailable("it lacks entries from before this replica's stream began")
        if store.max_copied_seq > self._history.end.last_seq:  # else the stream may be silent
            await node.reached(store.max_copied_seq)
        try:
            await store.finish_rebuild(session.history(self._history))
        except CorruptError as error:
            node.found_corrupt(error)
            raise
        session.rebuilt()
        self._progress.complete = True
        self._progress.applied_seq = store.applied_seq
        node.log.info(
            "rebuild_complete",
            blocks=self._progress.blocks_done,
            bytes=self._progress.bytes_copied,
            seq=store.applied_seq,
        )

    async def _stream(self) -> AppendSession:
        """The stream of new entries, which travels beside this order and may come after it."""
        try:
            async with asyncio.timeout(STREAM_S_MAX):
                return await self._node.streaming()
        except TimeoutError as error:
            raise OrderError("no append stream was opened for the rebuild") from error

    async def _copy(self, peer: Peer, copies: Copies) -> History:
        """Copy what the source has and this replica lacks; returns the source's history."""
        node, store = self._node, self._node.store
        since = store.history.shared_with(self._history)
        pace = store.gentle if node.pace.bytes_per_s else BACKGROUND
        foreign = await store.foreign_blocks(self._comparison, pace)
        node.log.info(
            "rebuild_begins",
            epoch=self._request.orders.epoch,
            source=self._request.source.address,
            shared=f"{since.epoch}:{since.last_seq}",
            foreign_blocks=len(foreign),
        )
        asked = foreign[:ASKED_BLOCKS_MAX]
        source_history = await self._compare(peer, copies, since, asked)
        for start in range(ASKED_BLOCKS_MAX, len(foreign), ASKED_BLOCKS_MAX):
            asked = foreign[start : start + ASKED_BLOCKS_MAX]
            await self._compare(peer, copies, NOTHING_SINCE, asked)
        return source_history

    async def _compare(self, peer: Peer, copies: Copies, since: Reign, asked: Blocks) -> History:
        """Copy what differs of what the source has since a point, and of the blocks asked for."""
        progress, store, pace = self._progress, self._node.store, self._node.pace
        source_history: History | None = None
        lacking: list[Lacking] = []
        async for message in peer.pull_blocks(self._rows_request(since, asked)):
            progress.blocks_total += message.blocks_total
            self._node.counters.rebuild_metadata_bytes += len(message.rows)
            if message.rows:
                try:
                    found = await store.lacking(message.rows, self._comparison)
                except (CorruptError, ProtocolError) as error:
                    raise blame(self._node, peer, error) from error
                rows = len(message.rows) // ROW_BYTES
                progress.blocks_done += rows - len(found.blocks)
                cost_blocks = rows / COMPARING + found.verified / VERIFYING
                await pace.spend(int(cost_blocks * BLOCK_BYTES))
                lacking.append(found)
                if sum(len(some.blocks) for some in lacking) >= pace.gathered_blocks:
                    await self._copy_blocks(peer, copies, _in_order(lacking))
                    lacking.clear()
            elif message.run.table:
                await self._take(peer, message.run)
            if message.history.reigns:
                source_history = history_from(message.history)
            self._count()
        if lacking:
            await self._copy_blocks(peer, copies, _in_order(lacking))
        if source_history is None:
            raise peer.unavailable("its answer ended before its last message")
        return source_history

    async def _take(self, peer: Peer, run: volume_pb2.Run) -> None:
        """Copy what came with its data: a source of an earlier release knows of no rows alone."""
        try:
            await self._node.store.keep_up(is_hurried=not self._node.pace.bytes_per_s)
            self._copy_in(RunView(memoryview(run.table), memoryview(run.data)))
        except (CorruptError, ProtocolError) as error:
            raise blame(self._node, peer, error) from error
        await self._node.pace.spend(len(run.data))

    async def _copy_blocks(self, peer: Peer, copies: Copies, blocks: Blocks) -> None:
        """Copy these blocks, in this order."""
        pace = self._node.pace
        while len(blocks) or copies.asked_blocks:
            while len(blocks) and copies.asked_blocks < pace.ahead_blocks:
                piece, blocks = blocks[: pace.piece_blocks], blocks[pace.piece_blocks :]
                self._node.counters.rebuild_metadata_bytes += BLOCK_NUMBER_BYTES * len(piece)
                copies.ask(piece)
            try:
                run = await copies.next()
                await self._node.store.keep_up(is_hurried=not pace.bytes_per_s)
                self._copy_in(run)
            except (CorruptError, ProtocolError) as error:
                raise blame(self._node, peer, error) from error
            await pace.spend(len(run.data))

    def _rows_request(self, since: Reign, asked: Blocks) -> replica_pb2.PullBlocksRequest:
        self._node.counters.rebuild_metadata_bytes += BLOCK_NUMBER_BYTES * len(asked)
        return replica_pb2.PullBlocksRequest(
            volume_uuid=self._request.orders.volume_uuid,
            replica_uuid=self._request.source.replica_uuid,
            epoch=self._request.orders.epoch,
            since=volume_pb2.Reign(epoch=since.epoch, last_seq=since.last_seq),
            blocks=np.asarray(asked, dtype="<u8").tobytes(),
            rows_only=True,
            gently=self._node.pace.bytes_per_s > 0,
        )

    def _copy_in(self, run: RunView) -> None:
        self._node.store.copy_in(run, self._comparison)
        self._progress.blocks_done += len(run.table) // ROW_BYTES
        self._progress.bytes_copied += len(run.data)
        self._node.counters.rebuild_bytes += len(run.data)
        self._node.counters.rebuild_metadata_bytes += len(run.table)
        self._count()

    def _count(self) -> None:
        counters, progress = self._node.counters, self._progress
        counters.rebuild_blocks_total = progress.blocks_total
        counters.rebuild_blocks_done = progress.blocks_done


def _with_reigning(history: History, epoch: int) -> History:
    """The history with the whole reign of the present epoch, as far as it may ever go."""
    before = tuple(reign for reign in history.reigns if reign.epoch < epoch)
    return History((*before, Reign(epoch, _ENDLESS_SEQ)))


def _in_order(lacking: list[Lacking]) -> Blocks:
    """The blocks of several comparisons in the order of their places at the source."""
    blocks = np.concatenate([some.blocks for some in lacking])
    places = np.concatenate([some.places for some in lacking])
    return blocks[np.argsort(places, kind="stable")]
