"""A world in virtual time: an event loop that runs processes which may be killed or paused.

Nothing in it waits, and nothing in it depends on anything but the seed.  Each callback belongs to
the process in whose context it was made; one of a process that is dead never runs, and one of a
process that is paused runs when that goes on.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from inspect import CORO_CREATED, getcoroutinestate
from itertools import count
from types import CoroutineType
from typing import Any, TypeVarTuple
from weakref import WeakSet

from cstor_core.clock import Timer

Ts = TypeVarTuple("Ts")
TICK_S = 0.04


class Handle(asyncio.TimerHandle):
    """By which a callback is cancelled; the loop's own are checked for what nobody here needs."""

    __slots__ = ("is_cancelled", "when_s")

    def __init__(self, when_s: float) -> None:
        self.when_s = when_s
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self.when_s

    def __repr__(self) -> str:
        return f"Handle(at {self.when_s})"


class _Soon(Handle):
    """Of what runs at once: nobody here cancels it, so all have one handle."""

    def cancel(self) -> None:
        raise NotImplementedError("what was to run soon cannot be cancelled in a simulation")


_SOON = _Soon(0.0)

Due = tuple[contextvars.Context, Callable[..., Any], tuple[Any, ...], Handle]
"""A callback that is to run: where, what, with what, and whether still."""


class Process:
    """What has a life of its own: a replica daemon, or a target."""

    def __init__(self, name: str, loop: SimulatedLoop) -> None:
        self.name = name
        self.is_dead = False
        self.is_paused = False
        self.is_still = False
        """One of both: nothing of it runs."""
        self.context = contextvars.copy_context()
        """What is begun in it is a part of this process."""
        self.on_end: Callable[[], None] | None = None
        """Called when it is killed."""
        self.context.run(_RUNNING.set, self)
        self._loop = loop
        self._put_off: deque[Due] = deque()
        self._tasks: WeakSet[asyncio.Task[Any]] = WeakSet()

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start work that is a part of this process."""
        task = self._loop.create_task(work, context=self.context)
        self._tasks.add(task)
        return task

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have a function called soon, as a part of this process."""
        self._loop.call_soon(function, *arguments, context=self.context)

    def kill(self) -> None:
        """End it, whatever it was doing."""
        self.is_dead = self.is_still = True
        for task in self._tasks:
            work = task.get_coro()
            if isinstance(work, CoroutineType) and getcoroutinestate(work) == CORO_CREATED:
                work.close()  # it will never begin
        self._put_off.clear()  # only now: nothing else may hold what has not begun
        if self.on_end is not None:
            self.on_end()

    def pause(self) -> None:
        """Let it stand still, as SIGSTOP does."""
        self.is_paused = self.is_still = True

    def go_on(self) -> None:
        """Let it go on: first with what it would have done meanwhile."""
        self.is_paused = False
        self.is_still = self.is_dead
        self._loop.put_first(self._put_off)
        self._put_off = deque()

    def put_off(self, due: Due) -> None:
        """Keep what is to run for when it goes on."""
        self._put_off.append(due)


_RUNNING: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Stalled(AssertionError):
    """Somebody waits, and nothing is left that may happen."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time; of what is due at a time the first asked for runs first."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._soon: deque[Due] = deque()
        self._later: list[tuple[float, int, Due]] = []
        """A heap: when, in which order of those for the same moment, and what."""
        self._numbers = count()
        self.errors: list[str] = []
        """What callbacks and tasks have raised and nobody has taken."""
        self.set_exception_handler(self._keep_error)
        self.set_task_factory(_quiet_task)

    def time(self) -> float:
        """Virtual seconds since the world began."""
        return self._now_s

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        if context is None:
            context = contextvars.copy_context()
        self._soon.append((context, callback, args, _SOON))
        return _SOON

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        if context is None:
            context = contextvars.copy_context()
        handle = Handle(when)
        heappush(self._later, (when, next(self._numbers), (context, callback, args, handle)))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def after(self, delay_s: float) -> asyncio.Future[None]:
        """What ends after so many seconds: as `asyncio.sleep`, which costs more."""
        ended: asyncio.Future[None] = asyncio.Future(loop=self)
        self.call_at(self._now_s + delay_s, _end, ended)
        return ended

    def put_first(self, due: deque[Due]) -> None:
        """Run these before anything else."""
        self._soon.extendleft(reversed(due))

    def _run_once(self) -> None:
        """Run until the loop is stopped: all that is ready, then time goes on to what is next."""
        soon, later, next_due = self._soon, self._later, self._soon.popleft
        while not self._stopping:  # type: ignore[attr-defined]
            if soon:
                due = next_due()
            elif later:
                when_s, _, due = heappop(later)
                if when_s > self._now_s and not due[3].is_cancelled:
                    self._now_s = when_s
            else:
                raise Stalled("somebody waits, and nothing is left that may happen")
            context, callback, arguments, handle = due
            if handle.is_cancelled:
                continue
            process = context.get(_RUNNING)
            if process is not None and process.is_still:
                if not process.is_dead:
                    process.put_off(due)
                continue
            try:
                context.run(callback, *arguments)
            except Exception as error:  # noqa: BLE001 - it is a finding
                self.errors.append(f"{callback}: {error!r}")

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """There is no other thread."""

    def _keep_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, RuntimeError) and "asynchronous generator" in str(error):
            return  # what a dead process was doing is thrown away in the middle
        self.errors.append(f"{context['message']}: {context.get('exception')!r}")


def _quiet_task(
    loop: asyncio.AbstractEventLoop, work: Any, context: contextvars.Context | None = None
) -> asyncio.Task[Any]:
    """A task that may be forgotten: what a dead process was doing is never done."""
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class ProcessClock:
    """The clock of a machine: it may run fast or slow, and may jump."""

    def __init__(self, loop: SimulatedLoop, rate: float = 1.0, ahead_s: float = 0.0) -> None:
        """`rate` is how many of its seconds pass in one of the world's."""
        self._loop = loop
        self.rate = rate
        self.ahead_s = ahead_s

    def monotonic(self) -> float:
        return self.ahead_s + self.rate * self._loop.time()

    def wall(self) -> float:
        return self.monotonic()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        return self._loop.call_later(delay_s / self.rate, callback)

    async def sleep(self, delay_s: float) -> None:
        """The clock of a simulated machine is a coarse one: what polls, polls less often."""
        await self._loop.after(max(delay_s, TICK_S) / self.rate)
