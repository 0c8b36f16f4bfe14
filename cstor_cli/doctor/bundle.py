"""A bundle for support: what was seen and found, as files of a tar archive.

It is made of what the daemons tell and of what is named here, never of a directory as it lies:
so no secret can be in it.  Daemons tell none; of a directory of `cstor up` only `cstor.json` and
the ends of the logs are taken; and of an initiator nothing but how long it waits.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from cstor_cli.cluster_file import FILE_NAME, Home
from cstor_cli.doctor.findings import Finding
from cstor_cli.doctor.picture import DaemonSeen, Picture
from cstor_cli.doctor.reporting import document
from cstor_core.errors import InputError

LOG_BYTES_MAX = 1 << 20
PREFIX = "cstor-bundle"


def new_file(path: Path) -> IO[bytes]:
    """A file that only its owner can read.

    Raises InputError where it exists or cannot be made.
    """
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        return os.fdopen(os.open(path, flags, 0o600), "wb")
    except OSError as error:
        raise InputError(f"the bundle {path} cannot be made: {error.strerror}") from error


def write_bundle(
    file: IO[bytes], picture: Picture, findings: Sequence[Finding], directory: Path | None
) -> None:
    """Write the archive, compressed."""
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in _contents(picture, findings, directory):
            entry = tarfile.TarInfo(f"{PREFIX}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(picture.now_s), 0o600
            archive.addfile(entry, io.BytesIO(data))


def _contents(
    picture: Picture, findings: Sequence[Finding], directory: Path | None
) -> Iterator[tuple[str, bytes]]:
    yield "findings.json", _json(document(picture, findings))
    yield "versions.json", _json(_versions(picture))
    waits = [
        {"where": seen.where, "target": seen.target_name, "waits_s": seen.replacement_timeout_s}
        for seen in picture.timeouts
    ]
    yield "initiator.json", _json(waits)
    for target in picture.targets:
        at = f"target-{_as_name(target.daemon.address)}"
        yield from _daemon(at, target.daemon)
        yield f"{at}/volumes.json", _json([_message(report) for report in target.volumes])
        yield f"{at}/events.json", _json([_message(event) for event in target.events])
    for pool in picture.pools.values():
        at = f"replica-{_as_name(pool.daemon.address)}"
        yield from _daemon(at, pool.daemon)
        if pool.pool is not None:
            yield f"{at}/pool.json", _json(_message(pool.pool))
    if directory is not None:
        home = Home.at(directory)
        yield f"directory/{FILE_NAME}", home.file.read_bytes()
        for log in sorted(home.log("any").parent.glob("*")):
            yield f"directory/logs/{log.name}", _end_of(log)


def _daemon(at: str, daemon: DaemonSeen) -> Iterator[tuple[str, bytes]]:
    facts = _message(daemon.facts) if daemon.facts is not None else None
    seen = {"address": daemon.address, "reason": daemon.reason, "facts": facts}
    yield f"{at}/daemon.json", _json(seen)
    if daemon.metrics:
        yield f"{at}/metrics.txt", daemon.metrics.encode()


def _versions(picture: Picture) -> dict[str, str]:
    """Of this command, and of each daemon by its address."""
    told = {
        daemon.address: daemon.facts.version
        for daemon in picture.daemons
        if daemon.facts is not None
    }
    return {"cstor": version("cstor"), **told}


def _as_name(address: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in address)


def _message(message: Message) -> object:
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_BYTES_MAX))
        return file.read()
