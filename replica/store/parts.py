"""What the rooms of one replica's store share."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cstor_core.errors import (
    CorruptError,
    CstorError,
    NoSpaceError,
    ProtocolError,
    UnavailableError,
)
from cstor_core.files import File
from cstor_core.units import BLOCK_BYTES
from replica.store.allocator import Allocator
from replica.store.block_map import BlockMap
from replica.store.family import Releasing, Sharing
from replica.store.journal import Journal
from replica.store.kept import Kept
from replica.store.limits import StoreLimits
from replica.store.places import FILE_SHIFT, UNIT_MASK, PlaceSet, file_of
from replica.store.reclaim import Reclaimer
from replica.store.standing import Standing
from replica.store.tail import Tail

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(slots=True)
class Parts:
    """The open parts of a replica; each room uses what it needs of them."""

    what: str
    """The replica, for a person."""
    salt: int
    limits: StoreLimits
    files: list[File]
    """The data files that places name by their number: those of its bases, its own, and those of
    others from which blocks were copied."""
    own_file: int
    """The number of its own."""
    journal: Journal
    block_map: BlockMap
    allocator: Allocator
    reclaimer: Reclaimer
    tail: Tail
    standing: Standing
    kept: Kept
    sharing: Sharing
    """Gives the places that share units with others;"""
    unshare: Releasing
    """takes them back where nothing came to refer to them."""
    on_failure: Callable[[], None]
    """Told when the replica is being given up, before anybody else hears of it."""
    failed_reason: str | None = None

    size_blocks: int = 0
    """Of the volume; the last one may be a part."""
    unflushed_loans: dict[int, int] = field(default_factory=dict)
    """By the number of another's data file, in which it has come to have data since it was last
    flushed: the entry that brought the last of them."""

    def __post_init__(self) -> None:
        self.take_size()
        self.kept.release = self.release

    @property
    def file(self) -> File:
        """Its own data file."""
        return self.files[self.own_file]

    @property
    def own_places(self) -> int:
        """The place of the first unit of its own data file."""
        return self.own_file << FILE_SHIFT

    def located(self, place: int) -> tuple[File, int]:
        """(file, offset) of a place.  Raises CorruptError where there is no such file."""
        number = file_of(place)
        if number >= len(self.files):
            raise CorruptError(f"{self.what}: place {place:#x} is in none of its data files")
        return self.files[number], (place & UNIT_MASK) * BLOCK_BYTES

    async def flush_data(self, sync: Callable[[File], Awaitable[None]]) -> None:
        """Flush its data file, journal included, and those of others in which it has new data.

        Raises OSError.
        """
        loans = dict(self.unflushed_loans)
        for number in loans:
            await sync(self.files[number])
        await sync(self.file)
        for number, seq in loans.items():
            if self.unflushed_loans.get(number) == seq:
                del self.unflushed_loans[number]

    def take_size(self) -> None:
        """The size of the volume may have changed."""
        self.size_blocks = -(-self.standing.operations.size_bytes // BLOCK_BYTES)

    def release(self, places: PlaceSet) -> None:
        """Nobody refers to these places of its own data file."""
        own = places.of_file(self.own_file)
        self.allocator.release(own.between(*own.bounds()).tolist())

    async def forget_kept(self) -> None:
        """Keep nothing of a staged map.  Raises CorruptError where the disk failed."""
        try:
            await self.kept.forget()
        except OSError as error:
            raise self.failed(error, "removing what was kept of a staged map") from error

    async def forget_stale(self) -> None:
        """The same where nobody can go on with it any more: the replica has taken something."""
        basis = self.kept.basis
        if basis is not None and basis.standing != self.standing.point:
            await self.forget_kept()

    def check_usable(self) -> None:
        """Raise CorruptError where the replica was given up."""
        if self.failed_reason is not None:
            raise CorruptError(self.failed_reason)

    def check_range(self, block: int, count: int) -> None:
        """Raise ProtocolError for blocks that are not within the volume, and as `check_usable`."""
        if self.failed_reason is not None:
            raise CorruptError(self.failed_reason)
        if count < 1 or block + count > self.size_blocks:
            raise ProtocolError(
                f"a read of {count} blocks from {block} on is not within the volume"
            )

    def gave_up(self, error: OSError, doing: str) -> CstorError:
        """The error to raise for one of the disk's; anything but a full disk ends the replica.

        What the page cache holds after a failed write or flush is not known to be what the disk
        holds, so nothing is tried a second time.
        """
        if error.errno in _FULL:
            return NoSpaceError(
                f"{self.what}: the file system of the pool is full: free some space, "
                "or discard blocks of the volume"
            )
        return self.failed(error, doing)

    def not_now(self, error: OSError) -> UnavailableError:
        """The error of something that a read of the map has ended: that has changed nothing."""
        return UnavailableError(
            f"{self.what}: the disk cannot read the map ({error.strerror}); it is tried again"
        )

    def given_up(self, reason: str) -> CorruptError:
        """The error to raise where files of the replica are damaged: that ends it, too."""
        self.failed_reason = f"{self.what}: {reason}: replace this replica by a new, empty one"
        self.on_failure()
        return CorruptError(self.failed_reason)

    def failed(self, error: OSError, doing: str) -> CorruptError:
        """The error to raise where a flush failed: that ends the replica whatever the reason."""
        self.failed_reason = (
            f"{self.what}: {doing} failed ({error.strerror}): check the disk, and replace "
            "this replica by a new, empty one"
        )
        self.on_failure()
        return CorruptError(self.failed_reason)
