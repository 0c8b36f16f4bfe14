"""The disk of one machine: it keeps what was flushed, and may lose, tear, rot, fill up or fail.

Reads see what was written.  A power loss takes back what no flush covered, but for a part that
chance keeps; a killed process loses nothing.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Sequence
from pathlib import Path

from cstor_core.checksums import Buffer

SECTOR_BYTES = 512
JOURNAL_BYTES = 64 << 10
ROOM_BYTES = 1 << 40
FLUSH_S = 0.0005
READ_S = 0.0002
COLD = 0.05
"""So many reads miss the page cache."""
UNIT_BYTES = 4096
BLOCKS_FROM = UNIT_BYTES + JOURNAL_BYTES
"""Where the blocks begin in a data file (docs/format.md)."""
_ZEROS = memoryview(bytes(1 << 20))
"""More than a file is ever extended by at a time."""


class Inode:
    """The content of a file, and what of it no flush has covered."""

    __slots__ = ("content", "covered", "has_blocks", "unflushed")

    def __init__(self, has_blocks: bool = False) -> None:
        self.content = bytearray()
        self.has_blocks = has_blocks
        self.unflushed: list[tuple[int, bytes, bytes]] = []
        """(offset, what was there, what was written), in order."""
        self.covered = 0
        """How many writes before these a flush has covered."""


Directory = dict[str, "Inode | Directory"]


class Faults:
    """What goes wrong with a disk from now on."""

    def __init__(self) -> None:
        self.flush_fails = False
        self.reads_fail = False
        self.is_full = False
        self.slow = 1.0
        """A flush or a read takes so many times as long."""
        self.next_writes = ""
        """What happens to the next write of blocks: nothing, `lost` or `misdirected`."""


class SimulatedDisk:
    """A file system, the same one for each process of its machine."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._root: Directory = {}
        self._unflushed_names: list[tuple[Directory, str, Inode | Directory | None]] = []
        self._locks: set[Path] = set()
        self.faults = Faults()

    def restart(self) -> None:
        """The process is gone."""
        self._locks.clear()

    def lose_power(self, chance: random.Random) -> None:
        """Of what was not flushed only a part is left, some of it torn."""
        self.restart()
        odds = chance.random()
        for names, name, before in reversed(self._unflushed_names):
            if chance.random() >= odds:
                if before is None:
                    names.pop(name, None)
                else:
                    names[name] = before
        self._unflushed_names.clear()
        self._root.pop("run", None)
        for inode in self._inodes(self._root):
            self._lose(inode, odds, chance)

    def _lose(self, inode: Inode, odds: float, chance: random.Random) -> None:
        for offset, before, after in reversed(inode.unflushed):
            inode.content[offset : offset + len(after)] = before.ljust(len(after), b"\0")
        for offset, _, after in inode.unflushed:
            fate = chance.random()
            if fate < odds:
                inode.content[offset : offset + len(after)] = after
            elif fate < odds + (1 - odds) / 4:
                self._tear(inode, offset, after, odds, chance)
        inode.covered += len(inode.unflushed)
        inode.unflushed.clear()

    def _tear(
        self, inode: Inode, offset: int, after: bytes, odds: float, chance: random.Random
    ) -> None:
        start = 0
        while start < len(after):
            end = min(start + SECTOR_BYTES - (offset + start) % SECTOR_BYTES, len(after))
            if chance.random() < odds:
                inode.content[offset + start : offset + end] = after[start:end]
            start = end

    def _inodes(self, names: Directory) -> list[Inode]:
        found: list[Inode] = []
        for entry in names.values():
            found += self._inodes(entry) if isinstance(entry, dict) else [entry]
        return found

    def rot(self, chance: random.Random) -> str:
        """Flip a bit of some block of some data file; where, or nothing where there is none."""
        files = self._data_files(self._root, "")
        if not files:
            return ""
        path, inode = chance.choice(files)
        at = chance.randrange(BLOCKS_FROM, len(inode.content))
        inode.content[at] ^= 1 << chance.randrange(8)
        return f"{path} at {at}"

    def _data_files(self, names: Directory, path: str) -> list[tuple[str, Inode]]:
        found: list[tuple[str, Inode]] = []
        for name, entry in names.items():
            if isinstance(entry, dict):
                found += self._data_files(entry, f"{path}/{name}")
            elif entry.has_blocks and len(entry.content) > BLOCKS_FROM:
                found.append((f"{path}/{name}", entry))
        return found

    def misses_cache(self) -> bool:
        """Whether the next read has to wait for the disk."""
        return self._chance.random() < COLD

    def write_goes(self, offset: int, length: int, room: int) -> int | None:
        """Where a write of blocks really goes; nowhere, if it is lost."""
        what, self.faults.next_writes = self.faults.next_writes, ""
        units = (room - BLOCKS_FROM - length) // UNIT_BYTES
        if what == "misdirected" and units > 1:
            return BLOCKS_FROM + self._chance.randrange(units) * UNIT_BYTES
        return None if what == "lost" else offset

    def open(self, path: Path, *, create: bool = False, read_only: bool = False) -> SimulatedFile:
        names, entry = self._entry(path)
        if create:
            if entry is not None:
                raise FileExistsError(errno.EEXIST, "File exists", str(path))
            self._check_room()
            entry = Inode(has_blocks=path.name == "data")
            self._rename(names, path.name, entry)
        if not isinstance(entry, Inode):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return SimulatedFile(self, entry)

    def exists(self, path: Path) -> bool:
        try:
            return path == Path("/") or self._entry(path)[1] is not None
        except FileNotFoundError:
            return False

    def list(self, path: Path) -> list[str]:
        return sorted(self._directory(path))

    def make_directory(self, path: Path) -> None:
        for parent in reversed([path, *path.parents][:-1]):
            names, entry = self._entry(parent)
            if entry is None:
                self._rename(names, parent.name, {})

    def rename(self, source: Path, destination: Path) -> None:
        names, entry = self._entry(source)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(source))
        self._rename(names, destination.name, entry)
        self._rename(names, source.name, None)

    def link(self, source: Path, destination: Path) -> None:
        _, entry = self._entry(source)
        names, _ = self._entry(destination)
        self._rename(names, destination.name, entry)

    def remove(self, path: Path) -> None:
        names, _ = self._entry(path)
        self._rename(names, path.name, None)

    async def remove_off_loop(self, path: Path) -> None:
        self.remove(path)

    def remove_directory(self, path: Path) -> None:
        self.remove(path)

    async def rest(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)

    async def sync_directory(self, path: Path) -> None:
        await asyncio.sleep(FLUSH_S * self.faults.slow)
        self.sync_directory_blocking(path)

    def sync_directory_blocking(self, path: Path) -> None:
        if self.faults.flush_fails:
            raise OSError(errno.EIO, "Input/output error")
        names = self._directory(path)
        self._unflushed_names = [one for one in self._unflushed_names if one[0] is not names]

    def lock(self, path: Path) -> SimulatedFile:
        if path in self._locks:
            raise BlockingIOError(errno.EAGAIN, "locked", str(path))
        names, entry = self._entry(path)
        if entry is None:
            entry = Inode()
            self._rename(names, path.name, entry)
        assert isinstance(entry, Inode)
        self._locks.add(path)
        return SimulatedFile(self, entry, path)

    def unlock(self, path: Path) -> None:
        """The lock is given up."""
        self._locks.discard(path)

    def space(self, path: Path) -> tuple[int, int]:
        return ROOM_BYTES, 0 if self.faults.is_full else ROOM_BYTES // 2

    def _check_room(self) -> None:
        if self.faults.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _rename(self, names: Directory, name: str, entry: Inode | Directory | None) -> None:
        self._unflushed_names.append((names, name, names.get(name)))
        if entry is None:
            names.pop(name, None)
        else:
            names[name] = entry

    def _entry(self, path: Path) -> tuple[Directory, Inode | Directory | None]:
        names = self._directory(path.parent)
        return names, names.get(path.name)

    def _directory(self, path: Path) -> Directory:
        names = self._root
        for part in path.parts[1:]:
            found = names.get(part)
            if not isinstance(found, dict):
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
            names = found
        return names


class SimulatedFile:
    """An open file."""

    __slots__ = ("_disk", "_inode", "_lock")

    def __init__(self, disk: SimulatedDisk, inode: Inode, lock: Path | None = None) -> None:
        self._disk = disk
        self._inode = inode
        self._lock = lock

    def size(self) -> int:
        return len(self._inode.content)

    def pwritev(self, pieces: Sequence[Buffer], offset: int) -> None:
        data = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        self._put(data, offset)

    def _put(self, data: bytes, offset: int) -> None:
        content, end = self._inode.content, offset + len(data)
        if end > len(content):
            self._disk._check_room()
            content.extend(bytes(end - len(content)))
        if self._disk.faults.next_writes and self._inode.has_blocks and offset >= BLOCKS_FROM:
            goes = self._disk.write_goes(offset, len(data), len(content))
            if goes is None:
                return
            offset, end = goes, goes + len(data)
        self._inode.unflushed.append((offset, bytes(content[offset:end]), data))
        content[offset:end] = data

    def pread(self, length: int, offset: int) -> bytes:
        if self._disk.faults.reads_fail:
            raise OSError(errno.EIO, "Input/output error")
        return bytes(self._inode.content[offset : offset + length])

    def pread_cached(self, length: int, offset: int) -> Buffer | None:
        return None if self._disk.misses_cache() else self.pread(length, offset)

    def fill_cached(self, buffer: memoryview, offset: int) -> bool:
        data = self.pread_cached(len(buffer), offset)
        if data is None or len(data) != len(buffer):
            return False
        buffer[:] = data
        return True

    async def pread_off_loop(self, length: int, offset: int) -> bytes:
        await asyncio.sleep(READ_S * self._disk.faults.slow)
        return self.pread(length, offset)

    async def pwritev_off_loop(self, pieces: Sequence[Buffer], offset: int) -> None:
        self.pwritev(pieces, offset)

    async def datasync(self) -> None:
        inode = self._inode
        through = inode.covered + len(inode.unflushed)
        await asyncio.sleep(FLUSH_S * self._disk.faults.slow)
        self._flushed(through)

    def datasync_blocking(self) -> None:
        self._flushed(self._inode.covered + len(self._inode.unflushed))

    def _flushed(self, through: int) -> None:
        """All writes before this one are on the disk."""
        if self._disk.faults.flush_fails:
            raise OSError(errno.EIO, "Input/output error")
        inode = self._inode
        more = max(through - inode.covered, 0)
        del inode.unflushed[:more]
        inode.covered += more

    def allocate(self, offset: int, length: int) -> None:
        missing = offset + length - len(self._inode.content)
        if missing > 0:
            self._disk._check_room()
            self._inode.content.extend(_ZEROS[:missing])

    async def punch(self, offset: int, length: int) -> None:
        self._put(bytes(length), offset)

    def truncate(self, length: int) -> None:
        del self._inode.content[length:]

    def close(self) -> None:
        if self._lock is not None:
            self._disk.unlock(self._lock)
