"""Calls over gRPC with our own errors on both ends.

A daemon answers an error of `cstor_core.errors` with the error's status and sentence; the caller
gets an error of the same meaning back.  FAILED_PRECONDITION becomes RefusedError: whether another
target reigns is only ever concluded from the answer to a promise.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import TypeVar

import grpc
import grpc.aio

from cstor_core.errors import (
    AlreadyExistsError,
    CorruptError,
    CstorError,
    ForbiddenError,
    InputError,
    NoSpaceError,
    RefusedError,
    UnavailableError,
    UnknownVolumeError,
)

T = TypeVar("T")

ERROR_NAME_KEY = "cstor-error"
"""Trailing metadata with the name of the error that a daemon raised; where it is missing, gRPC
itself has failed, whatever its status says."""

ERRORS: dict[grpc.StatusCode, type[CstorError]] = {
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
    grpc.StatusCode.CANCELLED: UnavailableError,
    grpc.StatusCode.ABORTED: UnavailableError,
    grpc.StatusCode.OUT_OF_RANGE: UnavailableError,
    grpc.StatusCode.FAILED_PRECONDITION: RefusedError,
    grpc.StatusCode.INVALID_ARGUMENT: InputError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.NOT_FOUND: UnknownVolumeError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: NoSpaceError,
    grpc.StatusCode.DATA_LOSS: CorruptError,
    grpc.StatusCode.PERMISSION_DENIED: ForbiddenError,
}
"""What a status means to whoever called; any other is a plain CstorError."""


_MARKED = re.compile(r"Debug Text: <(.*?)>[)]", re.DOTALL)
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def marked(sentence: str) -> str:
    """The text of a GOAWAY that says why a connection was not made: gRPC repeats it in errors."""
    return f"<{sentence}>"


def unmarked(sentence: str) -> str:
    """The sentence of an error without what gRPC has put around one that was marked."""
    found = _MARKED.search(sentence)
    return sentence if found is None else found[1]


def error_of(error: grpc.aio.AioRpcError, address: str) -> CstorError:
    """Our error for a gRPC error that came from the daemon at `address`."""
    trailers = error.trailing_metadata() or ()
    named = any(key == ERROR_NAME_KEY for key, _ in trailers)
    return error_of_status(error.code(), error.details(), address, named=named)


def error_of_status(
    status: grpc.StatusCode | int, sentence: str | None, address: str, *, named: bool
) -> CstorError:
    """Our error for the status and the sentence with which a call of `address` ended.

    `named` says whether the trailers name an error of ours: else gRPC itself has failed.
    """
    code = _CODES.get(status, grpc.StatusCode.UNKNOWN) if isinstance(status, int) else status
    said = sentence or code.name
    if not named and code is grpc.StatusCode.UNIMPLEMENTED:
        return UnavailableError(
            f"what listens at {address} is another daemon than is asked for, or of another "
            f"version ({said})"
        )
    if not named:
        return UnavailableError(
            f"the connection to the daemon at {address} failed: {unmarked(said)}"
        )
    return ERRORS.get(code, CstorError)(said)


def name_of(error: CstorError) -> str:
    """The name of the error that a daemon raised, where a call failed with it; else empty."""
    cause = error.__cause__
    if not isinstance(cause, grpc.aio.AioRpcError):
        return ""
    trailers = dict(cause.trailing_metadata() or ())
    return str(trailers.get(ERROR_NAME_KEY, ""))


async def called(call: Awaitable[T], address: str) -> T:
    """The answer of a gRPC call; raises CstorError where it failed."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_of(error, address) from error
