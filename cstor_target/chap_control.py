"""The calls of the control service with which CHAP secrets are set, cleared and listed."""

from __future__ import annotations

from collections.abc import Callable

import grpc.aio

from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import control_pb2, control_pb2_grpc
from cstor_core.serving import refusing
from cstor_target.chap_secrets import ALL_VOLUMES, DISCOVERY, ChapSecrets
from cstor_target.served_volume import ServedVolume

Happened = Callable[[str, dict[str, object]], None]


class ChapCalls(control_pb2_grpc.ControlServiceServicer):
    """That part of the control service; `_called` finds a volume that is served."""

    _called: Callable[[str], ServedVolume]

    def __init__(self, secrets: ChapSecrets, happened: Happened) -> None:
        self._secrets = secrets
        self._happened = happened

    @refusing
    async def SetChap(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.SetChapRequest,
        context: grpc.aio.ServicerContext[control_pb2.SetChapRequest, control_pb2.SetChapResponse],
    ) -> control_pb2.SetChapResponse:
        """Set a secret; INVALID_ARGUMENT where it may not be that."""
        scope = self._scope(request.scope)
        self._secrets.set(scope, request.name, request.secret, of_target=request.of_target)
        self._happened("chap_set", {"name": request.name, "scope": words(scope)})
        return control_pb2.SetChapResponse()

    @refusing
    async def ClearChap(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.ClearChapRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.ClearChapRequest, control_pb2.ClearChapResponse
        ],
    ) -> control_pb2.ClearChapResponse:
        """Take secrets away; idempotent."""
        scope = self._scope(request.scope, is_served=False)
        taken = self._secrets.clear(scope, request.name)
        for name in taken:
            self._happened("chap_cleared", {"name": name, "scope": words(scope)})
        return control_pb2.ClearChapResponse(names=taken)

    @refusing
    async def ListChap(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.ListChapRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.ListChapRequest, control_pb2.ListChapResponse
        ],
    ) -> control_pb2.ListChapResponse:
        """Who has a secret where; never a secret."""
        return control_pb2.ListChapResponse(
            realms=[
                control_pb2.ChapRealm(
                    scope=control_pb2.ChapScope(
                        volume="" if scope == DISCOVERY else scope, discovery=scope == DISCOVERY
                    ),
                    initiators=sorted(realm.initiators),
                    target=realm.target.name if realm.target is not None else "",
                )
                for scope, realm in self._secrets.scopes().items()
            ]
        )

    def _scope(self, scope: control_pb2.ChapScope, *, is_served: bool = True) -> str:
        """By the name of the volume.  UnknownVolumeError where it is not served, and has to be."""
        if scope.discovery and scope.volume:
            raise InputError("name a volume or discovery, not both")
        if scope.discovery:
            return DISCOVERY
        if not scope.volume:
            return ALL_VOLUMES
        if not is_served and scope.volume in self._secrets.scopes():
            return scope.volume
        return self._called(scope.volume).volume_name.lower()


def words(scope: str) -> str:
    """For sentences."""
    if scope == DISCOVERY:
        return "discovery"
    return f"volume {scope}" if scope else "all volumes without their own"
