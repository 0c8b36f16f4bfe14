"""How the volumes of a process are, told to whoever watches: at once, and then what changes.

Memory is bounded: a watcher has the last report of each volume, and nothing waits for a slow one,
who is told how it is when he can take it.  It is looked so many times a second, and no more.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from cstor_core.clock import Clock
from cstor_core.errors import UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_target.served_volume import ServedVolume

LOOK_S = 0.2
WATCHERS_MAX = 64


class StatusWatch:
    """Of one process; all calls from one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watchers = 0
        self._closed = False

    def close(self) -> None:
        """The process ends: whoever watches is told so."""
        self._closed = True

    async def watch(
        self, volumes: Sequence[ServedVolume]
    ) -> AsyncGenerator[control_pb2.WatchStatusResponse]:
        """All of these volumes, and then those that have changed, without an end.

        Raises UnavailableError where too many watch already, and when the process ends.
        """
        if self._watchers >= WATCHERS_MAX:
            raise UnavailableError(f"{WATCHERS_MAX} others watch the status of this target")
        self._watchers += 1
        try:
            told: dict[ServedVolume, bytes] = {}
            while not self._closed:
                changed = []
                for volume in list(volumes):
                    report = volume.report()
                    lasting = _lasting(report)
                    if told.get(volume) != lasting:
                        told[volume] = lasting
                        changed.append(report)
                if changed:
                    yield control_pb2.WatchStatusResponse(volumes=changed)
                await self._clock.sleep(LOOK_S)
            raise UnavailableError("the target is being stopped")
        finally:
            self._watchers -= 1


def _lasting(report: control_pb2.VolumeReport) -> bytes:
    """A report without what changes by itself while time passes."""
    lasting = control_pb2.VolumeReport()
    lasting.CopyFrom(report)
    lasting.waiting_ms = min(lasting.waiting_ms, 1)
    lasting.lease_left_ms = min(lasting.lease_left_ms, 1)
    return lasting.SerializeToString(deterministic=True)
