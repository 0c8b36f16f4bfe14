"""A read-only volume: the WP bit (SBC-3, 6.5), and DATA PROTECT for whatever would write."""

from __future__ import annotations

import pytest

from cstor_target.scsi import cdb
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.commands import COMMANDS
from cstor_target.scsi.parameters import Parameters
from cstor_target.scsi.requests import Status, Unmap, Update, Write
from cstor_target.scsi.sense import Sense
from cstor_target.volume.backing import Failure
from tests.unit.scsi.ram_disk import RamDisk, sense_of

BLOCK = bytes(512)
WRITING = frozenset(bytes.fromhex("0a 2a 8a aa 2e 8e ae 41 93 42 8b 89 9c"))


def protected() -> RamDisk:
    disk = RamDisk()
    disk.device.nexus_established("n")
    disk.device.parameters_changed(Parameters(read_only=True))
    assert sense_of(disk.run(cdb.TEST_UNIT_READY.build())).name.startswith("POWER_ON")
    assert sense_of(disk.run(cdb.TEST_UNIT_READY.build())) is Sense.MODE_PARAMETERS_CHANGED
    return disk


def test_mode_sense_says_that_it_is_write_protected() -> None:
    disk = protected()
    assert disk.good(cdb.MODE_SENSE_6.build(page_code=8, allocation_length=255))[2] == 0x90
    assert disk.good(cdb.MODE_SENSE_10.build(page_code=8, allocation_length=255))[3] == 0x90
    assert RamDisk().good(cdb.MODE_SENSE_6.build(page_code=8, allocation_length=255))[2] == 0x10


@pytest.mark.parametrize(
    "layout", [one.layout for one in COMMANDS], ids=lambda layout: str(layout.operation_code)
)
def test_no_command_writes(layout: Cdb) -> None:
    disk = protected()
    outcome = disk.run(layout.build(), BLOCK)
    assert not [one for one in disk.asked if isinstance(one, Write | Update | Unmap)]
    if layout.operation_code in WRITING:
        assert sense_of(outcome) is Sense.WRITE_PROTECTED


def test_reads_and_flushes_go_on() -> None:
    disk = protected()
    assert disk.good(cdb.READ_10.build(transfer_length=1)) == BLOCK
    assert disk.run(cdb.SYNCHRONIZE_CACHE_10.build()).status is Status.GOOD


def test_a_write_that_the_volume_refuses_ends_the_same_way() -> None:
    disk = RamDisk()
    disk.failure = Failure.READ_ONLY
    outcome = disk.run(cdb.WRITE_10.build(transfer_length=1), BLOCK)
    assert sense_of(outcome) is Sense.WRITE_PROTECTED
