#!/bin/busybox sh
# PID 1 of the guest: brings up what an initiator needs, logs in, runs the job's script, hands its
# files back and switches the guest off.  The kernel's command line brings the settings that differ
# from run to run as guest.NAME=VALUE; the job's own are shell variables in /job/env.
# Lines that begin with \001GUEST are for the harness, everything else is the script's output.
busybox=/bin/busybox
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sysfs /sys
[ -c /dev/null ] || $busybox mount -t devtmpfs dev /dev
$busybox mkdir -p /dev/pts /dev/shm
$busybox mount -t devpts devpts /dev/pts
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/applets
export HOME=/root LANG=C.UTF-8 TERM=dumb
for folder in /dev/shm /run /tmp /var /out /job /mnt /root; do mount -t tmpfs tmpfs $folder; done
mkdir -p /run/lock/iscsi /var/lib/iscsi /var/tmp /run/etc
# The root is read-only; open-iscsi wants to write below /etc.
cp -a /etc/. /run/etc && mount -o bind /run/etc /etc
for word in $(cat /proc/cmdline); do
    case $word in guest.*) export "GUEST_${word#guest.}";; esac
done
stty -F /dev/$GUEST_tty raw -echo
exec </dev/null >/dev/$GUEST_tty 2>&1

say() { printf '\001GUEST %s\n' "$*"; }
finish() {
    timeout 15 iscsiadm -m node -u >/run/logout.txt 2>&1
    dmesg >/out/dmesg.txt
    tar -c -C /out . | dd of=$GUEST_out bs=1M conv=fsync 2>/dev/null
    say end $1
    sleep 0.3
    poweroff -nf
    sleep 60
}
fail() { echo "guest: $*"; finish 123; }

say up $(uname -r)
tar -x -C /job -f $GUEST_job || fail cannot read the job
set -a; . /job/env; set +a

# All of 127.0.0.0/8 is the host's loopback, so that what SendTargets answers needs no rewriting.
[ -d /sys/class/net/$GUEST_interface ] || fail no network device
sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.default.route_localnet=1 \
    net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
ip addr add $GUEST_address dev $GUEST_interface && ip link set $GUEST_interface up ||
    fail the network device does not come up
sysctl -qw net.ipv4.conf.$GUEST_interface.route_localnet=1 \
    net.ipv4.conf.$GUEST_interface.rp_filter=0
ip route add default via $GUEST_gateway
ip route add 127.0.0.0/8 via $GUEST_gateway src ${GUEST_address%/*}
for i in $(seq 100); do ping -q -c 1 -W 1 $GUEST_gateway >/dev/null && break; sleep 0.1; done

for module in iscsi_tcp sd_mod sg crc32c-intel; do
    modprobe $module >/run/modprobe.$module 2>&1
done
[ -d /sys/module/iscsi_tcp ] || fail cannot load iscsi_tcp
echo "InitiatorName=$INITIATOR_NAME" >/etc/iscsi/initiatorname.iscsi
cat /job/iscsid.conf >>/etc/iscsi/iscsid.conf
iscsid -f >/out/iscsid.txt 2>&1 &
for i in $(seq 50); do grep -q ISCSIADM_ABSTRACT /proc/net/unix && break; sleep 0.1; done

find_disks() {
    for block in /sys/class/iscsi_session/session*/device/target*/*/block/*; do
        [ -e $block ] || continue
        address=${block%/block/*}
        [ "$(cat $block/size)" -gt 0 ] && echo "${address##*:} /dev/${block##*/}"
    done | sort -n | cut -d' ' -f2
}
if [ "$LOG_IN" = 1 ]; then
    if ! iscsiadm -m discovery -t st -p $PORTAL >/out/discovery.txt 2>&1; then
        cat /out/discovery.txt; fail discovery at $PORTAL failed
    fi
    # The target may announce another address than the one that was given.
    iscsiadm -m node -T $IQN -p $PORTAL >/run/node.txt 2>&1 ||
        iscsiadm -m node -T $IQN -p $PORTAL -o new >/run/node.txt 2>&1 || fail no node record
    iscsiadm -m node -T $IQN -p $PORTAL -l >/out/login.txt 2>&1
    status=$?
    [ $status = 0 ] || { cat /out/login.txt; fail "login failed, iscsiadm status $status"; }
    say login
    for i in $(seq 100); do DISKS=$(find_disks); [ -n "$DISKS" ] && break; sleep 0.1; done
    [ -n "$DISKS" ] || fail logged in but found no disk
    DISKS=$(echo $DISKS); DISK=${DISKS%% *}; export DISK DISKS
    iscsiadm -m session -P 3 >/out/session.txt 2>&1
fi
say run
cd /out
eval "/job/script $ARGUMENTS"
finish $?
