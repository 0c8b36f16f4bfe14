"""Where the Linux kernel cannot be booted its tests are named as not run, with the reason."""

from __future__ import annotations

import pytest

from tests.system.linux_initiator.availability import why_not_on

BOOKWORM = {"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)"}
UBUNTU = {"ID": "ubuntu", "VERSION_ID": "24.04", "PRETTY_NAME": "Ubuntu 24.04 LTS"}


@pytest.mark.parametrize(
    ("machine", "release", "can_tap", "word"),
    [
        ("aarch64", BOOKWORM, True, "aarch64"),
        ("x86_64", UBUNTU, True, "Ubuntu 24.04 LTS"),
        ("x86_64", {**BOOKWORM, "VERSION_ID": "13"}, True, "Debian 12"),
        ("x86_64", BOOKWORM, False, "root"),
    ],
)
def test_the_reason_names_what_is_missing(
    machine: str, release: dict[str, str], can_tap: bool, word: str
) -> None:
    assert word in str(why_not_on(machine, release, can_tap=can_tap))


def test_debian_12_on_x86_64_with_a_tap_device_can_boot_the_kernel() -> None:
    assert why_not_on("x86_64", BOOKWORM, can_tap=True) is None
