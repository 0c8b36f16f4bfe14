"""From the volume's answer to the next step of a command, and from a `Failure` to status and sense.

`finish_read` and `finish` are called by whoever carried a request out, whether or not the request
has a `finish` of its own: a plain READ or WRITE has none, so that its path builds no closure.
"""

from __future__ import annotations

from collections.abc import Sequence

from cstor_target.scsi.requests import Outcome, Read, Status, Step, WithoutData
from cstor_target.scsi.sense import Sense, check_condition
from cstor_target.volume.backing import Buffer, Failure


def finish_read(request: Read, failure: Failure | None, data: Sequence[Buffer]) -> Step:
    """The step after a `Read`: its data as Data-In where the command was a plain READ."""
    if request.finish is not None:
        return request.finish(failure, data)
    if failure is None:
        return Outcome(Status.GOOD, data)
    return failed_read(failure)


def finish(request: WithoutData, failure: Failure | None) -> Step:
    """The step after any request but a `Read`."""
    if request.finish is not None:
        return request.finish(failure)
    if failure is None:
        return Outcome(Status.GOOD)
    return failed_write(failure)


def failed_read(failure: Failure) -> Outcome:
    """How a command ends whose read failed."""
    return _failed(failure, Sense.UNRECOVERED_READ_ERROR)


def failed_write(failure: Failure) -> Outcome:
    """How a command ends whose write, unmap or flush failed."""
    return _failed(failure, Sense.WRITE_ERROR)


def _failed(failure: Failure, medium_error: Sense) -> Outcome:
    match failure:
        case Failure.BUSY:
            return Outcome(Status.BUSY)
        case Failure.MEDIUM_ERROR:
            return check_condition(medium_error)
        case Failure.SPACE:
            return check_condition(Sense.SPACE_ALLOCATION_FAILED_WRITE_PROTECT)
        case Failure.READ_ONLY:
            return check_condition(Sense.WRITE_PROTECTED)
        case Failure.NOT_READY:
            return check_condition(Sense.LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY)
        case Failure.SANITIZING:
            return check_condition(Sense.SANITIZE_IN_PROGRESS)
        case Failure.SNAPSHOTS:
            return check_condition(Sense.COMMAND_SEQUENCE_ERROR)
        case Failure.DATA_NEEDED:
            return check_condition(Sense.COPY_ABORTED)
