"""Who may call what, asked before a service hears of a call.

gRPC's server is on a private socket, to which anybody on the machine could connect.  So whoever is
joined to it comes from a socket with a name that was made up for this one connection, and only
these are known here.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from cstor_core.errors import ForbiddenError
from cstor_core.secure.permissions import RULES, Rule
from cstor_core.secure.refusals import Reason
from cstor_core.secure.roles import ALL_VOLUMES, Identity, Role
from cstor_core.serving import abort

if TYPE_CHECKING:  # the reading of certificates is for those who have some
    from cstor_core.secure.credentials import Tls

Aliases = Callable[[str, bool], frozenset[str]]
"""All names of a volume of which one is given: UUID and name; where that is asked for, with those
of the parent of a clone that was never opened.  Empty where there is no such volume."""
Permit = Callable[[str], None]
"""Raises ForbiddenError where the caller has nothing to do with the volume of this UUID."""


class Caller(Protocol):
    """The part of a gRPC servicer context that says who calls."""

    def peer(self) -> str:
        """The address of the socket that the call came from."""


def permit_all(_volume: str) -> None:
    """The permit of whoever calls where nobody is asked."""


def no_aliases(_volume: str, _with_parents: bool) -> frozenset[str]:
    """Of a daemon that has no volumes."""
    return frozenset()


class Gate:
    """Knows who is behind each connection to gRPC's server, and what they may do."""

    def __init__(self, tls: Tls, aliases: Aliases = no_aliases) -> None:
        self.tls = tls
        self._aliases = aliases
        self._callers: dict[str, Identity] = {}

    def enter(self, caller: Identity) -> str:
        """The name of the socket from which this caller is joined to gRPC's server."""
        name = f"cstor-caller-{os.getpid()}-{uuid.uuid4()}"
        self._callers[name] = caller
        return name

    def leave(self, name: str) -> None:
        """The connection from that socket is over."""
        self._callers.pop(name, None)

    def caller(self, context: Caller) -> Identity:
        """Who makes a call of gRPC's server.  Raises ForbiddenError where nobody knows."""
        caller = self._callers.get(context.peer().removeprefix("unix-abstract:"))
        if caller is None:
            raise ForbiddenError("whoever calls has shown no certificate")
        return caller

    def check(self, caller: Identity, path: str) -> Rule:
        """The rule of a call, which this caller may make as far as its roles go.

        Raises ForbiddenError where it may not.
        """
        rule = RULES.get(path)
        if rule is None or not caller.has(rule.roles):
            needed = " or ".join(sorted(rule.roles)) if rule is not None else "a later version"
            raise self._forbidden(
                Reason.WRONG_ROLE,
                caller,
                f"{path} is not for {str(caller) or 'nobody we know'}: it is for the role {needed}",
            )
        return rule

    def check_volume(self, caller: Identity, names: tuple[str, ...], rule: Rule) -> None:
        """Raise ForbiddenError where the caller may make the call as a target alone, and is one of
        other volumes.

        What is not there cannot be touched: who asks for it is told so, unless he makes it.
        """
        allowed = caller.volumes()
        if caller.has(rule.roles - {Role.TARGET}) or ALL_VOLUMES in allowed:
            return
        known = [found for name in names if (found := self._aliases(name, rule.founds))]
        if known:
            is_its_own = all(allowed & found for found in known)
        else:
            is_its_own = not rule.makes or bool(allowed & set(names))
        if not is_its_own:
            raise self._forbidden(
                Reason.WRONG_VOLUME,
                caller,
                f"volume {' '.join(names)} is not for {caller}: its certificate does not name it",
            )

    def permit(self, caller: Identity, path: str) -> Permit:
        """What the session of a stream asks when it knows the volume.

        Raises ForbiddenError where the caller may not have the stream at all.
        """
        rule = self.check(caller, path)
        return lambda volume: self.check_volume(caller, (volume,), rule)

    def _forbidden(self, reason: Reason, caller: Identity, sentence: str) -> ForbiddenError:
        self.tls.refusals.add(reason, str(caller), sentence)
        return ForbiddenError(sentence)


class GateKeeper(grpc.aio.ServerInterceptor):
    """Puts the gate before every call of a gRPC server."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """As gRPC asks: the handler of a call, behind the gate."""
        handler: Any = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None:
            return None  # there is no such call
        coders = (handler.request_deserializer, handler.response_serializer)
        if handler.stream_stream is not None:
            inner, make = handler.stream_stream, grpc.stream_stream_rpc_method_handler
        elif handler.unary_stream is not None:
            inner, make = handler.unary_stream, grpc.unary_stream_rpc_method_handler
        else:
            assert handler.unary_unary is not None
            return grpc.unary_unary_rpc_method_handler(
                cast(Any, self._guarded(handler.unary_unary, path)), *coders
            )
        return make(cast(Any, self._guarded_stream(inner, path)), *coders)

    def _guarded(
        self, inner: Callable[[Any, Any], Awaitable[Any]], path: str
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        async def behaviour(request: object, context: Any) -> Any:
            await self._ask(request, context, path)
            return await inner(request, context)

        return behaviour

    def _guarded_stream(self, inner: Callable[[Any, Any], Any], path: str) -> Callable[..., Any]:
        """Streams are written either by hand, in one coroutine, or as generators."""

        async def behaviour(request: object, context: Any) -> AsyncIterator[Any]:
            await self._ask(request, context, path)
            answers = inner(request, context)
            if hasattr(answers, "__aiter__"):
                async for answer in answers:
                    yield answer
            else:
                await answers

        return behaviour

    async def _ask(self, request: object, context: Any, path: str) -> None:
        try:
            caller = self._gate.caller(context)
            rule = self._gate.check(caller, path)
            if rule.volume and isinstance(request, Message):
                self._gate.check_volume(caller, rule.volumes_in(request), rule)
        except ForbiddenError as error:
            await abort(context, error)
