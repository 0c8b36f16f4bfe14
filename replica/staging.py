"""How a replica gets to what a peer holds in one step, when its target orders that.

It fetches what it lacks, beside the map that it goes on to have, and takes all of it over at once:
snapshots, size and all.  What it gets to is what the peer held at one moment; the peer goes on to
take entries meanwhile, which are fetched afterwards, in order or in another step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise

import numpy as np

from cstor_core.errors import CorruptError, InputError, ProtocolError
from cstor_core.frames import RunView
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.history import Reign
from cstor_core.words import history_from, history_message, reign_from, reign_message
from replica.errors import OrderError
from replica.peers import Peer, blame
from replica.replica_node import ReplicaNode
from replica.sources import Giving, check_source
from replica.store.kept import PIECES_MAX
from replica.store.row_sets import Piece
from replica.store.staging import Stage

PROGRESS_S = 0.25
WHOLE_BLOCKS_MAX = 1 << 20
"""Blocks that one request may ask for with all of their versions: 8 MiB of numbers."""


class Staging:
    """One run of it."""

    def __init__(self, node: ReplicaNode, request: replica_pb2.StageRequest) -> None:
        """Check the order.  Raises what the fence raises, InputError."""
        node.check_orders(request.orders, founded=False)
        self._node = node
        self._request = request
        self._history = history_from(request.history)
        if not self._history.reigns or self._history.end.epoch > request.orders.epoch:
            raise InputError("the history to be reached is empty, or later than its epoch")
        node.pace.set(request.bytes_per_s)
        self._progress = replica_pb2.StageResponse()

    async def run(self) -> AsyncIterator[replica_pb2.StageResponse]:
        """Do it; progress comes every quarter of a second, `complete` at the end.

        Raises UnavailableError where the source does not give what it should, NoSpaceError,
        EndedError where another order took this one's place, and FencedError.
        """
        self._node.end_append_session("the target ordered another history")
        job = self._node.start_job(self._request.orders.epoch, self._work())
        try:
            while not job.task.done():
                await asyncio.wait((job.task,), timeout=PROGRESS_S)
                if not job.task.done():
                    yield self._snapshot()
            await job.result()
            self._progress.complete = True
            yield self._snapshot()
        finally:
            job.task.cancel()

    def _snapshot(self) -> replica_pb2.StageResponse:
        copy = replica_pb2.StageResponse()
        copy.CopyFrom(self._progress)
        return copy

    async def _work(self) -> None:
        node, store = self._node, self._node.store
        if store.history != self._history or store.rebuilding:
            self._progress.blocks_total = node.size_blocks()
            peer = Peer(node.dialler, self._request.source)
            try:
                with node.counters.rebuild():
                    async with store.stage(self._history) as stage:
                        await self._fetch(peer, stage)
            except (CorruptError, ProtocolError) as error:
                raise blame(node, peer, error) from error
            finally:
                await peer.close()
            node.applied()
            node.log.info("staged", seq=store.applied_seq, bytes=self._progress.bytes_copied)
        self._progress.history.CopyFrom(history_message(store.history))

    async def _fetch(self, peer: Peer, stage: Stage) -> None:
        """Take what the peer gives, and switch to it when that is all."""
        whole = stage.foreign.tobytes()
        if len(stage.foreign) > WHOLE_BLOCKS_MAX:
            stage.take_everything()
            whole = b""
        progress, last = self._progress, None
        pieces = await stage.go_on()
        async for message in peer.pull_stacks(self._pull_request(stage.shared, whole, pieces)):
            if message.history.reigns:
                stage.reach(history_from(message.history))
                if pieces and message.goes_on:
                    progress.blocks_done = pieces[-1].end_block
                    self._node.log.info("staging_goes_on", blocks=pieces[-1].end_block)
                elif pieces:
                    await stage.begin_anew()
            run = RunView(memoryview(message.run.table), memoryview(message.run.data))
            await stage.copy_in(run)
            progress.bytes_copied += len(run.data)
            self._node.counters.rebuild_bytes += len(run.data)
            if run.table:
                progress.blocks_done = max(progress.blocks_done, stage.reached_block + 1)
            self._node.counters.rebuild_blocks_total = progress.blocks_total
            self._node.counters.rebuild_blocks_done = progress.blocks_done
            last = message
            await self._node.pace.spend(len(run.data))
        if last is None or not last.HasField("operations"):
            raise peer.unavailable("its answer ended before its last message")
        configuration = last.configuration if last.HasField("configuration") else None
        await stage.switch(last.operations, configuration)

    def _pull_request(
        self, shared: Reign, whole: bytes, pieces: Sequence[Piece]
    ) -> replica_pb2.PullStacksRequest:
        pace = self._node.pace
        return replica_pb2.PullStacksRequest(
            volume_uuid=self._request.orders.volume_uuid,
            replica_uuid=self._request.source.replica_uuid,
            epoch=self._request.orders.epoch,
            history=self._request.history,
            since=reign_message(shared),
            whole_blocks=whole,
            rows_max=pace.piece_blocks if pace.bytes_per_s else 0,
            pieces=[
                replica_pb2.StackPiece(end_block=one.end_block, since=reign_message(one.since))
                for one in pieces
            ],
            takes_later=True,
        )


async def pull_stacks(
    node: ReplicaNode, request: replica_pb2.PullStacksRequest
) -> AsyncIterator[replica_pb2.PullStacksResponse]:
    """Give a peer that stages the rows that it lacks of what this replica holds now.

    Raises OrderError where this replica does not hold the history that is asked for, or holds
    more and the asker would take that for this history.
    """
    check_source(node, request.epoch)
    history = history_from(request.history)
    held = node.store.history
    if not history.is_prefix_of(held) or not (request.takes_later or history == held):
        raise OrderError(
            f"replica {node.store.replica_uuid} is at {held.end}, and does not hold the history "
            f"up to {history.end}" + ("" if request.takes_later else " and nothing behind it")
        )
    if len(request.whole_blocks) % 8:
        raise InputError("the blocks of a pull are not a table of 8-byte numbers")
    whole = np.frombuffer(request.whole_blocks, dtype="<u8")
    since = reign_from(request.since)
    pieces = _pieces_of(request)
    giving = Giving(request.epoch)
    node.fence.enter(giving)
    try:
        with node.store.frozen() as frozen:
            if not all(frozen.history.holds(piece.since) for piece in pieces):
                pieces = []
            yield replica_pb2.PullStacksResponse(
                history=history_message(frozen.history), goes_on=bool(pieces)
            )
            async for run in frozen.stacks(since, whole, request.rows_max, pieces):
                giving.check()
                yield replica_pb2.PullStacksResponse(
                    run=volume_pb2.Run(table=bytes(run.table), data=bytes(run.data))
                )
                giving.check()
            yield replica_pb2.PullStacksResponse(
                operations=frozen.operations, configuration=frozen.configuration
            )
    finally:
        node.fence.leave(giving)


def _pieces_of(request: replica_pb2.PullStacksRequest) -> list[Piece]:
    """What the asker has already.  Raises InputError."""
    pieces = [Piece(piece.end_block, reign_from(piece.since)) for piece in request.pieces]
    ends = [piece.end_block for piece in pieces]
    if len(ends) > PIECES_MAX or any(end <= before for before, end in pairwise((0, *ends))):
        raise InputError("the pieces that the asker has already do not ascend, or are too many")
    return pieces
