"""Who needs what of a data file, where clones share the data of those they were cloned from, and
blocks that of others from which they were copied, in their own replica or another one.

Who has data in the files of others has links to these, so they stay as long as it does.  What the
replica that owns such a file no longer needs may be needed by others: it is free when the
last one has let it go.  The owner allocates and gives back; of a deleted one nothing is allocated
any more, and what nobody needs is given back to the file system.

Where blocks of one replica share a unit, it needs the unit several times: once as whoever wrote it
does, and once more under each number of a share.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cstor_core.files import File
from cstor_core.units import BLOCK_BYTES, MIB
from replica.store.allocator import Allocator
from replica.store.bits import Bits, Extent, Places, Units
from replica.store.pace import Gentle, Pace
from replica.store.places import UNIT_MASK, by_file, files_of, places_of_shares

_GROUPS_AT_ONCE = 64
_PUNCHED_AT_ONCE = 1024
"""Units, which are 4 MiB: a file that is being punched takes no write, for 1 ms and more."""
_UNITS_AT_ONCE = 1 << 20
_NO_HOLES = (errno.EOPNOTSUPP, errno.ENOSYS)
"""The file system cannot punch; then only the end of the file is given back."""


class Space:
    """The units of one data file."""

    __slots__ = ("_allocator", "_held", "_kept", "came_back")

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], Bits] = {}
        """By who needs it, and the number of the share."""
        self._kept = Bits()
        self._allocator: Allocator | None = None
        self.came_back = _nobody
        """Told when clones have let units go that are free now."""

    @property
    def is_shared(self) -> bool:
        """Whether somebody may need something of it beside its owner, or a second time."""
        return bool(self._held)

    def hold(self, replica: str, shares: Mapping[int, Bits]) -> None:
        """Another replica needs these, by the number of the share, or the owner does beside its own
        ones; what it needed before counts no longer.

        Units that are not allocated to anybody may be among them only before `begin`.
        """
        self._held = {who: held for who, held in self._held.items() if who[0] != replica}
        self._held |= {(replica, share): units.copy() for share, units in shares.items()}
        if self._allocator is not None:
            unheld = self._kept.copy()
            for held in self._held.values():
                unheld.remove_all(held)
            for low, high in _stretches(*unheld.bounds()):
                self._free(unheld.between(low, high))

    def share(self, replica: str, units: Units, shares_max: int) -> Units:
        """Have a replica need units that it needs already once more; the numbers of the shares,
        or 0 where there is none left of a unit.
        """
        shares = np.zeros(len(units), dtype=np.uint64)
        for share in range(1, shares_max):
            left = np.flatnonzero(shares == 0)
            if not len(left):
                break
            held = self._held.setdefault((replica, share), Bits())
            left = left[~held.holds(units[left])]
            _, firsts = np.unique(units[left], return_index=True)
            shares[left[firsts]] = share
            held.put(units[left[firsts]])
        return shares

    def with_held(self, used: Bits) -> Bits:
        """These units, and those that somebody needs beside."""
        both = used.copy()
        for held in self._held.values():
            both.put_all(held)
        return both

    def begin(self, allocator: Allocator, used: Bits) -> None:
        """Its owner needs these, and takes new ones from the allocator."""
        allocator.begin(self.with_held(used))
        self._kept = self.with_held(Bits())
        self._kept.remove_all(used)
        self._kept.remove_range(0, allocator.first_unit)
        self._allocator = allocator

    def end(self) -> None:
        """Its owner is closed or gone."""
        self._allocator = None
        self.came_back = _nobody

    def release(self, units: Places) -> None:
        """Its owner needs these no longer."""
        if self._allocator is None:
            return  # a read has ended after its owner was closed: nothing is allocated any more
        if not self._held:
            self._allocator.release(units)
            return
        given = np.asarray(units, dtype=np.uint64)
        is_held = self._is_held(given)
        self._kept.put(given[is_held])
        self._allocator.release(given[~is_held].tolist())

    def let_go(self, replica: str, share: int, units: Units) -> None:
        """A replica needs these no longer under a number of a share."""
        self._held[replica, share].remove(units)
        self._free(units)

    def forget(self, replica: str) -> None:
        """A replica is gone."""
        for who in [who for who in self._held if who[0] == replica]:
            held = self._held.pop(who)
            self._free(held.between(*held.bounds()))

    def _free(self, units: Units) -> None:
        free = units[self._kept.holds(units)]
        free = free[~self._is_held(free)]
        self._kept.remove(free)
        if len(free) and self._allocator is not None:
            self._allocator.release(free.tolist())
            self.came_back()

    def _is_held(self, units: Units) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        found = np.zeros(len(units), dtype=np.bool_)
        for held in self._held.values():
            found |= held.holds(units)
        return found


def _nobody() -> None:
    pass


def _stretches(first: int, end: int) -> Iterator[Extent]:
    """(first, end) of the parts of a range in which so many units are looked at a time."""
    for low in range(first, end, _UNITS_AT_ONCE):
        yield low, min(low + _UNITS_AT_ONCE, end)


class Family:
    """The spaces of all data files of a pool, by the UUID of the replica that owns each."""

    def __init__(self) -> None:
        self._spaces: dict[str, Space] = {}

    def space(self, replica_uuid: str) -> Space:
        """That of one replica."""
        return self._spaces.setdefault(replica_uuid, Space())

    def forget(self, replica: str) -> None:
        """A replica is gone, and needs nothing of anybody any more."""
        for space in self._spaces.values():
            space.forget(replica)


class Releasing:
    """Gives places back that a replica no longer needs: its own, and those in others' files."""

    def __init__(self, replica: str, spaces: Sequence[Space], own_file: int) -> None:
        """`spaces` by the number of the file, of which its own has this one; more may come."""
        self._replica = replica
        self._spaces = spaces
        self._own_file = own_file

    def __call__(self, places: Places) -> None:
        """Give places back that are in no order."""
        spaces = self._spaces
        if len(spaces) == 1 and not spaces[0].is_shared:
            spaces[0].release(places)
            return
        for file, share, units in by_file(np.asarray(places, dtype=np.uint64)):
            if share or file != self._own_file:
                spaces[file].let_go(self._replica, share, units)
            else:
                spaces[file].release(units)


class Sharing:
    """Gives a replica more places for units that it refers to."""

    def __init__(self, replica: str, spaces: Sequence[Space], shares_max: int) -> None:
        """As for `Releasing`, which takes them back; so many blocks share a unit at most."""
        self._replica = replica
        self._spaces = spaces
        self._shares_max = shares_max

    def __call__(self, places: Units) -> Units:
        """Another place of the same unit for each; 0 where a unit has no other one left."""
        found = np.zeros(len(places), dtype=np.uint64)
        files = files_of(places)
        for file in np.unique(files).tolist():
            of_file = np.flatnonzero(files == np.uint64(file))
            units = places[of_file] & np.uint64(UNIT_MASK)
            shares = self._spaces[file].share(self._replica, units, self._shares_max)
            found[of_file] = np.where(shares, places_of_shares(file, shares, units), 0)
        return found


class Orphan:
    """The data file of a replica that is gone, of which clones still need something."""

    def __init__(self, file: File, space: Space, hole_bytes: int, pace: Gentle) -> None:
        """Begin to give back what nobody needs."""
        self._file = file
        self._space = space
        end = file.size() // BLOCK_BYTES
        self._allocator = Allocator(
            1, end, end, MIB // BLOCK_BYTES, hole_bytes // BLOCK_BYTES, _never_grows
        )
        space.begin(self._allocator, Bits())
        space.came_back = self.give_back_soon
        self._task: asyncio.Task[None] | None = None
        self._is_due = False
        self._pace = pace
        self.error = ""
        """Why nothing could be given back the last time; empty where it was."""
        self.give_back_soon()

    @property
    def used_bytes(self) -> int:
        """What clones need of it."""
        return self._space.with_held(Bits()).count() * BLOCK_BYTES

    @property
    def is_needed(self) -> bool:
        """Whether there are clones that refer to it."""
        return self._space.is_shared

    def give_back_soon(self) -> None:
        """Begin to give back what is free."""
        self._is_due = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._give_back())

    async def close(self) -> None:
        """Wait for what is being given back, and close the file."""
        self._pace.is_hurried = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._space.end()
        self._file.close()

    async def _give_back(self) -> None:
        while self._is_due:
            self._is_due = False
            try:
                await give_back(self._file, self._allocator, self._pace)
                self.error = ""
            except OSError as error:
                self.error = f"space of a deleted volume cannot be given back: {error.strerror}"


def _never_grows(_first: int, _count: int) -> None:
    raise OSError(errno.ENOSPC, "the replica is gone")


async def give_back(file: File, allocator: Allocator, pace: Pace) -> None:
    """Give free space to the file system: holes first, which makes the end cheap to cut.

    Raises OSError.
    """
    while extents := allocator.take_to_punch(_GROUPS_AT_ONCE):
        try:
            for first, count in _pieces(extents):
                await file.punch(first * BLOCK_BYTES, count * BLOCK_BYTES)
                await pace.turn()
        except OSError as error:
            if error.errno not in _NO_HOLES:
                raise
        finally:
            allocator.punched(extents)
    end = allocator.cut_end()
    if end:
        file.truncate(end * BLOCK_BYTES)


def _pieces(extents: Sequence[Extent]) -> Iterator[Extent]:
    """The same extents, in such as are punched at a time."""
    for first, count in extents:
        for at in range(0, count, _PUNCHED_AT_ONCE):
            yield first + at, min(count - at, _PUNCHED_AT_ONCE)
