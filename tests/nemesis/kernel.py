"""Linux' own initiator with dm-multipath over both targets, on the initiators' host of a site.

`python -m tests.nemesis.kernel OUT IQN FIRST SECOND`, portals as HOST:PORT, runs in that host's
network: it boots the guest, whose disk is written a block at a time, and hands on what the guest's
script asks for.  A line on standard output says what, and the guest goes on when a line comes back.
In OUT there are `acks`, the guest's uptime behind every write that was acknowledged, and `tries`,
WAY and uptime of everything that was asked for.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests.nemesis import switch
from tests.nemesis.history import Verdict
from tests.nemesis.plan import Fault, Kind
from tests.nemesis.run import Outcome, Plan, strike
from tests.nemesis.site import PORTAL_PORT, Site, site
from tests.system.hosts import Host, tail_of
from tests.system.linux_initiator.guest import Job, run_guest
from tests.system.linux_initiator.image import get_image
from tests.system.test_linux_disks import PATIENCE
from tests.system.test_linux_failover import MULTIPATH
from tests.system.tools import HarnessError

GUESTS = "198.18.0.0/15"
"""Where the addresses of guests lie (`tests/system/linux_initiator/network.py`)."""
UP_S_MAX = 120.0
TRY_S_MAX = 60.0
BLOCKS = 4096
AFTER_S = 2

WRITES = r"""
uptime() { read up rest </proc/uptime; echo $up; }
write() {
    block=0
    while [ -e /run/writing ]; do
        block=$(((block + 1) % BLOCKS))
        dd if=/dev/urandom of=/dev/mapper/$map bs=4k count=1 seek=$block oflag=direct status=none
        uptime >>/out/acks
    done
}
touch /run/writing
write &
writer=$!
sleep AFTER_S
shift
for way; do
    echo "$way $(uptime)" >>/out/tries
    host $way
    sleep AFTER_S
done
echo "end $(uptime)" >>/out/tries
rm /run/writing
wait $writer
multipathd shutdown
"""


def be_the_initiator(out: Path, iqn: str, portals: Sequence[str], ways: Sequence[str]) -> int:
    """Run the guest; its status."""

    def hook(words: list[str]) -> tuple[int, str]:
        print(words[0], flush=True)
        return (0, "") if sys.stdin.readline() else (1, "the site is gone")

    script = WRITES.replace("BLOCKS", str(BLOCKS)).replace("AFTER_S", str(AFTER_S))
    host, _, port = portals[0].rpartition(":")
    job = Job(
        MULTIPATH + script,
        iqn,
        (host, int(port)),
        arguments=(portals[1], *ways),
        settings=PATIENCE,
        hook=hook,
        timeout_s=UP_S_MAX + TRY_S_MAX * len(ways),
    )
    outcome = run_guest(job, out)
    if outcome.status != 0:
        print(outcome.output, file=sys.stderr)
    return outcome.status if outcome.status is not None else 1


@contextlib.contextmanager
def routed(host: Host) -> Iterator[None]:
    """Guests on a host reach the others under its address."""
    host.check("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
    with switch.masqueraded(host, GUESTS):
        yield


def run(plan: Plan, scratch: Path, progress: Callable[[str], None]) -> Outcome:
    """Each way in turn, `plan.rounds` times, with Linux as the only initiator.

    Times in the outcome are the guest's.  Raises HarnessError where the guest does not come to a
    good end.
    """
    get_image()  # from the network of this machine: the initiators' host reaches nobody else
    outcome = Outcome(plan)
    ways = [kind.name.lower() for kind in plan.kinds] * plan.rounds
    out, log = scratch / "guest", scratch / "guest.stderr"
    with site(scratch, plan.topology) as made, routed(made.initiator):
        portals = [
            f"{made.hosts[host].address}:{PORTAL_PORT}" for host in (made.active, made.other)
        ]
        words = ("-m", "tests.nemesis.kernel", str(out), made.iqn, *portals, *ways)
        with log.open("wb") as said:
            process = subprocess.Popen(
                made.initiator.command(sys.executable, *words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
        try:
            _serve(process, made, outcome, progress)
        finally:
            process.kill()
            process.communicate()
        if process.returncode != 0:
            raise HarnessError(f"Linux ended with {process.returncode}: {tail_of(log)}")
        if different := made.compare():
            outcome.problems.append(f"the replicas differ: {different}")
        outcome.problems += made.stop()
    return _in_guest_time(outcome, out)


def _serve(
    process: subprocess.Popen[str], made: Site, outcome: Outcome, progress: Callable[[str], None]
) -> None:
    """Do what the guest asks for, until it ends."""
    assert process.stdout is not None
    assert process.stdin is not None
    for line in process.stdout:
        kind = Kind[line.strip().upper()]
        lasts_s = outcome.plan.lasts_s or 0.0
        progress(f"{len(outcome.struck)}: {kind}")
        strike(made, Fault(len(outcome.struck), kind, 0, lasts_s, 0.0, 1), outcome)
        process.stdin.write("done\n")
        process.stdin.flush()
    process.wait(TRY_S_MAX)


def _in_guest_time(outcome: Outcome, out: Path) -> Outcome:
    """With what the guest has noted."""
    acks = [float(line) for line in (out / "acks").read_text().split()]
    tries = [line.split() for line in (out / "tries").read_text().splitlines()]
    began_s = [float(uptime) for _, uptime in tries]
    outcome.struck = [
        replace(one, began_s=moment)
        for one, moment in zip(outcome.struck, began_s[:-1], strict=True)
    ]
    outcome.began_s, outcome.ended_s = acks[0], began_s[-1]
    outcome.verdicts = [Verdict(acknowledged_s=acks)]
    return outcome


if __name__ == "__main__":
    directory, name, first, second, *asked = sys.argv[1:]
    sys.exit(be_the_initiator(Path(directory), name, (first, second), asked))
