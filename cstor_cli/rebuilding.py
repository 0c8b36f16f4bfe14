"""`cstor replica rebuild`: replicas on their way back, started at once, and watched to its end.

On a terminal there is a bar for each replica, elsewhere a line whenever something has changed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from cstor_cli.following import Find, Say, followed
from cstor_cli.options import Output
from cstor_cli.printing import console, print_line, rebuilt
from cstor_cli.status import Document, member_document
from cstor_core.errors import InputError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2

IN_SYNC = "in-sync"
FAILED = "failed"


def documents(report: control_pb2.VolumeReport, replica: str) -> list[Document]:
    """The replicas of a volume, or the one that is meant.  Raises InputError without one."""
    found = [
        {"address": member.member.address} | member_document(member)
        for member in report.members
        if replica in ("", member.member.replica_uuid, member.member.address)
    ]
    if replica and not found:
        raise InputError(f"{report.identity.name} has no replica {replica!r}")
    return found


def is_over(members: list[Document]) -> bool:
    """Whether all are in sync.  Raises UnavailableError where the others will never be."""
    out = [member for member in members if member["status"] != IN_SYNC]
    if out and all(member["status"] == FAILED for member in out):
        named = ", ".join(f"{member['address']}: {member['reason']}" for member in out)
        raise UnavailableError(f"{named}; `cstor replica replace` puts new ones in their place")
    return bool(members) and not out


def watch(find: Find, volume: str, replica: str, say: Say, output: Output) -> None:
    """Show how replicas come back until all of them, or the one that is meant, are in sync.

    Raises UnavailableError where one cannot be, and what following a target raises.
    """
    with _shown(output) as shown:
        for members in _followed(find, volume, replica, say):
            shown.show(members)


def _followed(find: Find, volume: str, replica: str, say: Say) -> Iterator[list[Document]]:
    reports = followed(find, lambda client: client.watch_status(volume), say, "it goes on")
    for told in reports:
        for report in told.volumes:
            members = documents(report, replica)
            yield members
            if is_over(members):
                return


class Lines:
    """One line for a replica that has changed, or a document of all for a script."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._told: dict[str, str] = {}

    def show(self, members: list[Document]) -> None:
        """Print what is new."""
        if self._output is not Output.TABLE:
            print_line(members, self._output)
            return
        for member in members:
            self._show_one(member["address"], _words(member))

    def _show_one(self, address: str, words: str) -> None:
        if self._told.get(address) != words:
            self._told[address] = words
            typer.echo(f"{address} {words}")


class Bars:
    """A bar for each replica."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, members: list[Document]) -> None:
        """Draw all of them anew."""
        for member in members:
            address = member["address"]
            if address not in self._tasks:
                self._tasks[address] = self._progress.add_task(address, total=None)
            total, done = _part(member)
            self._progress.update(
                self._tasks[address], total=total, completed=done, words=_words(member)
            )


class _Drawing(AbstractContextManager[Bars]):
    """Bars on a terminal, from the first to the last."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[words]}"),
            console=console,
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return Bars(self._progress)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _shown(output: Output) -> AbstractContextManager[Lines | Bars]:
    if output is Output.TABLE and sys.stdout.isatty():
        return _Drawing()
    return nullcontext(Lines(output))


def _part(member: Document) -> tuple[float | None, float]:
    """How long the bar is, and how much of it is done; None where nobody can say."""
    if member["status"] == IN_SYNC:
        return 1, 1
    rebuild = member["rebuild"]
    if rebuild is None or not rebuild["blocks_total"]:
        return None, 0
    return rebuild["blocks_total"], rebuild["blocks_done"]


def _words(member: dict[str, Any]) -> str:
    words = [str(member["status"])]
    if member["rebuild"] is not None:
        words.append(rebuilt(member["rebuild"]))
    elif member["status"] != IN_SYNC and member["reason"]:
        words.append(member["reason"])
    return ": ".join(words)
