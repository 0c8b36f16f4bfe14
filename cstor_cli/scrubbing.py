"""`cstor volume scrub`: have all copies read, compared and put right, and see how far that is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated

import typer
from rich import box
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from cstor_cli.control_client import ControlClient
from cstor_cli.events import target_of
from cstor_cli.exit_codes import ExitCode
from cstor_cli.interrupts import InterruptedByUserError, interruptible
from cstor_cli.options import (
    AnyDirectoryOption,
    Output,
    OutputOption,
    TargetOption,
    VolumeOption,
)
from cstor_cli.printing import as_yaml, console, print_document
from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.scrub_words import scrub_document
from cstor_core.units import format_duration, format_size, parse_rate

Report = control_pb2.ScrubReport
FINISHED = control_pb2.SCRUB_STATE_FINISHED


def scrub(
    volume: VolumeOption = "",
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay until it ends, and show how far it is.")
    ] = False,
    rate: Annotated[
        str | None,
        typer.Option(help="What is read of each replica in a second at most: 100MiB/s."),
    ] = None,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Stop the one that is under way instead.")
    ] = False,
    directory: AnyDirectoryOption = None,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Have all copies of a volume read and compared while it is used, and wrong ones put right.

    It goes on in the target; asked for while one is under way, it is that one.  With --watch the
    exit code is 0 only if it came to its end and left no copy wrong.
    """

    if cancel and (watch or rate is not None):
        raise InputError("--cancel stops a scrub: give it neither --watch nor --rate")
    rate_bytes_per_s = parse_rate(rate) if rate is not None else 0
    if rate is not None and not rate_bytes_per_s:
        raise InputError("at a rate of 0 a scrub never ends: leave --rate out for the usual one")
    with target_of(directory, target) as client:
        name = client.named(volume)
        if cancel:
            _stop(client, name, output)
            return
        answer = client.start_scrub(name, rate_bytes_per_s)
        if not watch:
            _say_started(name, answer, output)
            return
        with interruptible():
            try:
                last = _follow(name, client.watch_scrub(name), output)
            except InterruptedByUserError:
                typer.echo(
                    f"cstor: the scrub of {name} goes on: --watch shows it, --cancel stops it",
                    err=True,
                )
                return
    done_well = last.state == FINISHED and not last.unrepaired
    raise typer.Exit(ExitCode.OK if done_well else ExitCode.FAILED)


def progress_words(report: Report) -> str:
    """How far it is, for a person."""
    words = [f"{format_size(report.measured_bytes_per_s)}/s"]
    if report.seconds_left:
        words.append(f"{format_duration(report.seconds_left)} left")
    if report.mismatches:
        words.append(f"{report.mismatches} wrong, {report.repaired} put right")
    return ", ".join(words)


def _stop(client: ControlClient, name: str, output: Output) -> None:
    report = client.stop_scrub(name)
    if output is not Output.TABLE:
        print_document(scrub_document(report) if report is not None else None, output)
    elif report is None:
        typer.echo(f"{name}: no scrub has begun since the target was started")
    else:
        _say_end(name, report)


def _say_started(name: str, answer: control_pb2.StartScrubResponse, output: Output) -> None:
    if output is not Output.TABLE:
        print_document(scrub_document(answer.scrub), output)
        return
    begun = "is under way already" if answer.found else "has begun"
    rate = format_size(answer.scrub.rate_bytes_per_s)
    typer.echo(f"{name}: a scrub {begun}, at up to {rate}/s: --watch shows how far it is")


def _follow(name: str, reports: Iterable[Report], output: Output) -> Report:
    """Show how far it is until it ends; the last report."""
    last = Report()
    if output is not Output.TABLE:
        for last in reports:
            document = scrub_document(last)
            typer.echo(
                f"---\n{as_yaml(document)}" if output is Output.YAML else json.dumps(document)
            )
        return last
    columns = (
        TextColumn(name),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("scrub", total=None, words="")
        for last in reports:
            bar.update(
                task,
                total=last.blocks_total,
                completed=last.blocks_done,
                words=progress_words(last),
            )
    _say_end(name, last)
    return last


def _say_end(name: str, report: Report) -> None:
    read = format_size(report.bytes_read)
    spent_s = max(report.ended_unix_ms - report.started_unix_ms, 0) / 1000
    how = {
        control_pb2.SCRUB_STATE_FINISHED: "all copies have been read and compared",
        control_pb2.SCRUB_STATE_STOPPED: "the scrub was stopped",
    }.get(report.state, f"the scrub could not go on: {report.reason}")
    console.print(
        f"{name}: {how}; {read} each in {format_duration(spent_s)}, {report.mismatches} copies of "
        f"blocks were wrong, {report.repaired} were put right",
        markup=False,
    )
    if report.unrepaired:
        console.print(
            f"  {report.unrepaired} could not be put right: cstor events says which and why"
        )
    if report.blocks_changing:
        console.print(
            f"  {report.blocks_changing} blocks were written all the time, and only their "
            "checksums were verified"
        )
    if not any(each.blocks_missed or each.repaired or each.unrepaired for each in report.members):
        return
    headings = ("replica", "missed", "bad", "lost writes", "other data", "foreign", "put right")
    table = Table(*headings, box=box.SIMPLE)
    for each in report.members:
        counts = (
            *(each.blocks_missed, each.bad_checksums, each.lost_writes),
            *(each.other_data, each.foreign, each.repaired),
        )
        table.add_row(each.member.address, *map(str, counts))
    console.print(table)
