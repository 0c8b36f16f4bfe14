"""How blocks get what blocks of another volume hold, without their data being kept twice in a pool.

A write may say where its data were read (`DataOrigin`).  A replica that finds the very same bytes
there, in another replica of its pool, refers to them where they are.  Nothing is taken on trust:
what was written there meanwhile, or is not at hand in the page cache, is simply another block, and
is written as any other.  So replicas may differ in what they share, and never in what they hold.

Before that the replica needs a link to the data file of the other one, which is durable before a
record can name a place in it.
"""

from __future__ import annotations

import errno
from contextlib import suppress

import numpy as np

from cstor_core.errors import CorruptError
from cstor_core.files import Filesystem
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from replica.store.bits import Units
from replica.store.data_files import loan_name, stray_links
from replica.store.family import Family
from replica.store.opening import Opened
from replica.store.places import FILE_SHIFT, FILES_MAX, UNIT_MASK, file_of, files_of
from replica.store.row_sets import with_data

_NO_LINKS = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EXDEV, errno.EMLINK)


class Borrowing:
    """What one replica shares with others."""

    __slots__ = (
        "_filesystem",
        "_lenders",
        "_numbers",
        "_opened",
        "shared_blocks",
    )

    def __init__(self, opened: Opened, filesystem: Filesystem) -> None:
        self._opened = opened
        self._filesystem = filesystem
        self._lenders: dict[str, Opened] = {}
        """By the UUID of the volume,"""
        self._numbers: dict[str, list[int]] = {}
        """and for each of its data files the number that places have here."""
        self.shared_blocks = 0
        """So many have been written without their data."""

    async def begin(self, volume_uuid: str, other: Borrowing, family: Family) -> bool:
        """Be able to share what a replica of another volume has; False where that cannot be.

        One begins at a time, while no replica of the pool is made or deleted.  Raises CorruptError
        where the disk failed, NoSpaceError.
        """
        parts, lender = self._opened.parts, other._opened
        parts.check_usable()
        try:
            is_linked = self.is_ready(volume_uuid) or await self._link(lender, family)
        except OSError as error:
            if error.errno in _NO_LINKS:
                return False
            raise parts.gave_up(error, "sharing data with another volume") from error
        if is_linked:
            known = {uuid: number for number, uuid in enumerate(self._opened.data.uuids)}
            self._numbers[volume_uuid] = [known[uuid] for uuid in lender.data.uuids]
            self._lenders[volume_uuid] = lender
        return is_linked

    def end(self, volume_uuid: str) -> None:
        """The replica of that volume is gone; what came from it stays."""
        self._lenders.pop(volume_uuid, None)
        self._numbers.pop(volume_uuid, None)

    def share(self, origin: volume_pb2.DataOrigin, seq: int, data: memoryview) -> Units:
        """Places for blocks of data that entry `seq` writes, where their origin holds the very
        same; 0 for each other one.  They are in use now.
        """
        lender = self._lenders.get(origin.volume_uuid)
        if lender is None:
            return np.zeros(len(data) // BLOCK_BYTES, dtype=np.uint64)
        parts = self._opened.parts
        found = self._same(lender, self._numbers[origin.volume_uuid], origin.block, data)
        is_same = np.flatnonzero(found)
        places = parts.sharing(found[is_same])
        found[is_same] = places
        for number in np.unique(files_of(places[places != 0])).tolist():
            if number != parts.own_file:
                parts.unflushed_loans[number] = seq
        self.shared_blocks += int(np.count_nonzero(places))
        return found

    def is_ready(self, volume_uuid: str) -> bool:
        """Whether all data files in which that volume's replica has blocks by now are known."""
        lender = self._lenders.get(volume_uuid)
        return lender is not None and len(self._numbers[volume_uuid]) == len(lender.data.uuids)

    async def _link(self, lender: Opened, family: Family) -> bool:
        """Have a link to each of its data files, durably.  Raises OSError."""
        directory, data, theirs = self._opened.directory, self._opened.data, lender.data
        missing = [
            (uuid, name)
            for uuid, name in zip(theirs.uuids, theirs.names, strict=True)
            if uuid not in data.uuids
        ]
        parts = self._opened.parts
        loans = len(data.uuids) - 1 - data.own + len(missing)
        if loans > parts.limits.loans_max or data.own + 1 + loans > FILES_MAX:
            return False
        for name in stray_links(self._filesystem, directory, data.names):
            self._filesystem.remove(directory / name)  # of a try that came to no end
        made: list[tuple[str, str]] = []
        for uuid, name in missing:
            made.append((uuid, loan_name(len(data.uuids) + len(made), uuid)))
            self._filesystem.link(lender.directory / name, directory / made[-1][1])
        if made:
            await self._filesystem.sync_directory(directory)
        for uuid, name in made:
            file = self._filesystem.open(directory / name, read_only=True)
            data.add(file, uuid, name, family.space(uuid))
        return True

    def _same(self, lender: Opened, numbers: list[int], first: int, data: memoryview) -> Units:
        """The places, as they are named here, of blocks from one on that hold just these data; 0
        where one does not.
        """
        theirs = lender.parts
        count = len(data) // BLOCK_BYTES
        blocks = np.arange(first, min(first + count, theirs.size_blocks), dtype=np.uint64)
        found = np.zeros(count, dtype=np.uint64)
        if not len(blocks):
            return found
        try:
            held = theirs.block_map.gather(blocks)
        except (OSError, CorruptError):
            return found  # nothing is lost by it: the data are at hand
        for index in np.flatnonzero(with_data(held)).tolist():
            place = int(held["place"][index])
            number = file_of(place)
            if number >= len(numbers):
                continue  # in a file that it has come to use since
            file, offset = theirs.located(place)
            piece = None
            with suppress(OSError):
                piece = file.pread_cached(BLOCK_BYTES, offset)
            wanted = bytes(data[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES])
            if piece == wanted:  # of views it would be compared byte by byte
                found[index] = numbers[number] << FILE_SHIFT | place & UNIT_MASK
        return found
