"""How a daemon shares the processors of its host with the daemons and initiators beside it."""

from __future__ import annotations

import os
from contextlib import suppress


def take_turns() -> None:
    """Have Linux not take a processor from whoever is at work for what has arrived for this daemon.

    Where targets, replicas and initiators share a host each answer wakes somebody up.  Woken up in
    the place of another one, a replica keeps a target waiting that is about to hand on the next
    batch; behind it, it begins a little later and nobody has been disturbed.  What an operator
    has chosen otherwise stays, and so does what a container's profile does not allow to change.
    """
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
