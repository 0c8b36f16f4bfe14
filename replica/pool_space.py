"""The space of a pool, and what its replicas may count on.

Every acknowledgement says what the replica still grants: what is free in its own file, and an equal
share of what the file system has free for all.  The target gives a write its place only where
enough is granted, so that a full disk is met before a write has one.  The file system is asked at
most twice a second; what a replica has taken since then is taken off.
"""

from __future__ import annotations

from collections.abc import Mapping

from cstor_core.clock import Clock
from replica.replica_node import ReplicaNode
from replica.store.pool import Pool
from replica.store.replica_store import ReplicaStore

AGE_S_MAX = 0.5


class PoolSpace:
    """Of one pool."""

    def __init__(self, pool: Pool, clock: Clock, nodes: Mapping[str, ReplicaNode]) -> None:
        self._pool = pool
        self._clock = clock
        self._nodes = nodes
        self._asked_s = float("-inf")
        self._total = self._available = 0
        self._takes: dict[str, int] = {}
        """What each replica may have used in all before it has used up its grant."""

    def asked(self) -> tuple[int, int]:
        """(total, available) bytes of the file system, not older than half a second."""
        now_s = self._clock.monotonic()
        if now_s - self._asked_s > AGE_S_MAX:
            self._ask(now_s)
        return self._total, self._available

    def _ask(self, now_s: float) -> None:
        self._asked_s = now_s
        self._total, self._available = self._pool.space()
        share = max(0, self._available - self.reserved_bytes()) // max(1, len(self._nodes))
        self._takes = {uuid: share + node.store.room_bytes for uuid, node in self._nodes.items()}

    def reserved_bytes(self) -> int:
        """Of the file system, what data never take."""
        return sum(node.store.reserved_bytes for node in self._nodes.values())

    def granted_bytes(self, store: ReplicaStore) -> int:
        """What a replica still grants: the grants of a pool never exceed its free space."""
        volume_uuid = store.identity.volume_uuid
        now_s = self._clock.monotonic()
        if now_s - self._asked_s > AGE_S_MAX or volume_uuid not in self._takes:
            self._ask(now_s)
        return max(0, self._takes[volume_uuid] - store.used_bytes)
