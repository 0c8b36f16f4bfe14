"""What is counted for metrics: plain integers that the hot paths may touch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Since the start of the process, over all connections of a server."""

    connections_accepted: int = 0
    connections_refused: int = 0
    connections_failed: int = 0
    logins: int = 0
    logins_refused: int = 0
    authentication_failures: int = 0
    authorization_failures: int = 0
    logouts: int = 0
    sessions_reinstated: int = 0
    commands_out_of_window: int = 0
    data_out_of_place: int = 0
    tasks_aborted: int = 0
    tasks_failed: int = 0
    task_management: int = 0
    rejects: int = 0
    digest_errors: int = 0
    pings: int = 0
