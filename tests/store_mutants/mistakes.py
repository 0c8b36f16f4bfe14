"""The mistakes: overrides of the product's code, each such as somebody could make.

`docs/store-proof.md` has the table of them with what catches each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cstor_core.checksums import Buffer, crc32c
from cstor_core.errors import CorruptError
from cstor_core.files import Filesystem
from replica.store import (
    checkpoint,
    envelope,
    journal,
    look,
    opening,
    recovery,
    state_file,
)
from replica.store.allocator import Allocator
from replica.store.block_map import BlockMap
from replica.store.durability import Durability
from replica.store.envelope import fresh_path
from replica.store.journal import Journal, Point
from replica.store.parts import Parts
from replica.store.places import PlaceSet
from replica.store.reclaim import Reclaimer
from replica.store.records import Kind
from replica.store.recovery import Recovery
from replica.store.standing import Standing
from replica.store.state_file import StateFile
from replica.store.tail import Tail, TailEntry
from tests.store_mutants.proofs import Anything, Mistake, Proof

Patch = pytest.MonkeyPatch


def acknowledge_before_the_record(patch: Patch) -> None:
    """A record is written only when the next one comes."""
    append = Journal.append
    held: dict[int, tuple[list[Buffer], int]] = {}

    def late(self: Journal, kind: Kind, payload: Buffer, applied_seq: int) -> Point:
        file = self._file

        class Later:
            def pwritev(self, pieces: list[Buffer], offset: int) -> None:
                if id(file) in held:
                    file.pwritev(*held[id(file)])
                held[id(file)] = [bytes(piece) for piece in pieces], offset

        self._file = Later()  # type: ignore[assignment]
        try:
            return append(self, kind, payload, applied_seq)
        finally:
            self._file = file

    patch.setattr(Journal, "append", late)


def reuse_space_before_the_flush(patch: Patch) -> None:
    """A place that was freed is used again though the record that freed it was not flushed."""
    patch.setattr(Reclaimer, "put", lambda self, places, _number: self._flushed(places))


def reuse_space_that_the_tail_needs(patch: Patch) -> None:
    """Superseded places go to the allocator while recent entries are still read from them."""
    add = Tail.add

    def eager(self: Tail, entry: TailEntry) -> None:
        self.dropped(list(entry.freed), 0)
        entry.freed.clear()
        add(self, entry)

    patch.setattr(Tail, "add", eager)


def flush_nothing(patch: Patch) -> None:
    """A flush is acknowledged without any."""

    async def datasync(self: Durability) -> None:
        parts = self._parts
        journal = parts.journal
        self._durable(journal.number, journal.mark, parts.standing.applied_seq, self._streams)

    patch.setattr(Durability, "_datasync", datasync)


def call_durable_what_came_during_the_flush(patch: Patch) -> None:
    """What is durable is noted after the flush, and not before it began."""

    async def datasync(self: Durability) -> None:
        parts = self._parts
        await parts.file.datasync()
        journal = parts.journal
        self._durable(journal.number, journal.mark, parts.standing.applied_seq, self._streams)

    patch.setattr(Durability, "_datasync", datasync)


def promise_without_a_flush(patch: Patch) -> None:
    """`state` is replaced without a flush of the file or of its directory."""

    async def replace_file(filesystem: Filesystem, path: Path, content: bytes) -> None:
        fresh = fresh_path(path)
        file = filesystem.open(fresh, create=True)
        file.pwritev([content], 0)
        file.close()
        filesystem.rename(fresh, path)

    patch.setattr(state_file, "replace_file", replace_file)


def forget_the_directory(patch: Patch) -> None:
    """A small file is replaced, and its directory is not flushed."""

    async def replace_file(filesystem: Filesystem, path: Path, content: bytes) -> None:
        fresh = fresh_path(path)
        file = filesystem.open(fresh, create=True)
        file.pwritev([content], 0)
        await file.datasync()
        file.close()
        filesystem.rename(fresh, path)

    patch.setattr(state_file, "replace_file", replace_file)


def believe_the_page_cache(patch: Patch) -> None:
    """A power loss is not noticed: the boot id is not looked at."""
    change = StateFile.change

    async def never_short(self: StateFile, **fields: Any) -> None:
        await change(self, **{**fields, "short": False})

    patch.setattr(StateFile, "change", never_short)


def count_records_without_their_data(patch: Patch) -> None:
    """After a power loss a record counts though its data are not there."""
    patch.setattr(Recovery, "_verifies", lambda self, block, place, checksum: True)


def trust_a_flush_that_nothing_tells_of(patch: Patch) -> None:
    """A place is used again after the flush, before the journal says that there was one."""
    durable = Durability._durable

    def hasty(self: Durability, number: int, _mark: int, seq: int, streams: int) -> None:
        durable(self, number, number, seq, streams)

    patch.setattr(Durability, "_durable", hasty)


def offer_recent_entries_unread(patch: Patch) -> None:
    """After a power loss recent entries are taken to be there."""
    patch.setattr(Recovery, "bad_tail_number", lambda self: 0)


def leave_records_behind_the_end(patch: Patch) -> None:
    """What is cut off after a power loss stays in the journal."""
    continued = Recovery.continued

    def forgetful(self: Recovery, power_lost: bool) -> Journal:
        self._cut_off = []
        return continued(self, power_lost)

    patch.setattr(Recovery, "continued", forgetful)


def lose_unmaps_at_a_restart(patch: Patch) -> None:
    """Recovery replays writes, and leaves out what was discarded."""
    patch.setattr(
        recovery,
        "apply_run",
        lambda rows, standing, block_map, freed: _without_unmaps(rows, block_map, freed),
    )


def _without_unmaps(rows: bytearray, block_map: BlockMap, freed: list[int]) -> None:
    for offset in range(0, len(rows), 32):
        row = rows[offset : offset + 32]
        if not row[15] & 0x80:
            block_map.put(row, freed)


def forget_what_the_tail_holds(patch: Patch) -> None:
    """After a restart only the map's places count as used."""

    def of_the_map(self: Recovery) -> PlaceSet:
        used = self.block_map.placed.copy()
        used.put(self.block_map.places())
        return used

    patch.setattr(Recovery, "places_in_use", of_the_map)


def skip_the_checksum_of_a_record(patch: Patch) -> None:
    """A journal record is taken as it is read."""
    patch.setattr(journal, "crc32c", lambda *arguments: Anything(crc32c(*arguments)))


def skip_the_checksum_of_small_files(patch: Patch) -> None:
    """An envelope is opened without a look at its checksum."""

    def careless(content: bytes, *_what: object, **_named: object) -> Any:
        found = envelope.ENVELOPE.parse(content)
        return found.payload, envelope.ENVELOPE_BYTES + len(found.payload)

    for module in (state_file, opening, checkpoint):
        patch.setattr(module, "unsealed", careless)


def check_without_reading(patch: Patch) -> None:
    """`check` looks at the map only."""

    async def nothing(*arguments: object) -> None:
        """Nothing."""

    patch.setattr(look, "_verify", nothing)


def check_without_what_is_kept(patch: Patch) -> None:
    """`check` does not look at what is kept of a step."""
    patch.setattr(look, "look_at_kept", lambda *_arguments: None)


def begin_a_rebuild_without_a_flush(patch: Patch) -> None:
    """Entries out of order are taken before the flag is durable."""
    begin = Standing.begin_rebuild

    def hasty(
        self: Standing, block_map: BlockMap, freed: list[int], *, loss_possible: bool
    ) -> None:
        begin(self, block_map, freed, loss_possible=loss_possible)
        patch.setattr(Durability, "flush", _flush_nothing)

    patch.setattr(Standing, "begin_rebuild", hasty)


async def _flush_nothing(self: Durability) -> int:
    return self.durable_seq


def end_a_rebuild_with_foreign_blocks(patch: Patch) -> None:
    """A copy replaces an own block only where its version is higher."""
    patch.setattr("cstor_core.history.History.foreign", lambda self, rows: rows["seq"] > 1 << 60)


def give_a_place_twice(patch: Patch) -> None:
    """What is taken of a longer extent stays in it."""
    take = Allocator._take_extent

    def careless(self: Allocator, count_max: int) -> tuple[int, int]:
        first, count = take(self, count_max)
        if count > 2:
            self.release_extents([(first, 1)])
        return first, count

    patch.setattr(Allocator, "_take_extent", careless)


def go_on_after_a_failed_flush(patch: Patch) -> None:
    """A failed flush is an error of one call, and the next one may succeed."""

    def failed(self: Parts, error: OSError, doing: str) -> CorruptError:
        return CorruptError(f"{doing} failed")

    patch.setattr(Parts, "failed", failed)


MISTAKES = (
    Mistake("acknowledge before the record", acknowledge_before_the_record, Proof.IMAGES),
    Mistake("reuse space before the flush", reuse_space_before_the_flush, Proof.IMAGES),
    Mistake("reuse space that the tail needs", reuse_space_that_the_tail_needs, Proof.IMAGES),
    Mistake("give a place twice", give_a_place_twice, Proof.IMAGES),
    Mistake("flush nothing", flush_nothing, Proof.IMAGES),
    Mistake(
        "call durable what came during the flush",
        call_durable_what_came_during_the_flush,
        Proof.IMAGES,
    ),
    Mistake("promise without a flush", promise_without_a_flush, Proof.IMAGES),
    Mistake("forget the directory", forget_the_directory, Proof.IMAGES),
    Mistake("believe the page cache", believe_the_page_cache, Proof.IMAGES),
    Mistake("count records without their data", count_records_without_their_data, Proof.IMAGES),
    Mistake(
        "trust a flush that nothing tells of",
        trust_a_flush_that_nothing_tells_of,
        Proof.IMAGES,
        shown_by=4,
    ),
    Mistake("offer recent entries unread", offer_recent_entries_unread, Proof.IMAGES, shown_by=2),
    Mistake("leave records behind the end", leave_records_behind_the_end, Proof.IMAGES),
    Mistake("lose unmaps at a restart", lose_unmaps_at_a_restart, Proof.IMAGES),
    Mistake("forget what the tail holds", forget_what_the_tail_holds, Proof.IMAGES, shown_by=6),
    Mistake("begin a rebuild without a flush", begin_a_rebuild_without_a_flush, Proof.REBUILD),
    Mistake("end a rebuild with foreign blocks", end_a_rebuild_with_foreign_blocks, Proof.REBUILD),
    Mistake("skip the checksum of a record", skip_the_checksum_of_a_record, Proof.FLIPS),
    Mistake("skip the checksum of small files", skip_the_checksum_of_small_files, Proof.FLIPS),
    Mistake("check without reading", check_without_reading, Proof.FLIPS),
    Mistake("check without what is kept", check_without_what_is_kept, Proof.FLIPS),
    Mistake("go on after a failed flush", go_on_after_a_failed_flush, Proof.FAILED_FLUSH),
)
