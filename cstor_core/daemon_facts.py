"""What a daemon says of itself and of its machine (proto/cstor/v1/daemon.proto).

Whoever looks at a whole deployment needs what no daemon can judge alone: which of them run on one
machine, whether their clocks and versions agree, what they were told.  Secrets are never among it:
a setting whose name speaks of one is told as set, and no more.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc.aio
import structlog
from pydantic import BaseModel

from cstor_core.clock import Clock, Timer
from cstor_core.generated.cstor.v1 import daemon_pb2, daemon_pb2_grpc

SERVICE = daemon_pb2.DESCRIPTOR.services_by_name["DaemonService"].full_name
LOOK_PERIOD_S = 5.0
STEP_S_MIN = 1.0
"""A clock that is slewed differs by some milliseconds between two looks."""
MACHINE_ID = Path("/etc/machine-id")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
OPEN_FILES = Path("/proc/self/fd")
SECRET_WORDS = ("secret", "password", "token", "key")

Settings = Mapping[str, str]
NO_SETTINGS: Settings = MappingProxyType({})

log = structlog.get_logger()


class ClockWatch:
    """Whether the clock of the wall was set, seen by the one that nobody sets."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_s = self._offset()
        self._timer: Timer | None = None
        self.step_s = 0.0
        """By how much it was set forward, or back, at last."""
        self.stepped_unix_s = 0.0
        """When that was seen, by what it said then; 0 where it was not set."""

    def begin(self) -> None:
        """Look every few seconds from now on, in the running event loop."""
        self.look()
        self._timer = self._clock.call_later(LOOK_PERIOD_S, self.begin)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        """Compare the two clocks with the last time."""
        offset_s = self._offset()
        step_s = offset_s - self._offset_s
        self._offset_s = offset_s
        if abs(step_s) >= STEP_S_MIN:
            self.step_s, self.stepped_unix_s = step_s, self._clock.wall()
            log.warning("clock_stepped", step_s=round(step_s, 3))

    def _offset(self) -> float:
        return self._clock.wall() - self._clock.monotonic()


class DaemonFacts(daemon_pb2_grpc.DaemonServiceServicer):
    """The service of one daemon."""

    def __init__(
        self,
        role: daemon_pb2.DaemonRole.ValueType,
        clock: Clock,
        settings: Settings = NO_SETTINGS,
    ) -> None:
        self._role = role
        self._clock = clock
        self._settings = settings
        self._started_s = clock.wall()
        self._addresses: dict[str, str] = {}
        self._clock_watch = ClockWatch(clock)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Have a server answer it."""
        daemon_pb2_grpc.add_DaemonServiceServicer_to_server(self, server)

    def begin(self, **addresses: str) -> None:
        """It listens there now: watch its clock, in the running event loop."""
        self._addresses = addresses
        self._clock_watch.begin()

    def close(self) -> None:
        """Watch no more."""
        self._clock_watch.close()

    async def DescribeDaemon(  # noqa: N802 - the name of the call
        self,
        request: daemon_pb2.DescribeDaemonRequest,
        context: grpc.aio.ServicerContext[
            daemon_pb2.DescribeDaemonRequest, daemon_pb2.DescribeDaemonResponse
        ],
    ) -> daemon_pb2.DescribeDaemonResponse:
        """All of it, as it is now."""
        self._clock_watch.look()
        return daemon_pb2.DescribeDaemonResponse(
            role=self._role,
            version=product_version(),
            pid=os.getpid(),
            host_name=socket.gethostname(),
            machine_id=_line(MACHINE_ID),
            boot_id=_line(BOOT_ID),
            unix_ms=int(self._clock.wall() * 1000),
            boot_ms=int(self._clock.monotonic() * 1000),
            started_unix_ms=int(self._started_s * 1000),
            clock_step_ms=round(self._clock_watch.step_s * 1000),
            clock_stepped_unix_ms=int(self._clock_watch.stepped_unix_s * 1000),
            open_files=len(os.listdir(OPEN_FILES)),
            open_files_max=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            settings=self._settings,
            addresses=self._addresses,
        )


def told(settings: BaseModel) -> Settings:
    """The settings of a daemon as texts that anybody may see; those that are not set are left
    out.  Lists are separated by commas, as in the environment.
    """
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {name: _shown(name, value) for name, value in values.items() if value is not None}


def _shown(name: str, value: Any) -> str:
    if any(word in name for word in SECRET_WORDS):
        return "(set)"
    if isinstance(value, bool):
        return str(value).lower()
    is_list = isinstance(value, tuple) and not hasattr(value, "_fields")
    return ",".join(map(str, value)) if is_list else str(value)


def product_version() -> str:
    """The version that is installed."""
    try:
        return version("cstor")
    except PackageNotFoundError:
        return "0"


def _line(path: Path) -> str:
    """What a file of one line says; empty where there is none that can be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
