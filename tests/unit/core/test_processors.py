"""What Linux is asked about the processors of a daemon's host; each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SHOWS = "print(os.sched_getscheduler(0))"


def policy_behind(code: str) -> int:
    """The policy of a process behind some code."""
    script = f"import os\nfrom cstor_core.processors import take_turns\n{code}\n{SHOWS}"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return int(ended.stdout)


def test_daemon_takes_no_processor_from_who_is_at_work() -> None:
    assert policy_behind("take_turns()") == os.SCHED_BATCH


def test_what_an_operator_has_chosen_stays() -> None:
    idle = "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))"
    assert policy_behind(f"{idle}\ntake_turns()") == os.SCHED_IDLE


@pytest.mark.parametrize("error", ["PermissionError", "OSError"])
def test_where_it_may_not_be_changed_it_stays(error: str) -> None:
    refusing = f"def refused(*_): raise {error}\nos.sched_setscheduler = refused"
    assert policy_behind(f"{refusing}\ntake_turns()") == os.SCHED_OTHER
