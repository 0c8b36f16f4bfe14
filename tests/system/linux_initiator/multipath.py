"""A disk of two paths in the guest, as multipathd makes it.

udev's rules are not in the guest: one here says of a disk what those of sg3-utils do.  Nor is the
kernel's handler of ALUA: multipathd looks at the states of the ports by itself.
"""

from __future__ import annotations

_LOGIN = r"""
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
"""
_START = r"""
end
export DM_DISABLE_UDEV=1
multipathd -d >/out/multipathd.txt 2>&1 &
for i in $(seq 100); do
    map=$(dmsetup ls --target multipath | cut -f1)
    [ "$(dmsetup status $map 2>/dev/null | grep -o "8:[0-9]* A" | wc -l)" = 2 ] && break
    sleep 0.1
done
"""


def of_two_paths(*defaults: str) -> str:
    """The begin of a script whose first argument is the second portal: $map is the disk's name,
    with these lines among multipath's defaults.
    """
    lines = ["find_multipaths no", 'path_selector "round-robin 0"', *defaults]
    return f"{_LOGIN}defaults {{\n{chr(10).join(lines)}\n}}{_START}"
