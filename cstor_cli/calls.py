"""gRPC calls of a command: a question, a time limit, and errors as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Self, TypeVar

import grpc

from cstor_cli.secured import reached_at
from cstor_core.calls import ERROR_NAME_KEY, ERRORS, unmarked
from cstor_core.dialling import MESSAGE_BYTES_MAX
from cstor_core.errors import CstorError
from cstor_core.secure.roles import Role

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_retries", 0),
)


ATTEMPT_MS = 500
ATTEMPT_OVER_TLS_MS = 2500
"""How long connecting may take, up to the first SETTINGS of the other side."""


class Message(Protocol):
    """What the generated classes have in common."""

    def SerializeToString(self) -> bytes:  # noqa: N802 (protobuf's name)
        """The message as bytes."""

    @classmethod
    def FromString(cls, s: bytes) -> Self:  # noqa: N802 (protobuf's name)
        """The message of these bytes."""


Answer = TypeVar("Answer", bound=Message)


class Connection:
    """A connection to one daemon; it connects when it is first used."""

    def __init__(self, address: str, service: str, daemon: str, role: Role) -> None:
        """`service` is the gRPC service, `daemon` what a person calls who answers there, and
        `role` what its certificate has to say that it is.

        Raises InputError where there is to be TLS and our own certificate cannot be used.
        """
        self.address = address
        self._service = service
        self._daemon = daemon
        place = reached_at(address, role)
        attempt_ms = ATTEMPT_MS if place == address else ATTEMPT_OVER_TLS_MS
        options = (*_OPTIONS, ("grpc.min_reconnect_backoff_ms", attempt_ms))
        self._channel = grpc.insecure_channel(place, options=options)

    def ask(self, method: str, question: Message, answer: type[Answer], timeout_s: float) -> Answer:
        """One question, one answer.  Raises the CstorError that the daemon's status stands for."""
        call = self._channel.unary_unary(
            f"/{self._service}/{method}",
            request_serializer=_serialize,
            response_deserializer=answer.FromString,
        )
        try:
            return call(question, timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._error(error) from error

    def listen(self, method: str, question: Message, answer: type[Answer]) -> Iterator[Answer]:
        """One question, a stream of answers.  Raises as `ask` does, where the stream ends."""
        call = self._channel.unary_stream(
            f"/{self._service}/{method}",
            request_serializer=_serialize,
            response_deserializer=answer.FromString,
        )
        answers = call(question)
        try:
            yield from answers
        except grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            answers.cancel()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _error(self, error: grpc.RpcError) -> CstorError:
        # Every error of a call is also a grpc.Call; the stubs do not say so.
        if not isinstance(error, grpc.Call):
            return CstorError(f"{self._daemon} at {self.address}: {error}")
        code = error.code()
        is_ours = any(key == ERROR_NAME_KEY for key, _ in error.trailing_metadata() or ())
        if not is_ours and code in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        ):
            said = f"does not answer ({unmarked(error.details() or code.name)})"
        elif not is_ours and code is grpc.StatusCode.UNIMPLEMENTED:
            said = (
                "knows no such call: it is of an earlier release than this command; replace it by "
                f"one of this release ({error.details()})"
            )
        else:
            said = f"says: {error.details()}"
        return ERRORS.get(code, CstorError)(f"{self._daemon} at {self.address} {said}")


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
