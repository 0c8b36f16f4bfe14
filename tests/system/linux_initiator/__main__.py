"""Run a script by hand in a Linux guest that is logged in to an iSCSI target on this host.

The script finds $DISK (and $DISKS, all of them), $PORTAL, $IQN, a folder /out whose files come
back, and the command `host WORD...`, which runs the --hook program here and prints what it prints.
The status is the script's own; 123: the guest could not be set up or log in; 125: the harness
failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.system.linux_initiator.availability import why_not
from tests.system.linux_initiator.guest import Job, run_guest
from tests.system.linux_initiator.hook import Hook, refuse
from tests.system.tools import HarnessError

HARNESS_FAILED = 125


def program_as_hook(path: Path) -> Hook:
    """A hook that runs a program with the guest's words."""

    def hook(words: list[str]) -> tuple[int, str]:
        ended = subprocess.run(
            [str(path), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        return ended.returncode, ended.stdout

    return hook


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="linux_initiator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--portal", default="127.0.0.1:3260", help="HOST:PORT on this host")
    parser.add_argument("--iqn", required=True, help="the target's name")
    parser.add_argument("--run", type=Path, required=True, metavar="SCRIPT")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where /out goes")
    parser.add_argument("--hook", type=Path, metavar="PROGRAM")
    parser.add_argument("--digest", action="store_true", help="CRC32C for headers and data")
    parser.add_argument("--setting", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--no-login", action="store_true", help="the script logs in itself")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds")
    parser.add_argument("arguments", nargs="*", help="after --: the script's own")
    return parser.parse_args()


def main() -> int:
    """Run the job and pass its output and status on."""
    options = parse()
    reason = why_not()
    if reason is not None:
        raise HarnessError(reason)
    settings = [setting.replace("=", " = ", 1) for setting in options.setting]
    if options.digest:
        settings += [f"node.conn[0].iscsi.{part}Digest = CRC32C" for part in ("Header", "Data")]
    host, _, port = options.portal.rpartition(":")
    job = Job(
        script=options.run.read_text(),
        iqn=options.iqn,
        portal=(host, int(port)),
        arguments=tuple(options.arguments),
        settings=tuple(settings),
        hook=program_as_hook(options.hook.resolve()) if options.hook else refuse,
        log_in=not options.no_login,
        timeout_s=options.timeout,
    )
    outcome = run_guest(job, options.out)
    sys.stdout.write(outcome.output)
    print(f"kernel {outcome.kernel}, seconds {outcome.reached_s}", file=sys.stderr)
    return HARNESS_FAILED if outcome.status is None else outcome.status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HarnessError as error:
        print(f"linux_initiator: {error}", file=sys.stderr)
        sys.exit(HARNESS_FAILED)
