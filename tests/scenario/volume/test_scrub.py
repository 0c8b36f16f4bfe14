"""A scrub finds copies that are wrong, puts them right from a good one, and says so."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from cstor_core.errors import InputError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.units import BLOCK_BYTES, KIB, MIB
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.disks import Held
from tests.scenario.volume.replicas import Replica
from tests.scenario.volume.test_members import assert_equal_replicas, write_blocks
from tests.scenario.volume.virtual_time import play

Report = control_pb2.ScrubReport


async def begun(cluster: Cluster, blocks: int = 200) -> Target:
    """A target with all members in sync, after two writes of some blocks."""
    target = await cluster.serving_target()
    await target.healthy()
    for stamp in (1, 2):
        await write_blocks(target, 0, blocks, stamp)
    await asyncio.sleep(1)
    return target


async def ended(target: Target) -> Report:
    """What the scrub that is under way has come to."""
    await until(lambda: not target.engine.scrubs.is_running, 3600)
    report = target.engine.scrubs.report()
    assert report is not None
    return report


async def scrubbed(target: Target) -> Report:
    """What a scrub comes to."""
    assert target.engine.scrubs.start()
    report = await ended(target)
    assert report.state == control_pb2.SCRUB_STATE_FINISHED, report.reason
    return report


def told(cluster: Cluster, name: str) -> list[dict[str, object]]:
    """The facts of all events of a name."""
    return [facts for each, facts in cluster.events if each == name]


def forget(replica: Replica, *blocks: int) -> None:
    """Lose the last write of blocks: what was there before is there again."""
    for block in blocks:
        epoch, seq = replica.disk.blocks[block].version
        replica.disk.blocks[block] = Held((epoch, seq - 200), block_of(1))


def test_scrub_of_equal_copies_finds_nothing_and_reads_all() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await begun(cluster)
        report = await scrubbed(target)
        assert (report.mismatches, report.blocks_changing) == (0, 0)
        assert report.bytes_read == 200 * BLOCK_BYTES
        assert report.blocks_done == report.blocks_total == 1 << 16
        assert [member.blocks_done for member in report.members] == [1 << 16] * 3
        assert [name for name, _ in cluster.events[-2:]] == ["scrub_started", "scrub_finished"]
        assert target.engine.report().scrub == report

    play(scenario())


def test_bad_copies_are_put_right_by_good_ones() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await begun(cluster)
        first, second, _ = cluster.replicas
        first.rotten_blocks, second.unreadable_blocks = {1, 2, 199}, {1, 32}
        report = await scrubbed(target)
        assert not first.rotten_blocks
        assert not second.unreadable_blocks
        assert (report.mismatches, report.repaired, report.unrepaired) == (5, 5, 0)
        assert [member.bad_checksums for member in report.members] == [3, 2, 0]
        facts = told(cluster, "block_mismatch")
        assert sum(int(str(each["blocks"])) for each in facts) == 5
        assert target.engine.counters.blocks_repaired == 5
        assert (await scrubbed(target)).mismatches == 0

    play(scenario())


@pytest.mark.parametrize("who_lost_it", [(0,), (0, 2)])
def test_lost_write_is_put_right_by_the_newest_version_also_against_most(
    who_lost_it: tuple[int, ...],
) -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await begun(cluster)
        for number in who_lost_it:
            forget(cluster.replicas[number], 7, 8)
        report = await scrubbed(target)
        assert report.repaired == report.mismatches == 2 * len(who_lost_it)
        assert [member.lost_writes for member in report.members] == [
            2 if number in who_lost_it else 0 for number in range(3)
        ]
        assert_equal_replicas(cluster)
        assert await target.read(7 * BLOCK_BYTES, BLOCK_BYTES) == block_of(2)

    play(scenario())


def test_older_copy_never_takes_the_place_of_the_newest_one_that_is_bad() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await begun(cluster)
        first, second, third = cluster.replicas
        forget(first, 7)
        forget(second, 7)
        third.rotten_blocks = {7}
        before = dict(third.disk.blocks)
        report = await scrubbed(target)
        assert (report.mismatches, report.repaired, report.unrepaired) == (3, 0, 3)
        assert third.disk.blocks == before
        assert first.disk.blocks[7].data == block_of(1)
        assert len(told(cluster, "blocks_unrepaired")) == 3
        assert not any("source" in replica.asked for replica in cluster.replicas)

    play(scenario())


def test_data_of_one_version_that_differ_are_decided_by_a_quorum_or_left() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await begun(cluster)
        first, second, third = cluster.replicas
        for block, replicas in ((3, (second,)), (4, (second, third))):
            for stamp, replica in enumerate(replicas, 5):
                version = replica.disk.blocks[block].version
                replica.disk.blocks[block] = Held(version, block_of(stamp))
        report = await scrubbed(target)
        assert second.disk.blocks[3].data == block_of(2)
        assert [replica.disk.blocks[4].data for replica in (first, second, third)] == [
            block_of(2),
            block_of(5),
            block_of(6),
        ]
        assert [member.other_data for member in report.members] == [1, 2, 1]
        assert (report.repaired, report.unrepaired) == (1, 3)

    play(scenario())


@pytest.mark.parametrize("seed", range(4))
def test_writes_on_their_way_are_no_mismatches_and_a_lost_one_is_found_among_them(
    seed: int,
) -> None:
    async def scenario() -> None:
        settings = EngineSettings(scrub_rate_bytes_per_s=256 * KIB)
        cluster = Cluster(seed=seed, settings=settings)
        target = await begun(cluster)
        random, latest = Random(seed), {}

        async def write_on(client: int) -> None:
            for stamp in range(3, 1000):
                block = 4 * random.randrange(40) + client
                if target.engine.scrubs.is_running:
                    assert await target.write(block * BLOCK_BYTES, block_of(stamp)) is None
                    latest[block] = stamp
                    await asyncio.sleep(random.uniform(0, 0.01))

        assert target.engine.scrubs.start()
        forget(cluster.replicas[1], 190)
        cluster.replicas[2].rotten_blocks = {191}
        await asyncio.gather(*map(write_on, range(4)))
        report = await ended(target)
        assert report.state == control_pb2.SCRUB_STATE_FINISHED
        assert (report.mismatches, report.repaired) == (2, 2)
        assert len(latest) > 100
        await asyncio.sleep(2)
        assert_equal_replicas(cluster)
        for block, stamp in latest.items():
            assert await target.read(block * BLOCK_BYTES, BLOCK_BYTES) == block_of(stamp)

    play(scenario())


def test_a_block_that_is_written_all_the_time_is_no_mismatch() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await begun(cluster)
        assert target.engine.scrubs.start()
        stamp = 3
        while target.engine.scrubs.is_running:
            assert await target.write(5 * BLOCK_BYTES, block_of(stamp)) is None
            stamp += 1
        report = await ended(target)
        assert (report.state, report.mismatches) == (control_pb2.SCRUB_STATE_FINISHED, 0)
        assert report.blocks_changing <= 1

    play(scenario())


def test_revert_meanwhile_is_no_lost_write() -> None:
    async def scenario() -> None:
        settings = EngineSettings(scrub_rate_bytes_per_s=64 * KIB)
        cluster = Cluster(settings=settings)
        target = await begun(cluster)
        await target.engine.operations.create_snapshot("one")
        await write_blocks(target, 0, 200, 3)
        assert target.engine.scrubs.start()
        await asyncio.sleep(2)
        cluster.replicas[1].stalled = True
        await target.engine.operations.revert("one")
        await asyncio.sleep(1)
        cluster.replicas[1].stalled = False
        report = await ended(target)
        assert report.state == control_pb2.SCRUB_STATE_FINISHED
        assert report.mismatches == 0
        assert await target.read(0, 200 * BLOCK_BYTES) == block_of(2) * 200

    play(scenario())


def test_what_snapshots_need_is_compared_and_told() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await begun(cluster)
        await target.engine.operations.create_snapshot("one")
        await write_blocks(target, 0, 200, 3)
        await asyncio.sleep(1)
        kept = cluster.replicas[1].disk.snapshots["one"][1]
        kept[9] = Held(kept[9].version, block_of(9))
        report = await scrubbed(target)
        assert report.blocks_total == 2 << 16
        assert [member.other_data for member in report.members] == [0, 1, 0]
        assert report.unrepaired == 1
        (facts,) = told(cluster, "blocks_unrepaired")
        assert (facts["where"], facts["first_block"]) == ("snapshots", 9)

    play(scenario())


def test_bad_data_of_snapshots_are_put_right() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await begun(cluster)
        await target.engine.operations.create_snapshot("one")
        await target.engine.operations.create_snapshot("two")
        await asyncio.sleep(1)
        bad = cluster.replicas[1]
        # What the volume itself has of the block is discarded: only snapshots need it.
        await target.unmap(9 * BLOCK_BYTES, BLOCK_BYTES)
        bad.rotten_blocks = {9}
        report = await scrubbed(target)
        assert [member.bad_checksums for member in report.members] == [0, 1, 0]
        assert (report.repaired, report.unrepaired) == (1, 0)
        (facts,) = told(cluster, "block_mismatch")
        assert (facts["where"], facts["first_block"]) == ("snapshots", 9)
        assert not bad.rotten_blocks
        assert not told(cluster, "blocks_unrepaired")

    play(scenario())


def test_asked_while_one_runs_it_is_the_same_one_and_it_can_be_stopped() -> None:
    async def scenario() -> None:
        settings = EngineSettings(scrub_rate_bytes_per_s=64 * KIB)
        cluster = Cluster(settings=settings)
        target = await begun(cluster)
        scrubs = target.engine.scrubs
        with pytest.raises(InputError, match="no scrub has begun"):
            await anext(scrubs.watch())
        with pytest.raises(InputError, match="too slow"):
            scrubs.start(1000)
        assert scrubs.start()
        assert not scrubs.start(MIB)
        await asyncio.sleep(3)
        reports = []
        async for report in scrubs.watch():
            reports.append(report)
            if len(reports) == 4:
                scrubs.stop()
                scrubs.stop()
        assert {report.rate_bytes_per_s for report in reports} == {64 * KIB}
        assert [report.state for report in reports[-2:]] == [
            control_pb2.SCRUB_STATE_RUNNING,
            control_pb2.SCRUB_STATE_STOPPED,
        ]
        assert reports[0].seconds_left > 0
        assert len(told(cluster, "scrub_started")) == len(told(cluster, "scrub_ended")) == 1
        assert scrubs.start(MIB)
        assert (await ended(target)).state == control_pb2.SCRUB_STATE_FINISHED

    play(scenario())


def test_rate_is_kept() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=EngineSettings(scrub_rate_bytes_per_s=64 * KIB))
        target = await begun(cluster)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        report = await scrubbed(target)
        least_s = report.bytes_read / (64 * KIB)
        assert report.bytes_read == 200 * BLOCK_BYTES
        assert least_s - 2 <= loop.time() - began_s <= 2 * least_s

    play(scenario())


def test_member_that_leaves_meanwhile_is_missed_and_the_others_are_compared() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=EngineSettings(scrub_rate_bytes_per_s=128 * KIB))
        target = await begun(cluster)
        cluster.replicas[0].rotten_blocks = {180}
        assert target.engine.scrubs.start()
        await asyncio.sleep(1)
        cluster.replicas[2].kill()
        report = await ended(target)
        assert report.state == control_pb2.SCRUB_STATE_FINISHED
        assert (report.repaired, report.unrepaired) == (1, 0)
        assert report.members[2].blocks_missed > 0
        done = [member.blocks_done + member.blocks_missed for member in report.members]
        assert done == [1 << 16] * 3

    play(scenario())


def test_without_a_quorum_it_waits_and_goes_on_with_one() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=EngineSettings(scrub_rate_bytes_per_s=128 * KIB))
        target = await begun(cluster)
        assert target.engine.scrubs.start()
        await asyncio.sleep(1)
        for replica in cluster.replicas[:2]:
            replica.kill()
        await asyncio.sleep(300)
        assert target.engine.scrubs.is_running
        for replica in cluster.replicas[:2]:
            replica.restart()
        assert (await ended(target)).state == control_pb2.SCRUB_STATE_FINISHED

    play(scenario())


def test_scrub_of_a_target_that_was_replaced_ends_with_a_sentence() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=EngineSettings(scrub_rate_bytes_per_s=64 * KIB))
        target = await begun(cluster)
        assert target.engine.scrubs.start()
        await asyncio.sleep(1)
        await cluster.serving_target()
        report = await ended(target)
        assert report.state == control_pb2.SCRUB_STATE_FAILED
        assert "serves the volume no more" in report.reason
        with pytest.raises(UnavailableError, match="not open"):
            target.engine.scrubs.start()

    play(scenario())


def test_another_source_is_taken_where_one_gives_nothing() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await begun(cluster)
        first, second, third = cluster.replicas
        first.rotten_blocks, second.repairs_fail = {5}, True
        report = await scrubbed(target)
        assert not first.rotten_blocks
        assert (report.mismatches, report.repaired) == (1, 1)
        assert "source" in third.asked

    play(scenario())


def test_repair_that_is_refused_is_told_and_tried_by_the_next_scrub() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await begun(cluster)
        first = cluster.replicas[0]
        first.rotten_blocks, first.repairs_fail = {5}, True
        report = await scrubbed(target)
        assert (report.mismatches, report.unrepaired) == (1, 1)
        (facts,) = told(cluster, "blocks_unrepaired")
        assert "gives nothing" in str(facts["reason"])
        first.repairs_fail = False
        assert (await scrubbed(target)).repaired == 1

    play(scenario())


def test_scrubs_begin_by_the_clock_where_that_is_set() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=EngineSettings(scrub_every_s=3600))
        target = await begun(cluster)
        assert target.engine.scrubs.report() is None
        await asyncio.sleep(650)
        report = target.engine.scrubs.report()
        assert report is not None
        assert report.state == control_pb2.SCRUB_STATE_FINISHED
        await asyncio.sleep(10_000)
        assert len(told(cluster, "scrub_finished")) == 3
        await target.engine.close()

    play(scenario(), 20_000)
