"""SANITIZE: what is asked of the volume, and what commands meet meanwhile."""

from __future__ import annotations

import struct

import pytest

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.scsi import cdb
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.parameters import Parameters
from cstor_target.scsi.requests import Sanitize, Status
from cstor_target.scsi.sense import Sense
from cstor_target.volume.backing import Failure
from tests.unit.scsi.ram_disk import RamDisk, field_of, sense_of

UNDER_WAY = volume_pb2.Sanitization(state=volume_pb2.SANITIZATION_STATE_UNDER_WAY)
FAILED = volume_pb2.Sanitization(state=volume_pb2.SANITIZATION_STATE_FAILED)
LEAVABLE = volume_pb2.Sanitization(
    state=volume_pb2.SANITIZATION_STATE_FAILED, unrestricted_exit=True
)
ERASE, OVERWRITE, EXIT = (
    cdb.SANITIZE_BLOCK_ERASE,
    cdb.SANITIZE_OVERWRITE,
    cdb.SANITIZE_EXIT_FAILURE_MODE,
)
SANITIZE_CRYPTO_ERASE = bytes.fromhex("4803") + bytes(14)


def pattern_of(flags: int, pattern: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BxH", flags, len(pattern) if length is None else length) + pattern


def overwrite(parameters: bytes, **bits: int) -> bytes:
    return OVERWRITE.build(parameter_list_length=len(parameters), **bits)


def asked(disk: RamDisk) -> Sanitize:
    (request,) = disk.asked
    assert isinstance(request, Sanitize)
    return request


@pytest.mark.parametrize("immed", [0, 1])
@pytest.mark.parametrize("ause", [0, 1])
def test_a_block_erase_waits_for_its_end_unless_told_otherwise(immed: int, ause: int) -> None:
    disk = RamDisk()
    disk.good(ERASE.build(immed=immed, ause=ause))
    request = asked(disk)
    assert request.waits is not bool(immed)
    assert request.wanted == volume_pb2.Sanitization(unrestricted_exit=bool(ause))


@pytest.mark.parametrize(
    ("flags", "pattern", "expected"),
    [
        (0x01, b"\xa7", b"\xa7" * 512),
        (0x1F, b"\xa7", b"\xa7" * 512),
        (0x83, b"\xa7\x01", b"\xa7\x01" * 256),
        (0x82, b"\xa7\x01", b"\x58\xfe" * 256),
        (0x01, b"abc", (b"abc" * 171)[:512]),
        (0x01, bytes(range(256)) * 2, bytes(range(256)) * 2),
    ],
)
def test_every_logical_block_is_to_hold_what_the_last_pass_leaves(
    flags: int, pattern: bytes, expected: bytes
) -> None:
    disk = RamDisk()
    disk_out = pattern_of(flags, pattern)
    disk.good(overwrite(disk_out), disk_out)
    wanted = asked(disk).wanted
    assert wanted is not None
    assert wanted.logical_block == expected


@pytest.mark.parametrize(
    ("parameters", "sense"),
    [
        (b"", Sense.INVALID_FIELD_IN_CDB),
        (pattern_of(1, b""), Sense.INVALID_FIELD_IN_CDB),
        (pattern_of(1, bytes(513)), Sense.INVALID_FIELD_IN_CDB),
        (pattern_of(0, b"a"), Sense.INVALID_FIELD_IN_PARAMETER_LIST),
        (pattern_of(0x21, b"a"), Sense.INVALID_FIELD_IN_PARAMETER_LIST),
        (pattern_of(1, b"a", 0), Sense.INVALID_FIELD_IN_PARAMETER_LIST),
        (pattern_of(1, b"a", 2), Sense.INVALID_FIELD_IN_PARAMETER_LIST),
    ],
)
def test_a_pattern_that_cannot_be_is_refused(parameters: bytes, sense: Sense) -> None:
    disk = RamDisk()
    assert sense_of(disk.run(overwrite(parameters), parameters)) is sense
    assert disk.asked == []


def test_a_parameter_list_that_was_not_all_sent_is_refused() -> None:
    disk = RamDisk()
    parameters = pattern_of(1, b"abcd")
    outcome = disk.run(overwrite(parameters), parameters[:6])
    assert sense_of(outcome) is Sense.PARAMETER_LIST_LENGTH_ERROR


@pytest.mark.parametrize("layout", [ERASE, EXIT], ids=lambda layout: str(layout.name))
def test_nothing_comes_with_an_erase(layout: Cdb) -> None:
    outcome = RamDisk().run(layout.build(parameter_list_length=4), bytes(4))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == (7, 7)


def test_a_crypto_erase_and_zones_are_refused() -> None:
    disk = RamDisk()
    assert sense_of(disk.run(SANITIZE_CRYPTO_ERASE)) is Sense.INVALID_FIELD_IN_CDB
    zoned = bytearray(ERASE.build())
    zoned[1] |= 0x40
    assert field_of(disk.run(bytes(zoned))) == (1, 6)


def test_everything_but_a_few_commands_meets_what_is_under_way() -> None:
    disk = RamDisk()
    unit = disk.device.unit
    unit.sanitization_changed(UNDER_WAY)
    unit.sanitize_progress = lambda: 0.25
    for built in (cdb.READ_10.build(), cdb.TEST_UNIT_READY.build(), ERASE.build(), EXIT.build()):
        outcome = disk.run(built)
        assert sense_of(outcome) is Sense.SANITIZE_IN_PROGRESS
        assert outcome.sense[15:18] == bytes.fromhex("804000")
    assert disk.asked == []
    disk.good(cdb.INQUIRY.build(allocation_length=36))
    disk.good(cdb.REPORT_LUNS.build(allocation_length=16))
    for desc, at in ((0, 15), (1, 12)):
        sense = disk.good(cdb.REQUEST_SENSE.build(allocation_length=252, desc=desc))
        assert sense[at : at + 3] == bytes.fromhex("804000")
    unit.sanitization_changed(volume_pb2.Sanitization())
    disk.good(cdb.TEST_UNIT_READY.build())


def test_progress_never_says_more_than_all() -> None:
    disk = RamDisk()
    disk.device.unit.sanitization_changed(UNDER_WAY)
    disk.device.unit.sanitize_progress = lambda: 1.0
    assert disk.run(cdb.TEST_UNIT_READY.build()).sense[15:18] == bytes.fromhex("80ffff")


def test_after_a_failure_only_another_one_goes_on() -> None:
    disk = RamDisk()
    unit = disk.device.unit
    unit.sanitization_changed(FAILED)
    assert sense_of(disk.run(cdb.READ_10.build())) is Sense.SANITIZE_COMMAND_FAILED
    outcome = disk.run(EXIT.build())
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    disk.good(ERASE.build())
    unit.sanitization_changed(LEAVABLE)
    disk.asked.clear()
    disk.good(EXIT.build())
    assert asked(disk).wanted is None


@pytest.mark.parametrize(
    ("failure", "sense"),
    [
        (Failure.SPACE, Sense.SANITIZE_COMMAND_FAILED),
        (Failure.SNAPSHOTS, Sense.COMMAND_SEQUENCE_ERROR),
        (Failure.SANITIZING, Sense.SANITIZE_IN_PROGRESS),
    ],
)
def test_why_the_volume_did_not_do_it_is_said(failure: Failure, sense: Sense) -> None:
    disk = RamDisk()
    disk.failure = failure
    assert sense_of(disk.run(ERASE.build())) is sense
    disk.failure = Failure.BUSY
    assert disk.run(ERASE.build()).status is Status.BUSY


def test_a_write_protected_unit_is_not_sanitized() -> None:
    disk = RamDisk()
    disk.device.parameters_changed(Parameters(read_only=True))
    assert sense_of(disk.run(ERASE.build())) is Sense.WRITE_PROTECTED
    assert disk.asked == []
