"""Leaving volumes to a target that stands by, without hurting initiators.

The successor is told first, and listens, before initiators are asked to log out; then what is in
flight ends, a quorum flushes, and the lease is given back: the successor opens at once.
"""

from __future__ import annotations

import asyncio

import grpc.aio

from cstor_core.clock import Clock
from cstor_core.errors import InputError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2, control_pb2_grpc, replica_pb2
from cstor_core.serving import refusing
from cstor_core.settings import parse_address
from cstor_target.iscsi.text_phase import EVERYWHERE
from cstor_target.served_volume import ServedVolume
from cstor_target.volumes import Volumes

DRAIN_S = 10.0
TOLD_S_MAX = 5.0
_POLL_S = 0.02


class Handover:
    """Of the volumes of one process."""

    def __init__(self, volumes: Volumes, clock: Clock) -> None:
        self._volumes = volumes
        self._clock = clock
        self._leaving: set[asyncio.Task[bool]] = set()
        volumes.on_wanted = lambda volume, standby: self._begin(volume, standby, redirect=False)

    async def leave(self, portal: str, *, redirect: bool) -> str:
        """Leave all volumes to the target that stands by with that portal, or to any; its portal.
        With `redirect` whoever logs in here is sent there from then on.

        Once begun it goes on, whether somebody waits or not.  Raises UnavailableError where a
        volume has no such target or is being left already, or its target does not say in time that
        it knows, and InputError where nobody could be sent there.
        """
        if self._leaving:
            raise UnavailableError("the volumes of this target are being left already")
        served = [volume for volume in self._volumes.served if volume.is_open]
        if not served:
            raise UnavailableError("this target serves no volume: there is nothing to leave")
        chosen = {volume: _successor(volume, portal) for volume in served}
        if redirect:
            for standby in chosen.values():
                _check_portal(standby.portal)
        for volume, standby in chosen.items():
            self._begin(volume, standby, redirect=redirect)
        found = next(iter(chosen.values())).portal
        if not all(await asyncio.shield(asyncio.gather(*self._leaving))):
            raise UnavailableError(
                f"the target with the portal {found} does not say that it knows: nothing was left "
                "to it; look after it, and try again"
            )
        return found

    async def announce(self) -> bool:
        """Before the process ends: whoever stands by is told that it is about to follow.

        Returns whether all volumes have somebody who knows.
        """
        followed = [
            (volume, standby)
            for volume in self._volumes.served
            for standby in volume.engine.succession.standbys[:1]
        ]
        for volume, standby in followed:
            volume.engine.succession.leave_to(standby)
        told = await asyncio.gather(*(self._told(*pair) for pair in followed))
        return all(told) and len(told) == len(self._volumes.served)

    async def close(self) -> None:
        """Break off what is under way."""
        leaving = list(self._leaving)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)

    def _begin(self, volume: ServedVolume, standby: replica_pb2.Standby, *, redirect: bool) -> None:
        volume.engine.succession.leave_to(standby)
        task = asyncio.ensure_future(self._leave(volume, standby, redirect=redirect))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(
        self, volume: ServedVolume, standby: replica_pb2.Standby, *, redirect: bool
    ) -> bool:
        if not await self._told(volume, standby):
            return False
        if redirect:
            volume.redirect(standby.portal)
        volume.stopping = True
        await self._volumes.iscsi.release(DRAIN_S, volume.name, may_return=True)
        await self._volumes.step_down(volume)
        return True

    async def _told(self, volume: ServedVolume, standby: replica_pb2.Standby) -> bool:
        """Whether a target that is to follow says in time that it knows."""
        succession = volume.engine.succession
        deadline_s = self._clock.monotonic() + TOLD_S_MAX
        while not succession.is_successor_ready:
            if (
                standby.target_instance not in {one.target_instance for one in succession.standbys}
                or self._clock.monotonic() > deadline_s
            ):
                succession.stay()
                return False
            await self._clock.sleep(_POLL_S)
        return True


class HandoverCalls(control_pb2_grpc.ControlServiceServicer):
    """That part of the control service."""

    _handover: Handover | None

    @refusing
    async def DrainTarget(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.DrainTargetRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.DrainTargetRequest, control_pb2.DrainTargetResponse
        ],
    ) -> control_pb2.DrainTargetResponse:
        """Leave all volumes to a target that stands by; UNAVAILABLE where there is none."""
        if self._handover is None:
            raise UnavailableError("this target leaves nothing to others")
        portal = await self._handover.leave(request.successor, redirect=request.redirect)
        return control_pb2.DrainTargetResponse(successor=portal)


def _successor(volume: ServedVolume, portal: str) -> replica_pb2.Standby:
    standbys = volume.engine.succession.standbys
    for standby in standbys:
        if portal in ("", standby.portal):
            return standby
    there = ", ".join(one.portal for one in standbys) or "none"
    raise UnavailableError(
        f"no target stands by for volume {volume.volume_name}"
        f"{f' with the portal {portal}' if portal else ''} (standing by: {there}): start one with "
        "cstor-target --standby"
    )


def _check_portal(portal: str) -> None:
    host = portal.rpartition(":")[0]
    if host in EVERYWHERE or not parse_address(portal).port:
        raise InputError(
            f"the target that stands by listens on {portal}, where nobody can be sent: give it a "
            "--portal with an address of its machine, or leave the redirection out"
        )
