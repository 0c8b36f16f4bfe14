"""Where blocks lie: a data file and a unit of it in one number, and sets of such numbers.

A clone refers to data in the files of those that it was cloned from, the oldest first, and last in
its own; the upper bits of a place say in which.  For a volume that is no clone they are 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from replica.store.bits import Bits, Units, joined

FILE_SHIFT = 48
UNIT_MASK = (1 << FILE_SHIFT) - 1
FILES_MAX = 1 << 10
"""A clone of a clone, and so on, has at most so many files to look into, less one."""


class PlaceSet:
    """Places in use; of each file a set of bits."""

    __slots__ = ("_files",)

    def __init__(self, files: Mapping[int, Bits] | None = None) -> None:
        """`files` are sets of units by number of the file."""
        self._files = dict(files or {})

    def copy(self) -> PlaceSet:
        """Another set with the same places."""
        return PlaceSet({file: bits.copy() for file, bits in self._files.items()})

    def of_file(self, file: int) -> Bits:
        """The units of one file; to be looked at only."""
        return self._files.get(file) or Bits()

    def files(self) -> list[tuple[int, Bits]]:
        """(number, units) of each file that has any, ascending."""
        return [(file, self._files[file]) for file in sorted(self._files)]

    def put(self, places: Units) -> None:
        """Put places in."""
        for file, units in by_file(places):
            self._files.setdefault(file, Bits()).put(units)

    def remove(self, places: Units) -> None:
        """Take places out."""
        for file, units in by_file(places):
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
            for file, bits in self.files()
        ]
        return joined(found)


def by_file(places: Units) -> Iterator[tuple[int, Units]]:
    """(number of the file, units) for each file in which some of the places are."""
    if not len(places):
        return
    files = places >> np.uint64(FILE_SHIFT)
    if (files == files[0]).all():
        yield int(files[0]), places & np.uint64(UNIT_MASK)
        return
    for file in np.unique(files).tolist():
        yield file, places[files == np.uint64(file)] & np.uint64(UNIT_MASK)
