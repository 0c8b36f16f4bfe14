"""Clocks that are handed to daemons: as wrong as they are told to be, and never going back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cstor_core.clock import SystemClock
from cstor_core.errors import InputError
from cstor_core.limits import LEASE_S
from cstor_target.volume.lease import MARGIN
from tests.nemesis.clocks import DRIFT_MAX, Skew, SkewedClock


class Clocks:
    """One that is skewed beside the machine's, whose time is told by hand."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = directory / "clock"
        self.now_s = 1000.0
        Skew().keep(self.file)
        monkeypatch.setattr(SystemClock, "monotonic", lambda _: self.now_s)
        self.skewed = SkewedClock(self.file)


@pytest.fixture
def clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(tmp_path, monkeypatch)


def test_a_clock_runs_as_fast_as_its_file_says_and_never_jumps(clocks: Clocks) -> None:
    before = clocks.skewed.monotonic()
    clocks.now_s += 100
    assert clocks.skewed.monotonic() == before + 100
    Skew(drift=0.1).keep(clocks.file)
    assert clocks.skewed.monotonic() == before + 100
    clocks.now_s += 100
    assert clocks.skewed.monotonic() == pytest.approx(before + 210)
    Skew(drift=-0.1).keep(clocks.file)
    assert clocks.skewed.monotonic() == pytest.approx(before + 210)
    clocks.now_s += 100
    assert clocks.skewed.monotonic() == pytest.approx(before + 300)


def test_a_wall_clock_jumps_and_nothing_else_does(clocks: Clocks) -> None:
    before = clocks.skewed.monotonic()
    Skew(wall_s=-86400.0).keep(clocks.file)
    assert clocks.skewed.wall() == pytest.approx(time.time() - 86400, abs=60)
    assert clocks.skewed.monotonic() == before


async def test_timers_run_by_the_same_clock(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def sleep(delay_s: float) -> None:
        waited.append(delay_s)

    monkeypatch.setattr("tests.nemesis.clocks.asyncio.sleep", sleep)
    Skew(drift=0.1).keep(clocks.file)
    await clocks.skewed.sleep(1.1)
    assert waited == [pytest.approx(1.0)]
    timer = clocks.skewed.call_later(1e6, lambda: None)
    timer.cancel()


def test_no_clock_is_as_wrong_as_leases_do_not_allow() -> None:
    with pytest.raises(InputError, match="no lease is made for that"):
        Skew(drift=0.11)
    target_s = LEASE_S * (1 - MARGIN) / (1 - DRIFT_MAX)
    member_s = LEASE_S / (1 + DRIFT_MAX)
    assert target_s < member_s, "a slow target must know the end before a fast member does"
