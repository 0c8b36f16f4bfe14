"""What has to be right within the replicas, whatever a client has seen of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cstor_core.rows import Rows, rows_of
from replica.replica_node import ReplicaNode
from replica.store.replica_store import ReplicaStore
from tests.simulation.cluster import BLOCKS, Cluster

_ALL = np.arange(BLOCKS, dtype=np.uint64)


def rows_of_node(node: ReplicaNode) -> Rows:
    """One row a block, wherever the block lies."""
    rows = rows_of(node.store.rows(_ALL)).copy()
    rows["place"] &= np.uint64(1 << 63)
    return rows


def reverted(store: ReplicaStore) -> tuple[int, int]:
    """The seqs of the last revert and of the snapshot that it brought back; zeros before one."""
    ranges = store._parts.standing.operations.head.ranges
    return (ranges[-1][0], ranges[-2][1]) if len(ranges) > 1 else (0, 0)


def versions_of(store: ReplicaStore) -> npt.NDArray[np.uint64]:
    """Of each block, the epoch in the upper half; a revert wrote all of them."""
    rows = rows_of(store.rows(_ALL))
    epochs, seqs = rows["epoch"].astype(np.uint64), rows["seq"].astype(np.uint64)
    versions: npt.NDArray[np.uint64] = (epochs << np.uint64(32)) | seqs
    after_seq, _ = reverted(store)
    if after_seq:
        reigns = store.history.reigns
        epoch = next(reign.epoch for reign in reigns if reign.last_seq >= after_seq)
        versions = np.maximum(versions, np.uint64(epoch << 32 | after_seq))
    return versions


class Versions:
    """What W members have held together does not go back.

    Those count that are complete, have adopted the newest epoch and have lost no power since; any
    R of them include one of the W.  While the configuration changes nobody looks.  Beside a witness
    each of two counts alone that it does not call out of date.
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
        if cluster.configurations.is_changing:
            return
        members = cluster.data_members
        found: list[Any] = [
            machine.node
            for machine in members
            if not (machine.is_broken or machine.disk.faults.reads_fail)
        ]
        nodes = [node for node in found if node is not None and counts(node)]
        newest = max((node.store.history.end.epoch for node in nodes), default=0)
        nodes = [node for node in nodes if node.store.history.end.epoch == newest]
        nodes = [node for node in nodes if not cluster.is_out_of_date(node)]
        if newest == 0 or len(nodes) < len(members) - cluster.quorum + 1:
            return
        versions = np.stack([versions_of(node.store) for node in nodes])
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


def counts(node: ReplicaNode) -> bool:
    """Whether it is complete, whole, and has adopted the epoch that it has promised."""
    store = node.store
    return (
        not store.rebuilding
        and not store.short
        and store.failed_reason is None
        and store.history.end.epoch == node.fence.epoch
    )


def differences(cluster: Cluster) -> str:
    """In what the replicas that are not lost differ; nothing where they are equal."""
    if cluster.configurations.is_changing:
        return "a change of the configuration is on its way"
    found: dict[bytes, str] = {}
    for machine in cluster.data_members:
        if machine.is_broken:
            continue
        node = machine.node
        if node is None:
            return f"{machine.name} is not open: {machine.error or 'its daemon does not run'}"
        store = node.store
        if store.replica_uuid != cluster.configurations.uuid_at(machine.name):
            return f"{machine.name} has another replica than the configuration names"
        if store.rebuilding or store.failed_reason is not None:
            return f"{machine.name}: {store.failed_reason or 'it is rebuilding'}"
        key = b"".join(
            (
                store.applied_seq.to_bytes(8, "little"),
                rows_of_node(node).tobytes(),
                store.reservations.SerializeToString(deterministic=True),
                store.sanitization.SerializeToString(deterministic=True),
            )
        )
        found.setdefault(key, f"{machine.name} is at {store.applied_seq}")
    return "" if len(found) == 1 else f"replicas differ: {', '.join(found.values())}"


async def bad_blocks(cluster: Cluster) -> list[str]:
    """Read all data of all machines whose disk has told no lies, and verify them."""
    found = []
    for machine in cluster.members:
        node = machine.node
        if machine.is_broken or machine.has_rotted or node is None:
            continue
        async for _, bad in node.store.scan(0):
            if len(bad):
                found.append(f"{machine.name} has bad blocks {list(bad)}")
    return found
