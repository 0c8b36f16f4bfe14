"""Properties and the end of a volume, as a replica keeps them: over restarts, and in a clone."""

from __future__ import annotations

import pytest

from cstor_core.errors import ProtocolError
from cstor_core.generated.cstor.v1 import volume_pb2
from replica.store.replica_store import ReplicaStore
from tests.unit.store.clones import CLONE, SECOND, identity_of, volume_with_snapshot
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.test_snapshots import operate
from tests.unit.store.volumes import VOLUME, kill_and_open, open_pool, open_store


def put(store: ReplicaStore, **what: bool) -> None:
    operate(store, set_property=volume_pb2.PropertySetting(**what))


@pytest.mark.parametrize("is_clean", [True, False])
async def test_what_was_set_is_set_after_a_restart(is_clean: bool) -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    assert not store.properties.HasField("write_cache")
    put(store, delete_protection=True)
    put(store, write_cache=False)
    put(store, read_only=True)
    put(store, read_only=False)
    if is_clean:
        await store.close()
    store = await kill_and_open(filesystem)
    assert store.properties == volume_pb2.VolumeProperties(
        delete_protection=True, write_cache=False
    )
    assert store.properties.HasField("write_cache")
    assert store.operations_seq == store.applied_seq


async def test_protected_volume_takes_no_deletion_and_a_deleted_one_says_so() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    put(store, delete_protection=True)
    seq = store.applied_seq
    with pytest.raises(ProtocolError, match="protected"):
        operate(store, delete_volume=volume_pb2.VolumeDeletion())
    assert store.applied_seq == seq
    put(store, delete_protection=False)
    operate(store, delete_volume=volume_pb2.VolumeDeletion())
    store = await kill_and_open(filesystem)
    assert store.deleted


async def test_what_this_version_does_not_know_is_refused() -> None:
    store = await open_store(MemoryFilesystem())
    later = volume_pb2.Operation.FromString(
        volume_pb2.Operation(seq=store.applied_seq + 1).SerializeToString() + b"\xfa\x01\x00"
    )
    with pytest.raises(ProtocolError, match="this version does not know"):
        store.append_operation(later)
    unknown = volume_pb2.Operation(seq=store.applied_seq + 1)
    unknown.set_property.MergeFromString(b"\x78\x01")
    with pytest.raises(ProtocolError, match="this version does not know"):
        store.append_operation(unknown)


async def test_clone_begins_with_no_property_but_the_one_that_was_asked_for() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    put(pool.replicas[VOLUME], delete_protection=True)
    await pool.clone(VOLUME, "s", identity_of(CLONE))
    await pool.clone(VOLUME, "s", identity_of(SECOND), read_only=True)
    await pool.close()
    pool = await open_pool(filesystem)
    assert pool.replicas[CLONE].properties == volume_pb2.VolumeProperties()
    assert pool.replicas[SECOND].properties == volume_pb2.VolumeProperties(read_only=True)
