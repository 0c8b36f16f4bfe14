"""A world in virtual time: an event loop that runs processes which may be killed or paused.

Nothing in it waits, and nothing in it depends on anything but the seed.  Each callback belongs to
the process in whose context it was made; one of a process that is dead never runs, and one of a
process that is paused runs when that goes on.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from cstor_core.clock import Timer


class Process:
    """What has a life of its own: a replica daemon, or a target."""

    def __init__(self, name: str, loop: SimulatedLoop) -> None:
        self.name = name
        self.is_dead = False
        self.is_paused = False
        self._loop = loop
        self._put_off: deque[asyncio.Handle] = deque()

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start work that is a part of this process."""
        return self.context().run(self._loop.create_task, work)

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have a function called soon, as a part of this process."""
        self._loop.call_soon(function, *arguments, context=self.context())

    def context(self) -> contextvars.Context:
        """A context of its own: what is begun in it is a part of this process."""
        context = contextvars.copy_context()
        context.run(_RUNNING.set, self)
        return context

    def kill(self) -> None:
        """End it, whatever it was doing."""
        self.is_dead = True
        self._put_off.clear()

    def pause(self) -> None:
        """Let it stand still, as SIGSTOP does."""
        self.is_paused = True

    def go_on(self) -> None:
        """Let it go on: first with what it would have done meanwhile."""
        self.is_paused = False
        self._loop.put_first(self._put_off)
        self._put_off = deque()

    def put_off(self, handle: asyncio.Handle) -> None:
        """Keep what is to run for when it goes on."""
        self._put_off.append(handle)


_RUNNING: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Stalled(AssertionError):
    """Somebody waits, and nothing is left that may happen."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self.errors: list[str] = []
        """What callbacks and tasks have raised and nobody has taken."""
        self.set_exception_handler(self._keep_error)
        self.set_task_factory(_quiet_task)

    def time(self) -> float:
        """Virtual seconds since the world began."""
        return self._now_s

    def put_first(self, handles: deque[asyncio.Handle]) -> None:
        """Run these before anything else."""
        self._ready.extendleft(reversed(handles))  # type: ignore[attr-defined]

    def _run_once(self) -> None:
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if not ready:
            while scheduled and scheduled[0]._cancelled:
                heapq.heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]
            if not scheduled:
                raise Stalled("somebody waits, and nothing is left that may happen")
            self._now_s = max(self._now_s, scheduled[0].when())
        while scheduled and scheduled[0].when() <= self._now_s:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False  # type: ignore[attr-defined]
            ready.append(handle)
        for _ in range(len(ready)):
            handle_ = ready.popleft()
            if handle_._cancelled:
                continue
            process = handle_._context.get(_RUNNING)  # type: ignore[attr-defined]
            if process is not None and (process.is_dead or process.is_paused):
                if not process.is_dead:
                    process.put_off(handle_)
                continue
            handle_._run()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are thrown away when their time comes."""

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
        await asyncio.sleep(delay_s / self.rate)
