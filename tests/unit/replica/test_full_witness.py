"""A witness whose disk is full when its daemon starts: it answers nothing, and comes by itself."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from cstor_core.errors import FencedError, NoSpaceError, UnknownVolumeError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.limits import LEASE_S
from replica.witness_host import TRY_AGAIN_S
from tests.unit.replica.test_witness_file import (
    IDENTITY,
    VOLUME,
    B,
    World,
    orders,
    promise,
    uuid_of,
    word,
)


def is_full(call: str) -> None:
    if call == "create":
        raise OSError(errno.ENOSPC, "No space left on device")


async def test_full_disk_at_its_start_is_said_and_passes_without_another_start() -> None:
    world = World()
    host = await world.founded()
    await promise(host, 3)
    await host.attest(word(host, 3, 1, B))
    before, uuid = world.held, uuid_of(host)
    asked = replica_pb2.LeaseRequest(orders=orders(host, 3), duration_ms=4000)
    promised = replica_pb2.PromiseRequest(
        volume_uuid=VOLUME, replica_uuid=uuid, epoch=4, target_instance="u"
    )
    told = word(host, 3, 2, "")
    host = await world.open(is_full)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: host.inquire(replica_pb2.InquireRequest(volume=VOLUME)),
        lambda: host.promise(promised),
        lambda: host.lease(asked),
        lambda: host.attest(told),
        lambda: host.create_replica(replica_pb2.CreateReplicaRequest(identity=IDENTITY)),
    ]
    for call in calls:
        world.clock.now_s += 10
        with pytest.raises(NoSpaceError, match="free some space; it is tried again"):
            await call()
    (listed,) = (await host.describe_pool(replica_pb2.DescribePoolRequest())).replicas
    assert listed.state == replica_pb2.REPLICA_STATE_FAILED
    assert "free some space; it is tried again" in listed.reason
    assert host.found_full
    world.files.before = lambda call: None
    with pytest.raises(NoSpaceError):
        await host.inquire(replica_pb2.InquireRequest(volume=VOLUME))
    world.clock.now_s += TRY_AGAIN_S
    assert (await host.promise(promised)).lease_left_ms == LEASE_S * 1000
    assert not host.failed
    assert (uuid_of(host), world.held) == (
        uuid,
        replace(before, promised_epoch=4, promised_instance="u"),
    )
    with pytest.raises(FencedError):
        await host.attest(told)
    after = world.held
    world.boot()
    await world.open()
    assert world.held == after


async def test_what_it_finds_when_there_is_space_again_counts_as_at_a_start() -> None:
    world = World()
    await world.founded()
    host = await world.open(is_full)
    request = replica_pb2.InquireRequest(volume=VOLUME)

    def fail(call: str) -> None:
        if call == "datasync":
            world.files.before = lambda call: None
            raise OSError(errno.EIO, "Input/output error")

    world.files.before = fail
    world.clock.now_s += TRY_AGAIN_S
    report = (await host.inquire(request)).replica
    assert report.state == replica_pb2.REPLICA_STATE_FAILED
    host = await world.open(is_full)
    assert not host.found_full, "it is marked, and not read as if nothing had happened"
    world.boot()
    host = await world.open(is_full)
    await host.delete_replica(replica_pb2.DeleteReplicaRequest(volume_uuid=VOLUME))
    world.files.before = lambda call: None
    world.clock.now_s += TRY_AGAIN_S
    with pytest.raises(UnknownVolumeError):
        await host.inquire(request)
