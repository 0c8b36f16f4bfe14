"""The control service of a target (proto/cstor/v1/control.proto), port 7777."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import grpc.aio

from cstor_core.errors import CstorError, InputError, UnavailableError, UnknownVolumeError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.properties import known_with
from cstor_core.serving import abort, refusing
from cstor_target.deleting import deleted, sanitized
from cstor_target.event_log import EventLog
from cstor_target.handover import Handover, HandoverCalls
from cstor_target.login_control import LoginCalls, LoginRules
from cstor_target.served_volume import ServedVolume
from cstor_target.status_watch import StatusWatch
from cstor_target.volumes import Volumes

SERVICE_NAME = control_pb2.DESCRIPTOR.services_by_name["ControlService"].full_name
WATCHERS_MAX = 64


class ControlServicer(LoginCalls, HandoverCalls):
    """Answers operators about the volumes of this process."""

    def __init__(
        self,
        volumes: Sequence[ServedVolume],
        events: EventLog,
        status: StatusWatch,
        logins: LoginRules,
        process: Volumes | None = None,
        handover: Handover | None = None,
    ) -> None:
        """`process` is what serves them, where more may come, and `handover` leaves them."""
        super().__init__(logins, self._happened_to_all)
        self._volumes = volumes
        self._process = process
        self._handover = handover
        self._events = events
        self._status = status
        self._watchers = 0

    @refusing
    async def ListVolumes(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.ListVolumesRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.ListVolumesRequest, control_pb2.ListVolumesResponse
        ],
    ) -> control_pb2.ListVolumesResponse:
        """All volumes with their reports."""
        reports = [volume.report() for volume in self._volumes]
        return control_pb2.ListVolumesResponse(volumes=reports)

    async def ShowVolume(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.ShowVolumeRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.ShowVolumeRequest, control_pb2.ShowVolumeResponse
        ],
    ) -> control_pb2.ShowVolumeResponse:
        """The report of one volume; NOT_FOUND where this target does not serve it."""
        volume = self._called(request.volume)
        return control_pb2.ShowVolumeResponse(volume=volume.report())

    @refusing
    async def ForceOpen(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.ForceOpenRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.ForceOpenRequest, control_pb2.ForceOpenResponse
        ],
    ) -> control_pb2.ForceOpenResponse:
        """Force an opening, or say what it would lose; INVALID_ARGUMENT where it cannot be."""
        engine = self._called(request.volume).engine
        sentence = engine.may_be_lost(request.replicas)
        if request.confirmed:
            engine.force(request.replicas)
        return control_pb2.ForceOpenResponse(sentence=sentence)

    @refusing
    async def CreateSnapshot(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.CreateSnapshotRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.CreateSnapshotRequest, control_pb2.CreateSnapshotResponse
        ],
    ) -> control_pb2.CreateSnapshotResponse:
        """Take a snapshot, or find the one of that name."""
        operations = self._called(request.volume).engine.operations
        snapshot = await operations.create_snapshot(request.name)
        return control_pb2.CreateSnapshotResponse(snapshot=snapshot)

    @refusing
    async def ListSnapshots(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.ListSnapshotsRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.ListSnapshotsRequest, control_pb2.ListSnapshotsResponse
        ],
    ) -> control_pb2.ListSnapshotsResponse:
        """All snapshots of a volume."""
        snapshots = self._called(request.volume).engine.operations.snapshots
        return control_pb2.ListSnapshotsResponse(snapshots=snapshots)

    @refusing
    async def DeleteSnapshot(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.DeleteSnapshotRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.DeleteSnapshotRequest, control_pb2.DeleteSnapshotResponse
        ],
    ) -> control_pb2.DeleteSnapshotResponse:
        """Delete a snapshot; one that is not there is deleted already."""
        await self._called(request.volume).engine.operations.delete_snapshot(request.name)
        return control_pb2.DeleteSnapshotResponse()

    async def CompareSnapshots(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.CompareSnapshotsRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.CompareSnapshotsRequest, control_pb2.CompareSnapshotsResponse
        ],
    ) -> AsyncIterator[control_pb2.CompareSnapshotsResponse]:
        """What differs between two snapshots; NOT_FOUND where there is none of a name."""
        try:
            questions = self._called(request.volume).engine.questions
            async with aclosing(
                questions.compare_snapshots(request.older, request.newer)
            ) as answers:
                async for response in answers:
                    yield response
        except CstorError as error:
            await abort(context, error)

    @refusing
    async def RevertVolume(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.RevertVolumeRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.RevertVolumeRequest, control_pb2.RevertVolumeResponse
        ],
    ) -> control_pb2.RevertVolumeResponse:
        """Go back to a snapshot; INVALID_ARGUMENT while initiators are logged in, unless asked."""
        volume = self._called(request.volume)
        sessions = volume.report().sessions
        if sessions and not request.in_use:
            names = ", ".join(session.initiator_name for session in sessions)
            raise InputError(
                f"{names} is logged in, and may have cached what is reverted: log out first, "
                "or force it"
            )
        await volume.engine.operations.revert(request.snapshot)
        return control_pb2.RevertVolumeResponse()

    @refusing
    async def CloneVolume(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.CloneVolumeRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.CloneVolumeRequest, control_pb2.CloneVolumeResponse
        ],
    ) -> control_pb2.CloneVolumeResponse:
        """Make a clone, or find the one of that name; ALREADY_EXISTS where that is another."""
        cloning = self._called(request.volume).engine.cloning
        beside = self._process.uuid_of(request.name) if self._process is not None else ""
        made = await cloning.clone(
            *(request.snapshot, request.name, str(uuid.uuid4())),
            read_only=request.read_only,
            beside=beside,
        )
        served = None
        if self._process is not None:
            served = await self._process.clone_served(made.identity, made.configuration.members)
        return control_pb2.CloneVolumeResponse(
            clone=made.identity,
            members=made.configuration.members,
            left_out_members=made.left_out,
            iqn=served.name if served is not None else "",
            portal=served.portal if served is not None else "",
        )

    @refusing
    async def ResizeVolume(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.ResizeVolumeRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.ResizeVolumeRequest, control_pb2.ResizeVolumeResponse
        ],
    ) -> control_pb2.ResizeVolumeResponse:
        """Let a volume grow."""
        operations = self._called(request.volume).engine.operations
        await operations.resize(request.size_bytes)
        return control_pb2.ResizeVolumeResponse(size_bytes=operations.size_bytes)

    @refusing
    async def SetVolumeProperty(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.SetVolumePropertyRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.SetVolumePropertyRequest, control_pb2.SetVolumePropertyResponse
        ],
    ) -> control_pb2.SetVolumePropertyResponse:
        """Give a property of a volume a value."""
        engine = self._called(request.volume).engine
        engine.check_versions(known_with(request.setting))
        await engine.operations.set_property(request.setting)
        return control_pb2.SetVolumePropertyResponse(properties=engine.operations.properties)

    @refusing
    async def DeleteVolume(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.DeleteVolumeRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.DeleteVolumeRequest, control_pb2.DeleteVolumeResponse
        ],
    ) -> control_pb2.DeleteVolumeResponse:
        """Delete a volume, or say what it would lose; INVALID_ARGUMENT where it is protected, or
        initiators are logged in, unless asked.
        """
        return await deleted(self._volumes, self._called, request)

    @refusing
    async def SanitizeVolume(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.SanitizeVolumeRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.SanitizeVolumeRequest, control_pb2.SanitizeVolumeResponse
        ],
    ) -> control_pb2.SanitizeVolumeResponse:
        """Erase what a volume holds, or say so; INVALID_ARGUMENT where it has snapshots or is
        used, unless asked.
        """
        return await sanitized(self._called(request.volume), request)

    @refusing
    async def AddReplica(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.AddReplicaRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.AddReplicaRequest, control_pb2.AddReplicaResponse
        ],
    ) -> control_pb2.AddReplicaResponse:
        """Make a replica a member; answered when it is one, which may take long."""
        changes = self._called(request.volume).engine.changes
        uuid = await changes.add(request.address, same_host=request.same_host)
        return control_pb2.AddReplicaResponse(replica_uuid=uuid)

    @refusing
    async def RemoveReplica(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.RemoveReplicaRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.RemoveReplicaRequest, control_pb2.RemoveReplicaResponse
        ],
    ) -> control_pb2.RemoveReplicaResponse:
        """Let a member go."""
        await self._called(request.volume).engine.changes.remove(request.replica)
        return control_pb2.RemoveReplicaResponse()

    @refusing
    async def ReplaceReplica(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.ReplaceReplicaRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.ReplaceReplicaRequest, control_pb2.ReplaceReplicaResponse
        ],
    ) -> control_pb2.ReplaceReplicaResponse:
        """Put a new replica in the place of a member; answered when it is one."""
        uuid = await self._called(request.volume).engine.changes.replace(
            request.replica, request.address, same_host=request.same_host
        )
        return control_pb2.ReplaceReplicaResponse(replica_uuid=uuid)

    @refusing
    async def MoveReplica(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.MoveReplicaRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.MoveReplicaRequest, control_pb2.MoveReplicaResponse
        ],
    ) -> control_pb2.MoveReplicaResponse:
        """Find a member at another address."""
        changes = self._called(request.volume).engine.changes
        uuid = await changes.move(request.replica, request.address)
        return control_pb2.MoveReplicaResponse(replica_uuid=uuid)

    @refusing
    async def DeleteRemovedReplica(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.DeleteRemovedReplicaRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.DeleteRemovedReplicaRequest, control_pb2.DeleteRemovedReplicaResponse
        ],
    ) -> control_pb2.DeleteRemovedReplicaResponse:
        """Have a daemon delete a replica that is no member."""
        uuid = await self._called(request.volume).engine.changes.delete(request.address)
        return control_pb2.DeleteRemovedReplicaResponse(replica_uuid=uuid)

    @refusing
    async def RebuildReplicas(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.RebuildReplicasRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.RebuildReplicasRequest, control_pb2.RebuildReplicasResponse
        ],
    ) -> control_pb2.RebuildReplicasResponse:
        """Bring back now what waits for another try."""
        keeping = self._called(request.volume).engine.keeping
        members = keeping.try_now(request.replica)
        if request.pace:
            keeping.set_pace(request.pace)
        return control_pb2.RebuildReplicasResponse(members=members)

    @refusing
    async def ListSessions(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.ListSessionsRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.ListSessionsRequest, control_pb2.ListSessionsResponse
        ],
    ) -> control_pb2.ListSessionsResponse:
        """The sessions of one volume, or of all; NOT_FOUND as `ShowVolume`."""
        volumes = [self._called(request.volume)] if request.volume else self._volumes
        sessions = [session for volume in volumes for session in volume.sessions.listed()]
        return control_pb2.ListSessionsResponse(sessions=sessions)

    @refusing
    async def DropSession(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.DropSessionRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.DropSessionRequest, control_pb2.DropSessionResponse
        ],
    ) -> control_pb2.DropSessionResponse:
        """End sessions of a volume; NOT_FOUND where there is none that is meant."""
        dropped = self._called(request.volume).sessions.drop(request)
        return control_pb2.DropSessionResponse(sessions=dropped)

    @refusing
    async def ListReservations(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.ListReservationsRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.ListReservationsRequest, control_pb2.ListReservationsResponse
        ],
    ) -> control_pb2.ListReservationsResponse:
        """Who has registered and who has reserved; NOT_FOUND as `ShowVolume`."""
        reservations = self._called(request.volume).engine.operations.reservations
        return control_pb2.ListReservationsResponse(reservations=reservations)

    @refusing
    async def ClearReservations(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.ClearReservationsRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.ClearReservationsRequest, control_pb2.ClearReservationsResponse
        ],
    ) -> control_pb2.ClearReservationsResponse:
        """Take all of them away; UNAVAILABLE where too few replicas answer."""
        before = await self._called(request.volume).clear_reservations()
        return control_pb2.ClearReservationsResponse(reservations=before)

    @refusing
    async def ListPools(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.ListPoolsRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.ListPoolsRequest, control_pb2.ListPoolsResponse
        ],
    ) -> control_pb2.ListPoolsResponse:
        """What the pools of a volume's replicas hold."""
        pools = await self._called(request.volume).engine.questions.list_pools()
        return control_pb2.ListPoolsResponse(pools=pools)

    async def WatchStatus(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.WatchStatusRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.WatchStatusRequest, control_pb2.WatchStatusResponse
        ],
    ) -> AsyncIterator[control_pb2.WatchStatusResponse]:
        """How volumes are and what changes; NOT_FOUND and UNAVAILABLE as `WatchEvents`."""
        try:
            volumes = [self._called(request.volume)] if request.volume else list(self._volumes)
            async with aclosing(self._status.watch(volumes)) as reports:
                async for response in reports:
                    yield response
        except CstorError as error:
            await abort(context, error)

    @refusing
    async def StartScrub(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.StartScrubRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.StartScrubRequest, control_pb2.StartScrubResponse
        ],
    ) -> control_pb2.StartScrubResponse:
        """Begin a scrub, or find the one that is under way."""
        scrubs = self._called(request.volume).engine.scrubs
        is_new = scrubs.start(request.rate_bytes_per_s)
        return control_pb2.StartScrubResponse(scrub=scrubs.report(), found=not is_new)

    @refusing
    async def StopScrub(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.StopScrubRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.StopScrubRequest, control_pb2.StopScrubResponse
        ],
    ) -> control_pb2.StopScrubResponse:
        """End the scrub that is under way."""
        scrubs = self._called(request.volume).engine.scrubs
        scrubs.stop()
        return control_pb2.StopScrubResponse(scrub=scrubs.report())

    async def WatchScrub(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.WatchScrubRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.WatchScrubRequest, control_pb2.WatchScrubResponse
        ],
    ) -> AsyncIterator[control_pb2.WatchScrubResponse]:
        """How far a scrub is, until it ends; INVALID_ARGUMENT where there was none, UNAVAILABLE
        where too many watch already.
        """
        self._watchers += 1
        try:
            self._check_watchers()
            async with aclosing(self._called(request.volume).engine.scrubs.watch()) as reports:
                async for report in reports:
                    yield control_pb2.WatchScrubResponse(scrub=report)
        except CstorError as error:
            await abort(context, error)
        finally:
            self._watchers -= 1

    async def WatchEvents(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.WatchEventsRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.WatchEventsRequest, control_pb2.WatchEventsResponse
        ],
    ) -> AsyncIterator[control_pb2.WatchEventsResponse]:
        """What has happened and what happens; NOT_FOUND as `ShowVolume`, UNAVAILABLE where too
        many watch already, and where this target ends.
        """
        self._watchers += 1
        try:
            self._check_watchers()
            volume = self._called(request.volume) if request.volume else None
            async for response in self._events.watch(
                request.after_number,
                lambda event: volume is None or volume.is_called(event.volume),
                follow=request.follow,
            ):
                yield response
        except CstorError as error:
            await abort(context, error)
        finally:
            self._watchers -= 1

    def _happened_to_all(self, name: str, facts: dict[str, object]) -> None:
        for volume in self._volumes:
            self._events.add(volume.volume_name, name, facts)

    def _check_watchers(self) -> None:
        """Raise UnavailableError where too many watch."""
        if self._watchers > WATCHERS_MAX:
            raise UnavailableError(f"{WATCHERS_MAX} others watch the events of this target")

    def _called(self, name_or_uuid: str) -> ServedVolume:
        for volume in self._volumes:
            if volume.is_called(name_or_uuid):
                return volume
        served = ", ".join(volume.volume_name for volume in self._volumes)
        raise UnknownVolumeError(
            f"this target does not serve a volume {name_or_uuid!r}: it serves {served}"
        )
