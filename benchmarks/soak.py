"""A volume is written, read and verified for an hour, while all that can happen to it happens.

A cluster of real processes with QEMU's initiator, which writes and reads stamped blocks all the
time.  By chance, from a seed: kills and stops of replicas and of the target, snapshots taken,
deleted and gone back to, clones made, compared, written and deleted, a larger size, replicas added,
removed and replaced, scrubs (`benchmarks/soak_life.py`).  Every ten seconds it is noted what each
daemon uses; a figure is *flat* where its median in the last quarter of the time is not larger than
in the second one, but for a tolerance that is said with it (`benchmarks/soak_samples.py`).

Exit code 1 where a block was lost or wrong, a command failed for good, or something is not flat.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import command_line
from benchmarks.measured import circumstances
from benchmarks.soak_life import Found, Life, Settings
from benchmarks.soak_plot import svg
from benchmarks.soak_samples import MEASURES, SAMPLE_S, Sample, Verdict, look, verdicts
from tests.system.cluster import Cluster
from tests.system.extra import Extra
from tests.system.tools import HarnessError, cstor_command, free_port, run

NAME = "soak"
MINUTES = 60.0
EXTRAS = 2
SIZE = "256MiB"
SHOWN_MAX = 20
SAMPLES_A_LINE = 6


async def live(life: Life, cluster: Cluster, samples: list[Sample]) -> None:
    """All of it, and what the daemons use; what cannot go on is a failure."""

    async def watch() -> None:
        for number in itertools.count():
            begun_s = time.monotonic()
            samples.append(await asyncio.to_thread(look, cluster, life))
            if number % SAMPLES_A_LINE == 0:
                print(life.progress(), file=sys.stderr, flush=True)
            await asyncio.sleep(max(0.0, begun_s + SAMPLE_S - time.monotonic()))

    watching = asyncio.create_task(watch())
    try:
        await life.go()
    except (HarnessError, OSError) as error:
        life.found.failed.append(f"the soak ended early: {error}")
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def soak(directory: Path, settings: Settings) -> tuple[dict[str, Any], list[Sample]]:
    """Run one, with the data in `directory`; the report, and what the daemons used."""
    cluster = Cluster(directory / "data", free_port(), size=SIZE)
    with ExitStack() as stack:
        stack.callback(cluster.stop)
        cluster.start()
        cluster.wait_until_in_sync()
        extras = [Extra(directory / f"extra-{number}", stack) for number in range(EXTRAS)]
        asyncio.run(_start(extras))
        life = Life(cluster, extras, directory, settings)
        samples: list[Sample] = []
        asyncio.run(live(life, cluster, samples))
        took_s = life.age_s
        cluster.stop()
        for extra in extras:
            extra.end(signal.SIGTERM)
        _check_pools(life)
        return document(life, settings, took_s, samples), samples


async def _start(extras: list[Extra]) -> None:
    for extra in extras:
        await extra.start()


def _check_pools(life: Life) -> None:
    """Each pool must be what was written to it."""
    command = Path(cstor_command()).with_name("cstor-replica")
    for place in life.places:
        ended = run([str(command), "check", str(place.pool)])
        if ended.returncode != 0:
            life.found.wrong.append(f"the pool of {place.name}: {ended.stdout}")


def document(
    life: Life, settings: Settings, took_s: float, samples: list[Sample]
) -> dict[str, Any]:
    """Everything of one run, for JSON."""
    found, figures = life.found, verdicts(samples)
    return {
        "format": 1,
        "benchmark": NAME,
        "circumstances": circumstances(),
        "settings": asdict(settings),
        "took_s": round(took_s, 1),
        "writes": life.writes,
        "reads": life.reads,
        "verified": found.verified,
        "done": dict(sorted(found.done.items())),
        "repeated": dict(sorted(found.repeated.items())),
        "lost": found.lost,
        "wrong": found.wrong,
        "failed": found.failed,
        "flat": [_figure(verdict) for verdict in figures],
        "is_good": is_good(found, figures),
        "happened": found.happened,
        "samples": samples,
    }


def _figure(verdict: Verdict) -> dict[str, Any]:
    return {
        "figure": verdict.measure.words,
        "of": verdict.group,
        "second_quarter": verdict.second,
        "last_quarter": verdict.last,
        "most": verdict.measure.most(verdict.second) if verdict.second is not None else None,
        "is_flat": verdict.is_flat,
        "sentence": verdict.sentence(),
    }


def is_good(found: Found, figures: list[Verdict]) -> bool:
    """Whether nothing was lost or wrong, nothing failed, and nothing grows."""
    is_whole = not (found.lost or found.wrong or found.failed)
    return is_whole and all(figure.is_flat for figure in figures)


def sentences(report: dict[str, Any]) -> list[str]:
    """What came of it."""
    minutes, seed = report["took_s"] / 60, report["settings"]["seed"]
    counts = ", ".join(f"{count} {name}" for name, count in report["done"].items())
    problems = (f"{name}: {len(report[name])}" for name in ("lost", "wrong", "failed"))
    load = f"{report['writes']:,} writes, {report['reads']:,} reads"
    lines = [
        f"{minutes:.1f} minutes, seed {seed}: {load}, {report['verified']:,} verified at rest.",
        f"Done: {counts}.",
        f"Repeated, since a fault broke them off: {sum(report['repeated'].values())}.",
        f"Of all that, {', '.join(problems)}.",
    ]
    for name in ("lost", "wrong", "failed"):
        lines += [f"{name}: {problem}" for problem in report[name][:SHOWN_MAX]]
    return lines


def markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    lines = ["# Soak", ""]
    lines += [f"- {name}: {value}" for name, value in report["circumstances"].items()]
    lines += [""]
    for sentence in sentences(report):
        lines += [sentence, ""]
    lines += [
        "Medians of the second quarter of the time and of the last one; of several daemons, of the",
        "largest figure of any. The target and replica 0 are killed in the first fifth only.",
        "",
        "| figure | of | second quarter | last quarter | |",
        "|---|---|---:|---:|---|",
    ]
    units = {measure.words: measure for measure in MEASURES}
    for one in report["flat"]:
        measure = units[one["figure"]]
        before, after = (
            measure.shown(one[quarter]) for quarter in ("second_quarter", "last_quarter")
        )
        word = "flat" if one["is_flat"] else "GROWS"
        lines.append(f"| {one['figure']} | {one['of']} | {before} | {after} | {word} |")
    lines += ["", "Tolerances, of growth:", ""]
    lines += [f"- {measure.words}: {measure.tolerance()}" for measure in MEASURES]
    lines += ["", f"![what the daemons used]({NAME}.svg)", ""]
    return "\n".join(lines)


def keep(report: dict[str, Any], samples: list[Sample], results: Path) -> None:
    """Write JSON, page and picture."""
    title = f"soak of {report['took_s'] / 60:.0f} minutes, seed {report['settings']['seed']}"
    command_line.keep(
        results,
        NAME,
        json=json.dumps(report, indent=None) + "\n",
        md=markdown(report),
        svg=svg(samples, title),
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = command_line.parser(__doc__, gib=3)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run, say what came of it and keep it."""
    options = parse(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    settings = Settings(options.minutes, options.seed)
    try:
        with tempfile.TemporaryDirectory(prefix="soak.", dir=options.dir) as directory:
            report, samples = soak(Path(directory), settings)
    except HarnessError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    for sentence in [*sentences(report), *(one["sentence"] for one in report["flat"])]:
        print(sentence)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    keep(report, samples, options.results)
    return 0 if report["is_good"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
