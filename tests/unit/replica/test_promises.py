"""Promises: what is promised, and what a promise ends."""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.errors import FencedError
from cstor_core.generated.cstor.v1 import replica_pb2
from replica import pulls
from tests.unit.replica.worlds import World, orders_of, until


async def test_only_a_higher_epoch_or_the_same_one_again_is_promised() -> None:
    fence = World().nodes[0].fence
    assert await fence.promise(3, "a")
    assert await fence.promise(3, "a")
    assert not await fence.promise(3, "b")
    assert not await fence.promise(2, "a")
    assert await fence.promise(4, "b")
    assert (fence.epoch, fence.instance) == (4, "b")


async def test_a_promise_is_answered_only_when_it_is_durable() -> None:
    world = World()
    store, fence = world.stores[0], world.nodes[0].fence
    store.promise_gate = asyncio.Event()
    promise = asyncio.create_task(fence.promise(3, "a"))
    await asyncio.sleep(0)
    assert not promise.done()
    with pytest.raises(FencedError):
        fence.check(0, "")  # the fence rises before the promise is written
    store.promise_gate.set()
    assert await promise
    assert store.promised_epoch == 3


async def test_of_two_promises_at_once_the_higher_one_stays() -> None:
    world = World()
    store, fence = world.stores[0], world.nodes[0].fence
    store.promise_gate = asyncio.Event()
    lower = asyncio.create_task(fence.promise(3, "a"))
    await asyncio.sleep(0)
    higher = asyncio.create_task(fence.promise(5, "b"))
    await asyncio.sleep(0)
    store.promise_gate.set()
    await asyncio.gather(lower, higher)
    assert higher.result()
    assert (store.promised_epoch, fence.epoch, fence.instance) == (5, 5, "b")


async def test_a_promise_that_cannot_be_written_leaves_the_replica_as_it_was() -> None:
    world = World()
    store, fence = world.stores[0], world.nodes[0].fence
    assert await fence.promise(3, "a")

    async def fail(epoch: int, instance: str) -> None:
        raise OSError(28, "No space left on device")

    store.promise = fail  # type: ignore[method-assign]
    with pytest.raises(OSError, match="No space"):
        await fence.promise(4, "b")
    fence.check(3, "a")


async def test_a_higher_promise_closes_the_sessions_of_lower_epochs_and_refuses_new_ones() -> None:
    world = World()
    await world.promise(1)
    append = world.append_stream(0).open(1).record(1, 1)
    read = world.read_stream(0).open(1)
    assert await world.nodes[0].fence.promise(2, "target-b")
    for stream in (append, read):
        assert [type(error) for error in stream.closed] == [FencedError]
    with pytest.raises(FencedError):
        append.write(1, 2, 7)
    assert world.stores[0].applied_seq == 1
    with pytest.raises(FencedError):
        world.append_stream(0).open(1)
    with pytest.raises(FencedError):
        world.read_stream(0).open(2)  # the epoch is right, and the instance is another
    world.append_stream(0).open(2, instance="target-b")


async def test_a_higher_promise_ends_a_catch_up_before_its_next_entry() -> None:
    world = World()
    await world.promise(1)
    world.append_stream(0).open(1).record(1, 1).write(1, 2, 0).write(1, 3, 1).write(1, 4, 2)
    request = replica_pb2.CatchUpRequest(
        orders=orders_of("r1", 1),
        source=replica_pb2.Source(address="r0", replica_uuid="r0"),
        through_seq=4,
    )
    catch_up = asyncio.create_task(pulls.catch_up(world.nodes[1], request))
    await until(lambda: world.stores[1].applied_seq >= 2)
    assert await world.nodes[1].fence.promise(2, "target-b")
    reported = world.stores[1].applied_seq
    with pytest.raises(FencedError):
        await catch_up
    assert world.stores[1].applied_seq == reported < 4
