"""A file system in memory, in which any call can be the last one or can fail.

What was written stays when a process is killed, as with the page cache of a machine that goes on;
a power loss throws away what was not flushed.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from pathlib import Path

from cstor_core.checksums import Buffer


class Killed(BaseException):
    """The process ends inside of a call: nothing after it happens."""


class Inode:
    """Content that has names; what is flushed survives a power loss."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.flushed = b""
        self.unflushed: list[tuple[int, bytes]] = []
        self.punched_bytes = 0


class MemoryFilesystem:
    """Names, contents and locks."""

    def __init__(self) -> None:
        self.inodes: dict[Path, Inode] = {}
        self.directories: set[Path] = {Path("/")}
        self.locked: set[Path] = set()
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda call: None
        self.cached = True
        self.open_files = 0
        self.room_bytes = 1 << 40
        self.place_writes: list[tuple[int, int]] = []

    def called(self, call: str) -> None:
        self.calls.append(call)
        self.before(call)

    def restart(self) -> None:
        """The process is gone, and a new one may take the locks."""
        self.locked.clear()
        self.before = lambda call: None

    def lose_power(self, kept: Callable[[], bool] = lambda: False) -> None:
        """Of what was not flushed only those writes are left that happened to be kept."""
        self.restart()
        for inode in self.inodes_once():
            inode.content[:] = inode.flushed.ljust(len(inode.content), b"\0")
            for offset, data in inode.unflushed:
                if kept():
                    inode.content[offset : offset + len(data)] = data
            inode.unflushed.clear()

    def used_bytes(self) -> int:
        return sum(len(inode.content) for inode in self.inodes_once())

    def inodes_once(self) -> list[Inode]:
        """Each of them once, whatever names it has."""
        return list({id(inode): inode for inode in self.inodes.values()}.values())

    def open(self, path: Path, *, create: bool = False, read_only: bool = False) -> MemoryFile:
        self.called("create" if create else "open")
        if create:
            if path in self.inodes:
                raise FileExistsError(errno.EEXIST, "exists", str(path))
            if path.parent not in self.directories:
                raise FileNotFoundError(errno.ENOENT, "no directory", str(path))
            self.inodes[path] = Inode()
        if path not in self.inodes:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        self.open_files += 1
        return MemoryFile(self, self.inodes[path])

    def exists(self, path: Path) -> bool:
        return path in self.inodes or path in self.directories

    def list(self, path: Path) -> list[str]:
        names = {child.name for child in [*self.inodes, *self.directories] if child.parent == path}
        return sorted(names - {""})

    def make_directory(self, path: Path) -> None:
        self.called("make_directory")
        self.directories.update([path, *path.parents])

    def rename(self, source: Path, destination: Path) -> None:
        self.called("rename")
        for path in [path for path in self.inodes if path == source or source in path.parents]:
            self.inodes[destination / path.relative_to(source)] = self.inodes.pop(path)
        if source in self.directories:
            self.directories.remove(source)
            self.directories.add(destination)

    def link(self, source: Path, destination: Path) -> None:
        self.called("link")
        if destination in self.inodes:
            raise FileExistsError(errno.EEXIST, "exists", str(destination))
        self.inodes[destination] = self.inodes[source]

    def remove(self, path: Path) -> None:
        self.called("remove")
        del self.inodes[path]

    async def remove_off_loop(self, path: Path) -> None:
        self.remove(path)

    def remove_directory(self, path: Path) -> None:
        self.called("remove_directory")
        self.directories.remove(path)

    async def rest(self, duration_s: float) -> None:
        """Nobody here has anything else to do."""
        await asyncio.sleep(0)

    async def sync_directory(self, path: Path) -> None:
        self.called("sync_directory")

    def sync_directory_blocking(self, path: Path) -> None:
        self.called("sync_directory")

    def lock(self, path: Path) -> MemoryFile:
        self.called("lock")
        if path in self.locked:
            raise BlockingIOError(errno.EAGAIN, "locked", str(path))
        self.locked.add(path)
        self.inodes.setdefault(path, Inode())
        return MemoryFile(self, self.inodes[path], path)

    def space(self, path: Path) -> tuple[int, int]:
        return self.room_bytes, self.room_bytes - self.used_bytes()


class MemoryFile:
    """An open file."""

    def __init__(self, filesystem: MemoryFilesystem, inode: Inode, lock: Path | None = None):
        self._filesystem = filesystem
        self._inode = inode
        self._lock = lock

    def size(self) -> int:
        return len(self._inode.content)

    def pwritev(self, pieces: Sequence[Buffer], offset: int) -> None:
        data = b"".join(pieces)
        try:
            self._filesystem.called("pwritev")
        except Killed:
            self._put(data[: len(data) // 2], offset)  # a call that is cut short has done a part
            raise
        self._filesystem.place_writes.append((offset, len(data)))
        self._put(data, offset)

    def _put(self, data: bytes, offset: int) -> None:
        content = self._inode.content
        end = offset + len(data)
        if end > len(content):
            grown = end - len(content)
            if self._filesystem.used_bytes() + grown > self._filesystem.room_bytes:
                raise OSError(errno.ENOSPC, "No space left on device")
            content.extend(bytes(grown))
        content[offset:end] = data
        self._inode.unflushed.append((offset, data))

    def pread(self, length: int, offset: int) -> bytes:
        self._filesystem.called("pread")
        return bytes(self._inode.content[offset : offset + length])

    def pread_cached(self, length: int, offset: int) -> Buffer | None:
        self._filesystem.called("pread_cached")
        return self.pread(length, offset) if self._filesystem.cached else None

    def fill_cached(self, buffer: memoryview, offset: int) -> bool:
        data = self.pread_cached(len(buffer), offset)
        if data is None or len(data) != len(buffer):
            return False
        buffer[:] = data
        return True

    async def pread_off_loop(self, length: int, offset: int) -> bytes:
        return self.pread(length, offset)

    async def pwritev_off_loop(self, pieces: Sequence[Buffer], offset: int) -> None:
        self.pwritev(pieces, offset)

    async def datasync(self) -> None:
        self.datasync_blocking()

    def datasync_blocking(self) -> None:
        self._filesystem.called("datasync")
        self._inode.flushed = bytes(self._inode.content)
        self._inode.unflushed.clear()

    def allocate(self, offset: int, length: int) -> None:
        self._filesystem.called("allocate")
        missing = offset + length - len(self._inode.content)
        if missing > 0:
            self._put(bytes(missing), len(self._inode.content))

    async def punch(self, offset: int, length: int) -> None:
        self._filesystem.called("punch")
        self._inode.content[offset : offset + length] = bytes(length)
        self._inode.punched_bytes += length

    def truncate(self, length: int) -> None:
        self._filesystem.called("truncate")
        del self._inode.content[length:]

    def close(self) -> None:
        if self._lock is not None:
            self._filesystem.locked.discard(self._lock)
        else:
            self._filesystem.open_files -= 1
