"""A map that is made beside the replica's own and takes its place in one step.

So a replica that may not be flagged as rebuilding gets to another history: until the step it holds
exactly the old one, and from then on exactly the new one.  What it holds of the history that both
share stays; a peer gives what came behind that.  Blocks with versions that lie outside of the new
history are replaced whole, with all versions that anybody needs.  The new rows are one run, which
is laid over the old ones; one journal record names it.

A stage that may go on where an earlier one broke off (`go_on`) keeps what it has, and takes what
was kept, read and verified, between the rows that come (see `kept`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import numpy.typing as npt

from cstor_core.checksums import crc32c
from cstor_core.errors import CorruptError, NoSpaceError, ProtocolError, UnavailableError
from cstor_core.frames import RunView
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History, Reign
from cstor_core.rows import ROW_BYTES, ROW_DTYPE, UNMAP, Rows, chosen, end_to_end, rows_of
from cstor_core.units import BLOCK_BYTES
from cstor_core.words import history_message
from replica.store.checkpointing import Checkpointing
from replica.store.durability import Durability
from replica.store.kept import Basis
from replica.store.map_run import BLOCK_END, MapRun
from replica.store.pace import BACKGROUND
from replica.store.parts import Parts
from replica.store.places import PlaceSet
from replica.store.reader import Reader
from replica.store.records import Kind
from replica.store.row_sets import (
    NO_ROWS,
    Blocks,
    Piece,
    later_than,
    stacked,
    wanted,
    with_data,
)
from replica.store.writer import Writer

_VERIFIED_ROWS = 256
_WAITING_MAX = 4
"""So many messages of a peer may wait to become part of the run."""


class Staging:
    """Begins stages of one replica."""

    def __init__(
        self, parts: Parts, reader: Reader, writer: Writer, making: Checkpointing, safe: Durability
    ) -> None:
        """`making` makes the runs of the map, and `safe` makes them durable."""
        self.parts = parts
        self.reader = reader
        self.writer = writer
        self.making = making
        self.safe = safe

    @asynccontextmanager
    async def stage(self, history: History) -> AsyncIterator[Stage]:
        """A map on its way to a history; without a `switch` nothing of it is left at the end, but
        for what it was told to keep.

        Of a replica that is being rebuilt, only what it held when it was flagged counts.  Raises
        CorruptError.
        """
        parts = self.parts
        parts.check_usable()
        begun = parts.standing.point  # what comes while foreign blocks are looked for counts too
        shared = parts.standing.history.shared_with(history)
        is_mixed = parts.standing.rebuilding

        def is_foreign(rows: Rows) -> npt.NDArray[np.bool_]:
            return later_than(rows, shared) if is_mixed else history.foreign(rows)

        foreign = await self.reader.blocks_with(is_foreign)
        stage = Stage(self, history, shared, foreign, begun)
        try:
            yield stage
        except NoSpaceError:
            await parts.forget_kept()
            raise
        finally:
            await stage.end()


class Stage:
    """One map on its way."""

    def __init__(
        self,
        staging: Staging,
        history: History,
        shared: Reign,
        foreign: Blocks,
        begun: tuple[int, int, bool],
    ) -> None:
        self._staging = staging
        self._parts = staging.parts
        self._history = history
        self._begun = begun
        self._reached = -1
        self._put_below = 0
        """The run has everything of the blocks below this one."""
        self._fresh = PlaceSet()
        """Places of what has come and is not kept."""
        self._basis: Basis | None = None
        """Where it keeps what it has."""
        self._unkept: list[Rows] = []
        self._pieces: Sequence[Piece] = ()
        self._kept_rows: AsyncIterator[Rows] | None = None
        self._kept_next = NO_ROWS
        """Of what was kept, what is to be put into the run next."""
        self._waiting: asyncio.Queue[Rows | None] = asyncio.Queue(_WAITING_MAX)
        self._writing = asyncio.create_task(self._write())
        self._is_switched = False
        self.shared = shared
        """The peer gives what is later than this point,"""
        self.foreign = foreign
        """and all of these blocks, which ascend."""

    def reach(self, history: History) -> None:
        """The peer is further by now: this is where the map leads.

        Raises UnavailableError where that does not go on from the history that was given.
        """
        if not self._history.is_prefix_of(history):
            raise UnavailableError(
                f"{self._parts.what} is to get to {history.end}, which does not go on from "
                f"{self._history.end}"
            )
        self._history = history

    async def go_on(self) -> Sequence[Piece]:
        """Begin with what is kept of an earlier stage, where that began from the same, and keep
        what comes; the pieces of which a peer needs to give only what came behind their points.

        Raises CorruptError where the disk failed.
        """
        kept = self._parts.kept
        self._basis = Basis(self._begun, self.shared, crc32c(self.foreign.tobytes()))
        if kept.basis != self._basis:
            await self.begin_anew()
        else:
            self._pieces = tuple(kept.pieces)
            self._kept_rows = kept.rows(kept.mark)
        return self._pieces

    async def begin_anew(self) -> None:
        """Nothing that was kept is of use: the peer gives all of it.  Raises CorruptError."""
        self._pieces, self._kept_rows = (), None
        await self._parts.forget_kept()

    def take_everything(self) -> None:
        """The peer gives all that it has, since too many blocks are foreign to be named."""
        self.shared = Reign(0, 0)

    @property
    def reached_block(self) -> int:
        """The last block of which everything is there; -1 before the first."""
        return self._put_below - 1

    async def copy_in(self, run: RunView) -> None:
        """Take rows of a peer whose history this is, and the data of those that have any.

        They ascend by block, over all calls; the rows of one block come together, the newer ones
        first.  Raises ProtocolError where they do not, or are not of the history; CorruptError
        where a block does not match its checksum; NoSpaceError.  Nothing of the run is taken then.
        """
        rows = self._checked(run)
        if not len(rows):
            return
        writing = with_data(rows)
        rows["place"][writing] = 0
        table = bytearray(rows.tobytes())
        self._staging.writer.place(table, (run.data,), len(run.data))
        placed = rows_of(bytes(table))
        self._fresh.put(placed["place"][with_data(placed)])
        self._reached = int(rows["block"][-1])
        await self._put_up_to(self._reached + 1, placed)
        if self._basis is not None:
            await self._keep(placed, self._basis)

    async def switch(
        self, operations: volume_pb2.OperationsState, configuration: volume_pb2.Configuration | None
    ) -> None:
        """Let the map take the place of the old one, with the snapshots, the size and the
        configuration of the peer; durable on return.

        Raises UnavailableError where the replica has changed meanwhile, NoSpaceError and
        CorruptError as a flush does; the old map stays then.
        """
        parts, safe = self._parts, self._staging.safe
        end_seq = self._history.end.last_seq
        await self._put_up_to(BLOCK_END, NO_ROWS)
        await self._put(None)
        run = await self._writing
        await safe.settle()
        await safe.checkpoint()
        await self._flush_data()
        self._check_unchanged()
        message = volume_pb2.StagedMap(
            run=b"" if run is None else run.head.packed(),
            history=history_message(self._history),
            operations=operations,
            configuration=configuration,
        )
        self._staging.writer.record(Kind.STAGED, message.SerializeToString(), end_seq)
        self._is_switched = True
        if parts.standing.applied_seq > end_seq:
            safe.went_back(end_seq)
        parts.standing.switch(message)
        own = self._fresh.copy()
        if self._basis is not None:
            own.put(parts.kept.places.places())
            parts.kept.switched()
        parts.block_map.switch(run, own.places(), parts.standing.operations.head)
        parts.take_size()
        parts.tail.clear()
        await safe.flush()
        await parts.forget_kept()
        safe.checkpoint_soon()

    async def end(self) -> None:
        """Where it has not become the replica's map, leave nothing of it but what is kept."""
        if self._is_switched:
            return
        self._writing.cancel()
        run = (await asyncio.gather(self._writing, return_exceptions=True))[0]
        if isinstance(run, MapRun):
            self._staging.making.forget(run)
        self._parts.release(self._fresh)

    def _check_unchanged(self) -> None:
        if self._parts.standing.point != self._begun:
            raise UnavailableError(
                f"{self._parts.what} has changed while another map was made: begin it anew"
            )

    async def _flush_data(self) -> None:
        """What was staged is on stable storage before a record names it."""
        try:
            await self._parts.flush_data(BACKGROUND.sync)
        except OSError as error:
            raise self._parts.failed(error, "a flush") from error

    async def _put_up_to(self, end_block: int, fresh: Rows) -> None:
        """Hand on to the run all rows below a block: those that have come, which are the newer
        ones, and what was kept.
        """
        while (kept := await self._next_kept(end_block)) is not None:
            cut = int(kept["block"][-1]) + 1
            count = int(np.searchsorted(fresh["block"], np.uint64(cut)))
            await self._put_between([fresh[:count], kept], cut)
            fresh = fresh[count:]
        await self._put_between([fresh], end_block)

    async def _put_between(self, newest_first: list[Rows], end_block: int) -> None:
        floors = self._floors(self._put_below, end_block)
        await self._put(stacked([*newest_first, floors]))
        self._put_below = end_block

    async def _next_kept(self, end_block: int) -> Rows | None:
        """Some rows of what was kept, verified, of blocks below this one; None where none are left.

        Raises UnavailableError where something is bad: it is not kept any more then.
        """
        if not len(self._kept_next) and self._kept_rows is not None:
            try:
                self._kept_next = await anext(self._kept_rows, NO_ROWS)
                await self._verify(self._kept_next)
            except (CorruptError, OSError) as error:
                self._kept_rows, self._kept_next = None, NO_ROWS
                await self._parts.forget_kept()
                raise UnavailableError(
                    f"{self._parts.what}: what was kept of an earlier step is bad: begin it anew"
                ) from error
        stop = int(np.searchsorted(self._kept_next["block"], np.uint64(end_block)))
        rows, self._kept_next = self._kept_next[:stop], self._kept_next[stop:]
        return rows if stop else None

    async def _verify(self, rows: Rows) -> None:
        """Read data that were kept.  Raises CorruptError where some are not what they were."""
        held = chosen(rows, with_data(rows))
        for start in range(0, len(held), _VERIFIED_ROWS):
            await self._staging.reader.with_data_of(held[start : start + _VERIFIED_ROWS])
            await BACKGROUND.turn()

    async def _keep(self, placed: Rows, basis: Basis) -> None:
        """Keep rows that have come of blocks of which nothing was kept, so many at a time.

        Raises NoSpaceError, CorruptError where the disk failed.
        """
        parts, kept = self._parts, self._parts.kept
        kept_end = self._pieces[-1].end_block if self._pieces else 0
        self._unkept.append(placed[np.searchsorted(placed["block"], np.uint64(kept_end)) :])
        if sum(map(len, self._unkept)) < parts.limits.kept_rows:
            return
        rows, self._unkept = end_to_end(self._unkept), []
        if kept.is_full:
            return
        await self._flush_data()
        self._check_unchanged()
        try:
            await kept.append(basis, self._history.end, rows)
        except OSError as error:
            raise parts.gave_up(error, "writing what is kept of a staged map") from error
        self._fresh.remove(rows["place"][with_data(rows)])

    async def _put(self, rows: Rows | None) -> None:
        """Hand rows on to the run; raises what writing it has raised."""
        putting = asyncio.ensure_future(self._waiting.put(rows))
        await asyncio.wait((putting, self._writing), return_when=asyncio.FIRST_COMPLETED)
        if not putting.done():
            putting.cancel()
            await self._writing

    async def _write(self) -> MapRun | None:
        async def rows() -> AsyncIterator[Rows]:
            while (found := await self._waiting.get()) is not None:
                if len(found):
                    yield found

        try:
            return await self._staging.making.new_run(rows(), BACKGROUND, 0)
        except OSError as error:
            raise self._parts.gave_up(error, "writing a staged map") from error

    def _floors(self, low: int, high: int) -> Rows:
        """Under the rows of foreign blocks: that nothing older counts, for anybody."""
        start, stop = np.searchsorted(self.foreign, np.array([low, high], dtype=np.uint64))
        floors = np.zeros(stop - start, dtype=ROW_DTYPE)
        floors["block"] = self.foreign[start:stop]
        return floors

    def _checked(self, run: RunView) -> Rows:
        """The rows of a peer, their places 1 where they have data, verified with these."""
        parts = self._parts
        if len(run.table) % ROW_BYTES or len(run.table) > parts.limits.run_rows_max * ROW_BYTES:
            raise ProtocolError(f"a table of {len(run.table)} bytes is not one of staged rows")
        rows = rows_of(run.table).copy()
        if not len(rows):
            return rows
        tombstone = rows["place"] & np.uint64(UNMAP) != 0
        rows["place"] = np.where(tombstone, np.uint64(UNMAP), np.uint64(1))
        blocks, seqs = rows["block"], rows["seq"].astype(np.int64)
        same = blocks[1:] == blocks[:-1]
        is_ordered = (blocks[1:] > blocks[:-1]) | (same & (seqs[1:] < seqs[:-1]))
        if not is_ordered.all() or int(blocks[0]) <= self._reached:
            raise ProtocolError("staged rows do not ascend by block, the newer ones first")
        if not (seqs > 0).all() or self._history.foreign(rows).any():
            raise ProtocolError("staged rows have versions outside of their history")
        if not wanted(rows, self.shared, self.foreign, self._pieces).all():
            raise ProtocolError("staged rows are older than what both histories share")
        if int(with_data(rows).sum()) * BLOCK_BYTES != len(run.data):
            raise ProtocolError(f"{len(rows)} staged rows come with {len(run.data)} bytes")
        bad = self._staging.reader.mismatches(rows, run.data)
        if bad:
            raise CorruptError(f"staged block {bad[0]} does not match its checksum on arrival")
        return rows
