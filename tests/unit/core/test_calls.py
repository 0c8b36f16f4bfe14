"""What a failed gRPC call is to whoever made it."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from cstor_core.calls import ERROR_NAME_KEY, error_of
from cstor_core.errors import CstorError, NoSpaceError, RefusedError, UnavailableError


def failure(status: grpc.StatusCode, *, of_a_daemon: bool) -> grpc.aio.AioRpcError:
    names = grpc.aio.Metadata((ERROR_NAME_KEY, "OrderError")) if of_a_daemon else None
    trailing = names or grpc.aio.Metadata()
    return grpc.aio.AioRpcError(status, grpc.aio.Metadata(), trailing, details="the words")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, RefusedError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, NoSpaceError),
        (grpc.StatusCode.ABORTED, UnavailableError),
        (grpc.StatusCode.UNIMPLEMENTED, CstorError),
    ],
)
def test_a_daemon_s_error_comes_back_with_its_meaning(
    status: grpc.StatusCode, kind: type[CstorError]
) -> None:
    error = error_of(failure(status, of_a_daemon=True), "host:7778")
    assert type(error) is kind
    assert str(error) == "the words"


@pytest.mark.parametrize("status", [grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_what_grpc_says_of_itself_is_a_lost_connection(status: grpc.StatusCode) -> None:
    error = error_of(failure(status, of_a_daemon=False), "host:7778")
    assert isinstance(error, UnavailableError)
    assert "host:7778" in str(error)


def test_whoever_does_not_know_the_call_is_another_daemon() -> None:
    error = error_of(failure(grpc.StatusCode.UNIMPLEMENTED, of_a_daemon=False), "host:7778")
    assert isinstance(error, UnavailableError)
    assert "what listens at host:7778 is another daemon" in str(error)
