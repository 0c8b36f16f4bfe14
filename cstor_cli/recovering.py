"""`cstor volume recover DIR...`: a volume from pool directories alone.

The machines that served them are gone, and their disks are here.  `cstor-replica show` says what
each directory holds, without writing anything; `recovery_plan` says what the volume is best opened
with; somebody agrees; and then a new directory of `cstor up` gets these pools as its own, by
symbolic links, and is started.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cstor_cli.cluster_file import ClusterFile, Home, ReplicaPlace, replica_name, save
from cstor_cli.forcing import OPEN_S_MAX, force_open
from cstor_cli.interrupts import uninterrupted
from cstor_cli.processes import REPLICA, program, scan, stop
from cstor_cli.recovery_plan import Held, Plan, held_in
from cstor_cli.starting import LOCAL_HOST, REPLICA_METRICS_PORT, REPLICA_PORT, Say, make_directories
from cstor_cli.up import DEFAULT_PORTAL, Options, Up, bring_up
from cstor_core.errors import CstorError, InputError, UnavailableError
from cstor_core.units import format_size

SHOW, CHECK = "show", "check"
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found in one directory."""

    path: Path
    document: Mapping[str, Any] | None = None
    reason: str = ""
    """Why nothing was."""

    @property
    def replicas(self) -> list[Held]:
        """Of all volumes."""
        return held_in(str(self.path), self.document) if self.document is not None else []


def look_into(directory: Path, *, is_verifying: bool) -> Looked:
    """What a pool directory holds, with all data verified where that is wanted."""
    path = directory.expanduser().resolve()
    if not path.is_dir():
        return Looked(path, reason="there is no such directory")
    what = CHECK if is_verifying else SHOW
    ended = subprocess.run(
        [program(REPLICA), what, str(path), "--output", "json"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    with contextlib.suppress(ValueError):
        return Looked(path, json.loads(ended.stdout))
    said = ended.stderr.strip().rpartition("\n")[2].removeprefix("cstor-replica: ")
    return Looked(path, reason=said or f"it cannot be looked at (exit code {ended.returncode})")


def check_all_looked_into(looks: Sequence[Looked]) -> None:
    """Raise InputError where some directory says nothing: who named it meant to have it used."""
    wrong = [f"{looked.path}: {looked.reason}" for looked in looks if looked.document is None]
    if wrong:
        raise InputError(f"{'; '.join(wrong)}; mend that, or name the other directories only")


def lines_of(looked: Looked) -> Iterator[str]:
    """What a person is told of a directory."""
    if looked.document is None:
        yield f"{looked.path}: {looked.reason}"
        return
    yield f"{looked.path}: pool {looked.document['pool_uuid'] or '?'}"
    if not looked.replicas:
        yield "  no replica is in it"
    for held in looked.replicas:
        what = f"{held.volume or 'a volume'} ({held.volume_uuid or '?'})"
        yield f"  {what}, replica {held.replica_uuid or '?'}"
        if held.position is not None:
            words = [f"entry {held.position}"]
            words += ["rebuilding"] if held.is_rebuilding else []
            words += ["short"] if held.is_short else []
            words += ["failed"] if held.failed else []
            forced, number = held.configuration
            words.append(f"configuration {number} of {len(held.members)} members")
            words += [f"forced {forced} times"] if forced else []
            words.append(f"promised epoch {held.promised_epoch}")
            yield f"    {', '.join(words)}"
            snapshots = ", ".join(held.snapshots) or "none"
            yield (
                f"    {format_size(held.size_bytes)}, of which {format_size(held.used_bytes)} are "
                f"used; snapshots: {snapshots}"
            )
        for what in held.damage:
            yield f"    DAMAGE: {what}"


def lines_of_plan(plan: Plan) -> Iterator[str]:
    """What is going to be done, and what is lost by it."""
    best = plan.best
    places = ", ".join(held.directory for held in plan.chosen)
    count = len(best.members)
    if plan.is_forced:
        yield (
            f"{best.volume} has to be forced open, with {len(plan.chosen)} of {count} replicas "
            f"({places}), as it was at entry {best.position}:"
        )
        yield from (f"  {sentence}" for sentence in plan.lost)
        yield "  those left out come back only as new, empty replicas"
        yield "  do this only if the others are lost for good: they could be opened elsewhere"
    else:
        yield (
            f"{best.volume} opens with {len(plan.chosen)} of {count} replicas ({places}), as it "
            f"was at entry {best.position}: that is a quorum, and nothing that was flushed is lost"
        )
    for directory, reason in plan.left_out.items():
        yield f"  {directory} is not used: {reason}"


def plan_document(looks: Sequence[Looked], plan: Plan | None, reason: str) -> dict[str, Any]:
    """All that as it is printed for scripts."""
    document: dict[str, Any] = {
        "directories": [
            {"path": str(looked.path), "reason": looked.reason, "pool": looked.document}
            for looked in looks
        ],
        "reason": reason,
        "plan": None,
    }
    if plan is not None:
        document["plan"] = {
            "volume": plan.best.volume,
            "volume_uuid": plan.best.volume_uuid,
            "position": str(plan.best.position),
            "forced": plan.is_forced,
            "directories": [held.directory for held in plan.chosen],
            "left_out": dict(plan.left_out),
            "lost": list(plan.lost),
            "missing": list(plan.missing),
        }
    return document


def vacant(directory: Path) -> Home:
    """The directory that is to keep the state of what is opened.

    Raises InputError where there is something in it already.
    """
    home = Home.at(directory)
    if not home.is_vacant():
        raise InputError(
            f"{home.path} is not empty: name another directory with --dir; logs and state are kept "
            "there, and the pools stay where they are"
        )
    return home


def open_with(home: Home, plan: Plan, portal: str | None, say: Say) -> Up:
    """Start daemons on the pools, and a target, and have it open the volume.

    Raises a CstorError where that cannot be done; the pools' daemons have ended then.
    """
    try:
        make_directories(home)
        for index, held in enumerate(plan.chosen):
            home.pool(index).symlink_to(held.directory)
        save(home, _cluster(plan, portal))
        forced = None
        if plan.is_forced:
            uuids = [held.replica_uuid for held in plan.chosen]
            forced = lambda control: _force(control, plan.best.volume, uuids)  # noqa: E731
        return bring_up(home.path, Options(portal=portal), say, forced)
    except (CstorError, OSError) as error:
        with uninterrupted():
            stop(scan(home).values())
        _forget(home, len(plan.chosen))
        if isinstance(error, OSError):
            raise CstorError(f"{home.path} cannot be used: {error.strerror}") from error
        raise


def _cluster(plan: Plan, portal: str | None) -> ClusterFile:
    best = plan.best
    return ClusterFile(
        volume=best.volume,
        volume_uuid=best.volume_uuid,
        size_bytes=best.size_bytes,
        logical_block_bytes=best.logical_block_bytes,
        founded=True,
        portal=portal or DEFAULT_PORTAL,
        portal_is_set=portal is not None,
        replicas=tuple(
            ReplicaPlace(
                held.replica_uuid,
                f"{LOCAL_HOST}:{REPLICA_PORT + index}",
                f"{LOCAL_HOST}:{REPLICA_METRICS_PORT + index}",
            )
            for index, held in enumerate(plan.chosen)
        ),
    )


def _force(control: str, volume: str, uuids: list[str]) -> None:
    """Have the target force the volume open; it has to have found the replicas first."""
    agreed: Callable[[str], bool] = lambda sentence: True  # noqa: E731 - somebody has agreed
    deadline_s = time.monotonic() + OPEN_S_MAX
    while True:
        try:
            force_open(control, volume, uuids, agreed)
        except (InputError, UnavailableError):
            if time.monotonic() > deadline_s:
                raise
            time.sleep(POLL_S)
        else:
            return


def _forget(home: Home, count: int) -> None:
    """Remove what was made in a directory, and not what its links lead to."""
    for index in range(count):
        with contextlib.suppress(OSError):
            (home.path / replica_name(index)).unlink()
    for name in (home.target.name, "run"):
        shutil.rmtree(home.path / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(home.file)
