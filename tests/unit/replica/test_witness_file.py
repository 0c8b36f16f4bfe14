"""A witness and its file: what it takes, what it keeps, and what it says when it cannot."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cstor_core.errors import (
    CorruptError,
    FencedError,
    ForeignReplicaError,
    InputError,
    NoSpaceError,
    UnknownVolumeError,
)
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.limits import LEASE_S
from cstor_core.words import history_from
from replica.errors import OrderError
from replica.witness_file import Held
from replica.witness_host import WitnessHost
from tests.unit.store.memory_files import Killed, MemoryFilesystem
from tests.unit.volume.hand_clock import HandClock

DIRECTORY = Path("/witness")
MARKS = Path("/run/marks")
VOLUME = "00000000-0000-0000-0000-0000000000c5"
A, B = "replica-a", "replica-b"
IDENTITY = volume_pb2.VolumeIdentity(volume_uuid=VOLUME, name="vol", size_bytes=1 << 20)
MEMBERS = [volume_pb2.Member(replica_uuid=uuid, address=f"{uuid}:1") for uuid in (A, B)]


class World:
    """A machine with a directory of witnesses."""

    def __init__(self) -> None:
        self.files = MemoryFilesystem()
        self.clock = HandClock()
        self.boots = 1
        self.uuids = 0
        self.host: WitnessHost

    def boot(self) -> None:
        """The machine loses power; the directory of marks lives as long as the boot."""
        self.files.lose_power()
        self.boots += 1
        for path in [path for path in self.files.inodes if path.parent == MARKS]:
            del self.files.inodes[path]

    async def open(self, before: Callable[[str], None] = lambda call: None) -> WitnessHost:
        """Start the daemon, after whatever ended it; `before` may fail its calls."""
        self.files.restart()
        self.files.before = before
        self.host = await WitnessHost.open(
            self.files,
            DIRECTORY,
            clock=self.clock,
            new_uuid=self._new_uuid,
            boot_id=f"boot-{self.boots}",
            marks=MARKS,
        )
        return self.host

    def _new_uuid(self) -> str:
        self.uuids += 1
        return f"witness-{self.uuids}"

    async def founded(self) -> WitnessHost:
        """With the witness of one founded volume."""
        host = await self.open()
        await host.create_replica(replica_pb2.CreateReplicaRequest(identity=IDENTITY))
        await host.found_replica(
            replica_pb2.FoundReplicaRequest(volume_uuid=VOLUME, configuration=configuration(host))
        )
        return host

    @property
    def held(self) -> Held:
        """What it holds of the volume."""
        return self.host.nodes[VOLUME].file.held


def uuid_of(host: WitnessHost) -> str:
    return host.nodes[VOLUME].file.replica_uuid


def configuration(host: WitnessHost, number: int = 1) -> volume_pb2.Configuration:
    witness = volume_pb2.Member(replica_uuid=uuid_of(host), address="w:1", witness=True)
    return volume_pb2.Configuration(number=number, members=[*MEMBERS, witness])


async def promise(host: WitnessHost, epoch: int, instance: str = "t") -> bool:
    answer = await host.promise(
        replica_pb2.PromiseRequest(
            volume_uuid=VOLUME,
            replica_uuid=uuid_of(host),
            epoch=epoch,
            target_instance=instance,
        )
    )
    return answer.promised


def orders(host: WitnessHost, epoch: int, instance: str = "t") -> replica_pb2.Orders:
    return replica_pb2.Orders(
        volume_uuid=VOLUME, replica_uuid=uuid_of(host), epoch=epoch, target_instance=instance
    )


def word(
    host: WitnessHost, epoch: int, number: int, out_of_date: str, record_seq: int = 10
) -> replica_pb2.AttestRequest:
    return replica_pb2.AttestRequest(
        orders=orders(host, epoch),
        number=number,
        record_seq=record_seq,
        configuration=configuration(host),
        out_of_date_replica_uuid=out_of_date,
    )


async def test_it_holds_what_it_was_told_last_over_restarts_and_losses_of_power() -> None:
    world = World()
    host = await world.founded()
    assert await promise(host, 3)
    report = (await host.attest(word(host, 3, 1, B))).replica
    assert report.witness
    assert history_from(report.history).end == (history_from(report.history).reigns[0])
    assert (report.history.reigns[0].epoch, report.history.reigns[0].last_seq) == (3, 10)
    mark = report.out_of_date_mark
    assert (mark.epoch, mark.number, mark.replica_uuid) == (3, 1, B)
    before = world.held
    host = await world.open()
    assert world.held == before
    world.files.lose_power()
    world.boots += 1
    host = await world.open()
    assert world.held == before
    report = (await host.inquire(replica_pb2.InquireRequest(volume="vol"))).replica
    assert (report.state, report.short) == (replica_pb2.REPLICA_STATE_COMPLETE, False)


async def test_late_words_are_refused_and_the_same_one_again_is_not() -> None:
    world = World()
    host = await world.founded()
    await promise(host, 3)
    await host.attest(word(host, 3, 2, B))
    await host.attest(word(host, 3, 2, B))
    for number, out_of_date in ((1, B), (1, ""), (2, "")):
        with pytest.raises(OrderError, match="came behind word 2"):
            await host.attest(word(host, 3, number, out_of_date))
    await host.attest(word(host, 3, 3, ""))
    with pytest.raises(OrderError, match="came behind word 3"):
        await host.attest(word(host, 3, 2, B))
    assert world.held.out_of_date == ""
    await promise(host, 4)
    await host.attest(word(host, 4, 1, A))  # numbers begin anew with an epoch
    assert (world.held.record_epoch, world.held.number, world.held.out_of_date) == (4, 1, A)


async def test_words_of_lower_epochs_and_of_other_targets_are_refused() -> None:
    host = await World().founded()
    await promise(host, 3)
    await promise(host, 4, "u")
    with pytest.raises(FencedError):
        await host.attest(word(host, 3, 1, B))
    with pytest.raises(FencedError):
        await host.attest(word(host, 4, 1, B))
    assert not await promise(host, 4, "t")
    assert not await promise(host, 2, "t")


async def test_what_cannot_be_is_refused_with_a_sentence() -> None:
    host = await World().founded()
    await promise(host, 3)
    for request in (
        word(host, 3, 0, B),
        word(host, 3, 1, B, record_seq=0),
        word(host, 3, 1, "somebody"),
        word(host, 3, 1, uuid_of(host)),
    ):
        with pytest.raises(InputError, match="which of those with data is out of date"):
            await host.attest(request)
    stranger = word(host, 3, 1, B)
    stranger.orders.replica_uuid = "somebody"
    with pytest.raises(ForeignReplicaError, match="a wiped witness is a new one"):
        await host.attest(stranger)
    with pytest.raises(UnknownVolumeError):
        await host.inquire(replica_pb2.InquireRequest(volume="other"))
    other = volume_pb2.VolumeIdentity(
        volume_uuid=VOLUME.replace("c5", "c6"), name="vol", size_bytes=1 << 20
    )
    with pytest.raises(InputError, match="already"):
        await host.create_replica(replica_pb2.CreateReplicaRequest(identity=other))
    without = volume_pb2.Configuration(number=1, members=MEMBERS)
    with pytest.raises(InputError, match="must name one witness"):
        await host.found_replica(
            replica_pb2.FoundReplicaRequest(volume_uuid=VOLUME, configuration=without)
        )
    with pytest.raises(ForeignReplicaError, match="another configuration"):
        await host.found_replica(
            replica_pb2.FoundReplicaRequest(
                volume_uuid=VOLUME, configuration=configuration(host, number=2)
            )
        )


async def test_lease_is_given_to_whom_it_has_promised_itself_and_told_to_the_next() -> None:
    world = World()
    host = await world.founded()
    await promise(host, 3)
    asked = replica_pb2.LeaseRequest(orders=orders(host, 3), duration_ms=4000)
    assert (await host.lease(asked)).granted
    request = replica_pb2.PromiseRequest(
        volume_uuid=VOLUME, replica_uuid=uuid_of(host), epoch=4, target_instance="u"
    )
    assert (await host.promise(request)).lease_left_ms == LEASE_S * 1000
    answer = await host.lease(asked)
    assert (answer.granted, answer.promised_epoch) == (False, 4)
    world.clock.now_s += LEASE_S
    host = await world.open()  # it may have given one before it ended
    request.epoch, request.target_instance = 5, "v"
    assert (await host.promise(request)).lease_left_ms == LEASE_S * 1000


async def test_killed_anywhere_it_holds_the_old_or_the_new_and_never_less_than_was_answered() -> (
    None
):
    steps: list[Callable[[WitnessHost], Awaitable[object]]] = [
        lambda host: promise(host, 3),
        lambda host: host.attest(word(host, 3, 1, B)),
        lambda host: host.attest(word(host, 3, 2, "")),
        lambda host: host.attest(word(host, 3, 3, A)),
    ]
    killed_at = 0
    for loses_power in (False, True):
        for step in range(len(steps)):
            calls = 0
            while True:
                world = World()
                host = await world.founded()
                for done in steps[:step]:
                    await done(host)
                before, left = world.held, calls

                def count(_call: str, world: World = world) -> None:
                    nonlocal left
                    left -= 1
                    if left < 0:
                        raise Killed

                world.files.before = count
                try:
                    await steps[step](host)
                    break
                except Killed:
                    killed_at += 1
                if loses_power:
                    world.files.lose_power()
                    world.boots += 1
                expected = World()
                fresh = await expected.founded()
                for done in steps[: step + 1]:
                    await done(fresh)
                await world.open()
                assert world.held in (before, expected.held)
                calls += 1
            world.files.before = lambda call: None
            after = world.held
            world.files.lose_power()
            world.boots += 1
            await world.open()
            assert world.held == after
    assert killed_at > 30


async def test_failed_flush_ends_it_until_its_machine_is_booted_anew() -> None:
    world = World()
    host = await world.founded()
    await promise(host, 3)

    def fail(call: str) -> None:
        if call == "datasync":
            world.files.before = lambda call: None
            raise OSError(errno.EIO, "Input/output error")

    world.files.before = fail
    with pytest.raises(CorruptError, match="could not be written: Input/output error"):
        await host.attest(word(host, 3, 1, B))
    for _ in range(2):
        node = world.host.nodes[VOLUME]
        assert node.report().state == replica_pb2.REPLICA_STATE_FAILED
        assert "Input/output error" in node.report().reason
        with pytest.raises(CorruptError):
            await promise(world.host, 4)
        with pytest.raises(CorruptError):
            await world.host.lease(
                replica_pb2.LeaseRequest(orders=orders(world.host, 3), duration_ms=1)
            )
        await world.open()
    world.boots += 1
    host = await world.open()
    assert host.nodes[VOLUME].state() == replica_pb2.REPLICA_STATE_COMPLETE
    assert (world.held.promised_epoch, world.held.out_of_date) == (3, "")
    assert await promise(host, 4)


async def test_wherever_its_disk_fails_it_never_holds_less_than_it_answered() -> None:
    failed_at = set()
    for is_marked in (True, False):
        for failing in range(20):
            world = World()
            host = await world.founded()
            await promise(host, 3)
            before, calls = world.held, iter(range(1000))

            def fail(
                call: str,
                world: World = world,
                calls: Iterator[int] = calls,
                failing: int = failing,
                is_marked: bool = is_marked,
            ) -> None:
                if next(calls) >= failing:
                    if is_marked:
                        world.files.before = lambda call: None
                    failed_at.add(call)
                    raise OSError(errno.EIO, "Input/output error")

            world.files.before = fail
            try:
                await host.attest(word(host, 3, 1, B))
                break
            except CorruptError as error:
                was_marked = "could not be marked so" not in str(error)
            assert was_marked == is_marked
            world.files.before = lambda call: None
            with pytest.raises(CorruptError):
                await promise(world.host, 4)
            host = await world.open()
            if is_marked:
                assert host.nodes[VOLUME].report().state == replica_pb2.REPLICA_STATE_FAILED
                world.boot()
                host = await world.open()
            assert host.nodes[VOLUME].state() == replica_pb2.REPLICA_STATE_COMPLETE
            assert world.held == before or world.held.out_of_date == B
            after = world.held
            world.boot()
            await world.open()
            assert world.held == after
    assert {"datasync", "sync_directory", "rename"} <= failed_at


async def test_disk_that_fails_while_its_daemon_starts_ends_it() -> None:
    world = World()
    await world.founded()

    def fail(call: str) -> None:
        if call == "datasync":
            world.files.before = lambda call: None
            raise OSError(errno.EIO, "Input/output error")

    for before in (fail, lambda call: None):
        host = await world.open(before)
        report = (await host.inquire(replica_pb2.InquireRequest(volume=VOLUME))).replica
        assert report.state == replica_pb2.REPLICA_STATE_FAILED
        assert "Input/output error" in report.reason


async def test_full_disk_is_said_and_passes() -> None:
    world = World()
    host = await world.founded()
    await promise(host, 3)

    def full(call: str) -> None:
        if call == "create":
            raise OSError(errno.ENOSPC, "No space left on device")

    world.files.before = full
    with pytest.raises(NoSpaceError, match="free some space"):
        await host.attest(word(host, 3, 1, B))
    with pytest.raises(NoSpaceError):
        await promise(host, 4)
    world.files.before = lambda call: None
    await host.attest(word(host, 3, 1, B))
    assert world.held.out_of_date == B


async def test_damaged_file_is_said_and_is_replaced_by_a_new_witness() -> None:
    world = World()
    host = await world.founded()
    first = uuid_of(host)
    content = world.files.inodes[DIRECTORY / f"{VOLUME}.witness"].content
    content[30] ^= 1
    host = await world.open()
    assert host.nodes == {}
    request = replica_pb2.InquireRequest(volume=VOLUME)
    for ask in (
        lambda: host.inquire(request),
        lambda: host.create_replica(replica_pb2.CreateReplicaRequest(identity=IDENTITY)),
    ):
        with pytest.raises(CorruptError, match=r"its checksum does not match.*as a new one"):
            await ask()
    (listed,) = (await host.describe_pool(replica_pb2.DescribePoolRequest())).replicas
    assert listed.state == replica_pb2.REPLICA_STATE_FAILED
    await host.delete_replica(replica_pb2.DeleteReplicaRequest(volume_uuid=VOLUME))
    await host.create_replica(replica_pb2.CreateReplicaRequest(identity=IDENTITY))
    assert uuid_of(host) != first


async def test_directory_of_replicas_or_of_somebody_else_is_left_alone() -> None:
    world = World()
    await world.founded()
    with pytest.raises(InputError, match="in use"):
        await WitnessHost.open(
            world.files,
            DIRECTORY,
            clock=world.clock,
            new_uuid=str,
            boot_id="b",
            marks=MARKS,
        )
    for name, words in (("pool", "without --witness"), ("letters", "not empty")):
        world = World()
        world.files.make_directory(DIRECTORY)
        world.files.open(DIRECTORY / name, create=True)
        with pytest.raises(InputError, match=words):
            await world.open()
