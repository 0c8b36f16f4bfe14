"""One run: initiators at work, one fault after the other, and everything read in the end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.nemesis.faults import hurt, killed
from tests.nemesis.history import Record, Verdict, check
from tests.nemesis.plan import Fault, Kind, faults
from tests.nemesis.site import NOTICE_S, TARGET_HOSTS, Site, Topology, site
from tests.system.hosts import tail_of
from tests.system.stamps import BLOCK_BYTES
from tests.system.tools import HarnessError

ANSWER_S_MAX = 180.0
WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to be."""

    seed: int
    minutes: float
    """Rounds begin for so long, and the last one is finished."""
    kinds: Sequence[Kind] = tuple(Kind)
    rounds: int = 1
    """There are so many at least."""
    lasts_s: float | None = None
    """How long each fault lasts, where the seed is not to say it."""
    initiators: int = 2
    depth: int = 4
    rest_ms: float = 8.0
    topology: Topology = field(default_factory=Topology)


@dataclass(slots=True)
class Struck:
    """A fault that happened; times are of CLOCK_MONOTONIC."""

    fault: Fault
    began_s: float
    seen: str = ""
    """What the target called the volume at its end; nothing where it could not be asked."""
    healed_s: float = 0.0
    """Since then nothing is in anybody's way."""
    whole_s: float = 0.0
    """Since then the volume is healthy again."""


@dataclass(slots=True)
class Outcome:
    """What a run has seen."""

    plan: Plan
    began_s: float = 0.0
    ended_s: float = 0.0
    """Initiators wrote from then until then."""
    struck: list[Struck] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    """Of each initiator's journal."""
    problems: list[str] = field(default_factory=list)
    """What else was wrong: daemons, copies, pools, PDUs."""
    reads: dict[str, int] = field(default_factory=dict)
    """Blocks that were read in the end, by portal."""

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, wrong or left unread, and nothing else was amiss."""
        bad = any(verdict.lost or verdict.wrong or verdict.unread for verdict in self.verdicts)
        return not bad and not self.problems


class Worker:
    """The process of one initiator."""

    def __init__(self, site: Site, plan: Plan, number: int) -> None:
        self.journal = site.scratch / f"journal-{number}"
        self._stderr = site.scratch / f"initiator-{number}.stderr"
        blocks = plan.topology.volume_bytes // BLOCK_BYTES // plan.initiators
        words = [
            *(f"--portal={site.hosts[host].address}" for host in TARGET_HOSTS),
            f"--target={site.iqn}",
            f"--number={number}",
            f"--blocks={blocks}",
            f"--depth={plan.depth}",
            f"--rest-ms={plan.rest_ms}",
            f"--seed={plan.seed + number}",
            f"--journal={self.journal}",
            f"--log={site.scratch / f'initiator-{number}.log'}",
        ]
        with self._stderr.open("wb") as out:
            self._process = subprocess.Popen(
                site.initiator.command(sys.executable, "-m", "tests.nemesis.workload", *words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                text=True,
            )

    def tell(self, word: str) -> None:
        """Say a word; `answer` waits for what comes of it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What it says.  Raises HarnessError where it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise HarnessError(f"an initiator has ended:\n{tail_of(self._stderr)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def verdict(self) -> Verdict:
        """What its journal shows."""
        with self.journal.open() as lines:
            return check(map(Record.parse, lines))

    def end(self) -> None:
        """It is needed no more."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def _workers(site: Site, plan: Plan) -> Iterator[list[Worker]]:
    workers = [Worker(site, plan, number) for number in range(plan.initiators)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.end()


def strike(site: Site, fault: Fault, outcome: Outcome) -> None:
    """Let one fault happen, and see the site become whole again.

    Raises HarnessError where it does not.
    """
    doomed = killed(fault, site.active)
    time.sleep(fault.rest_s)
    struck = Struck(fault, time.monotonic())
    outcome.struck.append(struck)
    with hurt(site, fault):
        if fault.kind.takes_target and not site.topology.standby:
            time.sleep(NOTICE_S)
            site.replace_target()
        time.sleep(fault.lasts_s)
        volume = site.status()
        struck.seen = volume["status"] if volume is not None else ""
    outcome.problems += site.mend(doomed)
    struck.healed_s = time.monotonic()
    outcome.problems += site.wait_until_whole(doomed)
    struck.whole_s = time.monotonic()
    with (site.scratch / "faults.jsonl").open("a") as journal:
        journal.write(json.dumps(asdict(struck)) + "\n")


def run(plan: Plan, scratch: Path) -> Outcome:
    """Do all of it; what is kept lies in `scratch`."""
    outcome = Outcome(plan)
    with site(scratch, plan.topology) as made, _workers(made, plan) as workers:
        outcome.began_s = time.monotonic()
        time.sleep(WARM_UP_S)
        try:
            _strike_all(made, plan, outcome)
        except HarnessError as error:
            outcome.problems.append(f"the run ended early: {error}")
        try:
            _read_all(made, workers, outcome)
        except HarnessError as error:
            outcome.problems.append(f"not all could be read: {error}")
        else:
            outcome.verdicts = [worker.verdict() for worker in workers]
        if different := made.compare():
            outcome.problems.append(f"the replicas differ: {different}")
        outcome.problems += made.stop()
    return outcome


def _strike_all(site: Site, plan: Plan, outcome: Outcome) -> None:
    for fault in faults(plan.seed, plan.kinds):
        if plan.lasts_s is not None:
            fault = replace(fault, lasts_s=plan.lasts_s)
        minutes = (time.monotonic() - outcome.began_s) / 60
        rounds, is_under_way = divmod(fault.number, len(plan.kinds))
        if not is_under_way and rounds >= plan.rounds and minutes >= plan.minutes:
            return
        said = f"{fault.kind}, {fault.lasts_s} s"
        print(f"{minutes:.1f} min, fault {fault.number}: {said}", file=sys.stderr, flush=True)
        strike(site, fault, outcome)
        if outcome.problems:
            return


def _read_all(site: Site, workers: list[Worker], outcome: Outcome) -> None:
    """Have initiators rest, then read every block by the path to each target in turn."""
    for answer in _ask(workers, "rest"):
        outcome.problems += answer["problems"]
    outcome.ended_s = time.monotonic()
    for _ in TARGET_HOSTS:
        for answer in _ask(workers, "read"):
            portal = answer["portal"]
            outcome.reads[portal] = outcome.reads.get(portal, 0) + answer["blocks"]
            outcome.problems += [one for one in answer["problems"] if one not in outcome.problems]
        site.drain()
        outcome.problems += site.wait_until_whole(set())


def _ask(workers: list[Worker], word: str) -> list[dict[str, Any]]:
    for worker in workers:
        worker.tell(word)
    return [worker.answer() for worker in workers]
