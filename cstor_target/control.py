"""The control service of a target (proto/cstor/v1/control.proto), port 7777."""

from __future__ import annotations

from collections.abc import Sequence

import grpc.aio

from cstor_core.errors import UnknownVolumeError
from cstor_core.generated.cstor.v1 import control_pb2, control_pb2_grpc
from cstor_core.serving import abort
from cstor_target.served_volume import ServedVolume

SERVICE_NAME = control_pb2.DESCRIPTOR.services_by_name["ControlService"].full_name


class ControlServicer(control_pb2_grpc.ControlServiceServicer):
    """Answers operators about the volumes of this process."""

    def __init__(self, volumes: Sequence[ServedVolume]) -> None:
        self._volumes = volumes

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
        for volume in self._volumes:
            if volume.is_called(request.volume):
                return control_pb2.ShowVolumeResponse(volume=volume.report())
        served = ", ".join(volume.volume_name for volume in self._volumes)
        error = UnknownVolumeError(
            f"this target does not serve a volume {request.volume!r}: it serves {served}"
        )
        await abort(context, error)
