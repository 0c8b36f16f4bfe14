"""How many files a process may open (cstor_core/open_files.py)."""

from __future__ import annotations

import resource

from cstor_core.open_files import allow_open_files


def test_all_are_allowed_that_the_system_lets_it_have() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] // 2, before[1]))
        assert allow_open_files() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
