"""The deletion of a volume as operators ask for it: said first, and refused while it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cstor_core.errors import InputError, UnavailableError, UnknownVolumeError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.generated.cstor.v1.control_pb2 import DeleteVolumeRequest, DeleteVolumeResponse
from cstor_target.served_volume import ServedVolume


async def deleted(
    volumes: Sequence[ServedVolume],
    called: Callable[[str], ServedVolume],
    request: DeleteVolumeRequest,
) -> DeleteVolumeResponse:
    """Delete one of the volumes of this process, or what is half-made of a clone of one; without
    `confirmed` only say what that does.

    Raises UnknownVolumeError where there is neither, and what `Deletion.delete` raises.
    """
    try:
        volume = called(request.volume)
    except UnknownVolumeError:
        if (response := await _half_made(volumes, request)) is not None:
            return response
        raise
    deletion = volume.engine.deletion
    if not deletion.is_ordered:
        volume.engine.check_versions()
    sentence = deletion.sentence()
    sessions = volume.sessions.reports()
    if sessions and not request.in_use:
        names = ", ".join(session.initiator_name for session in sessions)
        raise InputError(f"{names} is logged in, and uses the volume: log out first, or force it")
    if not request.confirmed:
        return DeleteVolumeResponse(sentence=sentence)
    volume.shut()
    try:
        left = await deletion.delete()
    finally:
        if not deletion.is_ordered:
            volume.unshut()
    replicas = [control_pb2.LeftReplica(member=one.member, reason=one.reason) for one in left]
    return DeleteVolumeResponse(sentence=sentence, left_replicas=replicas)


async def _half_made(
    volumes: Sequence[ServedVolume], request: DeleteVolumeRequest
) -> DeleteVolumeResponse | None:
    """The same of a clone that nobody can have used, where some pool has a part of it."""
    for volume in volumes:
        cloning = volume.engine.cloning
        try:
            count = await cloning.half_made(request.volume)
            if count and request.confirmed:
                await cloning.discard(request.volume)
        except UnavailableError:
            continue
        if count:
            sentence = (
                f"what {count} pools have of a clone {request.volume} of {volume.volume_name}, "
                "which was never founded, is destroyed"
            )
            return DeleteVolumeResponse(sentence=sentence)
    return None
