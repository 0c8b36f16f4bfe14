"""`cstor up` in the foreground: it watches the daemons, and Ctrl-C stops them all.

A daemon that dies is reported and not started again: that is for systemd or Kubernetes, or for
another `cstor up` on the same directory, whose daemons are watched from here as well.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping

from cstor_cli.exit_codes import ExitCode
from cstor_cli.processes import Daemon, is_running, scan
from cstor_cli.starting import Say, describe_end
from cstor_cli.up import Up

POLL_S = 0.3
ENDING_S_MAX = 5.0
SCAN_EVERY = 10
"""Every so many looks, daemons that others have started are looked for."""


def watch(up: Up, say: Say) -> ExitCode:
    """Watch until InterruptedByUserError is raised or nothing runs any more, and report every end.

    Returns FAILED where the last one died, OK where it was stopped (as `cstor down` does).
    """
    home = up.look.home
    # Not what runs now: one that has died since it was started is reported, too.
    watched = dict(up.look.running)
    looks = 0
    code: int | None = None
    while watched:
        ended = [daemon for daemon in watched.values() if not is_running(daemon)]
        for daemon in ended:
            del watched[daemon.name]
            code = _exit_code(daemon, up.children)
            if code == ExitCode.OK:
                say(f"{daemon.name} was stopped")
            else:
                say(describe_end(daemon.name, code, home))
        looks += 1
        if ended or looks % SCAN_EVERY == 0:
            for name, daemon in scan(home).items():
                if watched.setdefault(name, daemon) is daemon:
                    say(f"{name} was started by another command")
        if watched:
            time.sleep(POLL_S)
    say("nothing runs any more")
    return ExitCode.FAILED if code else ExitCode.OK


def _exit_code(daemon: Daemon, children: Mapping[str, subprocess.Popen[bytes]]) -> int | None:
    """The exit code of a daemon that has ended; None for one that is not our child.

    A process that is killed has no command line any more a moment before it can be waited for.
    """
    child = children.get(daemon.name)
    if child is None or child.pid != daemon.pid:
        return None
    try:
        return child.wait(ENDING_S_MAX)
    except subprocess.TimeoutExpired:
        return None
