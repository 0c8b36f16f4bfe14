"""How many files and connections a process may have open at once (getrlimit(2))."""

from __future__ import annotations

import resource


def allow_open_files() -> int:
    """As many as the system lets this process have; returns how many those are.

    Most systems begin with 1024, which is for programs that use select(2), and allow far more.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
