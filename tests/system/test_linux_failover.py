"""Linux with dm-multipath over two targets, one of which stands by: it sees no failover."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.linux_initiator.guest import Job, run_guest
from tests.system.pair import portals_of, served_by_two
from tests.system.test_linux_disks import PATIENCE
from tests.system.test_linux_kernel import show

pytestmark = [pytest.mark.system, pytest.mark.linux_kernel]

# udev's rules are not in the guest: this one says of a disk what those of sg3-utils do.  Nor is the
# kernel's handler of ALUA: multipathd looks at the states of the ports by itself.
MULTIPATH = r"""
set -eu
iscsiadm -m discovery -t sendtargets -p $1 >/out/second.txt 2>&1
iscsiadm -m node -T $IQN -p $1 -l >>/out/second.txt 2>&1
mkdir -p /run/udev/rules.d /etc/multipath
rule='SUBSYSTEM=="block", KERNEL=="sd*", ENV{ID_SERIAL}="$attr{device/wwid}"'
echo "$rule, ENV{ID_WWN}=\"\$attr{device/wwid}\"" >/run/udev/rules.d/60-disks.rules
/lib/systemd/systemd-udevd --daemon
udevadm trigger --subsystem-match=block
udevadm settle
modprobe dm-multipath
modprobe dm-round-robin
cat >/etc/multipath.conf <<'end'
defaults {
    find_multipaths no
    path_grouping_policy group_by_prio
    path_selector "round-robin 0"
    prio alua
    path_checker tur
    hardware_handler "0"
    failback immediate
    polling_interval 1
    max_polling_interval 1
    no_path_retry 60
}
end
export DM_DISABLE_UDEV=1
multipathd -d >/out/multipathd.txt 2>&1 &
for i in $(seq 100); do
    map=$(dmsetup ls --target multipath | cut -f1)
    [ "$(dmsetup status $map 2>/dev/null | grep -o "8:[0-9]* A" | wc -l)" = 2 ] && break
    sleep 0.1
done
"""
"""What makes a disk of two paths, $map, where the first argument is the second portal."""

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
