"""The data files in which a replica has blocks: its own, and those of others, by links to them.

A clone has links to the files of those that it was cloned from, and whoever has copied blocks from
another volume to the file of that one's replica.  Places name the files by number: those of a
clone's bases come first, then the own one, then those of others in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from cstor_core.errors import CorruptError, InputError
from cstor_core.files import File, Filesystem
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from replica.store.envelope import parsed, unsealed
from replica.store.family import Family, Space
from replica.store.places import FILE_SHIFT, PlaceSet, file_of
from replica.store.records import DATA_HEAD, DATA_MAGIC

BASE_PREFIX, LOAN_PREFIX = "base-", "loan-"
LINK_PREFIXES = (BASE_PREFIX, LOAN_PREFIX)
"""Of names of other replicas' data files."""


@dataclass(frozen=True, slots=True)
class DataFiles:
    """The data files in which a replica has blocks, by the numbers that places give them."""

    files: list[File]
    uuids: list[str]
    """Whose they are."""
    names: list[str]
    """Their names in the replica's directory."""
    spaces: list[Space]
    """What is in use of each."""
    own: int
    """The number of its own."""

    def add(self, file: File, replica_uuid: str, name: str, space: Space) -> None:
        """One more, with the next number."""
        self.files.append(file)
        self.uuids.append(replica_uuid)
        self.names.append(name)
        self.spaces.append(space)


def base_name(replica_uuid: str) -> str:
    """The name of a clone's link to the data file of another replica."""
    return f"{BASE_PREFIX}{replica_uuid}"


def loan_name(number: int, replica_uuid: str) -> str:
    """The name of a link to the data file of another replica, from which blocks were copied; places
    name it by this number.
    """
    return f"{LOAN_PREFIX}{number:04}-{replica_uuid}"


def loans_among(names: Iterable[str]) -> list[tuple[int, str]]:
    """(number, UUID of the replica) of each such link, ascending.  Raises CorruptError."""
    found = []
    for name in names:
        if name.startswith(LOAN_PREFIX):
            number, _, replica_uuid = name.removeprefix(LOAN_PREFIX).partition("-")
            try:
                found.append((int(number), str(UUID(replica_uuid))))
            except ValueError as error:
                raise CorruptError(f"{name} is not the name of a file that is shared") from error
    return sorted(found)


def stray_links(filesystem: Filesystem, directory: Path, names: Sequence[str]) -> list[str]:
    """Links that came to be, and no use, before a crash."""
    found = (name for name in filesystem.list(directory) if name.startswith(LOAN_PREFIX))
    return [name for name in found if name not in names]


def owner_in(name: str) -> str:
    """The UUID of the replica whose data file a link is."""
    if name.startswith(BASE_PREFIX):
        return name.removeprefix(BASE_PREFIX)
    return name.removeprefix(LOAN_PREFIX).partition("-")[2]


def open_data(
    filesystem: Filesystem,
    directory: Path,
    replica_uuid: str,
    origin: volume_pb2.CloneOrigin | None,
    family: Family,
    stack: ExitStack,
    *,
    read_only: bool = False,
) -> DataFiles:
    """The data files in which a replica has blocks; `stack` closes them.

    Raises CorruptError where one is missing or another replica's, OSError.
    """
    bases = list(origin.base_replica_uuids) if origin else []
    found = DataFiles([], [], [], [], len(bases))
    names = [(base, base_name(base)) for base in bases]
    names.append((replica_uuid, "data"))
    for number, lender in loans_among(filesystem.list(directory)):
        if number != len(names):
            break  # a power loss has kept it of several that were made: nothing refers to it
        names.append((lender, loan_name(number, lender)))
    for number, (owner, name) in enumerate(names):
        path = directory / name
        if number != found.own and not filesystem.exists(path):
            raise CorruptError(f"{path} is missing: data that the clone shares are in it")
        file = filesystem.open(path, read_only=read_only or number != found.own)
        stack.callback(file.close)
        if number != found.own:
            _check_owner(file, str(path), UUID(owner).bytes)
        found.add(file, owner, name, family.space(owner))
    return found


def _check_owner(file: File, what: str, replica_uuid: bytes) -> None:
    """Raise CorruptError where a data file is another replica's.

    One whose head is damaged, or says another format, may be the right one: what is read of it is
    verified block by block, and its head is its own replica's matter.
    """
    try:
        payload, _ = unsealed(file.pread(BLOCK_BYTES, 0), DATA_MAGIC, what, exact=False)
    except (CorruptError, InputError):
        return
    if parsed(DATA_HEAD, payload, what).replica_uuid != replica_uuid:
        raise CorruptError(f"{what} belongs to another replica")


def check_links(data: DataFiles, used: PlaceSet, what: str) -> None:
    """Raise CorruptError where places are in no file, or behind the end of one that is shared."""
    files = data.files
    for above, units in used.tables():
        number, (_, end) = file_of(above << FILE_SHIFT), units.bounds()
        if number >= len(files) or (
            number != data.own and end > files[number].size() // BLOCK_BYTES
        ):
            raise CorruptError(f"{what}: a data file that it shares is shorter than its map says")
