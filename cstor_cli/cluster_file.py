"""The directory of `cstor up`: what lies where in it, and the file that says what it holds.

| name             | what it is                                                            |
|------------------|-----------------------------------------------------------------------|
| `cstor.json`     | the volume, and the addresses chosen, so that a restart uses them again |
| `target/`        | state of the target; `target-1/` and so on of those beside it         |
| `replica-I/`     | pool of the replica with index I, from 0                              |
| `logs/`          | what the daemons log, rotated by them                                 |
| `run/`           | one JSON file a daemon: the ports that it answers on                  |

`cstor.json` is the first file in a directory and is only ever replaced whole, so a directory that
is not empty and has none is somebody else's.  The lock is on the directory itself and leaves
nothing behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cstor_cli.secured import stay_local
from cstor_core.errors import CorruptError, InputError, UnavailableError

FORMAT = 1
FILE_NAME = "cstor.json"
NEW_FILE_NAME = "cstor.json.new"
LOCK_WAIT_S = 120.0
IQN_PREFIX = "iqn.2016-09.com.openebs.cstor:"


@dataclass(frozen=True, slots=True)
class ReplicaPlace:
    """Where one replica of the volume is: its UUID (empty before the founding) and addresses."""

    uuid: str
    address: str
    metrics: str
    witness: bool = False
    """It has no data: it is the witness, the last one of the places."""


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """What `cstor.json` says; addresses are HOST:PORT."""

    volume: str
    volume_uuid: str
    size_bytes: int
    logical_block_bytes: int
    founded: bool
    portal: str
    portal_is_set: bool
    """The user named the portal: it never moves to another port by itself."""
    replicas: tuple[ReplicaPlace, ...]
    other_portals: tuple[str, ...] = ()
    """Of the targets beside the first: one of them serves, the others stand by."""

    @property
    def target_names(self) -> tuple[str, ...]:
        """The names of the targets' daemons, and of their directories."""
        return tuple(target_name(index) for index in range(1 + len(self.other_portals)))

    @property
    def portals(self) -> tuple[str, ...]:
        """Where initiators log in to each of the targets."""
        return self.portal, *self.other_portals

    @property
    def copies(self) -> int:
        """How many replicas have data."""
        return sum(not place.witness for place in self.replicas)

    @property
    def iqn(self) -> str:
        """The iSCSI name of the volume's target node."""
        return IQN_PREFIX + self.volume


@dataclass(frozen=True, slots=True)
class Home:
    """The directory of one volume, as an absolute path without symbolic links."""

    path: Path

    @classmethod
    def at(cls, directory: Path) -> Home:
        """The home at a path that may be relative and need not exist; from now on its daemons
        are spoken to.
        """
        stay_local()
        return cls(directory.expanduser().resolve())

    @property
    def file(self) -> Path:
        """`cstor.json`."""
        return self.path / FILE_NAME

    @property
    def target(self) -> Path:
        """State directory of the target."""
        return self.path / "target"

    def pool(self, index: int) -> Path:
        """Pool directory of a replica."""
        return self.path / replica_name(index)

    def log(self, daemon: str) -> Path:
        """The log of the daemon `target`, `target-I` or `replica-I`."""
        return self.path / "logs" / f"{daemon}.log"

    def output(self, daemon: str) -> Path:
        """What the daemon wrote to stdout and stderr: mostly what ended it before it could log."""
        return self.path / "logs" / f"{daemon}.out"

    def ready_file(self, daemon: str) -> Path:
        """Where the daemon says which ports it answers on."""
        return self.path / "run" / f"{daemon}.json"

    def is_ours(self) -> bool:
        """Whether there is a `cstor.json`."""
        return self.file.is_file()

    def is_vacant(self) -> bool:
        """Whether a new volume may be made here: nothing is there, or an empty directory.

        Raises InputError where the path is no directory or cannot be looked into.
        """
        try:
            return all(name == NEW_FILE_NAME for name in os.listdir(self.path))
        except FileNotFoundError:
            return True
        except OSError as error:
            raise InputError(f"{self.path} cannot be used: {error.strerror}") from error


def target_name(index: int) -> str:
    """The name of a target's daemon, and of its directory."""
    return f"target-{index}" if index else "target"


def replica_name(index: int) -> str:
    """The name of a replica's daemon, and of its pool directory."""
    return f"replica-{index}"


def load(home: Home) -> ClusterFile:
    """Read `cstor.json`.

    Raises InputError where there is none or another version wrote it, CorruptError where it cannot
    be understood.
    """
    try:
        document = json.loads(home.file.read_text())
        if document["format"] != FORMAT:
            raise InputError(
                f"{home.file} has format {document['format']}, and this version of cStor reads "
                f"format {FORMAT}: use the version that wrote it"
            )
        return _from_document(document)
    except FileNotFoundError as error:
        raise InputError(
            f"{home.path} holds no volume of cStor: start one with cstor up"
        ) from error
    except OSError as error:
        raise InputError(f"{home.file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{home.file} is damaged: {error!r}") from error


def save(home: Home, cluster: ClusterFile) -> None:
    """Replace `cstor.json` durably, in one step; the directory exists.

    Raises OSError, with the old file in place.
    """
    new = home.path / NEW_FILE_NAME
    text = json.dumps({"format": FORMAT, **_to_document(cluster)}, indent=2) + "\n"
    try:
        with new.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.rename(home.file)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    with _opened(home.path) as directory:
        os.fsync(directory)


def ready_facts(home: Home, daemon: str, pid: int) -> dict[str, Any] | None:
    """What the daemon's ready file says, if it is the one of the process `pid`."""
    try:
        facts = json.loads(home.ready_file(daemon).read_text())
    except (OSError, ValueError):
        # Absent, or left by a machine that lost power while it was written: not ready.
        return None
    return facts if isinstance(facts, dict) and facts.get("pid") == pid else None


@contextlib.contextmanager
def locked(home: Home, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Keep other `cstor up` and `cstor down` out of an existing directory.

    Raises UnavailableError when another one still works there after `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    with _opened(home.path) as directory:
        while True:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        f"another cstor command is still at work in {home.path}"
                    ) from error
                time.sleep(0.1)
        yield


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield directory
    finally:
        os.close(directory)


def _to_document(what: ClusterFile | ReplicaPlace) -> dict[str, Any]:
    """All fields but those that have their defaults, which an earlier release may not know."""
    document = {}
    for field in fields(what):
        value = getattr(what, field.name)
        if value != field.default:
            document[field.name] = value
    if isinstance(what, ClusterFile):
        document["replicas"] = [_to_document(place) for place in what.replicas]
    return document


def _from_document(document: dict[str, Any]) -> ClusterFile:
    known = _known(document, ClusterFile, "format")
    known["replicas"] = tuple(
        ReplicaPlace(**_known(replica, ReplicaPlace)) for replica in document["replicas"]
    )
    known["other_portals"] = tuple(document.get("other_portals", ()))
    return ClusterFile(**known)


def _known(document: dict[str, Any], kind: type[ClusterFile | ReplicaPlace], *more: str) -> Any:
    """The fields of such a value.  Raises InputError where there are others."""
    names = {field.name for field in fields(kind)}
    strange = sorted(document.keys() - names - {*more})
    if strange:
        raise InputError(
            f"{FILE_NAME} says something that this version of cStor does not know "
            f"({', '.join(strange)}): use the version that wrote it"
        )
    return {name: value for name, value in document.items() if name in names}
