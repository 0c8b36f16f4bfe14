"""How work on whole files is done: beside everything else, gently, or at once.

The same coroutines serve all three.  In the background each call that may wait for the disk does so
on a thread, and the loop has its turn now and then; gently the processor has a rest then, too.  At
once each call returns when it is done, so that the coroutine never waits and `finished` runs it to
its end.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import coroutine
from typing import Any, Protocol, TypeVar

from cstor_core.files import Buffer, File, Filesystem

T = TypeVar("T")
REST_S = 0.010
"""So long what nobody waits for rests behind each of its turns, which take about 2 ms, where it has
all of its time left: so it leaves most of a processor to commands that somebody waits for.
"""


class UnreadableError(OSError):
    """A read failed, which has changed nothing: it may be tried again."""


class Pace(Protocol):
    """Calls of files; every one may raise OSError, and `read` UnreadableError."""

    async def read(self, file: File, length: int, offset: int) -> bytes:
        """Read."""

    async def write(self, file: File, pieces: Sequence[Buffer], offset: int) -> None:
        """Write."""

    async def sync(self, file: File) -> None:
        """Flush a file."""

    async def sync_directory(self, filesystem: Filesystem, path: Path) -> None:
        """Flush a directory."""

    async def turn(self) -> None:
        """Let others have their turn."""


class Background:
    """Beside everything else."""

    async def read(self, file: File, length: int, offset: int) -> bytes:
        with _reading():
            cached = file.pread_cached(length, offset)
            return await file.pread_off_loop(length, offset) if cached is None else bytes(cached)

    async def write(self, file: File, pieces: Sequence[Buffer], offset: int) -> None:
        await file.pwritev_off_loop(pieces, offset)

    async def sync(self, file: File) -> None:
        await file.datasync()

    async def sync_directory(self, filesystem: Filesystem, path: Path) -> None:
        await filesystem.sync_directory(path)

    async def turn(self) -> None:
        await _turn()


class Gentle(Background):
    """In the background, and not all the time: for what is long and nobody waits for."""

    def __init__(self, filesystem: Filesystem, leisure: Callable[[], float] = lambda: 1.0) -> None:
        """`leisure` says what part of its time is left until others have to wait for it."""
        self._filesystem = filesystem
        self._leisure = leisure
        self.is_hurried = False
        """Somebody waits for it now, and from now on."""
        self._waiting = 0

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Somebody waits for it just now."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def turn(self) -> None:
        rest_s = 0.0 if self.is_hurried or self._waiting else REST_S * self._leisure()
        await (self._filesystem.rest(rest_s) if rest_s > 0 else _turn())


class AtOnce:
    """Everything waits."""

    async def read(self, file: File, length: int, offset: int) -> bytes:
        with _reading():
            return file.pread(length, offset)

    async def write(self, file: File, pieces: Sequence[Buffer], offset: int) -> None:
        file.pwritev(pieces, offset)

    async def sync(self, file: File) -> None:
        file.datasync_blocking()

    async def sync_directory(self, filesystem: Filesystem, path: Path) -> None:
        filesystem.sync_directory_blocking(path)

    async def turn(self) -> None:
        pass


@contextmanager
def _reading() -> Iterator[None]:
    """Tell a read that fails from everything else that may."""
    try:
        yield
    except OSError as error:
        raise UnreadableError(error.errno, error.strerror) from error


@coroutine
def _turn() -> Generator[None, None, None]:
    yield


BACKGROUND = Background()
AT_ONCE = AtOnce()


def finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of work whose every call is `AT_ONCE`."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    work.close()
    raise AssertionError("work that was to be done at once has waited")
