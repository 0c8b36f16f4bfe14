"""A removable medium: START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL and what needs a medium."""

from __future__ import annotations

import pytest

from cstor_target.scsi import cdb
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.commands import COMMANDS
from cstor_target.scsi.parameters import Parameters
from cstor_target.scsi.requests import Flush, Status
from cstor_target.scsi.sense import Sense
from cstor_target.volume.backing import Failure
from tests.unit.scsi.ram_disk import RamDisk, field_of, sense_of

EJECT = cdb.START_STOP_UNIT.build(loej=1)
LOAD = cdb.START_STOP_UNIT.build(loej=1, start=1)
READY = cdb.TEST_UNIT_READY.build()
WITHOUT = frozenset(bytes.fromhex("03 12 15 16 17 1a 1b 1e 4d 55 56 57 5a 5e 5f 83 84 9e a0 a3 a4"))
"""Operation codes that need no medium; of 9E one of the service actions does."""


def removable() -> RamDisk:
    disk = RamDisk()
    for nexus in ("n", "other"):
        disk.device.nexus_established(nexus)
        disk.run(READY, b"", nexus)
    disk.device.parameters_changed(Parameters(is_removable=True))
    for nexus in ("n", "other"):
        assert sense_of(disk.run(READY, b"", nexus)) is Sense.INQUIRY_DATA_HAS_CHANGED
        assert disk.run(READY, b"", nexus).status is Status.GOOD
    return disk


def test_inquiry_says_whether_it_is_removable() -> None:
    asked = cdb.INQUIRY.build(allocation_length=96)
    assert RamDisk().good(asked)[1] == 0
    assert removable().good(asked)[1] == 0x80


def test_a_medium_is_ejected_behind_a_flush_and_loaded_again() -> None:
    disk = removable()
    for _ in range(2):
        disk.good(EJECT)
        assert sense_of(disk.run(READY)) is Sense.MEDIUM_NOT_PRESENT
    assert [type(one) for one in disk.asked] == [Flush]
    asked = cdb.REQUEST_SENSE.build(allocation_length=18)
    assert disk.good(asked)[2:14:10] == bytes([2, 0x3A])
    disk.good(LOAD)
    disk.good(LOAD)
    assert disk.run(READY).status is Status.GOOD
    told = sense_of(disk.run(READY, b"", "other"))
    assert told is Sense.NOT_READY_TO_READY_CHANGE_MEDIUM_MAY_HAVE_CHANGED
    assert disk.run(READY, b"", "other").status is Status.GOOD


def test_a_medium_whose_cache_cannot_be_flushed_stays() -> None:
    disk = removable()
    disk.failure = Failure.BUSY
    assert disk.run(EJECT).status is Status.BUSY
    assert disk.run(READY).status is Status.GOOD


@pytest.mark.parametrize(
    "layout", [one.layout for one in COMMANDS], ids=lambda layout: str(layout.name)
)
def test_what_needs_a_medium_says_that_there_is_none(layout: Cdb) -> None:
    disk = removable()
    disk.good(EJECT)
    outcome = disk.run(layout.build(), bytes(512))
    needs = layout.operation_code not in WITHOUT or layout in (
        cdb.READ_CAPACITY_16,
        cdb.GET_LBA_STATUS,
    )
    is_absent = outcome.status is Status.CHECK_CONDITION and (
        sense_of(outcome) is Sense.MEDIUM_NOT_PRESENT
    )
    assert is_absent is needs


def prevent(disk: RamDisk, prevented: int, nexus: str = "n") -> None:
    built = cdb.PREVENT_ALLOW_MEDIUM_REMOVAL.build(prevent=prevented)
    assert disk.run(built, b"", nexus).status is Status.GOOD


def test_nobody_ejects_what_anybody_wants_to_stay() -> None:
    disk = removable()
    prevent(disk, 1)
    prevent(disk, 1, "other")
    for nexus in ("n", "other"):
        assert sense_of(disk.run(EJECT, b"", nexus)) is Sense.MEDIUM_REMOVAL_PREVENTED
    assert disk.run(READY).status is Status.GOOD
    prevent(disk, 0)
    assert sense_of(disk.run(EJECT)) is Sense.MEDIUM_REMOVAL_PREVENTED
    disk.device.nexus_lost("other")
    disk.good(EJECT)
    prevent(disk, 1)
    assert sense_of(disk.run(LOAD)) is Sense.MEDIUM_REMOVAL_PREVENTED
    prevent(disk, 0)
    disk.good(LOAD)


def test_a_reset_lets_it_be_ejected() -> None:
    disk = removable()
    prevent(disk, 1)
    disk.device.reset("n")
    disk.run(READY)
    disk.good(EJECT)
    assert sense_of(disk.run(READY)) is Sense.MEDIUM_NOT_PRESENT


def test_whoever_wants_it_to_stay_while_it_is_being_ejected_is_heard() -> None:
    disk = removable()
    step = disk.device.start("n", 0, EJECT)
    assert isinstance(step, Flush)
    prevent(disk, 1, "other")
    assert step.finish is not None
    outcome = step.finish(None)
    assert not isinstance(outcome, Flush)
    assert disk.run(READY).status is Status.GOOD


def test_what_is_not_removable_any_more_is_there() -> None:
    disk = removable()
    disk.good(EJECT)
    disk.device.parameters_changed(Parameters())
    assert sense_of(disk.run(READY)) is Sense.INQUIRY_DATA_HAS_CHANGED
    assert disk.run(READY).status is Status.GOOD
    outcome = disk.run(EJECT)
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == (4, 1)
