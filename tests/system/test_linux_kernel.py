"""The Linux kernel's own initiator uses the volume as a disk: file system, verified I/O, trim.

The kernel is booted as a guest (see `tests.system.linux_initiator`); its open-iscsi logs in to the
volume, and the scripts below run in it as root, with the disk in $DISK.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.cluster import Cluster
from tests.system.linux_initiator.guest import SETUP_FAILED, Job, Outcome, run_guest
from tests.system.linux_initiator.hook import Hook
from tests.system.tools import check, cstor_command

pytestmark = [pytest.mark.system, pytest.mark.linux_kernel]

ABSENCE_S = "60"

FILE_SYSTEM = r"""
set -eu
cat /sys/block/${DISK#/dev/}/queue/{logical_block_size,physical_block_size,discard_max_bytes}
mkfs.ext4 -q -F $DISK
mkdir -p /mnt/disk
mount $DISK /mnt/disk
cd /mnt/disk
fio --eta=never --name=verify --directory=/mnt/disk --ioengine=libaio --direct=1 --rw=randwrite \
    --bsrange=4k-128k --bs_unaligned=0 --size=${1}m --iodepth=16 --verify=crc32c --verify_fatal=1 \
    --end_fsync=1 --output=/out/fio.txt
for i in $(seq 200); do head -c $((i * 317)) /dev/urandom >file$i; done
sha256sum file* >/tmp/sums
sync
rm verify*
fstrim -v /mnt/disk
cd /
umount /mnt/disk
echo 3 >/proc/sys/vm/drop_caches
fsck.ext4 -f -n $DISK
mount -o ro $DISK /mnt/disk
cd /mnt/disk
sha256sum --quiet -c /tmp/sums
cd /
umount /mnt/disk
echo "file system is whole"
"""

RAW_WITH_DIGESTS = r"""
set -eu
grep -E 'HeaderDigest: CRC32C|DataDigest: CRC32C' /out/session.txt
cd /tmp
fio --eta=never --name=verify --filename=$DISK --ioengine=libaio --direct=1 --rw=randrw \
    --bsrange=512-128k --size=32m --iodepth=16 --verify=crc32c --verify_fatal=1 \
    --output=/out/fio.txt
blkdiscard $DISK
head -c 8388608 $DISK | cmp -n 8388608 - /dev/zero
echo "digests agree"
"""

TARGET_RESTART = r"""
set -eu
cd /tmp
fio --eta=never --name=verify --filename=$DISK --ioengine=libaio --direct=1 --rw=randwrite --bs=4k \
    --size=32m --iodepth=16 --rate_iops=1500 --verify=crc32c --verify_fatal=1 \
    --output=/out/fio.txt &
sleep 2
host kill
host start
wait %1
echo "went on: $(cat /sys/class/iscsi_session/*/state)"
"""

ABSENCE = r"""
set -eu
mkfs.ext4 -q -F $DISK
mkdir -p /mnt/disk
mount -o errors=remount-ro $DISK /mnt/disk
cd /mnt/disk
echo before >before
sync
host kill
write_and_sync() {
    for i in $(seq 200); do head -c $((i * 317)) /dev/urandom >file$i; done
    sha256sum file* >/tmp/sums
    sync
}
write_and_sync &
sleep $1
kill -0 $! || { echo "it ended without a disk"; exit 1; }
host start
wait $!
echo after >after
sync
grep " /mnt/disk ext4 rw," /proc/mounts
cd /
umount /mnt/disk
echo 3 >/proc/sys/vm/drop_caches
fsck.ext4 -f -n $DISK
mount -o ro $DISK /mnt/disk
cd /mnt/disk
cat before after
sha256sum --quiet -c /tmp/sums
! dmesg | grep -E "I/O error|EXT4-fs error|Remounting"
echo "went on: $(cat /sys/class/iscsi_session/*/state)"
"""

PROVEN = r"""
set -eu
grep -E "username: host-a" /out/session.txt
grep -E "username_in: the-volume" /out/session.txt
head -c 1048576 /dev/urandom >/tmp/data
dd if=/tmp/data of=$DISK bs=64k oflag=direct status=none
dd if=$DISK bs=64k count=16 iflag=direct status=none | cmp - /tmp/data
echo "both have proved who they are"
"""
REFUSED, NOT_PROVEN = "iscsiadm status 24", "iscsiadm status 19"
"""Of the target, for want of a proof; and of the initiator, since the target's is none."""
SECRETS = {"host-a": "secretofthehost1", "the-volume": "secretofthevolume"}


def show(outcome: Outcome, out: Path) -> str:
    """What a failed assertion should say: the script's output and the kernel's messages."""
    files = [out / name for name in ("fio.txt", "multipathd.txt", "iscsid.txt", "dmesg.txt")]
    parts = [
        f"--- {file.name}\n{file.read_text(errors='replace')[-2000:]}"
        for file in files
        if file.exists()
    ]
    heading = f"kernel {outcome.kernel}, seconds {outcome.reached_s}"
    return "\n".join([heading, outcome.output, *parts])


@pytest.mark.parametrize(
    "size_mib", [48, pytest.param(400, marks=pytest.mark.long)], ids=["short", "whole"]
)
def test_ext4_on_the_volume_is_whole_after_verified_writes_and_trim(
    shared_cluster: Cluster, tmp_path: Path, size_mib: int
) -> None:
    job = Job(FILE_SYSTEM, shared_cluster.iqn, shared_cluster.portal, arguments=(str(size_mib),))
    outcome = run_guest(job, tmp_path)
    assert outcome.status == 0, show(outcome, tmp_path)
    assert "file system is whole" in outcome.output
    assert outcome.output.split()[:2] == ["512", "4096"]
    assert "UNEXPECTED INCONSISTENCY" not in outcome.output


def test_header_and_data_digests_agree_with_the_kernels(
    shared_cluster: Cluster, tmp_path: Path
) -> None:
    settings = tuple(f"node.conn[0].iscsi.{part}Digest = CRC32C" for part in ("Header", "Data"))
    job = Job(RAW_WITH_DIGESTS, shared_cluster.iqn, shared_cluster.portal, settings=settings)
    outcome = run_guest(job, tmp_path)
    assert outcome.status == 0, show(outcome, tmp_path)
    assert "digests agree" in outcome.output


def killing(cluster: Cluster) -> Hook:
    """What `host kill` and `host start` do in the guest's script."""

    def hook(words: list[str]) -> tuple[int, str]:
        if words == ["kill"]:
            cluster.kill()
        else:
            cluster.start()
        return 0, f"did {words}"

    return hook


def test_the_kernel_goes_on_when_a_killed_target_is_started_again(
    shared_cluster: Cluster, tmp_path: Path
) -> None:
    hook = killing(shared_cluster)
    job = Job(TARGET_RESTART, shared_cluster.iqn, shared_cluster.portal, hook=hook)
    outcome = run_guest(job, tmp_path)
    assert outcome.status == 0, show(outcome, tmp_path)
    assert "went on: LOGGED_IN" in outcome.output


@pytest.mark.long
def test_ext4_stays_writable_over_a_minute_without_a_target(
    shared_cluster: Cluster, tmp_path: Path
) -> None:
    hook = killing(shared_cluster)
    job = Job(ABSENCE, shared_cluster.iqn, shared_cluster.portal, hook=hook, arguments=(ABSENCE_S,))
    outcome = run_guest(job, tmp_path)
    assert outcome.status == 0, show(outcome, tmp_path)
    assert "went on: LOGGED_IN" in outcome.output


@pytest.fixture
def guarded(shared_cluster: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """A volume into which one initiator is let that knows its secret; it has one of its own."""
    place = (f"--dir={shared_cluster.directory}", "--volume=test")
    for name, flags in (("host-a", ()), ("the-volume", ("--of-target",))):
        file = tmp_path / name
        file.write_text(SECRETS[name])
        check([cstor_command(), "chap", "set", name, f"--file={file}", *flags, *place])
    yield shared_cluster
    check([cstor_command(), "chap", "clear", "--yes", *place])


def proving(secret: str, own: str, algorithms: str = "MD5") -> tuple[str, ...]:
    """Settings of open-iscsi."""
    values = {
        "authmethod": "CHAP",
        "chap_algs": algorithms,
        "username": "host-a",
        "password": secret,
        "username_in": "the-volume",
        "password_in": own,
    }
    return tuple(f"node.session.auth.{key} = {value}" for key, value in values.items())


@pytest.mark.parametrize("algorithm", ["MD5", "SHA1", "SHA256", "SHA3-256"])
def test_the_kernels_initiator_and_the_target_prove_who_they_are(
    guarded: Cluster, tmp_path: Path, algorithm: str
) -> None:
    settings = proving(SECRETS["host-a"], SECRETS["the-volume"], algorithm)
    outcome = run_guest(Job(PROVEN, guarded.iqn, guarded.portal, settings=settings), tmp_path)
    assert outcome.status == 0, show(outcome, tmp_path)
    assert "both have proved who they are" in outcome.output


@pytest.mark.parametrize("wrong", ["host-a", "the-volume", "none"])
def test_the_kernels_initiator_does_not_log_in_without(
    guarded: Cluster, tmp_path: Path, wrong: str
) -> None:
    secrets = SECRETS | {wrong: "anothersecretofit"}
    settings = () if wrong == "none" else proving(secrets["host-a"], secrets["the-volume"])
    outcome = run_guest(Job(PROVEN, guarded.iqn, guarded.portal, settings=settings), tmp_path)
    assert outcome.status == SETUP_FAILED
    said = NOT_PROVEN if wrong == "the-volume" else REFUSED
    assert said in outcome.output, show(outcome, tmp_path)
