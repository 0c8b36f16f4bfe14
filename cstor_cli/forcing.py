"""`cstor volume open --force`: what may be lost is said first, and somebody has to agree."""

from __future__ import annotations

import time
from collections.abc import Callable

from cstor_cli.control_client import SERVING, control
from cstor_core.errors import CstorError, InputError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2

OPEN_S_MAX = 30.0
POLL_S = 0.1


def force_open(
    address: str, volume: str, replicas: list[str], agrees: Callable[[str], bool]
) -> control_pb2.VolumeReport:
    """Have the target at an address force a volume open; its report once it is.

    `agrees` is told what it does and what may be lost.  Raises InputError where it cannot be
    forced or nobody agrees, UnavailableError where it does not open.
    """
    with control(address) as client:
        sentence = client.force_open(volume, replicas, confirmed=False)
        if not agrees(sentence):
            raise InputError("nothing was done")
        client.force_open(volume, replicas, confirmed=True)
        deadline_s = time.monotonic() + OPEN_S_MAX
        reason = "the target does not say why"
        while time.monotonic() < deadline_s:
            try:
                report = client.show_volume(volume)
            except CstorError as error:
                reason = str(error)
            else:
                if report.status in SERVING:
                    return report
                reason = report.reason
            time.sleep(POLL_S)
    raise UnavailableError(f"the volume is not open after {OPEN_S_MAX:.0f} s: {reason}")
