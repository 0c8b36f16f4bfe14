"""Linux with dm-multipath over two targets, one of which stands by: it sees no failover."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.linux_initiator.guest import Job, run_guest
from tests.system.linux_initiator.multipath import of_two_paths
from tests.system.pair import portals_of, served_by_two
from tests.system.test_linux_disks import PATIENCE
from tests.system.test_linux_kernel import show

pytestmark = [pytest.mark.system, pytest.mark.linux_kernel]

MULTIPATH = of_two_paths(
    "path_grouping_policy group_by_prio",
    "prio alua",
    "path_checker tur",
    'hardware_handler "0"',
    "failback immediate",
    "polling_interval 1",
    "max_polling_interval 1",
    "no_path_retry 60",
)

RIDES_THROUGH = (
    MULTIPATH
    + r"""
groups() { multipathd show paths format "%d %t %o %p %T" >>/out/groups.txt; }
groups
cat >/tmp/job.fio <<end
[verify]
filename=/dev/mapper/$map
ioengine=libaio
direct=1
bs=4k
rw=randwrite
size=48m
iodepth=8
rate_iops=300
verify=crc32c
verify_fatal=1
end
fio --eta=never --output=/out/fio.txt /tmp/job.fio &
fio=$!
sleep 3
host kill
sleep 8
groups
host drain
sleep 5
groups
wait $fio
grep -c "err= 0" /out/fio.txt
multipathd shutdown
echo "nothing was noticed"
"""
)


def test_multipath_rides_through_a_death_and_a_drain(tmp_path: Path) -> None:
    with served_by_two(tmp_path / "volume") as pair:
        first, second = portals_of(pair)

        def hook(words: list[str]) -> tuple[int, str]:
            if words == ["kill"]:
                pair.kill_who_serves()
                pair.wait_until_served_by("target-1")
                pair.start()
                pair.wait_for_standby()
            else:
                pair.drain()
                pair.wait_until_served_by("target")
            return 0, f"did {words}"

        job = Job(
            RIDES_THROUGH,
            pair.iqn,
            first,
            arguments=(":".join(map(str, second)),),
            settings=PATIENCE,
            hook=hook,
        )
        outcome = run_guest(job, tmp_path)
        assert outcome.status == 0, show(outcome, tmp_path)
        assert "nothing was noticed" in outcome.output
        assert pair.compare().returncode == 0
