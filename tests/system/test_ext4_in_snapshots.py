"""ext4 in a snapshot that is taken under full load is whole, as after a power cut.

The Linux kernel's own initiator (see `tests.system.linux_initiator`) has a file system on the
volume, and fills it: fio in a file of its own, and a writer of small files that syncs, renames and
removes.  In the midst of that snapshots are taken on the host, and each is made a clone, which is
served as a volume of its own.  The guest logs in to these and lets e2fsck replay the journal, which
finds nothing that it would ask about (`-p`), and then nothing at all; and each file that was synced
before the snapshot is there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.cluster import Cluster
from tests.system.linux_initiator.guest import Job, run_guest
from tests.system.linux_initiator.hook import Hook
from tests.system.test_linux_kernel import show
from tests.system.tools import check, cstor_command, free_port, run

pytestmark = [pytest.mark.system, pytest.mark.linux_kernel]

SNAPSHOTS = r"""
set -eu
mkfs.ext4 -q -F $DISK
mkdir -p /mnt/disk /mnt/copy
mount $DISK /mnt/disk
cd /mnt/disk
mkdir early late
for i in $(seq 60); do head -c $((i * 1317)) /dev/urandom >early/file$i; done
(cd early; sha256sum *) >/tmp/early
sync

write_files() {
    cd /mnt/disk/late
    n=0
    until [ -e /tmp/enough ]; do
        n=$((n + 1))
        seq $n $((n + 3000)) >new
        sync new
        mv new kept$n
        sync .
        echo $n >/tmp/kept.new
        mv /tmp/kept.new /tmp/kept
        seq 20000 >junk$n
        rm -f junk$((n - 4))
    done
}
write_files &
writer=$!
fio --eta=never --name=load --directory=/mnt/disk --ioengine=libaio --direct=1 --rw=randwrite \
    --bsrange=4k-64k --bs_unaligned=0 --size=48m --iodepth=16 --time_based --runtime=600 \
    --output=/out/fio.txt &
load=$!
until [ -s /tmp/kept ]; do sleep 0.1; done
for round in $(seq $1); do
    sleep 1.$round
    cp /tmp/kept /tmp/kept.$round
    host snapshot s$round
    kill -0 $writer
    kill -0 $load
    host clone s$round copy$round
done
host clone s1 still --read-only
sleep 1
kept=$(cat /tmp/kept)
[ $kept -gt $(cat /tmp/kept.$1) ]
touch /tmp/enough  # killed, it might leave a command behind that is still in the file system
wait $writer
kill $load
wait || true
cd /
umount /mnt/disk

log_in() {
    name=${IQN%:*}:$1
    iscsiadm -m discovery -t st -p $PORTAL >/dev/null
    iscsiadm -m node -T $name -p $PORTAL -l >>/out/login.txt
    copy=
    for i in $(seq 100); do
        for session in /sys/class/iscsi_session/session*; do
            [ "$(cat $session/targetname)" = $name ] || continue
            for block in $session/device/target*/*/block/*; do
                [ -e $block ] && [ "$(cat $block/size)" -gt 0 ] && copy=/dev/${block##*/}
            done
        done
        [ -z "$copy" ] || return 0
        sleep 0.1
    done
    return 1
}
log_in still
still=$copy
[ $(blockdev --getro $still) = 1 ]
for round in $(seq $1); do
    log_in copy$round
    [ $round != 1 ] || cmp -n 67108864 $still $copy
    status=0
    e2fsck -fp $copy >/tmp/fsck 2>&1 || status=$?
    cat /tmp/fsck
    [ $status -le 1 ]
    grep -q "recovering journal" /tmp/fsck
    e2fsck -fn $copy
    mount $copy /mnt/copy
    cd /mnt/copy/early
    sha256sum --quiet -c /tmp/early
    cd ../late
    for n in $(seq $(cat /tmp/kept.$round)); do seq $n $((n + 3000)) | cmp - kept$n; done
    echo "snapshot $round has the $(cat /tmp/kept.$round) files that were synced before, of $kept"
    cd /
    umount /mnt/copy
done
echo "all snapshots are whole"
"""


@pytest.fixture
def small() -> Iterator[Cluster]:
    """A volume of 256 MiB with three replicas."""
    with tempfile.TemporaryDirectory(prefix="cstor-test.") as directory:
        cluster = Cluster(Path(directory) / "data", free_port(), size="256MiB")
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def commands(cluster: Cluster) -> Hook:
    """`host snapshot NAME` and `host clone SNAPSHOT VOLUME` in the guest's script."""

    def hook(words: list[str]) -> tuple[int, str]:
        verb = {
            "snapshot": ("snapshot", "create", "--volume=test"),
            "clone": ("clone", "--from=test"),
        }
        ended = run([cstor_command(), *verb[words[0]], *words[1:], f"--dir={cluster.directory}"])
        return ended.returncode, ended.stdout

    return hook


@pytest.mark.parametrize(
    "snapshots", [2, pytest.param(8, marks=pytest.mark.long)], ids=["short", "whole"]
)
def test_ext4_in_snapshots_under_load_is_whole(
    small: Cluster, tmp_path: Path, snapshots: int
) -> None:
    addresses = [one["address"] for one in small.wait_until_in_sync().document["replicas"]]
    job = Job(SNAPSHOTS, small.iqn, small.portal, hook=commands(small), arguments=(str(snapshots),))
    outcome = run_guest(job, tmp_path)
    print(outcome.output)
    assert outcome.status == 0, show(outcome, tmp_path)
    assert "all snapshots are whole" in outcome.output
    named = [f"--replica={address}" for address in addresses]
    for volume in ("still", "copy1", "test"):
        check([cstor_command(), "volume", "compare", f"--volume={volume}", *named])
