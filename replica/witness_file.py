"""What a witness keeps of one volume: a single small file, replaced as a whole at each change.

A witness is a member without data (`docs/format.md`, "A witness").  Its file says whom it has
promised itself to, and what a target told it last: the record of its epoch, the configuration, and
which data member is out of date.  A change counts when the new file has its name durably; until
then the old one is there, and nothing that it says is older than what was answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
from construct import ConstructError, GreedyBytes, Int16ul, Int32ul, Int64ul, PascalString, Prefixed
from construct import Struct as Form
from google.protobuf.message import DecodeError

from cstor_core.errors import CorruptError, CstorError, ForeignReplicaError, NoSpaceError
from cstor_core.files import Filesystem
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from replica.errors import OrderError
from replica.store.envelope import parsed, read_file, replace_file, sealed, unsealed
from replica.store.marks import FailureMark

WITNESS_MAGIC = b"cStorWit"
WITNESS = Form(
    "replica_uuid" / PascalString(Int16ul, "utf8"),
    "identity" / Prefixed(Int32ul, GreedyBytes),
    "configuration" / Prefixed(Int32ul, GreedyBytes),
    "promised_epoch" / Int64ul,
    "promised_instance" / PascalString(Int16ul, "utf8"),
    "record_epoch" / Int64ul,
    "record_seq" / Int64ul,
    "number" / Int64ul,
    "out_of_date" / PascalString(Int16ul, "utf8"),
)
"""The payload of the file's envelope."""
log = structlog.get_logger()
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Held:
    """The content of the file; `identity` and `configuration` are encoded messages."""

    replica_uuid: str
    identity: bytes
    configuration: bytes = b""
    """Empty before the founding."""
    promised_epoch: int = 0
    promised_instance: str = ""
    record_epoch: int = 0
    """The epoch of which it was told last, and the place of its record in the order."""
    record_seq: int = 0
    number: int = 0
    """Of the last word of that epoch's target."""
    out_of_date: str = ""
    """The data member that is, by that word; empty where none is."""


class WitnessFile:
    """The file of one volume; changes come one after another."""

    def __init__(
        self, filesystem: Filesystem, path: Path, held: Held, marks: Path, boot_id: str
    ) -> None:
        """Use `create` or `open`."""
        self.held = held
        self.identity = volume_pb2.VolumeIdentity.FromString(held.identity)
        self._filesystem = filesystem
        self._path = path
        self._changing = asyncio.Lock()
        self._mark = FailureMark(filesystem, marks, held.replica_uuid, boot_id)
        reason = self._mark.reason()
        self.failed_reason: str | None = reason or None

    @classmethod
    async def create(
        cls,
        filesystem: Filesystem,
        path: Path,
        identity: volume_pb2.VolumeIdentity,
        replica_uuid: str,
        marks: Path,
        boot_id: str,
    ) -> WitnessFile:
        """Make the file of a volume.  Raises NoSpaceError, CorruptError."""
        held = Held(replica_uuid, identity.SerializeToString(deterministic=True))
        made = cls(filesystem, path, held, marks, boot_id)
        await made._write(held)
        return made

    @classmethod
    async def open(
        cls, filesystem: Filesystem, path: Path, marks: Path, boot_id: str
    ) -> WitnessFile:
        """Read the file, and write it anew: what is there may not be on stable storage, where the
        process before this one ended in the midst of a change.

        Raises CorruptError, InputError (format), OSError, NoSpaceError.
        """
        payload, _ = unsealed(read_file(filesystem, path), WITNESS_MAGIC, str(path))
        try:
            found = parsed(WITNESS, payload, str(path))
            names = Held.__slots__
            file = cls(
                filesystem, path, Held(**{name: found[name] for name in names}), marks, boot_id
            )
            volume_pb2.Configuration.FromString(file.held.configuration)
        except (ConstructError, UnicodeDecodeError, DecodeError) as error:
            raise CorruptError(f"{path} is damaged: {error}") from error
        if file.failed_reason is not None:
            file._say_failed()
        else:
            with contextlib.suppress(CorruptError):  # it has failed then, and says so
                await file._write(file.held)
        return file

    @property
    def replica_uuid(self) -> str:
        """What identifies the witness."""
        return self.held.replica_uuid

    @property
    def promised_epoch(self) -> int:
        """The highest epoch promised."""
        return self.held.promised_epoch

    @property
    def promised_instance(self) -> str:
        """Whom it was promised to."""
        return self.held.promised_instance

    @property
    def configuration(self) -> volume_pb2.Configuration | None:
        """The members; None before the founding."""
        if not self.held.configuration:
            return None
        return volume_pb2.Configuration.FromString(self.held.configuration)

    async def promise(self, epoch: int, instance: str) -> None:
        """Promise an epoch to a target instance; durable on return.  `Fence` decides whether.

        Raises NoSpaceError, CorruptError where it could not be written down.
        """
        async with self._changing:
            await self._change(promised_epoch=epoch, promised_instance=instance)

    async def found(self, configuration: volume_pb2.Configuration) -> None:
        """Store the founding configuration, durably; the same one again changes nothing.

        Raises ForeignReplicaError where another one is stored, NoSpaceError, CorruptError.
        """
        async with self._changing:
            if self.configuration is None:
                await self._change(configuration=_encoded(configuration))
            elif self.configuration != configuration:
                raise ForeignReplicaError(f"{self._path} was founded with another configuration")

    async def attest(self, request: replica_pb2.AttestRequest, check: Callable[[], None]) -> None:
        """Hold what a target says; durable on return.

        `check` raises where it is not the target's to say any more.  Raises OrderError where it has
        said something later, NoSpaceError, CorruptError.
        """
        async with self._changing:
            check()
            held, epoch = self.held, request.orders.epoch
            said: dict[str, Any] = {
                "configuration": _encoded(request.configuration),
                "record_epoch": epoch,
                "record_seq": request.record_seq,
                "number": request.number,
                "out_of_date": request.out_of_date_replica_uuid,
            }
            if held.record_epoch == epoch and request.number <= held.number:
                if replace(held, **said) == held:
                    return
                raise OrderError(
                    f"word {request.number} of epoch {epoch} came behind word {held.number}"
                )
            await self._change(**said)

    async def _change(self, **fields: Any) -> None:
        """Change fields, durably, and only then here; the lock is held."""
        self.check_usable()
        changed = replace(self.held, **fields)
        if changed != self.held:
            await self._write(changed)
            self.held = changed

    def check_usable(self) -> None:
        """Raise CorruptError where its disk has failed."""
        if self.failed_reason is not None:
            raise CorruptError(self.failed_reason)

    async def _write(self, held: Held) -> None:
        try:
            content = {name: getattr(held, name) for name in Held.__slots__}
            await replace_file(
                self._filesystem, self._path, sealed(WITNESS_MAGIC, WITNESS.build(content))
            )
        except OSError as error:
            raise self._gave_up(error) from error

    def _gave_up(self, error: OSError) -> CstorError:
        """The error to raise for one of the disk's; anything but a full disk ends the witness.

        It is marked first, so that no process under this boot takes what the page cache has for
        what the disk has; after the next boot the file is what was answered, or later.
        """
        if error.errno in _FULL:
            return NoSpaceError(f"{self._path}: its file system is full: free some space")
        self.failed_reason = f"{self._path} could not be written: {error.strerror}"
        try:
            self._mark.put(self.failed_reason)
        except OSError as second:
            self.failed_reason += f" (and it could not be marked so: {second.strerror})"
        self._say_failed()
        return CorruptError(self.failed_reason)

    def _say_failed(self) -> None:
        log.error(
            "witness_failed",
            volume=self.identity.name,
            witness=self.replica_uuid,
            reason=self.failed_reason,
        )


def _encoded(configuration: volume_pb2.Configuration) -> bytes:
    return configuration.SerializeToString(deterministic=True)
