"""What the command asks of a target on its control port (proto/cstor/v1/control.proto)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cstor_cli.calls import Connection
from cstor_core.generated.cstor.v1 import control_pb2

ASK_S_MAX = 3.0

Status = control_pb2.VolumeStatus
SERVING = frozenset(
    {
        Status.VOLUME_STATUS_HEALTHY,
        Status.VOLUME_STATUS_DEGRADED,
        Status.VOLUME_STATUS_REBUILDING,
        Status.VOLUME_STATUS_FULL,
    }
)
"""The states in which an initiator that logs in finds a disk that answers."""


class ControlClient:
    """A target's control service.  Every call may raise a CstorError."""

    def __init__(self, address: str) -> None:
        self._connection = Connection(address, "cstor.v1.ControlService", "the target's control")

    def list_volumes(self) -> list[control_pb2.VolumeReport]:
        """All volumes of the target."""
        answer = self._connection.ask(
            "ListVolumes",
            control_pb2.ListVolumesRequest(),
            control_pb2.ListVolumesResponse,
            ASK_S_MAX,
        )
        return list(answer.volumes)

    def show_volume(self, volume: str) -> control_pb2.VolumeReport:
        """One volume, by name or UUID; UnknownVolumeError where the target has another."""
        return self._connection.ask(
            "ShowVolume",
            control_pb2.ShowVolumeRequest(volume=volume),
            control_pb2.ShowVolumeResponse,
            ASK_S_MAX,
        ).volume

    def force_open(self, volume: str, replicas: list[str], *, confirmed: bool) -> str:
        """Force an opening, or say what it would lose; the sentence.  InputError where it cannot be
        forced.
        """
        return self._connection.ask(
            "ForceOpen",
            control_pb2.ForceOpenRequest(volume=volume, replicas=replicas, confirmed=confirmed),
            control_pb2.ForceOpenResponse,
            ASK_S_MAX,
        ).sentence

    def watch_events(
        self, volume: str, after_number: int, *, follow: bool
    ) -> Iterator[control_pb2.WatchEventsResponse]:
        """What has happened to one volume, or to all where it is empty, and with `follow` what
        happens from then on; UnavailableError where the target ends or is lost.
        """
        return self._connection.listen(
            "WatchEvents",
            control_pb2.WatchEventsRequest(volume=volume, after_number=after_number, follow=follow),
            control_pb2.WatchEventsResponse,
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextlib.contextmanager
def control(address: str) -> Iterator[ControlClient]:
    """A connection to the control port at HOST:PORT, closed at the end."""
    client = ControlClient(address)
    try:
        yield client
    finally:
        client.close()
