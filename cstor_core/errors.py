"""The one tree of errors.

An error says, in a sentence for a person, what happened, to which volume or file, and what to do;
a subclass also carries what the other side of a protocol is told: a gRPC status here, a login
status or a reject reason in `cstor_target.iscsi.errors`, a sense triple in `cstor_target.scsi`.
"""

from __future__ import annotations

from typing import ClassVar

import grpc


class CstorError(Exception):
    """The root: whatever cStor raises on purpose.  Its text is a sentence for a person."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL


class InputError(CstorError):
    """A flag, a setting, a request or a file of the user's is wrong; nothing was changed."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class ProtocolError(CstorError):
    """Bytes from the network that no version of our protocol sends; the connection is closed."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class CorruptError(CstorError):
    """Bytes on disk that are not what was written."""

    status = grpc.StatusCode.DATA_LOSS


class FencedError(CstorError):
    """A request of an epoch lower than the one promised: another target has taken over."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class RefusedError(CstorError):
    """The other side refused an order because of the state that it is in; its words are given."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class ForbiddenError(CstorError):
    """The peer's certificate does not give it the right to what it asks for."""

    status = grpc.StatusCode.PERMISSION_DENIED


class UnknownVolumeError(CstorError):
    """The pool holds no replica of the named volume."""

    status = grpc.StatusCode.NOT_FOUND


class UnknownSessionError(CstorError):
    """No initiator has the named session with the volume."""

    status = grpc.StatusCode.NOT_FOUND


class UnknownSnapshotError(CstorError):
    """The volume has no snapshot of that name."""

    status = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(CstorError):
    """Something else has the name that was asked for; nothing was changed."""

    status = grpc.StatusCode.ALREADY_EXISTS


class ForeignReplicaError(CstorError):
    """The replica belongs to another volume, another configuration or another format."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class UnavailableError(CstorError):
    """It cannot be done now; the same request may succeed later."""

    status = grpc.StatusCode.UNAVAILABLE


class NoSpaceError(CstorError):
    """The file system or the pool has no room left."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
