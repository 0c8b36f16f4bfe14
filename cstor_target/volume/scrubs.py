"""The scrubs of a volume while it is open: at most one at a time, asked for or by the clock.

A scrub lives as long as its target: the next target begins anew when it is asked to, or when its
time has come.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from cstor_core.clock import Clock
from cstor_core.errors import CstorError, InputError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.units import BLOCK_BYTES, format_size
from cstor_target.volume.counters import Counters
from cstor_target.volume.events import EventSink
from cstor_target.volume.operations import Operations
from cstor_target.volume.order import Order
from cstor_target.volume.roster import Roster
from cstor_target.volume.scrub_run import ScrubRun
from cstor_target.volume.settings import EngineSettings
from cstor_target.volume.tenure import Tenure

WATCH_S = 0.25
"""So often a watcher is told at most."""
FIRST_AFTER_S = 600.0
"""The first scrub by the clock begins so long after the opening, or sooner where the pause between
two is shorter: first of all members are brought back."""
RATE_BYTES_PER_S_MIN = 16 * BLOCK_BYTES

State = control_pb2.ScrubState
RUNNING = control_pb2.SCRUB_STATE_RUNNING


class Scrubs:
    """Of one volume."""

    def __init__(
        self,
        roster: Roster,
        order: Order,
        operations: Operations,
        tenure: Callable[[], Tenure | None],
        clock: Clock,
        settings: EngineSettings,
        counters: Counters,
        events: EventSink,
    ) -> None:
        self._roster = roster
        self._order = order
        self._operations = operations
        self._tenure = tenure
        self._clock = clock
        self._settings = settings
        self._counters = counters
        self._events = events
        self.on_defect: Callable[[BaseException], None] = lambda error: None
        """Told of an error that nobody expected."""
        self._run: ScrubRun | None = None
        self._task: asyncio.Task[None] | None = None
        self._by_the_clock: asyncio.Task[None] | None = None
        self._state: State.ValueType = control_pb2.SCRUB_STATE_UNSPECIFIED
        self._reason = ""
        self._started_s = self._ended_s = 0.0
        self._started_unix_s = self._ended_unix_s = 0.0

    @property
    def every_s(self) -> float:
        """So long after the end of one the next one begins by itself; 0 for never."""
        return self._settings.scrub_every_s

    @property
    def is_running(self) -> bool:
        """Whether one is under way."""
        return self._state == RUNNING

    def start(self, rate_bytes_per_s: int = 0) -> bool:
        """Begin one, at a rate or at the one that is set; False where one is under way.

        Raises UnavailableError where the volume is not open, InputError where the rate is too low.
        """
        rate = rate_bytes_per_s or self._settings.scrub_rate_bytes_per_s
        if rate < RATE_BYTES_PER_S_MIN:
            raise InputError(
                f"{format_size(rate)} a second is too slow: give "
                f"{format_size(RATE_BYTES_PER_S_MIN)} at least"
            )
        if self.is_running:
            return False
        tenure = self._tenure()
        if tenure is None or not self._roster.serving:
            raise UnavailableError("the volume is not open: it cannot be scrubbed now")
        self._run = ScrubRun(
            tenure,
            self._roster,
            self._order,
            self._clock,
            self._counters,
            self._events,
            lambda: -(-self._operations.size_bytes // BLOCK_BYTES),
            rate,
            has_snapshots=bool(self._operations.snapshots),
        )
        self._state, self._reason = RUNNING, ""
        self._started_s, self._started_unix_s = self._clock.monotonic(), self._clock.wall()
        self._ended_unix_s = 0.0
        self._events("scrub_started", {"rate": format_size(rate)})
        self._task = asyncio.ensure_future(self._to_its_end(self._run))
        self._task.add_done_callback(self._ended_unexpectedly)
        return True

    def stop(self) -> None:
        """End the one that is under way; where none is, that is done already."""
        if self.is_running and self._task is not None:
            self._end(control_pb2.SCRUB_STATE_STOPPED, "an operator has stopped it")
            self._task.cancel()

    def begin(self) -> None:
        """The volume is open: begin to look at the clock, if that is wanted."""
        if self.every_s:
            self._by_the_clock = asyncio.ensure_future(self._when_it_is_time())
            self._by_the_clock.add_done_callback(self._ended_unexpectedly)

    async def close(self) -> None:
        """End all that is under way."""
        tasks = [task for task in (self._by_the_clock, self._task) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def report(self) -> control_pb2.ScrubReport | None:
        """The one that is under way, or the last one; None where there was none."""
        run = self._run
        if run is None:
            return None
        end_s = self._clock.monotonic() if self.is_running else self._ended_s
        spent_s = max(end_s - self._started_s, 0.001)
        left = max(run.blocks_total - run.blocks_done, 0)
        report = control_pb2.ScrubReport(
            state=self._state,
            started_unix_ms=int(self._started_unix_s * 1000),
            ended_unix_ms=int(self._ended_unix_s * 1000),
            blocks_total=run.blocks_total,
            blocks_done=run.blocks_done,
            bytes_read=run.bytes_read,
            rate_bytes_per_s=run.rate_bytes_per_s,
            measured_bytes_per_s=int(run.bytes_read / spent_s),
            blocks_changing=run.blocks_changing,
            reason=self._reason,
            members=[tally.message(uuid) for uuid, tally in run.tallies.items()],
        )
        if self.is_running and run.blocks_done:
            report.seconds_left = int(spent_s / run.blocks_done * left) + 1
        for member in report.members:
            report.repaired += member.repaired
            report.unrepaired += member.unrepaired
        report.mismatches = report.repaired + report.unrepaired
        return report

    async def watch(self) -> AsyncGenerator[control_pb2.ScrubReport]:
        """How far it is, and again when it has got further; the last one says how it has ended.

        Raises InputError where there was none.
        """
        told: control_pb2.ScrubReport | None = None
        while True:
            report = self.report()
            if report is None:
                raise InputError("no scrub has begun since the target was started: start one")
            if report != told:
                told = report
                yield report
            if report.state != RUNNING:
                return
            await self._clock.sleep(WATCH_S)

    async def _to_its_end(self, run: ScrubRun) -> None:
        try:
            await run.run()
        except CstorError as error:
            self._end(control_pb2.SCRUB_STATE_FAILED, str(error))
        else:
            self._counters.scrubs_finished += 1
            self._counters.scrub_finished_unix_s = self._clock.wall()
            self._end(control_pb2.SCRUB_STATE_FINISHED, "")

    def _end(self, state: State.ValueType, reason: str) -> None:
        self._state, self._reason = state, reason
        self._ended_s, self._ended_unix_s = self._clock.monotonic(), self._clock.wall()
        report = self.report()
        assert report is not None, "it has begun"
        if state == control_pb2.SCRUB_STATE_FINISHED:
            self._events(
                "scrub_finished",
                {
                    "read": format_size(report.bytes_read),
                    "seconds": int(self._ended_s - self._started_s),
                    "mismatches": report.mismatches,
                    "repaired": report.repaired,
                    "unrepaired": report.unrepaired,
                },
            )
        else:
            self._events(
                "scrub_ended",
                {"reason": reason, "done": report.blocks_done, "total": report.blocks_total},
            )

    async def _when_it_is_time(self) -> None:
        every_s = self.every_s
        due_s = self._clock.monotonic() + min(every_s, FIRST_AFTER_S)
        while self._roster.serving:
            await self._clock.sleep(max(due_s - self._clock.monotonic(), 0.0))
            due_s = self._clock.monotonic() + every_s
            if self._roster.serving and not self.is_running:
                self.start()
            if self._task is not None:
                await asyncio.wait((self._task,))
                due_s = self._ended_s + every_s

    def _ended_unexpectedly(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.on_defect(error)
