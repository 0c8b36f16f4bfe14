"""A disk in memory that records every change, so that any moment can be brought back.

What was changed is on the disk for sure only once it was flushed: contents by a flush of the
file, names by a flush of the directory.  `moments` goes through a recording and stops after every
call; at each one a `Moment` gives the images that a killed process or a power loss may leave.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from cstor_core.checksums import Buffer

SECTOR_BYTES = 512
WINDOW_MAX = 8
"""Up to so many changes that were not flushed, every subset of them makes an image."""
VOLATILE = "run"
"""This directory of the root lives as long as the boot of the machine."""

Content = bytearray | dict[str, int]
"""Of a file; of a directory: its names and their inodes."""
ROOT = 0


@dataclass(frozen=True, slots=True)
class Write:
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Extend:
    length: int


@dataclass(frozen=True, slots=True)
class Punch:
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Truncate:
    length: int


@dataclass(frozen=True, slots=True)
class Names:
    """Names that a directory gets (an inode) or loses (None), in one step."""

    changes: tuple[tuple[str, int | None], ...]


Change = Write | Extend | Punch | Truncate | Names


@dataclass(frozen=True, slots=True)
class Made:
    inode: int
    content: type[Content]


@dataclass(frozen=True, slots=True)
class Changed:
    inode: int
    change: Change


@dataclass(frozen=True, slots=True)
class Flushed:
    """Everything that was changed before event number `begun` is on the disk."""

    inode: int
    begun: int


@dataclass(frozen=True, slots=True)
class Known:
    """What whoever uses the disk knows from here on; never looked into here."""

    facts: Any


Event = Made | Changed | Flushed | Known
Image = dict[int, Content]


def apply(content: Content, change: Change) -> None:
    """Make a change in the content of a file or a directory."""
    match change:
        case Names(changes):
            assert isinstance(content, dict)
            for name, inode in changes:
                if inode is None:
                    content.pop(name, None)
                else:
                    content[name] = inode
        case Write(offset, data):
            assert isinstance(content, bytearray)
            _extend(content, offset + len(data))
            content[offset : offset + len(data)] = data
        case Extend(length):
            assert isinstance(content, bytearray)
            _extend(content, length)
        case Punch(offset, length):
            assert isinstance(content, bytearray)
            end = min(offset + length, len(content))
            content[offset:end] = bytes(max(end - offset, 0))
        case Truncate(length):
            assert isinstance(content, bytearray)
            del content[length:]
            _extend(content, length)


def _extend(content: bytearray, length: int) -> None:
    if len(content) < length:
        content.extend(bytes(length - len(content)))


class RecordingFilesystem:
    """Names and contents in memory; `events` is the recording."""

    def __init__(self, image: Image | None = None) -> None:
        self.inodes: Image = {ROOT: {}} if image is None else image
        self.first: Image = {inode: content.copy() for inode, content in self.inodes.items()}
        """How it began: all of that is on the disk."""
        self.events: list[Event] = []
        self._numbers = count(max(self.inodes) + 1)
        self._locked: set[int] = set()
        self._is_dead = False

    def restart(self) -> None:
        """The process has ended, and a new one may take the locks."""
        self._locked.clear()

    def successor(self) -> RecordingFilesystem:
        """The same disk for a new process; whatever still runs of the old one reaches it no more.

        What it calls then is cancelled: it had been killed before.
        """
        fresh = RecordingFilesystem(self.inodes)
        fresh.first, fresh.events, fresh._numbers = self.first, self.events, self._numbers
        self._is_dead = True
        return fresh

    def check_alive(self) -> None:
        if self._is_dead:
            raise asyncio.CancelledError

    def know(self, facts: Any) -> None:
        """Put into the recording what is known from here on."""
        self.events.append(Known(facts))

    def changed(self, inode: int, change: Change) -> None:
        self.check_alive()
        apply(self.inodes[inode], change)
        self.events.append(Changed(inode, change))

    def flushed(self, inode: int, begun: int) -> None:
        self.check_alive()
        self.events.append(Flushed(inode, begun))

    def open(self, path: Path, *, create: bool = False, read_only: bool = False) -> RecordingFile:
        names, inode = self._entry(path)
        if create:
            if inode is not None:
                raise FileExistsError(errno.EEXIST, "File exists", str(path))
            inode = self._make(bytearray, names, path.name)
        elif inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return RecordingFile(self, inode)

    def exists(self, path: Path) -> bool:
        try:
            return path == Path("/") or self._entry(path)[1] is not None
        except FileNotFoundError:
            return False

    def list(self, path: Path) -> list[str]:
        return sorted(self._directory(self._inode(path)))

    def make_directory(self, path: Path) -> None:
        for parent in reversed([path, *path.parents][:-1]):
            names, inode = self._entry(parent)
            if inode is None:
                self._make(dict, names, parent.name)

    def rename(self, source: Path, destination: Path) -> None:
        assert source.parent == destination.parent
        names, inode = self._entry(source)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(source))
        self.changed(names, Names(((source.name, None), (destination.name, inode))))

    def link(self, source: Path, destination: Path) -> None:
        inode = self._inode(source)
        names, there = self._entry(destination)
        if there is not None:
            raise FileExistsError(errno.EEXIST, "File exists", str(destination))
        self.changed(names, Names(((destination.name, inode),)))

    def remove(self, path: Path) -> None:
        names, inode = self._entry(path)
        assert isinstance(self.inodes[inode or 0], bytearray)
        self.changed(names, Names(((path.name, None),)))

    async def remove_off_loop(self, path: Path) -> None:
        self.remove(path)

    def remove_directory(self, path: Path) -> None:
        names, inode = self._entry(path)
        assert not self.inodes[inode or 0]
        self.changed(names, Names(((path.name, None),)))

    async def rest(self, duration_s: float) -> None:
        """Nobody here has anything else to do."""
        await asyncio.sleep(0)

    async def sync_directory(self, path: Path) -> None:
        inode, begun = self._inode(path), len(self.events)
        await asyncio.sleep(0)
        self.flushed(inode, begun)

    def sync_directory_blocking(self, path: Path) -> None:
        self.flushed(self._inode(path), len(self.events))

    def lock(self, path: Path) -> RecordingFile:
        names, inode = self._entry(path)
        if inode in self._locked:
            raise BlockingIOError(errno.EAGAIN, "locked", str(path))
        inode = self._make(bytearray, names, path.name) if inode is None else inode
        self._locked.add(inode)
        return RecordingFile(self, inode, self._locked)

    def space(self, path: Path) -> tuple[int, int]:
        return 1 << 40, 1 << 39

    def _make(self, kind: type[Content], names: int, name: str) -> int:
        inode = next(self._numbers)
        self.inodes[inode] = kind()
        self.events.append(Made(inode, kind))
        self.changed(names, Names(((name, inode),)))
        return inode

    def _inode(self, path: Path) -> int:
        if path == Path("/"):
            return ROOT
        inode = self._entry(path)[1]
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return inode

    def _entry(self, path: Path) -> tuple[int, int | None]:
        """(inode of the directory, inode that the name has in it)."""
        self.check_alive()
        directory = ROOT
        for part in path.parts[1:-1]:
            found = self._directory(directory).get(part)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
            directory = found
        return directory, self._directory(directory).get(path.name)

    def _directory(self, inode: int) -> dict[str, int]:
        content = self.inodes[inode]
        if not isinstance(content, dict):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory")
        return content


class RecordingFile:
    """An open file."""

    def __init__(
        self, filesystem: RecordingFilesystem, inode: int, locked: set[int] | None = None
    ) -> None:
        self._filesystem = filesystem
        self._inode = inode
        self._locked = locked

    def _content(self) -> bytearray:
        content = self._filesystem.inodes[self._inode]
        assert isinstance(content, bytearray)
        return content

    def size(self) -> int:
        return len(self._content())

    def pwritev(self, pieces: Sequence[Buffer], offset: int) -> None:
        self._filesystem.changed(self._inode, Write(offset, b"".join(pieces)))

    def pread(self, length: int, offset: int) -> bytes:
        return bytes(self._content()[offset : offset + length])

    def pread_cached(self, length: int, offset: int) -> Buffer | None:
        return self.pread(length, offset)

    def fill_cached(self, buffer: memoryview, offset: int) -> bool:
        data = self.pread_cached(len(buffer), offset)
        if data is None or len(data) != len(buffer):
            return False
        buffer[:] = data
        return True

    async def pread_off_loop(self, length: int, offset: int) -> bytes:
        await asyncio.sleep(0)
        return self.pread(length, offset)

    async def pwritev_off_loop(self, pieces: Sequence[Buffer], offset: int) -> None:
        await asyncio.sleep(0)
        self.pwritev(pieces, offset)

    async def datasync(self) -> None:
        begun = len(self._filesystem.events)
        await asyncio.sleep(0)
        self._filesystem.flushed(self._inode, begun)

    def datasync_blocking(self) -> None:
        self._filesystem.flushed(self._inode, len(self._filesystem.events))

    def allocate(self, offset: int, length: int) -> None:
        self._filesystem.changed(self._inode, Extend(offset + length))

    async def punch(self, offset: int, length: int) -> None:
        await asyncio.sleep(0)
        self._filesystem.changed(self._inode, Punch(offset, length))

    def truncate(self, length: int) -> None:
        self._filesystem.changed(self._inode, Truncate(length))

    def close(self) -> None:
        if self._locked is not None:
            self._locked.discard(self._inode)


@dataclass(slots=True)
class Moment:
    """The disk after one call."""

    number: int
    """Of the last event."""
    facts: Any
    durable: Image
    pending: list[tuple[int, Changed]]
    """Changes that were not flushed, with the numbers of their events."""

    def killed(self, random_: random.Random, *, cut: bool) -> Image:
        """What a killed process leaves: everything, but for the rest of a write that was `cut`."""
        image = {inode: content.copy() for inode, content in self.durable.items()}
        for number, changed in self.pending:
            change = changed.change
            if cut and number == self.number and isinstance(change, Write):
                change = Write(change.offset, change.data[: random_.randrange(len(change.data))])
            apply(image[changed.inode], change)
        return image

    def power_losses(self, random_: random.Random, larger: int) -> Iterator[Image]:
        """What a power loss may leave: every subset of a small window and `larger` torn ones."""
        window = [changed for _, changed in self.pending]
        if len(window) <= WINDOW_MAX:
            for subset in range(1 << len(window)):
                yield self._image(
                    (changed.inode, changed.change)
                    for index, changed in enumerate(window)
                    if subset >> index & 1
                )
        for _ in range(larger):
            odds = random_.random()
            yield self._image(
                (changed.inode, change)
                for changed in window
                for change in _torn(changed.change, random_, odds)
            )

    def _image(self, changes: Iterator[tuple[int, Change]]) -> Image:
        image = {inode: content.copy() for inode, content in self.durable.items()}
        for inode, change in changes:
            apply(image[inode], change)
        root = image[ROOT]
        assert isinstance(root, dict)
        root.pop(VOLATILE, None)
        return image


def _torn(change: Change, random_: random.Random, odds: float) -> Iterator[Change]:
    """The change, nothing, or, of a write, some of the sectors that it touches."""
    kind = random_.random()
    if not isinstance(change, Write) or kind < 0.75:
        if random_.random() < odds:
            yield change
        return
    start = 0
    while start < len(change.data):
        at = change.offset + start
        end = start + SECTOR_BYTES - at % SECTOR_BYTES
        if random_.random() < odds:
            yield Write(at, change.data[start:end])
        start = end


def moments(filesystem: RecordingFilesystem, facts: Any) -> Iterator[Moment]:
    """The moments of a recording, one after each change and each flush."""
    durable: Image = {inode: content.copy() for inode, content in filesystem.first.items()}
    pending: list[tuple[int, Changed]] = []
    events = filesystem.events
    for number, event in enumerate(events):
        match event:
            case Known(facts):
                pass
            case Made(inode, kind):
                durable[inode] = kind()
            case Changed():
                pending.append((number, event))
            case Flushed(inode, begun):
                kept = []
                for at, changed in pending:
                    if changed.inode == inode and at < begun:
                        apply(durable[inode], changed.change)
                    else:
                        kept.append((at, changed))
                pending = kept
        following = events[number + 1] if number + 1 < len(events) else None
        if not isinstance(following, Known) and not isinstance(event, Made):
            yield Moment(number, facts, durable, pending)
