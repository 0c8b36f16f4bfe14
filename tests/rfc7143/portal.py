"""The target of this suite: our transport on the loopback, over volumes in memory."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_bytes
from uuid import UUID

from cstor_core.clock import Clock, SystemClock
from cstor_target.iscsi import directory
from cstor_target.iscsi.chap import Realm
from cstor_target.iscsi.limits import Limits
from cstor_target.scsi.geometry import Geometry
from cstor_target.scsi.identity import Identity
from cstor_target.scsi.target_device import TargetDevice
from cstor_target.transport import IscsiServer
from tests.rfc7143.initiator import NAME, TARGET, Digests, RawInitiator
from tests.unit.iscsi.test_nexus import SIZE, Served, SlowVolume
from tests.unit.iscsi.test_transport import until

OTHER_TARGET = TARGET + "-other"


class MemoryVolume(SlowVolume):
    """Ends what it is asked for at once, unless it is told to hold it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_holding = False

    def kick(self) -> None:
        while self.pending and not self.is_holding:
            self.end()

    def let_go(self) -> None:
        """End what was held, and hold nothing more."""
        self.is_holding = False
        self.kick()


def node(name: str, number: int) -> Served:
    """A target node over a volume in memory."""
    device = TargetDevice(
        geometry=Geometry(lambda: SIZE), identity=Identity(UUID(int=number), name)
    )
    return Served(name=name, volume=MemoryVolume(), device=device)


@dataclass
class Nodes:
    """Two target nodes, and who may log in to them."""

    served: list[Served] = field(default_factory=lambda: [node(TARGET, 1), node(OTHER_TARGET, 2)])
    kept_out: set[str] = field(default_factory=set)
    secrets: Realm | None = None
    all_portals: tuple[directory.Portal, ...] = ()

    def find(self, name: str) -> Served | None:
        return next((served for served in self.served if served.name == name), None)

    def realm(self, name: str) -> Realm | None:
        return self.secrets

    def admits(self, target_name: str, initiator_name: str, peer: str) -> bool:
        return initiator_name not in self.kept_out

    def portals(self) -> tuple[directory.Portal, ...]:
        return self.all_portals

    def random_bytes(self, count: int) -> bytes:
        return token_bytes(count)

    def targets(self) -> list[Served]:
        return self.served


class Portal:
    """A listening target."""

    def __init__(self, limits: Limits | None = None, clock: Clock | None = None) -> None:
        self.nodes = Nodes()
        self.server = IscsiServer(self.nodes, clock or SystemClock(), limits or Limits())
        self.address = ("", 0)

    async def listen(self) -> None:
        """On a free port of the loopback."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        await self.server.serve(listener)

    @property
    def volume(self) -> MemoryVolume:
        """Behind the first node."""
        volume = self.nodes.served[0].volume
        assert isinstance(volume, MemoryVolume)
        return volume

    async def connect(self, isid: int | None = None) -> RawInitiator:
        """A new connection, before its login."""
        initiator = RawInitiator(*await asyncio.open_connection(*self.address))
        if isid is not None:
            initiator.isid = isid
        return initiator

    async def host(self, digests: Digests, /, name: str = NAME, **keys: str) -> RawInitiator:
        """A session to the first node that has heard its unit attention."""
        initiator = await self.connect()
        await initiator.login(digests, name, **keys)
        await initiator.settle()
        return initiator

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let the loop turn until something holds."""
        await until(holds)

    async def until_held(self, count: int) -> None:
        """Wait until so many requests are with the volume."""
        await until(lambda: len(self.volume.pending) == count)
