"""Reservations and sanitizations, as a replica keeps them: over restarts, and not in a clone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cstor_core.errors import ProtocolError
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.limits import REGISTRATIONS_MAX
from cstor_core.units import MIB
from tests.unit.store.clones import cloned, volume_with_snapshot
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.test_snapshots import operate
from tests.unit.store.volumes import SMALL, VOLUME, kill_and_open, open_store

LIMITS = replace(SMALL, journal_bytes=MIB)


def registered(count: int) -> volume_pb2.Reservations:
    """So many, the first of which has reserved."""
    return volume_pb2.Reservations(
        generation=count,
        type=volume_pb2.RESERVATION_TYPE_WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
        registrations=[
            volume_pb2.Registration(
                initiator_port=f"iqn.2026-01.x:{number},i,0x00023d000001",
                target_port=1,
                key=number << 40 | 1,
                is_holder=not number,
            )
            for number in range(count)
        ],
    )


@pytest.mark.parametrize("is_clean", [True, False])
async def test_a_thousand_registrations_are_there_after_a_restart(is_clean: bool) -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem, limits=LIMITS)
    assert store.reservations == volume_pb2.Reservations()
    operate(store, set_reservations=registered(3))
    operate(store, set_reservations=registered(REGISTRATIONS_MAX))
    if is_clean:
        await store.close()
    store = await kill_and_open(filesystem, limits=LIMITS)
    assert store.reservations == registered(REGISTRATIONS_MAX)
    assert store.operations_seq == store.applied_seq
    operate(store, set_reservations=volume_pb2.Reservations(generation=7))
    store = await kill_and_open(filesystem, limits=LIMITS)
    assert store.reservations == volume_pb2.Reservations(generation=7)


@pytest.mark.parametrize("is_clean", [True, False])
async def test_a_sanitization_is_known_after_a_restart(is_clean: bool) -> None:
    begun = volume_pb2.Sanitization(
        state=volume_pb2.SANITIZATION_STATE_UNDER_WAY, logical_block=b"\xa5" * 512
    )
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem, limits=LIMITS)
    assert store.sanitization == volume_pb2.Sanitization()
    operate(store, set_sanitization=begun)
    if is_clean:
        await store.close()
    store = await kill_and_open(filesystem, limits=LIMITS)
    assert store.sanitization == begun
    operate(store, set_sanitization=volume_pb2.Sanitization())
    store = await kill_and_open(filesystem, limits=LIMITS)
    assert store.sanitization == volume_pb2.Sanitization()


async def test_a_state_of_a_sanitization_that_is_not_known_is_refused() -> None:
    store = await open_store(MemoryFilesystem(), limits=LIMITS)
    unknown = volume_pb2.Sanitization()
    unknown.ParseFromString(bytes.fromhex("0863"))
    with pytest.raises(ProtocolError, match="sanitization"):
        operate(store, set_sanitization=unknown)
    assert store.sanitization == volume_pb2.Sanitization()


async def test_more_than_there_may_be_are_refused() -> None:
    store = await open_store(MemoryFilesystem(), limits=LIMITS)
    seq = store.applied_seq
    with pytest.raises(ProtocolError, match="1001 registrations"):
        operate(store, set_reservations=registered(REGISTRATIONS_MAX + 1))
    assert store.applied_seq == seq


async def test_a_clone_is_another_unit_and_has_none() -> None:
    pool = await volume_with_snapshot(MemoryFilesystem())
    operate(pool.replicas[VOLUME], set_reservations=registered(2))
    clone = await cloned(pool)
    assert clone.reservations == volume_pb2.Reservations()
    assert pool.replicas[VOLUME].reservations == registered(2)
