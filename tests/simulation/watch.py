"""What has to be right within the replicas, whatever a client has seen of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cstor_core.rows import Rows, rows_of
from replica.replica_node import ReplicaNode
from tests.simulation.cluster import BLOCKS, Cluster

_ALL = np.arange(BLOCKS, dtype=np.uint64)


def rows_of_node(node: ReplicaNode) -> Rows:
    """One row a block, wherever the block lies."""
    rows = rows_of(node.store.rows(_ALL)).copy()
    rows["place"] &= np.uint64(1 << 63)
    return rows


def _versions(rows: Rows) -> npt.NDArray[np.uint64]:
    return (rows["epoch"].astype(np.uint64) << np.uint64(32)) | rows["seq"].astype(np.uint64)


class Versions:
    """What W members have held together does not go back.

    Those count that are complete, have adopted the newest epoch and have lost no power since; any
    R of them include one of the W.  Beside a witness each of two counts alone that it does not call
    out of date.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._held = np.zeros(BLOCKS, dtype=np.uint64)
        self.broken: list[str] = []

    def forget(self) -> None:
        """Somebody has said that something may be gone."""
        self._held[:] = 0

    def look(self) -> None:
        """Compare with what was held before."""
        cluster = self._cluster
        found: list[Any] = [machine.node for machine in cluster.machines if not machine.is_broken]
        nodes = [node for node in found if node is not None and _counts(node)]
        newest = max((node.store.history.end.epoch for node in nodes), default=0)
        nodes = [node for node in nodes if node.store.history.end.epoch == newest]
        nodes = [node for node in nodes if not cluster.is_out_of_date(node)]
        if newest == 0 or len(nodes) < len(cluster.machines) - cluster.quorum + 1:
            return
        versions = np.stack([_versions(rows_of(node.store.rows(_ALL))) for node in nodes])
        back = np.flatnonzero(versions.max(axis=0) < self._held)
        if len(back):
            self.broken.append(
                f"blocks {back.tolist()} went back from a version that a quorum held, "
                f"at {cluster.loop.time():.4f}"
            )
            self._held[back] = 0
        if len(nodes) < cluster.quorum:
            return
        if not cluster.write_cache:
            durable = np.array([[node.store.durable_seq] for node in nodes], dtype=np.uint64)
            versions[(versions & np.uint64(0xFFFFFFFF)) > durable] = 0
        versions.sort(axis=0)
        self._held = np.maximum(self._held, versions[-cluster.quorum])


def _counts(node: ReplicaNode) -> bool:
    store = node.store
    return (
        not store.rebuilding
        and not store.short
        and store.failed_reason is None
        and store.history.end.epoch == node.fence.epoch
    )


def differences(cluster: Cluster) -> str:
    """In what the replicas that are not lost differ; nothing where they are equal."""
    found: dict[bytes, str] = {}
    for machine in cluster.machines:
        if machine.is_broken:
            continue
        node = machine.node
        if node is None:
            return f"{machine.name} is not open: {machine.error or 'its daemon does not run'}"
        store = node.store
        if store.rebuilding or store.failed_reason is not None:
            return f"{machine.name}: {store.failed_reason or 'it is rebuilding'}"
        key = store.applied_seq.to_bytes(8, "little") + rows_of_node(node).tobytes()
        found.setdefault(key, f"{machine.name} is at {store.applied_seq}")
    return "" if len(found) == 1 else f"replicas differ: {', '.join(found.values())}"


async def bad_blocks(cluster: Cluster) -> list[str]:
    """Read all data of all machines whose disk has told no lies, and verify them."""
    found = []
    for machine in cluster.machines:
        node = machine.node
        if machine.is_broken or machine.has_rotted or node is None:
            continue
        async for _, bad in node.store.scan(0):
            if len(bad):
                found.append(f"{machine.name} has bad blocks {list(bad)}")
    return found
