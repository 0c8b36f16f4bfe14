"""What a daemon tells of itself: whether its clock was set, and its settings without secrets."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from cstor_core.daemon_facts import ClockWatch, told
from cstor_core.settings import Address
from tests.unit.volume.hand_clock import HandClock


class SetClock(HandClock):
    """A clock whose wall somebody may set."""

    def __init__(self) -> None:
        super().__init__()
        self.set_by_s = 0.0

    def wall(self) -> float:
        return super().wall() + self.set_by_s

    def advance(self, seconds: float) -> None:
        """Let time pass, and what was put off happen at its end."""
        self.now_s += seconds
        self.run_put_off()


def test_a_clock_that_is_set_is_noticed_with_how_much_and_when() -> None:
    clock = SetClock()
    watch = ClockWatch(clock)
    watch.begin()
    clock.advance(3600.0)
    assert (watch.step_s, watch.stepped_unix_s) == (0.0, 0.0)
    clock.set_by_s = -90.0
    clock.advance(5.0)
    assert watch.step_s == -90.0
    assert watch.stepped_unix_s == clock.wall()
    clock.advance(3600.0)
    assert watch.step_s == -90.0


def test_a_clock_that_is_slewed_was_not_set() -> None:
    clock = SetClock()
    watch = ClockWatch(clock)
    watch.begin()
    for _ in range(100):
        clock.set_by_s += 0.1
        clock.advance(5.0)
    assert watch.step_s == 0.0


class Told(BaseModel):
    """Settings of any kind."""

    listen: Address = Address("::1", 7778)
    replica: tuple[str, ...] = ("a:1", "b:2")
    all_volumes: bool = True
    pool: Path | None = None
    state_dir: Path = Path("/var/lib/cstor")
    admin_password: str = "hidden1"
    signing_key: str = "hidden2"


def test_settings_are_told_as_texts_and_secrets_are_not() -> None:
    assert told(Told()) == {
        "listen": "[::1]:7778",
        "replica": "a:1,b:2",
        "all_volumes": "true",
        "state_dir": "/var/lib/cstor",
        "admin_password": "(set)",
        "signing_key": "(set)",
    }
