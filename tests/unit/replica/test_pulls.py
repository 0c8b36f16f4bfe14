"""What a replica fetches from its peers, in order and block by block."""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.errors import FencedError, UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.history import history_of
from cstor_core.units import BLOCK_BYTES
from cstor_core.words import history_message
from replica import pacing, pulls, sources
from replica.errors import DivergedError, EndedError, OrderError, TailError
from replica.store.row_sets import Blocks
from tests.unit.replica.worlds import World, orders_of, turns


@pytest.fixture
async def world() -> World:
    """r0 and r2 have entries 1 to 6 of epoch 1; r1 has its record alone."""
    made = World()
    await made.promise(1)
    for index in (0, 2):
        made.append_stream(index).open(1).record(1, 1).write(1, 2, 0, 1, 2, 3, 4)
    made.append_stream(1).open(1).record(1, 1)
    return made


def source(index: int = 0) -> replica_pb2.Source:
    return replica_pb2.Source(address=f"r{index}", replica_uuid=f"r{index}")


def catch_up_request(through_seq: int, epoch: int = 1) -> replica_pb2.CatchUpRequest:
    return replica_pb2.CatchUpRequest(
        orders=orders_of("r1", epoch), source=source(), through_seq=through_seq
    )


def rebuild_request(
    reigns: list[tuple[int, int]], epoch: int = 1, index: int = 0
) -> replica_pb2.RebuildRequest:
    return replica_pb2.RebuildRequest(
        orders=orders_of("r1", epoch),
        source=source(index),
        history=history_message(history_of(reigns)),
    )


async def rebuild(world: World, request: replica_pb2.RebuildRequest) -> replica_pb2.RebuildResponse:
    last = replica_pb2.RebuildResponse()
    async for progress in pulls.Rebuild(world.nodes[1], request).run():
        last = progress
    return last


async def begin(world: World, epoch: int = 1) -> None:
    request = replica_pb2.BeginRebuildRequest(orders=orders_of("r1", epoch))
    await pulls.begin_rebuild(world.nodes[1], request)


def ended_rebuilds(world: World) -> tuple[int, int, int]:
    """How many have begun, were completed and have failed."""
    counters = world.nodes[1].counters
    return counters.rebuilds_started, counters.rebuilds_completed, counters.rebuilds_failed


async def test_catching_up_fetches_the_missing_entries_in_order(world: World) -> None:
    await pulls.catch_up(world.nodes[1], catch_up_request(6))
    assert world.stores[1].table == world.stores[0].table
    assert world.stores[1].history == world.stores[0].history
    world.append_stream(1).open(1).write(1, 7, 9)  # and the stream goes on from there


async def test_epochs_between_are_adopted_on_the_way(world: World) -> None:
    await world.promise(2)
    world.append_stream(0).open(2).record(2, 7).write(2, 8, 1)
    await pulls.catch_up(world.nodes[1], catch_up_request(8, epoch=2))
    assert world.stores[1].history == history_of([(1, 6), (2, 8)])


async def test_a_source_whose_tail_does_not_reach_says_so(world: World) -> None:
    world.stores[0].tail_from = 2
    with pytest.raises(TailError):
        await pulls.catch_up(world.nodes[1], catch_up_request(6))


async def test_a_history_that_parted_is_not_caught_up_in_order(world: World) -> None:
    world.stores[0].held = history_of([(7, 6)])
    with pytest.raises(DivergedError):
        await pulls.catch_up(world.nodes[1], catch_up_request(6))


async def test_a_source_that_gives_too_little_or_does_not_answer_is_unavailable(
    world: World,
) -> None:
    with pytest.raises(UnavailableError, match="up to 6 only"):
        await pulls.catch_up(world.nodes[1], catch_up_request(9))
    del world.network.nodes["r0"]
    with pytest.raises(UnavailableError, match="nobody answers"):
        await pulls.catch_up(world.nodes[1], catch_up_request(9))


async def test_orders_of_an_epoch_that_was_not_promised_are_refused(world: World) -> None:
    with pytest.raises(FencedError):
        await pulls.catch_up(world.nodes[1], catch_up_request(6, epoch=2))
    with pytest.raises(FencedError):
        await begin(world, epoch=2)


async def test_a_source_gives_nothing_under_an_epoch_that_it_did_not_promise(world: World) -> None:
    assert await world.nodes[0].fence.promise(2, "target-b")
    with pytest.raises(UnavailableError, match="epoch 1 is refused"):
        await pulls.catch_up(world.nodes[1], catch_up_request(6))


async def test_a_rebuild_copies_what_is_missing_while_new_entries_come(world: World) -> None:
    await begin(world)
    stream = world.append_stream(1).open(1, rebuilding=True)
    stream.write(1, 7, 2)
    world.append_stream(0).open(1).write(1, 7, 2)
    progress = await rebuild(world, rebuild_request([(1, 6)]))
    assert progress.complete
    assert progress.blocks_done == progress.blocks_total == 5
    assert world.stores[1].table == world.stores[0].table
    assert world.stores[1].history == world.stores[0].history
    assert not world.stores[1].rebuilding
    assert ended_rebuilds(world) == (1, 1, 0)
    stream.write(1, 8, 3)  # now as a complete member
    answer = stream.answer()
    assert answer is not None
    assert answer.applied_seq == 8


async def test_blocks_are_asked_for_in_the_order_in_which_they_lie_at_the_source(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.stores[0].places = {0: 7, 1: 3, 2: 9, 3: 2, 4: 8}
    given: list[int] = []
    copies = world.stores[0].copies

    def watched(blocks: Blocks) -> memoryview | None:
        given.extend(blocks.tolist())
        return copies(blocks)

    monkeypatch.setattr(world.stores[0], "copies", watched)
    await begin(world)
    world.append_stream(1).open(1, rebuilding=True)
    assert (await rebuild(world, rebuild_request([(1, 6)]))).complete
    assert given == [3, 1, 0, 4, 2]
    assert world.stores[1].table == world.stores[0].table


async def test_a_rebuild_of_an_idle_volume_ends_at_the_history_that_it_was_given(
    world: World,
) -> None:
    await begin(world)
    stream = world.append_stream(1).open(1, rebuilding=True)
    assert (await rebuild(world, rebuild_request([(1, 6)]))).complete
    assert world.stores[1].applied_seq == 6
    stream.write(1, 7, 3)


async def test_the_flag_stays_until_the_stream_has_reached_every_copied_version(
    world: World,
) -> None:
    await begin(world)
    stream = world.append_stream(1).open(1, rebuilding=True)
    world.append_stream(0).open(1).write(1, 7, 2).write(1, 8, 3)  # the source is ahead
    running = asyncio.create_task(rebuild(world, rebuild_request([(1, 6)])))
    await turns(50)
    assert world.stores[1].max_copied_seq == 8
    stream.write(1, 7, 2)
    await turns(50)
    assert world.stores[1].rebuilding
    stream.write(1, 8, 3)
    assert (await running).complete
    assert world.stores[1].table == world.stores[0].table


async def test_foreign_blocks_are_replaced_whatever_their_version_says(world: World) -> None:
    stray = world.append_stream(1).open(1)
    stray.write(1, 2, 4, 900)  # entries that the history dropped
    await world.promise(2)
    world.stores[0].applied_seq = 1
    world.stores[0].held = history_of([(1, 1)])
    world.stores[0].table.clear()
    world.append_stream(0).open(2).record(2, 2).write(2, 3, 0)
    await begin(world, epoch=2)
    world.append_stream(1).open(2, rebuilding=True)
    assert (await rebuild(world, rebuild_request([(1, 1), (2, 3)], epoch=2))).complete
    assert world.stores[1].table == world.stores[0].table
    assert world.stores[1].history == world.stores[0].history


async def test_more_foreign_blocks_than_one_request_names_are_all_replaced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "ASKED_BLOCKS_MAX", 2)
    world.append_stream(1).open(1).write(1, 2, 900, 901, 902, 903, 904)
    await world.promise(2)
    world.stores[0].applied_seq = 1
    world.stores[0].held = history_of([(1, 1)])
    world.stores[0].table.clear()
    world.append_stream(0).open(2).record(2, 2).write(2, 3, 0)
    await begin(world, epoch=2)
    world.append_stream(1).open(2, rebuilding=True)
    progress = await rebuild(world, rebuild_request([(1, 1), (2, 3)], epoch=2))
    assert progress.blocks_done == progress.blocks_total == 6
    assert world.stores[1].table == world.stores[0].table


async def test_an_epochs_record_that_passes_in_the_stream_is_in_the_history(world: World) -> None:
    await world.promise(2)
    await begin(world, epoch=2)
    world.append_stream(1).open(2, rebuilding=True).record(2, 7).write(2, 8, 3)
    world.append_stream(0).open(2).record(2, 7).write(2, 8, 3)
    assert (await rebuild(world, rebuild_request([(1, 6)], epoch=2))).complete
    assert world.stores[1].history == world.stores[0].history == history_of([(1, 6), (2, 8)])


async def test_a_rebuild_ends_when_its_stream_breaks(world: World) -> None:
    await begin(world)
    stream = world.append_stream(1).open(1, rebuilding=True)
    world.append_stream(0).open(1).write(1, 7, 2)
    running = asyncio.create_task(rebuild(world, rebuild_request([(1, 6)])))
    await turns(50)
    stream.session.end()
    assert ended_rebuilds(world) == (1, 0, 0)
    with pytest.raises(EndedError, match="stream"):
        await running
    assert world.stores[1].rebuilding
    assert ended_rebuilds(world) == (1, 0, 1)


async def test_a_rebuild_ends_with_a_higher_promise(world: World) -> None:
    await begin(world)
    world.append_stream(1).open(1, rebuilding=True)
    world.append_stream(0).open(1).write(1, 7, 2)
    running = asyncio.create_task(rebuild(world, rebuild_request([(1, 6)])))
    await turns(50)
    assert await world.nodes[1].fence.promise(2, "target-b")
    with pytest.raises((FencedError, EndedError)):
        await running
    assert world.stores[1].rebuilding


async def test_a_source_with_a_bad_block_is_named_and_another_one_serves(world: World) -> None:
    await begin(world)
    world.append_stream(1).open(1, rebuilding=True)
    world.stores[0].broken = {3}
    with pytest.raises(UnavailableError, match=r"r0.*block 3"):
        await rebuild(world, rebuild_request([(1, 6)]))
    assert (await rebuild(world, rebuild_request([(1, 6)], index=2))).complete
    assert world.stores[1].table == world.stores[2].table


async def interrupted(world: World, blocks: int = 100, bad: int = 90) -> None:
    """r1 has been rebuilt from r0 up to a block that is bad there, of so many."""
    for index in (0, 2):
        world.append_stream(index).open(1).write(1, 7, *range(blocks))
    await begin(world)
    world.append_stream(1).open(1, rebuilding=True)
    world.stores[0].broken = {bad}
    with pytest.raises(UnavailableError, match=rf"r0.*block {bad}"):
        await rebuild(world, rebuild_request([(1, 106)]))
    assert len(world.stores[1].table) == bad


@pytest.fixture
def small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there is something between the first message and the last."""
    monkeypatch.setattr(sources, "BATCH_BLOCKS", 2)
    monkeypatch.setattr(sources, "LISTED_ROWS", 7)
    monkeypatch.setattr(pacing, "PIECE_BLOCKS", 10)


@pytest.mark.usefixtures("small_messages")
@pytest.mark.parametrize("index", [0, 2])
async def test_what_an_interrupted_rebuild_has_copied_is_not_copied_again(
    world: World, index: int
) -> None:
    await interrupted(world)
    world.stores[0].broken.clear()
    progress = await rebuild(world, rebuild_request([(1, 106)], index=index))
    assert progress.bytes_copied == 10 * BLOCK_BYTES
    assert progress.blocks_done == progress.blocks_total == 100
    assert world.stores[1].table == world.stores[0].table


@pytest.mark.usefixtures("small_messages")
async def test_nor_is_it_under_another_target(world: World) -> None:
    await interrupted(world)
    world.stores[0].broken.clear()
    await world.promise(2)
    for index in (0, 2):
        world.append_stream(index).open(2).record(2, 107).write(2, 108, 3)
    await begin(world, epoch=2)
    world.append_stream(1).open(2, rebuilding=True)
    progress = await rebuild(world, rebuild_request([(1, 106), (2, 108)], epoch=2))
    assert progress.bytes_copied == 11 * BLOCK_BYTES  # and the block that was written since
    assert world.stores[1].table == world.stores[0].table


async def test_bad_copy_of_an_equal_version_is_copied_again(world: World) -> None:
    world.append_stream(1).open(1).write(1, 2, 0, 1, 2, 3, 4)
    await begin(world)
    world.stores[1].held = history_of([(1, 1)])
    world.append_stream(1).open(1, rebuilding=True)
    world.stores[1].broken = {3}
    assert (await rebuild(world, rebuild_request([(1, 6)]))).bytes_copied == BLOCK_BYTES


async def test_a_source_that_lacks_entries_from_before_the_stream_is_refused(world: World) -> None:
    world.append_stream(0).open(1).write(1, 7, 9)
    await begin(world)
    world.append_stream(1).open(1, rebuilding=True)
    with pytest.raises(UnavailableError, match="lacks"):
        await rebuild(world, rebuild_request([(1, 7)], index=2))
    assert world.stores[1].rebuilding


async def test_a_stream_that_began_later_than_the_history_ends_is_refused(world: World) -> None:
    await begin(world)
    world.append_stream(1).open(1, rebuilding=True).write(1, 8, 3)
    with pytest.raises(OrderError, match="began with entry 8"):
        await rebuild(world, rebuild_request([(1, 6)]))
    assert world.stores[1].rebuilding


async def test_a_rebuild_of_a_replica_without_the_flag_is_refused(world: World) -> None:
    with pytest.raises(OrderError, match="not flagged"):
        await rebuild(world, rebuild_request([(1, 6)]))


async def test_a_rebuilding_replica_is_no_source(world: World) -> None:
    await world.stores[0].begin_rebuild()
    with pytest.raises(UnavailableError, match="rebuilding"):
        await pulls.catch_up(world.nodes[1], catch_up_request(6))
