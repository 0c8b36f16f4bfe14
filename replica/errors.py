"""What a replica refuses, beyond the errors that every daemon shares."""

from __future__ import annotations

import grpc

from cstor_core.errors import CstorError


class OrderError(CstorError):
    """A request that does not fit the state of the replica: not the next entry, not flagged."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class DivergedError(CstorError):
    """A replica holds entries that the history of its source does not have."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class TailError(CstorError):
    """The source no longer keeps the entries asked for; blocks have to be copied instead."""

    status = grpc.StatusCode.OUT_OF_RANGE


class EndedError(CstorError):
    """A session or an order ended because another one took its place or its stream broke."""

    status = grpc.StatusCode.ABORTED
