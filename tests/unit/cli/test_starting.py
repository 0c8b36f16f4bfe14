"""When a daemon that ended is started again with other ports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cstor_cli.addresses import Address
from cstor_cli.starting import Starting, lost_its_port


@pytest.mark.parametrize(
    ("words", "wrong_input", "again"),
    [
        ("port 6060 on 127.0.0.1 is taken: stop what listens there", True, True),
        ("port 6060 on 127.0.0.1 is taken: stop what listens there", False, False),
        ("port 3260 on 127.0.0.1 is taken: stop what listens there", True, False),
        ("the directory cannot be used", True, False),
    ],
)
def test_only_a_chosen_port_that_was_taken_is_worth_another_attempt(
    words: str, wrong_input: bool, again: bool
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        daemon = Starting("target", process, (Address("127.0.0.1", 6060),), 0)
    daemon.failure, daemon.wrong_input = f"target has ended: {words}", wrong_input
    assert lost_its_port(daemon) is again
