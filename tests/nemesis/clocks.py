"""A daemon whose clock runs fast or slow, and whose wall clock is set while it runs.

`python -m tests.nemesis.clocks FILE cstor-replica …` is that daemon with another clock handed in
where it takes the machine's own (`cstor_core/clock.py`).  FILE says how it runs, as JSON, and may
be replaced at any time; its time never jumps but for the wall clock.  Leases have a margin of 20 %:
two clocks that are 10 % off in different directions are within it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from cstor_core import clock as seam
from cstor_core.clock import SystemClock, Timer
from cstor_core.errors import InputError

DRIFT_MAX = 0.1


@dataclass(frozen=True, slots=True)
class Skew:
    """How a clock is wrong."""

    drift: float = 0.0
    """0.1 is a clock that runs 10 % fast."""
    wall_s: float = 0.0
    """How far the wall clock is ahead."""

    def __post_init__(self) -> None:
        if abs(self.drift) > DRIFT_MAX:
            raise InputError(
                f"a drift of {self.drift} is beyond {DRIFT_MAX}: no lease is made for that"
            )

    def keep(self, file: Path) -> None:
        """Have the daemon that watches the file run so from now on."""
        new = file.with_name(file.name + ".new")
        new.write_text(json.dumps(asdict(self)))
        new.rename(file)


class SkewedClock(SystemClock):
    """The machine's clock, made wrong as a file says."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = -1
        self._skew = Skew()
        self._true_s = self._shown_s = super().monotonic()
        """When the drift was changed last: the time then, and what was shown for it."""

    def monotonic(self) -> float:
        skew, true_s = self._current(), super().monotonic()
        return self._shown_s + (true_s - self._true_s) * (1 + skew.drift)

    def wall(self) -> float:
        return super().wall() + self._current().wall_s

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        return super().call_later(delay_s / (1 + self._current().drift), callback)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s / (1 + self._current().drift))

    def _current(self) -> Skew:
        seen = os.stat(self._file).st_mtime_ns
        if seen != self._seen:
            true_s = super().monotonic()
            self._shown_s += (true_s - self._true_s) * (1 + self._skew.drift)
            self._true_s = true_s
            self._skew = Skew(**json.loads(self._file.read_text()))
            self._seen = seen
        return self._skew


def main(file: Path, role: str) -> None:
    """Be the daemon; its arguments are those that are left in `sys.argv`."""

    class HandedIn(SkewedClock):
        def __init__(self) -> None:
            super().__init__(file)

    # Before the daemon's modules take the name for themselves.
    seam.SystemClock = HandedIn  # type: ignore[misc]
    sys.argv = [role, *sys.argv[3:]]
    if role == "cstor-replica":
        from replica.main import main as daemon  # noqa: PLC0415
    else:
        from cstor_target.main import main as daemon  # noqa: PLC0415
    daemon()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
