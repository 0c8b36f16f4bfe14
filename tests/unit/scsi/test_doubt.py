"""What initiators are told where an opening could not prove that nothing was lost."""

from __future__ import annotations

from cstor_target.scsi import cdb
from cstor_target.scsi.requests import Status
from cstor_target.scsi.sense import Sense
from tests.unit.scsi.ram_disk import RamDisk, sense_of

TEST_UNIT_READY = cdb.TEST_UNIT_READY.build()
SYNCHRONIZE_CACHE = cdb.SYNCHRONIZE_CACHE_10.build()
WRITE = cdb.WRITE_10.build(transfer_length=1)


class Doubted:
    """A disk in doubt, and how often it has heard that all have been told."""

    def __init__(self) -> None:
        self.disk = RamDisk()
        self.told = 0
        self.disk.device.doubted(self._told)

    def _told(self) -> None:
        self.told += 1

    def log_in(self, nexus: str) -> None:
        """Establish a nexus, which takes its unit attention."""
        self.disk.device.nexus_established(nexus)
        outcome = self.disk.run(TEST_UNIT_READY, nexus=nexus)
        assert sense_of(outcome) is Sense.POWER_ON_OCCURRED

    def flush(self, nexus: str) -> bool:
        """Whether a flush succeeds; it fails with the one sense."""
        outcome = self.disk.run(SYNCHRONIZE_CACHE, nexus=nexus)
        if outcome.status is not Status.GOOD:
            assert sense_of(outcome) is Sense.WRITE_ERROR_OF_THE_HARDWARE
        return outcome.status is Status.GOOD


def test_first_flush_of_every_nexus_fails_and_no_other_command_does() -> None:
    doubted = Doubted()
    for nexus in ("a", "b"):
        doubted.log_in(nexus)
        assert doubted.disk.run(WRITE, bytes(512), nexus=nexus).status is Status.GOOD
    assert [doubted.flush(nexus) for nexus in "abab"] == [False, False, True, True]


def test_it_is_told_when_everybody_who_is_there_has_been_told() -> None:
    doubted = Doubted()
    doubted.log_in("a")
    doubted.log_in("b")
    assert not doubted.flush("a")
    assert doubted.told == 0
    assert not doubted.flush("b")
    assert doubted.told == 1
    doubted.log_in("late")
    assert not doubted.flush("late")
    assert doubted.told == 1


def test_who_leaves_without_a_flush_has_not_been_told_and_holds_nobody_up() -> None:
    doubted = Doubted()
    doubted.log_in("a")
    doubted.disk.device.nexus_lost("a")
    assert doubted.told == 0
    doubted.log_in("b")
    doubted.log_in("c")
    assert not doubted.flush("b")
    doubted.disk.device.nexus_lost("c")
    assert doubted.told == 1


def test_flush_that_is_no_flush_does_not_count() -> None:
    doubted = Doubted()
    doubted.log_in("a")
    beyond = cdb.SYNCHRONIZE_CACHE_16.build(logical_block_address=1 << 40)
    outcome = doubted.disk.run(beyond, nexus="a")
    assert sense_of(outcome) is Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE
    assert not doubted.flush("a")
