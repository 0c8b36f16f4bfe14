"""What a pool holds, in a form that can be kept beside it."""

from __future__ import annotations

import hashlib
from typing import Any

from cstor_core.rows import ROW, has_data
from cstor_core.units import BLOCK_BYTES
from replica.store.pool import Pool
from replica.store.replica_store import ReplicaStore

Document = dict[str, Any]


async def document_of(pool: Pool) -> Document:
    """Every volume by its UUID; all data are verified."""
    return {
        "pool_uuid": pool.pool_uuid,
        "volumes": {name: await _volume(store) for name, store in sorted(pool.replicas.items())},
    }


async def _volume(store: ReplicaStore) -> Document:
    blocks: Document = {}
    async for rows, bad in store.scan():
        assert not len(bad)
        for block, place, seq, epoch, _ in ROW.iter_unpack(rows):
            _, pieces = await store.read_off_loop(block, 1)
            data = b"".join(pieces)
            assert bool(data) == has_data(place)
            blocks[str(block)] = [epoch, seq, _digest(data)]
    configuration = store.configuration
    kept = store._parts.kept
    step = {"kept_bytes": kept.mark, "blocks": kept.places.count(), "pieces": len(kept.pieces)}
    return ({} if kept.basis is None else {"step": step}) | {
        "replica_uuid": store.replica_uuid,
        "name": store.identity.name,
        "size_bytes": store.size_bytes,
        "history": [[reign.epoch, reign.last_seq] for reign in store.history.reigns],
        "applied_seq": store.applied_seq,
        "rebuilding": store.rebuilding,
        "short": store.short,
        "promised": [store.promised_epoch, store.promised_instance],
        "configuration": None if configuration is None else configuration.number,
        "clone_of": None if store.origin is None else store.origin.snapshot,
        "blocks": blocks,
        "snapshots": {
            snapshot.name: await _snapshot(store, snapshot.name) for snapshot in store.snapshots
        },
    }


async def _snapshot(store: ReplicaStore, name: str) -> Document:
    found: Document = {}
    run = await store.read_snapshot(name, 0, store.size_bytes // BLOCK_BYTES)
    start = 0
    for block, place, seq, epoch, _ in ROW.iter_unpack(run.table):
        end = start + (BLOCK_BYTES if has_data(place) else 0)
        found[str(block)] = [epoch, seq, _digest(bytes(run.data[start:end]))]
        start = end
    return found


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16] if data else ""
