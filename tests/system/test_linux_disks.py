"""What Linux' own tools ask of a disk: reservations, atomic and repeated writes, discards, copies,
sanitizing, a larger size, 4096-byte sectors, and two paths of which one is lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.system.cluster import Cluster
from tests.system.linux_initiator.guest import Job, run_guest
from tests.system.linux_initiator.multipath import of_two_paths
from tests.system.rebuilds import counted
from tests.system.test_linux_kernel import FILE_SYSTEM, show
from tests.system.tools import check, cstor_command, free_port

pytestmark = [pytest.mark.system, pytest.mark.linux_kernel]

RESERVATIONS = r"""
set -eu
sg_persist -o -G -S 0x11 $DISK
sg_persist -o -R -K 0x11 -T 3 $DISK
sg_persist -i -k $DISK | grep -i 0x11
sg_persist -i -r $DISK | grep "Exclusive Access"
sg_persist -i -s $DISK | grep "Reservation holder"
host restart
sg_turs -n 3 $DISK || true
sg_persist -i -r $DISK | grep "Exclusive Access"
sg_persist -o -L -K 0x11 -T 3 $DISK
sg_persist -o -C -K 0x11 $DISK
sg_persist -i -k $DISK | grep -i "no registered reservation keys"
echo "reservations are held"
"""

COMMANDS = r"""
set -eu
cd /tmp
same() { dd if=$DISK bs=512 skip=$1 count=$2 iflag=direct status=none | cmp - $3; }
head -c 512 /dev/zero >zeros
head -c 512 /dev/urandom >new
cat zeros new >both
sg_compare_and_write --in=both --lba=8 --num=1 $DISK
same 8 1 new
sg_compare_and_write --in=both --lba=8 --num=1 $DISK && exit 1
[ $? = 14 ] || true
sg_write_same --in=new --lba=16 --num=64 $DISK
for i in $(seq 64); do cat new; done >repeated
same 16 64 repeated
generic=/dev/$(ls /sys/block/${DISK#/dev/}/device/scsi_generic)
sg_xcopy if=$generic of=$generic bs=512 skip=16 seek=4096 count=64
same 4096 64 repeated
sg_write_same --16 --unmap --lba=16 --num=64 $DISK
head -c 32768 /dev/zero >cleared
same 16 64 cleared
sg_get_lba_status --lba=4096 $DISK | head -2
blkdiscard $DISK
sg_get_lba_status --brief --lba=0 $DISK
head -c 4194304 $DISK | cmp -n 4194304 - /dev/zero
dd if=new of=$DISK seek=77 oflag=direct status=none
sg_sanitize --block --quick --wait $DISK
same 77 1 zeros
sg_logs --page=0x19 $DISK >logs
grep -i "read commands" logs || { cat logs; exit 1; }
sg_vpd --page=0x8f $DISK >copies
grep -i "third party copy" copies || { cat copies; exit 1; }
sg_opcodes $DISK >opcodes
for name in "Compare and write" "Extended copy" "Sanitize, block erase" "Get LBA status"; do
    grep -qi "$name" opcodes || { cat opcodes; echo "no $name"; exit 1; }
done
echo "commands are carried out"
"""

LARGER = r"""
set -eu
before=$(blockdev --getsize64 $DISK)
host resize
echo 1 >/sys/block/${DISK#/dev/}/device/rescan
for i in $(seq 50); do [ $(blockdev --getsize64 $DISK) -gt $before ] && break; sleep 0.1; done
echo "from $before to $(blockdev --getsize64 $DISK)"
"""

TWO_PATHS = r"""
set -eu
disks() {
    for block in /sys/class/iscsi_session/session*/device/target*/*/block/*; do
        [ -e $block ] && echo ${block##*/}
    done
}
iscsiadm -m node -T $IQN -p $1 -l >/out/second.txt 2>&1
for i in $(seq 100); do [ $(disks | wc -l) = 2 ] && break; sleep 0.1; done
set -- $1 $(disks)
sg_vpd --page=di_lu --quiet /dev/$2 >/tmp/one
sg_vpd --page=di_lu --quiet /dev/$3 >/tmp/other
cmp /tmp/one /tmp/other
sg_rtpg --decode /dev/$2 | grep -c "target port group id" | grep -x 2
modprobe dm-multipath
modprobe dm-round-robin
first=$(cat /sys/block/$2/dev) second=$(cat /sys/block/$3/dev)
table="0 $(blockdev --getsz /dev/$2) multipath 1 queue_if_no_path 0 1 1 round-robin 0 2 1"
dmsetup create paths --noudevsync --table "$table $first 1 $second 1"
dmsetup mknodes
cd /tmp
fio --eta=never --name=verify --filename=/dev/mapper/paths --ioengine=libaio --direct=1 --bs=4k \
    --rw=randwrite --size=48m --iodepth=16 --rate_iops=1000 --verify=crc32c --verify_fatal=1 \
    --output=/out/fio.txt &
sleep 2
ip route add blackhole ${1%:*}/32
wait %1
dmsetup status paths
dmsetup status paths | grep -o "8:[0-9]* [AF]" | cut -d" " -f2 | sort | tr -d "\n" | grep -x AF
ip route del blackhole ${1%:*}/32
dmsetup remove --noudevsync paths
echo "one path was lost, and nothing else"
"""
RESERVED_OVER_TWO_PATHS = (
    of_two_paths("path_grouping_policy multibus", "detect_prio no", "reservation_key 0x11")
    + r"""
map=/dev/mapper/$map
keys() { sg_persist -i -k $1 | grep -c "^ *0x11$"; }
mpathpersist --out --register --param-sark=0x11 $map
mpathpersist --in --read-keys $map
mpathpersist --out --reserve --param-rk=0x11 --prout-type=5 $map
mpathpersist --in --read-reservation $map | tee /tmp/reservation
grep -i "write exclusive, registrants only" /tmp/reservation
mpathpersist --in --read-full-status $map | tee /tmp/full
[ $(grep -ic "key = *0x11" /tmp/full) = 2 ]
for disk in /sys/class/iscsi_session/session*/device/target*/*/block/*; do
    [ $(keys /dev/${disk##*/}) = 2 ]
    sg_persist -i -s /dev/${disk##*/} | grep -i "relative port" >/tmp/ports.${disk##*/}
done
cat /tmp/ports.*
[ $(cat /tmp/ports.* | grep -c "0x1$") = 2 ]
[ $(cat /tmp/ports.* | grep -c "0x2$") = 2 ]
head -c 65536 /dev/urandom >/tmp/new
dd if=/tmp/new of=$map bs=4096 oflag=direct conv=notrunc status=none
dd if=$map bs=4096 count=16 iflag=direct status=none | cmp - /tmp/new
mpathpersist --out --release --param-rk=0x11 --prout-type=5 $map
mpathpersist --out --clear --param-rk=0x11 $map
for disk in /sys/class/iscsi_session/session*/device/target*/*/block/*; do
    sg_turs /dev/${disk##*/} || true  # whoever did not ask for it is told of it first
    sg_persist -i -k /dev/${disk##*/} | grep -i "no registered reservation keys"
done
multipathd shutdown
echo "reserved over both paths"
"""
)
PATIENCE = (
    "node.session.timeo.replacement_timeout = 5",
    "node.conn[0].timeo.noop_out_interval = 2",
    "node.conn[0].timeo.noop_out_timeout = 2",
)


def test_a_reservation_of_the_kernels_initiator_outlives_the_target(
    shared_cluster: Cluster, tmp_path: Path
) -> None:
    def hook(words: list[str]) -> tuple[int, str]:
        shared_cluster.kill()
        shared_cluster.start()
        return 0, f"did {words}"

    job = Job(RESERVATIONS, shared_cluster.iqn, shared_cluster.portal, hook=hook)
    outcome = run_guest(job, tmp_path)
    assert outcome.status == 0, show(outcome, tmp_path)
    assert "reservations are held" in outcome.output


def test_linux_tools_find_what_they_ask_for(shared_cluster: Cluster, tmp_path: Path) -> None:
    copied_before = counted(shared_cluster, "copied_bytes")
    outcome = run_guest(Job(COMMANDS, shared_cluster.iqn, shared_cluster.portal), tmp_path)
    assert outcome.status == 0, show(outcome, tmp_path)
    assert "commands are carried out" in outcome.output
    assert counted(shared_cluster, "copied_bytes") == copied_before + 64 * 512, (
        "sg_xcopy: no data were sent"
    )


def started(
    directory: Path, *, second: str = "", options: tuple[str, ...] = ()
) -> Iterator[Cluster]:
    """A volume of its own, with a second portal if one is named."""
    cluster = Cluster(directory / "data", free_port(), size="256MiB", options=options)
    also = {"CSTOR_TARGET_ALSO_PORTAL": second} if second else {}
    try:
        with patch.dict(os.environ, also):
            cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def native(tmp_path: Path) -> Iterator[Cluster]:
    """A volume with sectors of 4096 bytes."""
    yield from started(tmp_path, options=("--logical-block-size=4096",))


SECOND_PORTAL = f"127.0.0.2:{free_port()}"
"""Of an address of its own, so that the guest can lose the way to it."""


@pytest.fixture
def two_paths(tmp_path: Path) -> Iterator[Cluster]:
    """A volume behind two portals."""
    yield from started(tmp_path, second=SECOND_PORTAL)


def test_ext4_on_sectors_of_4096_bytes_and_a_larger_size(native: Cluster, tmp_path: Path) -> None:
    job = Job(FILE_SYSTEM, native.iqn, native.portal, arguments=("32",))
    outcome = run_guest(job, tmp_path / "ext4")
    assert outcome.status == 0, show(outcome, tmp_path / "ext4")
    assert outcome.output.split()[:2] == ["4096", "4096"]
    assert "file system is whole" in outcome.output

    def hook(words: list[str]) -> tuple[int, str]:
        check([cstor_command(), "volume", words[0], "384MiB", f"--dir={native.directory}"])
        return 0, "it is larger"

    job = Job(LARGER, native.iqn, native.portal, hook=hook)
    outcome = run_guest(job, tmp_path / "larger")
    assert outcome.status == 0, show(outcome, tmp_path / "larger")
    assert f"from {256 << 20} to {384 << 20}" in outcome.output


def test_the_loss_of_one_of_two_paths_is_not_noticed(two_paths: Cluster, tmp_path: Path) -> None:
    job = Job(
        TWO_PATHS,
        two_paths.iqn,
        two_paths.portal,
        arguments=(SECOND_PORTAL,),
        settings=PATIENCE,
    )
    outcome = run_guest(job, tmp_path)
    assert outcome.status == 0, show(outcome, tmp_path)
    assert "one path was lost, and nothing else" in outcome.output


def test_a_reservation_is_made_over_both_of_two_paths(two_paths: Cluster, tmp_path: Path) -> None:
    job = Job(RESERVED_OVER_TWO_PATHS, two_paths.iqn, two_paths.portal, arguments=(SECOND_PORTAL,))
    outcome = run_guest(job, tmp_path)
    assert outcome.status == 0, show(outcome, tmp_path)
    assert "reserved over both paths" in outcome.output
