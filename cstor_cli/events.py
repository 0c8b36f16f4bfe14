"""`cstor events`: what has happened to a target's volumes, and what happens.

Who follows goes on over a restart of the target: it is looked for again where it is said to be
then, and events go on after the last one that was seen, since numbers grow over restarts, too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from cstor_cli.addresses import parse_address
from cstor_cli.cluster_file import FILE_NAME, Home
from cstor_cli.control_client import ControlClient, control
from cstor_cli.following import Find, Say, followed
from cstor_cli.options import DEFAULT_CONTROL, DEFAULT_DIRECTORY, Output
from cstor_cli.printing import as_yaml, local_time
from cstor_cli.status import control_address, look_at
from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import control_pb2


def finder(directory: Path | None, address: str | None) -> Find:
    """How the target is found: by its address, or as the one of a directory of `cstor up`.

    Where neither is given it is that of ./cstor-data, or else the one on this machine's port 7777.
    Raises InputError where both are given, or the address is none.
    """
    if address is None:
        if directory is None and not (DEFAULT_DIRECTORY / FILE_NAME).is_file():
            return lambda: DEFAULT_CONTROL
        home = Home.at(directory or DEFAULT_DIRECTORY)
        return lambda: control_address(look_at(home))
    if directory is not None:
        raise InputError("name a directory with --dir or a target with --control, not both")
    parsed = str(parse_address(address))
    return lambda: parsed


@contextlib.contextmanager
def target_of(directory: Path | None, address: str | None) -> Iterator[ControlClient]:
    """A connection to a target that is named in one of these two ways; errors as for `finder`."""
    with control(finder(directory, address)()) as client:
        yield client


def watch(
    find: Find, volume: str, after: int, say: Say, *, follow: bool
) -> Iterator[control_pb2.WatchEventsResponse]:
    """What the target tells; with `follow` without an end, saying when it is gone and back.

    Raises a CstorError where the target cannot be reached at first, or has no such volume.
    """

    def listen(client: ControlClient) -> Iterator[control_pb2.WatchEventsResponse]:
        nonlocal after
        for told in client.watch_events(volume, after, follow=follow):
            if told.HasField("event"):
                after = told.event.number
            yield told

    if follow:
        yield from followed(find, listen, say, "its events go on")
    else:
        with control(find()) as client:
            yield from listen(client)


def as_text(told: control_pb2.WatchEventsResponse, output: Output) -> str:
    """A line for a person, a line of JSON or a document of a YAML stream; empty where there is
    nothing to tell.
    """
    if output is Output.TABLE:
        return _line(told)
    document = _document(told)
    if document is None:
        return ""
    if output is Output.YAML:
        return f"---\n{as_yaml(document)}"
    return json.dumps(document)


def _document(told: control_pb2.WatchEventsResponse) -> dict[str, object] | None:
    if not told.HasField("event"):
        return {"missed": told.missed} if told.missed else None
    event = told.event
    return {
        "number": event.number,
        "unix_ms": event.unix_ms,
        "volume": event.volume,
        "name": event.name,
        "severity": _severity(event).lower(),
        "sentence": event.sentence,
        "facts": dict(sorted(event.facts.items())),
    }


def _line(told: control_pb2.WatchEventsResponse) -> str:
    """A line for a person, with the time of the place; empty where there is nothing to tell."""
    if not told.HasField("event"):
        return f"({told.missed} events are not kept any more)" if told.missed else ""
    event = told.event
    when = local_time(event.unix_ms / 1000, sep="T", timespec="milliseconds")
    return f"{when} {_severity(event):7} {event.volume} {event.name}: {event.sentence}"


def _severity(event: control_pb2.Event) -> str:
    return control_pb2.Severity.Name(event.severity).removeprefix("SEVERITY_")
