"""What is kept of a step, in a stopped replica: what of it is good, and what opening does with it.

The file `staged` is appended to without a flush, and an opening cuts off what is not whole.  So a
kill leaves the beginning of what was being written last, and a power loss may leave anything behind
what is whole; a clean stop leaves neither.  Everything else that is not what was written is damage.
None of it is of the volume: what is thrown away here a peer gives again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cstor_core.errors import CorruptError, InputError
from cstor_core.files import Filesystem
from cstor_core.rows import Rows
from replica.store.envelope import ENVELOPE_BYTES, ENVELOPE_HEAD_BYTES, sealed
from replica.store.kept import KEPT_FILE, KEPT_HEAD_BYTES, Kept, fits, portion_bytes
from replica.store.places import PlaceSet
from replica.store.records import STAGED_MAGIC
from replica.store.row_sets import with_data
from replica.store.standing import Standing

BadBlocks = Callable[[Rows], Iterator[int]]
"""The blocks whose data do not match their rows."""


@dataclass(slots=True)
class KeptLook:
    """The file `staged` of one replica."""

    path: Path
    kept: Kept
    """As the next opening reads it; it has no basis where nothing can be read."""
    good_bytes: int = 0
    """As much of the file can be gone on with."""
    blocks: int = 0
    """So many of them are in that, with data."""
    damage: str = ""
    """Why it is not what was written; empty where it is."""
    trace: str = ""
    """What a crash has left of it, or that nobody needs it; empty otherwise."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the file is judged by."""

    replica_uuid: bytes
    standing: Standing
    """Where the next opening will find the replica."""
    used: PlaceSet
    """What it refers to without the step."""
    units: tuple[int, int]
    """Those of its own data file, as for `fits`."""
    own_file: int
    is_other_boot: bool
    """What was not flushed may be gone."""
    is_clean: bool
    """It was stopped, and not killed."""


def look_at_kept(
    filesystem: Filesystem, directory: Path, at: Circumstances, bad_blocks: BadBlocks | None
) -> KeptLook | None:
    """Look at what is kept, if anything is; with `bad_blocks` the data are read and verified too.

    Raises nothing for what is wrong with it.
    """
    path = directory / KEPT_FILE
    if not filesystem.exists(path):
        return None
    look = KeptLook(path, Kept(filesystem, directory, at.replica_uuid))
    try:
        for _ in look.kept.read():
            pass
    except (CorruptError, InputError) as error:
        if _may_be_left_of_a_head(filesystem, look, at):
            look.trace = f"{path} was being begun: the next opening removes it"
        else:
            look.damage = f"{error}: {_GIVEN_AGAIN}"
        return look
    except OSError as error:
        look.damage = f"{path} cannot be read ({error.strerror}): {_GIVEN_AGAIN}"
        return look
    if not fits(look.kept, at.standing, at.used, at.units, at.own_file):
        _does_not_fit(look, at)
        return look
    look.good_bytes, look.blocks = look.kept.mark, look.kept.places.count()
    if look.good_bytes < look.kept.file_bytes:
        _judge_end(filesystem, look, at)
    if bad_blocks is not None:
        _verify(look, Kept(filesystem, directory, at.replica_uuid), bad_blocks)
    return look


_GIVEN_AGAIN = (
    "nothing of the volume is in it, the replica opens without it, and a peer gives it again"
)


def _verify(look: KeptLook, again: Kept, bad_blocks: BadBlocks) -> None:
    """Read the data of what is whole, up to the first block that is bad."""
    good_bytes = blocks = 0
    for rows in again.read():
        bad = next(bad_blocks(rows), None)
        if bad is not None:
            look.good_bytes, look.blocks = good_bytes, blocks
            look.damage = (
                f"{look.path}: the data of block {bad}, which are kept of a step, do not match "
                "their checksum: nothing of the volume is in them, and a peer gives them again"
            )
            return
        good_bytes, blocks = again.mark, blocks + int(with_data(rows).sum())


def _may_be_left_of_a_head(filesystem: Filesystem, look: KeptLook, at: Circumstances) -> bool:
    """Whether a crash leaves such a head: the beginning of one, or anything after a power loss."""
    if at.is_other_boot:
        return True
    content = _content(filesystem, look.path, 0, KEPT_HEAD_BYTES)
    begin = sealed(STAGED_MAGIC, bytes(KEPT_HEAD_BYTES - ENVELOPE_BYTES))[:ENVELOPE_HEAD_BYTES]
    is_begin = content[:ENVELOPE_HEAD_BYTES] == begin[: len(content)]
    return not at.is_clean and len(content) < KEPT_HEAD_BYTES and is_begin


def _does_not_fit(look: KeptLook, at: Circumstances) -> None:
    assert look.kept.basis is not None
    if look.kept.basis.standing != at.standing.point:
        look.trace = (
            f"{look.path} is of a step that began from another position than the replica's: "
            "the next opening removes it"
        )
    else:
        look.damage = f"{look.path} names places that something else is in: {_GIVEN_AGAIN}"


def _judge_end(filesystem: Filesystem, look: KeptLook, at: Circumstances) -> None:
    """What is behind the last rows that are whole."""
    end, size = look.kept.mark, look.kept.file_bytes
    length = portion_bytes(_content(filesystem, look.path, end, size - end)[:32])
    is_cut = length is None or end + length > size
    if at.is_other_boot or (is_cut and not at.is_clean):
        look.trace = (
            f"{look.path}: a crash broke off writing what is behind byte {end}: the next opening "
            "cuts it off, and a peer gives it again"
        )
    else:
        look.damage = (
            f"{look.path} is damaged behind byte {end}: nothing of the volume is in it, the next "
            "opening cuts it off, and a peer gives it again"
        )


def _content(filesystem: Filesystem, path: Path, offset: int, length: int) -> bytes:
    file = filesystem.open(path, read_only=True)
    try:
        return file.pread(length, offset)
    finally:
        file.close()
