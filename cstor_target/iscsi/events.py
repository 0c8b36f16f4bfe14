"""What a connection reports.  A `Task` (tasks.py) is itself the event "a command is complete"."""

from __future__ import annotations

from dataclasses import dataclass

from cstor_target.iscsi.constants import TaskManagementFunction
from cstor_target.iscsi.errors import IscsiError
from cstor_target.iscsi.sessions import Session
from cstor_target.iscsi.tasks import Task


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The full feature phase begins.  `rejoined`: a new connection of a session that was there."""

    session: Session
    rejoined: bool


@dataclass(frozen=True, slots=True)
class TaskManagementReceived:
    """A function that concerns more than this connection; `answer_task_management` ends it.

    `lun` is the eight bytes of the LUN field, as a number.  `tasks` are those of the connection
    that came before the request; it does not concern commands that follow in the same burst.
    """

    function: TaskManagementFunction
    lun: int
    initiator_task_tag: int
    tasks: tuple[Task, ...] = ()


@dataclass(frozen=True, slots=True)
class LoggedOut:
    """The initiator logged out; the connection closes when the answer is sent."""


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """The connection ends without a logout; `error` says why."""

    error: IscsiError


Event = Task | LoggedIn | TaskManagementReceived | LoggedOut | ConnectionFailed
