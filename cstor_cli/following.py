"""Following what a target tells without an end, over its restarts.

It is looked for again where it is said to be then, and who follows hears when it is gone and back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from cstor_cli.control_client import ControlClient, control
from cstor_core.errors import UnavailableError

RETRY_S = 0.5

Find = Callable[[], str]
"""Where the target's control service is now; UnavailableError where there is none."""
Say = Callable[[str], None]
T = TypeVar("T")


def followed(
    find: Find, listen: Callable[[ControlClient], Iterator[T]], say: Say, what: str
) -> Iterator[T]:
    """What a target tells, anew after each of its restarts; `what` goes on then, in words.

    Ends where `listen` does.  Raises a CstorError where the target cannot be reached at first, or
    refuses.
    """
    reached, there = False, True
    while True:
        try:
            with control(find()) as client:
                for told in listen(client):
                    if not there:
                        say("the target answers again")
                    reached = there = True
                    yield told
            return
        except UnavailableError as error:
            if not reached:
                raise
            if there:
                say(f"{error}; {what} when it answers again")
            there = False
        time.sleep(RETRY_S)
