"""The checksummed envelope of every small file, and of the head of every large one.

A magic number says which file it is, a format version which release wrote it, and a CRC32C over
all of it whether it is what was written.  A small file is replaced as a whole (write a new one,
flush it, rename, flush the directory), so that after a crash the old or the new one is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from construct import Bytes, Construct, ConstructError, Int32ul, Prefixed, Struct
from construct import GreedyBytes as Rest

from cstor_core.checksums import crc32c
from cstor_core.errors import CorruptError, InputError
from cstor_core.files import Filesystem

FORMAT = 1
MAGIC_BYTES = 8

ENVELOPE = Struct(
    "magic" / Bytes(MAGIC_BYTES),
    "format" / Int32ul,
    "payload" / Prefixed(Int32ul, Rest),
    "checksum" / Int32ul,
)
ENVELOPE_HEAD_BYTES = MAGIC_BYTES + 4 + 4
"""What comes before the payload; its last number is the payload's length."""
ENVELOPE_BYTES = ENVELOPE_HEAD_BYTES + 4
"""Of an empty payload."""


def sealed(magic: bytes, payload: bytes, format_version: int = FORMAT) -> bytes:
    """The envelope of `payload`."""
    content: bytes = ENVELOPE.build(
        {"magic": magic, "format": format_version, "payload": payload, "checksum": 0}
    )
    body = content[:-4]
    return body + crc32c(body).to_bytes(4, "little")


def unsealed(
    content: bytes, magic: bytes, what: str, *, exact: bool = True, latest: int = FORMAT
) -> tuple[bytes, int]:
    """The payload of an envelope and the length of the whole; more may follow unless `exact`.

    Raises CorruptError where it is not what was written, InputError where its format is later than
    the `latest` of that file.  `what` names the file for a person.
    """
    try:
        found = ENVELOPE.parse(content)
    except ConstructError as error:
        if content[:MAGIC_BYTES] == magic:
            found_format = int.from_bytes(content[MAGIC_BYTES : MAGIC_BYTES + 4], "little")
            _check_format(found_format, latest, what)
        raise CorruptError(f"{what} is damaged: it ends too early") from error
    if found.magic != magic:
        raise CorruptError(f"{what} is damaged or not ours: it does not begin with its mark")
    _check_format(found.format, latest, what)
    length = ENVELOPE_BYTES + len(found.payload)
    if crc32c(content[: length - 4]) != found.checksum or (exact and length != len(content)):
        raise CorruptError(f"{what} is damaged: its checksum does not match")
    return found.payload, length


def parsed(form: Construct, payload: bytes, what: str) -> Any:
    """The payload of an envelope, read by its declaration.  Raises CorruptError where it is short:
    its checksum is right, so whoever wrote it had another declaration under the same number."""
    try:
        return form.parse(payload)
    except ConstructError as error:
        raise CorruptError(f"{what} cannot be read: {error}") from error


def _check_format(found: int, latest: int, what: str) -> None:
    if not FORMAT <= found <= latest:
        raise InputError(
            f"{what} is of format {found} and this release reads format {latest}: "
            "use the release that wrote it, or another directory"
        )


def read_file(filesystem: Filesystem, path: Path) -> bytes:
    """All of a small file."""
    file = filesystem.open(path, read_only=True)
    try:
        return file.pread(file.size(), 0)
    finally:
        file.close()


async def replace_file(filesystem: Filesystem, path: Path, content: bytes) -> None:
    """Put `content` in the place of the file, durably and in one step.  Raises OSError."""
    fresh = fresh_path(path)
    if filesystem.exists(fresh):
        filesystem.remove(fresh)
    file = filesystem.open(fresh, create=True)
    try:
        file.pwritev([content], 0)
        await file.datasync()
    finally:
        file.close()
    filesystem.rename(fresh, path)
    await filesystem.sync_directory(path.parent)


def fresh_path(path: Path) -> Path:
    """Where the next version of a file is written before it takes the name."""
    return path.with_name(path.name + ".new")
