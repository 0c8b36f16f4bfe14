"""The mark of a replica that was given up, kept outside of the pool's disk.

When a write or a flush has failed, the page cache no longer says what the disk holds, so the next
process must not take up the replica as if nothing had happened.  That is written down first, and
not on the disk that has just failed: in a directory that lives as long as the boot of the machine
(a tmpfs such as /run).  After the next boot the mark is gone or counts no longer; the replica is
then short, as after any power loss.
"""

from __future__ import annotations

from pathlib import Path

from cstor_core.errors import CorruptError, InputError
from cstor_core.files import Filesystem
from replica.store.envelope import read_file, sealed, unsealed
from replica.store.records import MARK_MAGIC


class FailureMark:
    """Of one replica."""

    def __init__(
        self, filesystem: Filesystem, directory: Path, replica_uuid: str, boot_id: str
    ) -> None:
        """`directory` is that of all marks; it is made where it is absent."""
        self._filesystem = filesystem
        self._path = directory / f"{replica_uuid}.failed"
        self._boot_id = boot_id

    def reason(self) -> str:
        """Why the replica was given up under this boot; empty where it was not.

        A mark that was cut short counts: its process was killed while it wrote it.
        """
        if not self._filesystem.exists(self._path):
            return ""
        try:
            payload, _ = unsealed(
                read_file(self._filesystem, self._path), MARK_MAGIC, str(self._path)
            )
            boot_id, _, reason = payload.decode().partition("\n")
        except (CorruptError, InputError, UnicodeDecodeError):
            return f"the replica was given up after an error of its disk: see {self._path}"
        return reason if boot_id == self._boot_id else ""

    def put(self, reason: str) -> None:
        """Say that it was given up.  Raises OSError."""
        self._filesystem.make_directory(self._path.parent)
        if self._filesystem.exists(self._path):
            self._filesystem.remove(self._path)
        file = self._filesystem.open(self._path, create=True)
        try:
            file.pwritev([sealed(MARK_MAGIC, f"{self._boot_id}\n{reason}".encode())], 0)
        finally:
            file.close()
