"""What people see: a few lines when a volume is up, tables otherwise; and documents for scripts."""

from __future__ import annotations

import json
import math
import shutil
import sys
from datetime import UTC, datetime
from typing import Any

import typer
import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from cstor_cli.addresses import parse_address
from cstor_cli.options import Output
from cstor_cli.status import Look, serving_target
from cstor_cli.up import Up
from cstor_core.units import GIB, KIB, MIB, format_duration, format_size

COLUMNS_MAX = 10_000


def console_of(columns: int | None) -> Console:
    """Prints for a terminal of so many columns, or for a pipe, which cuts nothing off."""
    return Console(soft_wrap=True, highlight=False, width=columns or COLUMNS_MAX)


console = console_of(shutil.get_terminal_size().columns if sys.stdout.isatty() else None)

LOSS_POSSIBLE = (
    "LOSS POSSIBLE: it was opened without proof that all acknowledged writes are there, so those "
    "that had not been flushed may be gone: check what is on it (fsck, the database's own check), "
    "and go back to a backup where that fails"
)
SHORT = (
    "its machine lost power, and what it had not flushed may be gone, until the volume serves and "
    "it is in sync"
)
ONE_COPY = (
    "ONE COPY: one replica carries commands out alone, and the witness holds that the other one is "
    "out of date until it has caught up: bring that one back"
)
YAML_COLUMNS_MAX = 1 << 20
"""A sentence stays in its line, so that it can be searched for."""
POOL_FILLING_PERCENT = 80
"""From here on it is shown how full a replica's pool is."""


def print_document(document: object, output: Output) -> None:
    """A document on stdout as JSON or YAML, and nothing else."""
    text = as_yaml(document) if output is Output.YAML else json.dumps(document, indent=2)
    typer.echo(text)


def print_line(document: object, output: Output) -> None:
    """One document of many on stdout: a line of JSON, or a document of a YAML stream."""
    typer.echo(f"---\n{as_yaml(document)}" if output is Output.YAML else json.dumps(document))


def as_yaml(document: object) -> str:
    """The same document as in JSON, fields in the same order, without a newline at its end."""
    # Read back from JSON there are only its own types left, and nothing is there twice.
    plain = json.loads(json.dumps(document))
    return yaml.safe_dump(plain, sort_keys=False, width=YAML_COLUMNS_MAX).rstrip("\n")


def up_lines(up: Up) -> list[str]:
    """What somebody needs who wants to use the volume."""
    look = up.look
    cluster = look.cluster
    facts = look.ready(serving_target(look)) or {}
    portal = parse_address(str(facts.get("portal", cluster.portal))).reachable()
    url = f"iscsi://{portal}/{cluster.iqn}/0"
    count = len(cluster.replicas)
    copies = f"{cluster.copies} replicas" if cluster.copies > 1 else "1 replica"
    if count > cluster.copies:
        copies += " and a witness"
    metrics = [str(facts.get("metrics")), *(place.metrics for place in cluster.replicas)]
    return [
        f"{cluster.volume}: {format_size(cluster.size_bytes)}, {copies}, data in {look.home.path}",
        f"  IQN       {cluster.iqn}",
        f"  URL       {url}",
        *_standby_lines(look, str(portal)),
        f"  Linux     iscsiadm -m discovery -t sendtargets -p {portal}",
        f"            iscsiadm -m node -T {cluster.iqn} -p {portal} --login",
        f"  QEMU      qemu-img info {url}",
        f"            qemu-system-x86_64 -drive file={url},format=raw,if=virtio",
        f"  replicas  {', '.join(look.replica_address(index) for index in range(count))} (gRPC)",
        f"  metrics   {', '.join(f'http://{at}/metrics' for at in metrics)}",
        f"  control   {facts.get('control')} (gRPC), http://{facts.get('http')}/readyz",
        f"  logs      {look.home.path / 'logs'}",
    ]


def _standby_lines(look: Look, portal: str) -> list[str]:
    """Where the targets are that stand by."""
    all_portals = [str(parse_address(one).reachable()) for one in look.cluster.portals]
    others = [one for one in all_portals if one != portal]
    return [f"  standby   {', '.join(others)} (takes over; log in there, too)"] if others else []


def print_status(document: dict[str, Any]) -> None:
    """The document of `cstor status` for a person."""
    volume, target = document["volume"], document["target"]
    console.print(
        f"[bold]{volume['name']}[/] {document['status']}, {format_size(volume['size_bytes'])}, "
        f"{volume['iqn']}"
    )
    if document["reason"]:
        console.print(f"  {document['reason']}", markup=False)
    if target["pid"]:
        console.print(
            f"  target pid {target['pid']}, iSCSI {target['portal']}, control {target['control']}, "
            f"HTTP {target['http']}, metrics {target['metrics']}",
            markup=False,
        )
    for standby in document["standbys"]:
        said = f"pid {standby['pid']}" if standby["pid"] else "does not run"
        console.print(
            f"  standby {standby['name']} {said}, iSCSI {standby['portal']}, "
            f"control {standby['control']}",
            markup=False,
        )
    _print_standing(volume)
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("replica", "status", "address", "pid", "applied", "durable", "rebuilt"):
        table.add_column(heading, no_wrap=True)
    for replica in document["replicas"]:
        table.add_row(
            str(replica["index"]),
            _member_words(replica),
            replica["address"],
            str(replica["pid"] or "-"),
            str(replica["applied_seq"]),
            str(replica["durable_seq"]),
            rebuilt(replica["rebuild"]),
        )
    console.print(table)
    for replica in document["replicas"]:
        for said in _sentences(replica):
            console.print(f"  replica {replica['index']}: {said}", markup=False)
    for session in document["sessions"]:
        console.print(f"  session of {session['initiator']} from {session['address']}")


def print_volumes(documents: list[dict[str, Any]]) -> None:
    """The volumes of a target for a person."""
    for volume in documents:
        console.print(
            f"[bold]{volume['name']}[/] {volume['status']}, {format_size(volume['size_bytes'])}, "
            f"{volume['iqn']} on {volume['portal']}"
        )
        if volume["reason"]:
            console.print(f"  {volume['reason']}", markup=False)
        _print_standing(volume)
        if words := _property_words(volume):
            console.print(f"  {words}", markup=False)
        for member in volume["members"]:
            said = "".join(f": {sentence}" for sentence in _sentences(member))
            console.print(f"  {member['address']} {_member_words(member)}{said}", markup=False)


def _property_words(volume: dict[str, Any]) -> str:
    """What was set of a volume that is not so of most."""
    words = [
        name.replace("_", " ")
        for name in ("read_only", "removable", "delete_protection")
        if volume[name]
    ]
    if volume["epoch"] and not volume["write_cache"]:
        words.append("no write cache")
    if volume["epoch"] and not volume["thin"]:
        words.append("not thin")
    if volume["sanitization"] == "under-way":
        words.append(f"being sanitized, {volume['sanitized_percent']} % done")
    elif volume["sanitization"]:
        words.append("sanitizing it has failed: do it again")
    if volume["reservation"]:
        words.append(f"reserved ({volume['reservation'].replace('-', ' ')})")
    return ", ".join(words)


def _print_standing(volume: dict[str, Any]) -> None:
    """Under what the target serves a volume and what keeps it waiting, if there is a target."""
    if "epoch" not in volume:
        return
    console.print(f"  epoch {volume['epoch']}, {_lease(volume['lease_left_s'])}", markup=False)
    if volume["waiting_s"]:
        awaited = ", ".join(volume["awaited"]) or "its replicas"
        console.print(
            f"  it has been waiting for {volume['waiting_s']:.0f} s, for {awaited}, and "
            f"{volume['commands_waiting']} commands with it",
            markup=False,
        )
    if volume["one_copy"]:
        console.print(f"  {ONE_COPY}", markup=False)
    if volume["loss_possible"]:
        console.print(f"  {LOSS_POSSIBLE}", markup=False)
    if volume["scrub"]:
        console.print(f"  {_scrubbed(volume['scrub'])}", markup=False)


def _lease(left_s: float | None) -> str:
    if left_s is None:
        return "and nothing of its lease: the target is of an earlier release"
    return f"its lease runs for {left_s:.1f} s more" if left_s else "no lease: no read is answered"


def _scrubbed(scrub: dict[str, Any]) -> str:
    """How far the scrub is, or what the last one has come to."""
    found = f"{scrub['mismatches']} copies of blocks were wrong, {scrub['repaired']} put right"
    if scrub["state"] == "running":
        part = 100 * scrub["blocks_done"] // max(scrub["blocks_total"], 1)
        left = scrub["seconds_left"]
        words = f"{part} % done" + (f", {format_duration(left)} left" if left else "")
        return f"a scrub is under way: {words}; {found}"
    ended = local_time(scrub["ended_unix_ms"] / 1000)
    reason = f" ({scrub['reason']})" if scrub["reason"] else ""
    return f"the last scrub has {scrub['state']} at {ended}{reason}: {found}"


def _member_words(member: dict[str, Any]) -> str:
    """Its status, and what else there is to see of it at once."""
    words = [str(member["status"])]
    if member["short"]:
        words.append("short")
    if member["pool_used_percent"] >= POOL_FILLING_PERCENT:
        words.append(f"pool {member['pool_used_percent']} % full")
    return ", ".join(words)


def _sentences(member: dict[str, Any]) -> list[str]:
    """What a person should know of a member beyond its words."""
    return [said for said in (member["reason"], member["short"] and SHORT) if said]


def rebuilt(rebuild: dict[str, Any] | None) -> str:
    """How far a replica is on its way back, how fast, and how long it still takes."""
    if rebuild is None:
        return "-"
    total = rebuild["blocks_total"]
    if not total:
        return "begins"
    words = [f"{100 * rebuild['blocks_done'] // total} %", f"{_whole(rebuild['bytes_per_s'])}/s"]
    if rebuild["left_s"] is not None:
        words.append(f"{duration(rebuild['left_s'])} left")
    return ", ".join(words)


def duration(seconds: float) -> str:
    """A time for people, in its two largest units: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    left = math.ceil(seconds)
    found: list[str] = []
    for unit, unit_s in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, unit_s)
        if count or (unit == "s" and not found):
            found.append(f"{count} {unit}")
        elif found:
            break
    return " ".join(found[:2])


def _whole(size_bytes: int) -> str:
    """A size without more digits than anybody reads."""
    for unit in (GIB, MIB, KIB):
        if size_bytes >= 10 * unit:
            return format_size(size_bytes // unit * unit)
    return format_size(size_bytes)


def look_line(look: Look) -> str:
    """One line on what runs: for a foreground that begins to wait."""
    return f"running: {', '.join(sorted(look.running))}; Ctrl-C stops it all"


def local_time(unix_s: float, *, sep: str = " ", timespec: str = "seconds") -> str:
    """A time as people at this place write it, with its offset; see `datetime.isoformat`."""
    return datetime.fromtimestamp(unix_s, UTC).astimezone().isoformat(sep=sep, timespec=timespec)
