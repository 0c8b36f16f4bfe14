"""Where blocks lie: a data file and a unit of it in one number, and sets of such numbers.

A clone refers to data in the files of those that it was cloned from, the oldest first, and last in
its own; ten bits of a place say in which.  For a volume that is no clone they are 0.

Where a block was copied within the volume, both have their data in one unit, and yet each a place
of its own: five more bits count who shares a unit.  So every place has one row at most, and a
unit is free when all of its places are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from replica.store.bits import Bits, Units, joined

FILE_SHIFT = 48
UNIT_MASK = (1 << FILE_SHIFT) - 1
_FILE_BITS = 10
FILES_MAX = 1 << _FILE_BITS
"""A clone of a clone, and so on, has at most so many files to look into, less one."""
_FILE_MASK = FILES_MAX - 1
SHARE_SHIFT = 58
SHARES_MAX = 1 << 5
"""So many blocks have their data in one unit, at most."""


def file_of(place: int) -> int:
    """The number of the data file."""
    return place >> FILE_SHIFT & _FILE_MASK


def files_of(places: Units) -> Units:
    """The number of the data file of each."""
    found: Units = places >> np.uint64(FILE_SHIFT) & np.uint64(_FILE_MASK)
    return found


def places_of_shares(file: int, shares: Units, units: Units) -> Units:
    """The places of units of a file under numbers of shares."""
    found: Units = shares << np.uint64(SHARE_SHIFT) | np.uint64(file << FILE_SHIFT) | units
    return found


class PlaceSet:
    """Places in use: for each file, and for each number of a share of its units, a set of bits."""

    __slots__ = ("_files",)

    def __init__(self, files: Mapping[int, Bits] | None = None) -> None:
        """`files` are sets of units by what stands above the unit in a place."""
        self._files = dict(files or {})

    def copy(self) -> PlaceSet:
        """Another set with the same places."""
        return PlaceSet({file: bits.copy() for file, bits in self._files.items()})

    def of_file(self, file: int, share: int = 0) -> Bits:
        """The units of one file, under one number of a share; to be looked at only."""
        return self._files.get(_above(file, share)) or Bits()

    def shares_of(self, file: int) -> dict[int, Bits]:
        """The same for each number of a share under which there are any."""
        found = {above >> _FILE_BITS: above for above in self._files if above & _FILE_MASK == file}
        return {share: self._files[above] for share, above in found.items()}

    @property
    def is_shared(self) -> bool:
        """Whether there are places under any number of a share but 0."""
        return any(above > _FILE_MASK and bits.count() for above, bits in self._files.items())

    def tables(self) -> list[tuple[int, Bits]]:
        """What stands above the unit in a place, and the units, ascending."""
        return [(above, self._files[above]) for above in sorted(self._files)]

    def put(self, places: Units) -> None:
        """Put places in."""
        for file, units in _apart(places):
            self._files.setdefault(file, Bits()).put(units)

    def remove(self, places: Units) -> None:
        """Take places out."""
        for file, units in _apart(places):
            if file in self._files:
                self._files[file].remove(units)

    def remove_all(self, other: PlaceSet) -> None:
        """Take all places of another set out."""
        for file, bits in other._files.items():
            if file in self._files:
                self._files[file].remove_all(bits)

    def holds(self, places: Units) -> npt.NDArray[np.bool_]:
        """Which of the places are in the set."""
        found = np.zeros(len(places), dtype=np.bool_)
        files = places >> np.uint64(FILE_SHIFT)
        for file, bits in self._files.items():
            of_file = files == np.uint64(file)
            found[of_file] = bits.holds(places[of_file] & np.uint64(UNIT_MASK))
        return found

    def among(self, places: Units) -> Units:
        """Those of the places that are in the set."""
        return places[self.holds(places)]

    def count(self) -> int:
        """How many places are in the set."""
        return sum(bits.count() for bits in self._files.values())

    def places(self) -> Units:
        """All of them, ascending."""
        found = [
            bits.between(*bits.bounds()) | np.uint64(file << FILE_SHIFT)
            for file, bits in self.tables()
        ]
        return joined(found)


def by_file(places: Units) -> Iterator[tuple[int, int, Units]]:
    """(number of the file, of the share, units) for each in which some of the places are."""
    for above, units in _apart(places):
        yield above & _FILE_MASK, above >> _FILE_BITS, units


def _apart(places: Units) -> Iterator[tuple[int, Units]]:
    """(what stands above the unit, units)."""
    if not len(places):
        return
    tops = places >> np.uint64(FILE_SHIFT)
    if (tops == tops[0]).all():
        yield int(tops[0]), places & np.uint64(UNIT_MASK)
        return
    for above in np.unique(tops).tolist():
        yield above, places[tops == np.uint64(above)] & np.uint64(UNIT_MASK)


def _above(file: int, share: int) -> int:
    return share << _FILE_BITS | file
