"""What comes after daemons were started: their user is told, and waits for Ctrl-C or goes on."""

from __future__ import annotations

from pathlib import Path

from cstor_cli.cluster_file import Home, locked
from cstor_cli.down import stop_all
from cstor_cli.exit_codes import ExitCode
from cstor_cli.interrupts import InterruptedByUserError, uninterrupted
from cstor_cli.printing import look_line, up_lines
from cstor_cli.starting import Say
from cstor_cli.up import Up, require_serving
from cstor_cli.watching import watch


def stay(directory: Path, result: Up, say: Say, complain: Say, *, detach: bool) -> ExitCode:
    """Say what runs, and stay until Ctrl-C, which stops it; return at once with `detach`.

    To be called within `interruptible`.  Raises UnavailableError where it does not serve, with
    `detach`.
    """
    for problem in result.problems:
        complain(problem)
    if detach:
        require_serving(result)
    try:
        for line in up_lines(result):
            say(line)
        if detach:
            return ExitCode.OK
        if not result.serving:
            complain(f"initiators have to wait: {result.reason}")
        say(look_line(result.look))
        return watch(result, say)
    except InterruptedByUserError:
        if detach:
            raise
        home = Home.at(directory)
        with uninterrupted(), locked(home):
            say("stopping")
            stop_all(home, say)
        return ExitCode.OK
