"""What the command asks of a target on its control port (proto/cstor/v1/control.proto)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cstor_cli.calls import Connection
from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import control_pb2, volume_pb2
from cstor_core.secure.roles import Role

ASK_S_MAX = 3.0
OPERATION_S_MAX = 30.0
DELETE_S_MAX = 120.0
DRAIN_S_MAX = 60.0
CLONE_S_MAX = 3700.0
"""Longer than a target waits for a pool."""
COPY_S_MAX = 7 * 86400.0
"""Longer than a target waits for a quorum by default."""

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
        self._connection = Connection(
            address, "cstor.v1.ControlService", "the target's control", Role.TARGET
        )

    def named(self, volume: str) -> str:
        """The volume that is meant: the target's only one where none is named.

        Raises InputError where it has several.
        """
        if volume:
            return volume
        names = [report.identity.name for report in self.list_volumes()]
        if len(names) != 1:
            raise InputError(f"the target serves {', '.join(names)}: say which with --volume")
        return names[0]

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

    def create_snapshot(self, volume: str, name: str) -> volume_pb2.Snapshot:
        """Take a snapshot, or find the one of that name."""
        return self._connection.ask(
            "CreateSnapshot",
            control_pb2.CreateSnapshotRequest(volume=volume, name=name),
            control_pb2.CreateSnapshotResponse,
            OPERATION_S_MAX,
        ).snapshot

    def list_snapshots(self, volume: str) -> list[volume_pb2.Snapshot]:
        """All snapshots of a volume, in the order in which they were taken."""
        answer = self._connection.ask(
            "ListSnapshots",
            control_pb2.ListSnapshotsRequest(volume=volume),
            control_pb2.ListSnapshotsResponse,
            ASK_S_MAX,
        )
        return list(answer.snapshots)

    def delete_snapshot(self, volume: str, name: str) -> None:
        """Delete a snapshot; one that is not there is deleted already."""
        self._connection.ask(
            "DeleteSnapshot",
            control_pb2.DeleteSnapshotRequest(volume=volume, name=name),
            control_pb2.DeleteSnapshotResponse,
            OPERATION_S_MAX,
        )

    def compare_snapshots(
        self, volume: str, older: str, newer: str
    ) -> Iterator[control_pb2.SnapshotExtent]:
        """What differs between two snapshots, or a snapshot and the volume as it is where `newer`
        is empty, ascending.
        """
        request = control_pb2.CompareSnapshotsRequest(volume=volume, older=older, newer=newer)
        answers = self._connection.listen(
            "CompareSnapshots", request, control_pb2.CompareSnapshotsResponse
        )
        for answer in answers:
            yield from answer.extents

    def revert(self, volume: str, snapshot: str, *, in_use: bool) -> None:
        """Go back to a snapshot; InputError while initiators are logged in, unless `in_use`."""
        self._connection.ask(
            "RevertVolume",
            control_pb2.RevertVolumeRequest(volume=volume, snapshot=snapshot, in_use=in_use),
            control_pb2.RevertVolumeResponse,
            OPERATION_S_MAX,
        )

    def clone(
        self, volume: str, snapshot: str, name: str, *, read_only: bool
    ) -> control_pb2.CloneVolumeResponse:
        """Make a volume of its own of a snapshot, or find the one of that name.

        AlreadyExistsError where that is another one.
        """
        return self._connection.ask(
            "CloneVolume",
            control_pb2.CloneVolumeRequest(
                volume=volume, snapshot=snapshot, name=name, read_only=read_only
            ),
            control_pb2.CloneVolumeResponse,
            CLONE_S_MAX,
        )

    def set_property(
        self, volume: str, setting: volume_pb2.PropertySetting
    ) -> volume_pb2.VolumeProperties:
        """Give a property a value; all of them then."""
        return self._connection.ask(
            "SetVolumeProperty",
            control_pb2.SetVolumePropertyRequest(volume=volume, setting=setting),
            control_pb2.SetVolumePropertyResponse,
            OPERATION_S_MAX,
        ).properties

    def delete_volume(
        self, volume: str, *, confirmed: bool, in_use: bool
    ) -> control_pb2.DeleteVolumeResponse:
        """Delete a volume, or without `confirmed` only say what would be lost.

        InputError where it is protected, or while initiators are logged in, unless `in_use`.
        """
        return self._connection.ask(
            "DeleteVolume",
            control_pb2.DeleteVolumeRequest(volume=volume, confirmed=confirmed, in_use=in_use),
            control_pb2.DeleteVolumeResponse,
            DELETE_S_MAX,
        )

    def sanitize(self, volume: str, *, confirmed: bool, in_use: bool) -> str:
        """Begin to erase all that a volume holds, or without `confirmed` only say what is lost.

        InputError where it has snapshots, or while initiators are logged in, unless `in_use`.
        """
        return self._connection.ask(
            "SanitizeVolume",
            control_pb2.SanitizeVolumeRequest(volume=volume, confirmed=confirmed, in_use=in_use),
            control_pb2.SanitizeVolumeResponse,
            OPERATION_S_MAX,
        ).sentence

    def resize(self, volume: str, size_bytes: int) -> int:
        """Let a volume grow; its size then."""
        return self._connection.ask(
            "ResizeVolume",
            control_pb2.ResizeVolumeRequest(volume=volume, size_bytes=size_bytes),
            control_pb2.ResizeVolumeResponse,
            OPERATION_S_MAX,
        ).size_bytes

    def add_replica(self, volume: str, address: str, *, same_host: bool) -> str:
        """Make the replica at an address a member; its UUID.  It may take as long as copying all
        data does.
        """
        return self._connection.ask(
            "AddReplica",
            control_pb2.AddReplicaRequest(volume=volume, address=address, same_host=same_host),
            control_pb2.AddReplicaResponse,
            COPY_S_MAX,
        ).replica_uuid

    def remove_replica(self, volume: str, replica: str) -> None:
        """Let a member go, by UUID or address."""
        self._connection.ask(
            "RemoveReplica",
            control_pb2.RemoveReplicaRequest(volume=volume, replica=replica),
            control_pb2.RemoveReplicaResponse,
            OPERATION_S_MAX,
        )

    def replace_replica(self, volume: str, replica: str, address: str, *, same_host: bool) -> str:
        """Put the replica at an address in the place of a member; its UUID.  It takes as long as
        `add_replica`.
        """
        return self._connection.ask(
            "ReplaceReplica",
            control_pb2.ReplaceReplicaRequest(
                volume=volume, replica=replica, address=address, same_host=same_host
            ),
            control_pb2.ReplaceReplicaResponse,
            COPY_S_MAX,
        ).replica_uuid

    def move_replica(self, volume: str, replica: str, address: str) -> str:
        """Find a member, by UUID or the address that it had, at another address; its UUID."""
        return self._connection.ask(
            "MoveReplica",
            control_pb2.MoveReplicaRequest(volume=volume, replica=replica, address=address),
            control_pb2.MoveReplicaResponse,
            OPERATION_S_MAX,
        ).replica_uuid

    def delete_replica(self, volume: str, address: str) -> str:
        """Have a daemon delete a replica that is no member; its UUID."""
        return self._connection.ask(
            "DeleteRemovedReplica",
            control_pb2.DeleteRemovedReplicaRequest(volume=volume, address=address),
            control_pb2.DeleteRemovedReplicaResponse,
            OPERATION_S_MAX,
        ).replica_uuid

    def list_sessions(self, volume: str) -> list[control_pb2.Session]:
        """The sessions with one volume, or with all where it is empty."""
        answer = self._connection.ask(
            "ListSessions",
            control_pb2.ListSessionsRequest(volume=volume),
            control_pb2.ListSessionsResponse,
            ASK_S_MAX,
        )
        return list(answer.sessions)

    def drop_session(self, request: control_pb2.DropSessionRequest) -> list[control_pb2.Session]:
        """End sessions, or with `dry_run` only say which are meant; they as they were."""
        answer = self._connection.ask(
            "DropSession", request, control_pb2.DropSessionResponse, ASK_S_MAX
        )
        return list(answer.sessions)

    def redirect_logins(self, volume: str, address: str) -> None:
        """Have initiators log in at another portal, or with no address here again."""
        self._connection.ask(
            "RedirectLogins",
            control_pb2.RedirectLoginsRequest(volume=volume, address=address),
            control_pb2.RedirectLoginsResponse,
            ASK_S_MAX,
        )

    def drain(self, successor: str, *, redirect: bool) -> str:
        """Have the target leave its volumes to one that stands by; the portal of that one."""
        return self._connection.ask(
            "DrainTarget",
            control_pb2.DrainTargetRequest(successor=successor, redirect=redirect),
            control_pb2.DrainTargetResponse,
            DRAIN_S_MAX,
        ).successor

    def list_reservations(self, volume: str) -> volume_pb2.Reservations:
        """Who has registered with a volume, and who has reserved it."""
        return self._connection.ask(
            "ListReservations",
            control_pb2.ListReservationsRequest(volume=volume),
            control_pb2.ListReservationsResponse,
            ASK_S_MAX,
        ).reservations

    def clear_reservations(self, volume: str) -> volume_pb2.Reservations:
        """Take all of that away; it as it was."""
        return self._connection.ask(
            "ClearReservations",
            control_pb2.ClearReservationsRequest(volume=volume),
            control_pb2.ClearReservationsResponse,
            OPERATION_S_MAX,
        ).reservations

    def set_chap(self, request: control_pb2.SetChapRequest) -> None:
        """Set a secret."""
        self._connection.ask("SetChap", request, control_pb2.SetChapResponse, ASK_S_MAX)

    def clear_chap(self, request: control_pb2.ClearChapRequest) -> list[str]:
        """Take secrets away; whose they were."""
        answer = self._connection.ask(
            "ClearChap", request, control_pb2.ClearChapResponse, ASK_S_MAX
        )
        return list(answer.names)

    def list_chap(self) -> list[control_pb2.ChapRealm]:
        """Who has a secret where."""
        answer = self._connection.ask(
            "ListChap", control_pb2.ListChapRequest(), control_pb2.ListChapResponse, ASK_S_MAX
        )
        return list(answer.realms)

    def allow_access(self, request: control_pb2.AllowAccessRequest) -> control_pb2.AccessRule:
        """Let initiators log in; the rule that is in force then."""
        answer = self._connection.ask(
            "AllowAccess", request, control_pb2.AllowAccessResponse, ASK_S_MAX
        )
        return answer.rule

    def deny_access(self, request: control_pb2.DenyAccessRequest) -> control_pb2.AccessRule:
        """Take that back; the rule that is in force then."""
        answer = self._connection.ask(
            "DenyAccess", request, control_pb2.DenyAccessResponse, ASK_S_MAX
        )
        return answer.rule

    def list_access(self) -> list[control_pb2.AccessRule]:
        """Who may log in, wherever not everybody may."""
        answer = self._connection.ask(
            "ListAccess", control_pb2.ListAccessRequest(), control_pb2.ListAccessResponse, ASK_S_MAX
        )
        return list(answer.rules)

    def list_pools(self, volume: str) -> list[control_pb2.PoolReport]:
        """What the pools hold that the replicas of a volume are in."""
        answer = self._connection.ask(
            "ListPools",
            control_pb2.ListPoolsRequest(volume=volume),
            control_pb2.ListPoolsResponse,
            OPERATION_S_MAX,
        )
        return list(answer.pools)

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

    def rebuild_replicas(
        self, volume: str, replica: str, pace: control_pb2.RebuildPace.ValueType
    ) -> list[control_pb2.MemberReport]:
        """Start at once what waits for another try, of one replica or of all; those meant.
        The pace, where one is given, is that of all from now on.
        """
        answer = self._connection.ask(
            "RebuildReplicas",
            control_pb2.RebuildReplicasRequest(volume=volume, replica=replica, pace=pace),
            control_pb2.RebuildReplicasResponse,
            ASK_S_MAX,
        )
        return list(answer.members)

    def watch_status(self, volume: str) -> Iterator[control_pb2.WatchStatusResponse]:
        """How one volume is, or all are where it is empty, and each change of that;
        UnavailableError where the target ends or is lost.
        """
        return self._connection.listen(
            "WatchStatus",
            control_pb2.WatchStatusRequest(volume=volume),
            control_pb2.WatchStatusResponse,
        )

    def start_scrub(self, volume: str, rate_bytes_per_s: int) -> control_pb2.StartScrubResponse:
        """Begin a scrub, at the usual rate where none is given, or find the one under way."""
        return self._connection.ask(
            "StartScrub",
            control_pb2.StartScrubRequest(volume=volume, rate_bytes_per_s=rate_bytes_per_s),
            control_pb2.StartScrubResponse,
            ASK_S_MAX,
        )

    def stop_scrub(self, volume: str) -> control_pb2.ScrubReport | None:
        """End the scrub that is under way; the last one, if there was any."""
        answer = self._connection.ask(
            "StopScrub",
            control_pb2.StopScrubRequest(volume=volume),
            control_pb2.StopScrubResponse,
            ASK_S_MAX,
        )
        return answer.scrub if answer.HasField("scrub") else None

    def watch_scrub(self, volume: str) -> Iterator[control_pb2.ScrubReport]:
        """How far the scrub is, until it ends; UnavailableError where its target ends before."""
        answers = self._connection.listen(
            "WatchScrub",
            control_pb2.WatchScrubRequest(volume=volume),
            control_pb2.WatchScrubResponse,
        )
        return (answer.scrub for answer in answers)

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
