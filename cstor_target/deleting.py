"""The deletion and the sanitization of a volume as operators ask for them: said first, and refused
while it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cstor_core.errors import InputError, UnavailableError, UnknownVolumeError
from cstor_core.generated.cstor.v1 import control_pb2, volume_pb2
from cstor_core.generated.cstor.v1.control_pb2 import (
    DeleteVolumeRequest,
    DeleteVolumeResponse,
    SanitizeVolumeRequest,
    SanitizeVolumeResponse,
)
from cstor_core.units import format_size
from cstor_target.served_volume import ServedVolume
from cstor_target.volume.awaiting import answer_of
from cstor_target.volume.backing import Failure


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
    _check_unused(volume, in_use=request.in_use)
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


async def sanitized(volume: ServedVolume, request: SanitizeVolumeRequest) -> SanitizeVolumeResponse:
    """Begin to erase what a volume holds; without `confirmed` only say that.

    Raises UnavailableError where it is not open or too few replicas answer, InputError where it is
    used, write protected, has snapshots, or is being sanitized.
    """
    engine = volume.engine
    if not engine.serving:
        raise UnavailableError("the volume is not open: it cannot be sanitized now")
    engine.check_versions("sanitization")
    snapshots = [snapshot.name for snapshot in engine.operations.snapshots]
    if snapshots:
        raise InputError(
            f"the volume has snapshots, which would keep what is to be gone: delete them first, "
            f"with 'cstor snapshot delete' ({', '.join(snapshots)})"
        )
    if engine.operations.properties.read_only:
        raise InputError("initiators may not write the volume: 'cstor volume set read-only off'")
    _check_unused(volume, in_use=request.in_use)
    response = SanitizeVolumeResponse(
        sentence=f"all that volume {volume.volume_name} of "
        f"{format_size(engine.operations.size_bytes)} holds is erased for ever"
    )
    if request.confirmed:
        wanted = volume_pb2.Sanitization(unrestricted_exit=True)
        failure = await answer_of(lambda done: engine.sanitize(wanted, False, done))
        if failure is Failure.BUSY:
            raise UnavailableError(
                "too few replicas have answered in time; once they do it is carried out, if it was "
                "ordered: 'cstor volume show' says so"
            )
        if failure is not None:
            raise InputError(failure.value)
    return response


def _check_unused(volume: ServedVolume, *, in_use: bool) -> None:
    """Raise InputError where initiators are logged in, unless that is known."""
    sessions = volume.sessions.reports()
    if sessions and not in_use:
        names = ", ".join(session.initiator_name for session in sessions)
        raise InputError(f"{names} is logged in, and uses the volume: log out first, or force it")


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
