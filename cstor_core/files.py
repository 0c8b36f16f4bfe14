"""The seam for files: every file call of a store goes through a `Filesystem`.

Calls that only touch the page cache are plain calls; calls that may wait for a disk are
coroutines, and run on a thread that does nothing but the system call.  There is no mmap: a page
fault would block the loop, and an I/O error would be a signal.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from cstor_core.memory import uncleared
from cstor_core.units import KIB

Buffer = bytes | bytearray | memoryview
T = TypeVar("T")

_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02
_IOV_MAX = 1024
_CLEARED_BYTES_MAX = 32 * KIB
"""Of a longer piece of memory it pays to ask for one that is not cleared."""
_pread, _preadv, _pwrite, _NOWAIT = os.pread, os.preadv, os.pwrite, os.RWF_NOWAIT

_libc = ctypes.CDLL(None, use_errno=True)  # Python has no call of its own for punching holes
_libc.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class File(Protocol):
    """An open file.  Every call may raise OSError; offsets and lengths are bytes."""

    def size(self) -> int:
        """The length of the file."""

    def pwritev(self, pieces: Sequence[Buffer], offset: int) -> None:
        """Write all pieces one after another from `offset` on, into the page cache."""

    def pread(self, length: int, offset: int) -> bytes:
        """Read, and wait for the disk if need be: for opening and for offline tools."""

    def pread_cached(self, length: int, offset: int) -> Buffer | None:
        """Read what the page cache holds; None if the disk would be asked (RWF_NOWAIT)."""

    def fill_cached(self, buffer: memoryview, offset: int) -> bool:
        """Fill a buffer with what the page cache holds; False if the disk would be asked."""

    async def pread_off_loop(self, length: int, offset: int) -> bytes:
        """Read on a thread."""

    async def pwritev_off_loop(self, pieces: Sequence[Buffer], offset: int) -> None:
        """Write on a thread: for large writes in the background."""

    async def datasync(self) -> None:
        """`fdatasync` on a thread.  After it has failed once the file must be given up."""

    def datasync_blocking(self) -> None:
        """`fdatasync`, and wait: for a store that can take nothing more before it is done."""

    def allocate(self, offset: int, length: int) -> None:
        """Reserve space (`posix_fallocate`); the file grows to hold it."""

    async def punch(self, offset: int, length: int) -> None:
        """Give space back on a thread; it reads as zeros from then on.

        The file takes no write meanwhile.
        """

    def truncate(self, length: int) -> None:
        """Set the length."""

    def close(self) -> None:
        """Close; the file is not used again."""


class Filesystem(Protocol):
    """Names and files below it; paths are absolute."""

    def open(self, path: Path, *, create: bool = False, read_only: bool = False) -> File:
        """Open for reading and writing; `create` makes a new file and fails if there is one."""

    def exists(self, path: Path) -> bool:
        """Whether there is a file or directory of that name."""

    def list(self, path: Path) -> list[str]:
        """The names in a directory, sorted."""

    def make_directory(self, path: Path) -> None:
        """Make a directory and its parents; nothing happens where it exists."""

    def rename(self, source: Path, destination: Path) -> None:
        """Rename over whatever is there, in one step."""

    def link(self, source: Path, destination: Path) -> None:
        """Give a file a second name, in the same file system."""

    def remove(self, path: Path) -> None:
        """Unlink a file."""

    async def remove_off_loop(self, path: Path) -> None:
        """The same on a thread: the space of a large file may take long to be given back."""

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory."""

    async def rest(self, duration_s: float) -> None:
        """Leave the processor and the disk to others for so long."""

    async def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""

    def sync_directory_blocking(self, path: Path) -> None:
        """The same, and wait."""

    def lock(self, path: Path) -> File:
        """Take an exclusive lock on a file, made if absent, for as long as it is open.

        Raises BlockingIOError if another process holds it.
        """

    def space(self, path: Path) -> tuple[int, int]:
        """(total, available) bytes of the file system that holds `path`, without what it keeps from
        us: what is neither used nor available is root's, or somebody's quota.
        """


class OsFile:
    """A file of the operating system."""

    __slots__ = ("_fd", "_may_miss", "_threads")

    def __init__(self, fd: int, threads: ThreadPoolExecutor) -> None:
        self._fd = fd
        self._threads = threads
        self._may_miss = True

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def pwritev(self, pieces: Sequence[Buffer], offset: int) -> None:
        if len(pieces) == 1:
            done = _pwrite(self._fd, pieces[0], offset)
            if done != len(pieces[0]):
                _write_rest(self._fd, pieces, offset, done)
            return
        for start in range(0, len(pieces), _IOV_MAX):
            group = pieces[start : start + _IOV_MAX]
            wanted = sum(map(len, group))
            done = os.pwritev(self._fd, group, offset)
            if done != wanted:
                _write_rest(self._fd, group, offset, done)
            offset += wanted

    def pread(self, length: int, offset: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def pread_cached(self, length: int, offset: int) -> Buffer | None:
        if not self._may_miss:
            return _pread(self._fd, length, offset)
        is_short = length <= _CLEARED_BYTES_MAX
        buffer = bytearray(length) if is_short else uncleared(length)
        try:
            if _preadv(self._fd, (buffer,), offset, _NOWAIT) == length:
                return buffer
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._may_miss = False  # tmpfs: nothing there can miss
            return _pread(self._fd, length, offset)
        return None

    def fill_cached(self, buffer: memoryview, offset: int) -> bool:
        if self._may_miss:
            try:
                return _preadv(self._fd, (buffer,), offset, _NOWAIT) == len(buffer)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._may_miss = False  # as in `pread_cached`
        return _preadv(self._fd, (buffer,), offset) == len(buffer)

    async def pread_off_loop(self, length: int, offset: int) -> bytes:
        return await self._off_loop(lambda: os.pread(self._fd, length, offset))

    async def pwritev_off_loop(self, pieces: Sequence[Buffer], offset: int) -> None:
        await self._off_loop(lambda: self.pwritev(pieces, offset))

    async def datasync(self) -> None:
        await self._off_loop(lambda: os.fdatasync(self._fd))

    def datasync_blocking(self) -> None:
        os.fdatasync(self._fd)

    def allocate(self, offset: int, length: int) -> None:
        os.posix_fallocate(self._fd, offset, length)

    async def punch(self, offset: int, length: int) -> None:
        await self._off_loop(lambda: _punch(self._fd, offset, length))

    def truncate(self, length: int) -> None:
        os.ftruncate(self._fd, length)

    def close(self) -> None:
        os.close(self._fd)

    async def _off_loop(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


class OsFilesystem:
    """The operating system's files.  One pool of threads serves all of them."""

    def __init__(self, threads: int = 4) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="disk")

    def open(self, path: Path, *, create: bool = False, read_only: bool = False) -> OsFile:
        flags = os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR)
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        return OsFile(os.open(path, flags, 0o600), self._threads)

    def exists(self, path: Path) -> bool:
        return path.exists()

    def list(self, path: Path) -> list[str]:
        return sorted(os.listdir(path))

    def make_directory(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def rename(self, source: Path, destination: Path) -> None:
        source.rename(destination)

    def link(self, source: Path, destination: Path) -> None:
        os.link(source, destination)

    def remove(self, path: Path) -> None:
        path.unlink()

    async def remove_off_loop(self, path: Path) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, path.unlink)

    def remove_directory(self, path: Path) -> None:
        path.rmdir()

    async def rest(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)

    async def sync_directory(self, path: Path) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, _sync_directory, path)

    def sync_directory_blocking(self, path: Path) -> None:
        _sync_directory(path)

    def lock(self, path: Path) -> OsFile:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return OsFile(fd, self._threads)

    def space(self, path: Path) -> tuple[int, int]:
        found = os.statvfs(path)
        total = found.f_blocks - found.f_bfree + found.f_bavail
        return total * found.f_frsize, found.f_bavail * found.f_frsize


def _write_rest(fd: int, pieces: Sequence[Buffer], offset: int, done: int) -> None:
    """Finish a short write; the system call says why it was short (ENOSPC, EIO)."""
    rest = memoryview(b"".join(pieces))
    while done < len(rest):
        done += os.pwrite(fd, rest[done:], offset + done)


def _punch(fd: int, offset: int, length: int) -> None:
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    if _libc.fallocate64(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
