"""The calls of the control service that say who may log in: CHAP secrets and access rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import grpc.aio

from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import control_pb2, control_pb2_grpc
from cstor_core.serving import refusing
from cstor_target.access import Access, AccessRules
from cstor_target.chap_secrets import ChapSecrets
from cstor_target.login_scopes import ALL_VOLUMES, DISCOVERY, words
from cstor_target.served_volume import ServedVolume

Happened = Callable[[str, dict[str, object]], None]


@dataclass(frozen=True, slots=True)
class LoginRules:
    """Who may log in to the volumes of a target."""

    secrets: ChapSecrets
    access: AccessRules

    def load(self) -> None:
        """As both do."""
        self.secrets.load()
        self.access.load()


class LoginCalls(control_pb2_grpc.ControlServiceServicer):
    """That part of the control service; `_called` finds a volume that is served."""

    _called: Callable[[str], ServedVolume]

    def __init__(self, logins: LoginRules, happened: Happened) -> None:
        self._secrets = logins.secrets
        self._access = logins.access
        self._happened = happened

    @refusing
    async def RedirectLogins(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.RedirectLoginsRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.RedirectLoginsRequest, control_pb2.RedirectLoginsResponse
        ],
    ) -> control_pb2.RedirectLoginsResponse:
        """Send initiators somewhere else; INVALID_ARGUMENT where the address is none."""
        self._called(request.volume).redirect(request.address)
        return control_pb2.RedirectLoginsResponse()

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
                    scope=_message(scope),
                    initiators=sorted(realm.initiators),
                    target=realm.target.name if realm.target is not None else "",
                )
                for scope, realm in self._secrets.scopes().items()
            ]
        )

    @refusing
    async def AllowAccess(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.AllowAccessRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.AllowAccessRequest, control_pb2.AllowAccessResponse
        ],
    ) -> control_pb2.AllowAccessResponse:
        """Let initiators log in; INVALID_ARGUMENT for what is no name and no network."""
        scope = self._scope(request.scope)
        who = [*request.initiators, *request.networks]
        if request.everybody and who:
            raise InputError("allow everybody, or name some, not both")
        if request.everybody:
            rule, who = self._access.allow_everybody(scope), ["everybody"]
        else:
            rule = self._access.allow(scope, request.initiators, request.networks)
        self._happened("access_allowed", {"who": ", ".join(who), "scope": words(scope)})
        return control_pb2.AllowAccessResponse(rule=_rule(scope, rule))

    @refusing
    async def DenyAccess(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.DenyAccessRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.DenyAccessRequest, control_pb2.DenyAccessResponse
        ],
    ) -> control_pb2.DenyAccessResponse:
        """Take back that initiators may log in; INVALID_ARGUMENT where they might not."""
        scope = self._scope(request.scope, is_served=False)
        rule = self._access.deny(scope, request.initiators, request.networks)
        who = ", ".join((*request.initiators, *request.networks))
        self._happened("access_denied", {"who": who, "scope": words(scope)})
        return control_pb2.DenyAccessResponse(rule=_rule(scope, rule))

    @refusing
    async def ListAccess(  # noqa: N802 - the name of the call
        self,
        request: control_pb2.ListAccessRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.ListAccessRequest, control_pb2.ListAccessResponse
        ],
    ) -> control_pb2.ListAccessResponse:
        """Who may log in where, as far as that is restricted."""
        rules = [_rule(scope, rule) for scope, rule in self._access.scopes().items()]
        return control_pb2.ListAccessResponse(rules=rules)

    def _scope(self, scope: control_pb2.LoginScope, *, is_served: bool = True) -> str:
        """By the name of the volume.  UnknownVolumeError where it is not served, and has to be."""
        if scope.discovery and scope.volume:
            raise InputError("name a volume or discovery, not both")
        if scope.discovery:
            return DISCOVERY
        if not scope.volume:
            return ALL_VOLUMES
        if not is_served and scope.volume in self._secrets.scopes() | self._access.scopes():
            return scope.volume
        return self._called(scope.volume).volume_name.lower()


def _message(scope: str) -> control_pb2.LoginScope:
    is_discovery = scope == DISCOVERY
    return control_pb2.LoginScope(volume="" if is_discovery else scope, discovery=is_discovery)


def _rule(scope: str, rule: Access) -> control_pb2.AccessRule:
    return control_pb2.AccessRule(
        scope=_message(scope),
        by_initiator=rule.initiators is not None,
        initiators=sorted(rule.initiators or ()),
        by_network=rule.networks is not None,
        networks=sorted(map(str, rule.networks or ())),
    )
