"""UNMAP and WRITE SAME."""

from __future__ import annotations

import struct

import pytest

from cstor_target.scsi import cdb
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.geometry import (
    PIECE_BYTES,
    UNMAP_BYTES_MAX,
    UNMAP_DESCRIPTORS_MAX,
    WRITE_SAME_BYTES_MAX,
)
from cstor_target.scsi.parameters import Parameters
from cstor_target.scsi.requests import Map, Outcome, Unmap, Write
from cstor_target.scsi.sense import Sense
from cstor_target.volume.backing import Failure
from tests.unit.scsi.ram_disk import RamDisk, field_of, sense_of

SAMES = [cdb.WRITE_SAME_10, cdb.WRITE_SAME_16]
each_same = pytest.mark.parametrize("layout", SAMES, ids=lambda layout: str(layout.name))
ZEROS = bytes(512)
ONES = b"\x01" * 512


def unmap_list(*descriptors: tuple[int, int]) -> bytes:
    body = b"".join(struct.pack(">QI4x", *descriptor) for descriptor in descriptors)
    return struct.pack(">HH4x", len(body) + 6, len(body)) + body


def unmap_cdb(parameters: bytes) -> bytes:
    return cdb.UNMAP.build(parameter_list_length=len(parameters))


def test_unmap_discards_exactly_its_extents() -> None:
    disk = RamDisk()
    disk.held[:] = b"\xff" * len(disk.held)
    parameters = unmap_list((1, 2), (100, 0), (8, 8))
    disk.good(unmap_cdb(parameters), parameters)
    assert disk.asked == [Unmap([(512, 1024), (4096, 4096)], False)]
    assert disk.held[:512] + disk.held[1536:4096] + disk.held[8192:] == b"\xff" * (
        len(disk.held) - 1024 - 4096
    )


def test_unmap_is_durable_without_a_write_cache() -> None:
    disk = RamDisk(write_cache=False)
    parameters = unmap_list((1, 2))
    disk.good(unmap_cdb(parameters), parameters)
    assert disk.asked == [Unmap([(512, 1024)], True)]


@pytest.mark.parametrize(
    "parameters", [b"", unmap_list(), unmap_list((0, 0)), unmap_list((2048, 0))]
)
def test_unmap_of_nothing_is_good(parameters: bytes) -> None:
    disk = RamDisk()
    disk.good(unmap_cdb(parameters), parameters)
    assert disk.asked == []


def test_unmap_with_an_extent_beyond_the_end_unmaps_nothing() -> None:
    disk = RamDisk()
    parameters = unmap_list((0, 8), (2040, 9))
    outcome = disk.run(unmap_cdb(parameters), parameters)
    assert sense_of(outcome) is Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE
    assert disk.asked == []


@pytest.mark.parametrize("length", range(1, 8))
def test_unmap_without_a_whole_header_is_refused(length: int) -> None:
    outcome = RamDisk().run(cdb.UNMAP.build(parameter_list_length=length), bytes(length))
    assert sense_of(outcome) is Sense.PARAMETER_LIST_LENGTH_ERROR


def test_unmap_ignores_an_incomplete_last_descriptor() -> None:
    disk = RamDisk()
    parameters = unmap_list((1, 1), (2, 1))[:-1]
    disk.good(unmap_cdb(parameters), parameters)
    assert disk.asked == [Unmap([(512, 512)], False)]


def test_unmap_takes_the_advertised_number_of_descriptors_and_no_more() -> None:
    disk = RamDisk()
    most = unmap_list(*((number, 1) for number in range(UNMAP_DESCRIPTORS_MAX)))
    disk.good(unmap_cdb(most), most)
    more = unmap_list(*((number, 1) for number in range(UNMAP_DESCRIPTORS_MAX + 1)))
    outcome = disk.run(unmap_cdb(more), more)
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_PARAMETER_LIST


def test_unmap_takes_the_advertised_number_of_blocks_and_no_more() -> None:
    disk = RamDisk()
    size_bytes = 4 * UNMAP_BYTES_MAX
    disk.device.unit.block_count = size_bytes // 512
    half = UNMAP_BYTES_MAX // 2 // 512
    most, more = unmap_list((0, half), (half, half)), unmap_list((0, half), (half, half + 1))
    step = disk.device.start("n", 0, unmap_cdb(most), [most])
    assert isinstance(step, Unmap)
    outcome = disk.run(unmap_cdb(more), more)
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_PARAMETER_LIST


@pytest.mark.parametrize("layout", [cdb.UNMAP, *SAMES], ids=lambda layout: str(layout.name))
def test_anchor_is_refused(layout: Cdb) -> None:
    outcome = RamDisk().run(layout.build(anchor=1), unmap_list((0, 1)))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == (1, 0 if layout is cdb.UNMAP else 4)


@each_same
@pytest.mark.parametrize("unmap", [0, 1])
def test_one_block_is_written_again_and_again(layout: Cdb, unmap: int) -> None:
    disk = RamDisk()
    built = layout.build(unmap=unmap, logical_block_address=2, number_of_logical_blocks=3)
    disk.good(built, [ONES[:10], ONES[10:]])
    assert disk.held == (bytes(1024) + ONES * 3).ljust(len(disk.held), b"\0")
    assert all(isinstance(request, Write) for request in disk.asked)


@each_same
def test_long_fills_are_bounded_pieces_that_cover_the_range_once(layout: Cdb) -> None:
    disk = RamDisk(4 * PIECE_BYTES)
    blocks = 2 * PIECE_BYTES // 512 + 3
    built = layout.build(logical_block_address=1, number_of_logical_blocks=blocks)
    disk.good(built, ONES)
    assert disk.held == (ZEROS + ONES * blocks).ljust(len(disk.held), b"\0")
    lengths = [len(one.data[0]) for one in disk.asked if isinstance(one, Write)]
    assert lengths == [PIECE_BYTES, PIECE_BYTES, 3 * 512]


@each_same
def test_zeros_with_the_unmap_bit_are_unmapped(layout: Cdb) -> None:
    disk = RamDisk()
    disk.held[:4096] = b"\xff" * 4096
    built = layout.build(unmap=1, logical_block_address=1, number_of_logical_blocks=3)
    disk.good(built, ZEROS)
    assert disk.asked == [Unmap(((512, 1536),), False)]


@each_same
def test_zeros_without_the_unmap_bit_are_written(layout: Cdb) -> None:
    disk = RamDisk()
    disk.good(layout.build(number_of_logical_blocks=3), ZEROS)
    assert [type(one) for one in disk.asked] == [Write]


@pytest.mark.parametrize("unmap", [0, 1])
def test_without_data_out_zeros_are_meant(unmap: int) -> None:
    disk = RamDisk()
    disk.held[:2048] = b"\xff" * 2048
    disk.good(cdb.WRITE_SAME_16.build(ndob=1, unmap=unmap, number_of_logical_blocks=2))
    assert disk.held[:2048] == bytes(1024) + b"\xff" * 1024
    assert [type(one) for one in disk.asked] == [Unmap if unmap else Write]


@each_same
@pytest.mark.parametrize("sent", [0, 256, 1024])
def test_anything_but_one_block_of_data_is_refused(layout: Cdb, sent: int) -> None:
    disk = RamDisk()
    outcome = disk.run(layout.build(unmap=1, number_of_logical_blocks=1), bytes(sent))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT
    assert disk.asked == []


@each_same
@pytest.mark.parametrize("blocks", [0, WRITE_SAME_BYTES_MAX // 512 + 1])
def test_too_many_blocks_are_refused(layout: Cdb, blocks: int) -> None:
    if blocks > 0xFFFF and layout.length == 10:
        blocks = 0
    disk = RamDisk()
    disk.device.unit.block_count = 1 << 32
    outcome = disk.run(layout.build(number_of_logical_blocks=blocks), ZEROS)
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == ({10: 7, 16: 10}[layout.length], 7)


@each_same
def test_the_range_is_looked_at_before_the_number_of_blocks(layout: Cdb) -> None:
    outcome = RamDisk().run(layout.build(logical_block_address=2049), ZEROS)
    assert sense_of(outcome) is Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE


@each_same
@pytest.mark.parametrize(
    "bits", [{"wrprotect": 1}, {"obsolete_pbdata": 1}, {"obsolete_lbdata": 1}], ids=str
)
def test_patterns_that_would_not_be_written_are_refused(layout: Cdb, bits: dict[str, int]) -> None:
    outcome = RamDisk().run(layout.build(number_of_logical_blocks=1, **bits), ZEROS)
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB


def test_a_fill_ends_with_the_first_piece_that_fails() -> None:
    disk = RamDisk(4 * PIECE_BYTES)
    disk.failure, disk.fail_after = Failure.SPACE, 1
    outcome = disk.run(
        cdb.WRITE_SAME_16.build(number_of_logical_blocks=3 * PIECE_BYTES // 512), ONES
    )
    assert sense_of(outcome) is Sense.SPACE_ALLOCATION_FAILED_WRITE_PROTECT
    assert len(disk.asked) == 2


def status_of(data: bytes) -> list[tuple[int, int, int]]:
    """The descriptors of GET LBA STATUS: address, blocks, status."""
    length, rest = int.from_bytes(data[:4], "big"), len(data) - 4
    assert length == rest
    return [found[:3] for found in struct.iter_unpack(">QIB3x", data[8:])]


def lba_status(first: int, allocation_length: int = 1024) -> bytes:
    return cdb.GET_LBA_STATUS.build(
        starting_logical_block_address=first, allocation_length=allocation_length
    )


def test_each_descriptor_says_whether_its_blocks_are_mapped() -> None:
    disk = RamDisk(1 << 14)
    disk.held[8 * 512 : 16 * 512] = ONES * 8
    assert status_of(disk.good(lba_status(0))) == [(0, 8, 1), (8, 8, 0), (16, 16, 1)]
    assert status_of(disk.good(lba_status(9))) == [(9, 7, 0), (16, 16, 1)]
    assert status_of(disk.good(lba_status(9, 24))) == [(9, 7, 0)]
    assert disk.good(lba_status(9, 10)) == disk.good(lba_status(9, 24))[:10]


def test_a_descriptor_says_no_more_than_its_field_has_room_for() -> None:
    disk = RamDisk()
    unit = disk.device.unit
    unit.block_count = 1 << 33
    step = unit.start("n", lba_status(8))
    assert isinstance(step, Map)
    assert (step.offset, step.length) == (4096, ((1 << 33) - 8) * 512)
    assert step.stretches_max == (1024 - 8) // 16
    ended = step.finish(None, [(True, 1 << 41), (False, 4096)])
    assert isinstance(ended, Outcome)
    assert status_of(b"".join(ended.data_in)) == [(8, 0xFFFF_FFFF, 0)]


def test_a_mapping_that_cannot_be_read_is_an_error() -> None:
    disk = RamDisk()
    disk.failure = Failure.MEDIUM_ERROR
    assert sense_of(disk.run(lba_status(0))) is Sense.UNRECOVERED_READ_ERROR


@each_same
def test_no_blocks_mean_all_until_the_last_one(layout: Cdb) -> None:
    disk = RamDisk(1 << 14)
    disk.good(layout.build(logical_block_address=29), ONES)
    assert disk.held == bytes(29 * 512) + ONES * 3
    disk.good(layout.build(logical_block_address=32), ONES)
    assert len(disk.asked) == 1


def thick() -> RamDisk:
    disk = RamDisk()
    disk.device.parameters_changed(Parameters(is_thin=False))
    return disk


def test_a_unit_that_is_not_thin_unmaps_nothing() -> None:
    disk = thick()
    parameters = unmap_list((0, 8))
    outcome = disk.run(unmap_cdb(parameters), parameters)
    assert sense_of(outcome) is Sense.INVALID_COMMAND_OPERATION_CODE
    outcome = disk.run(cdb.WRITE_SAME_16.build(unmap=1, number_of_logical_blocks=8), ZEROS)
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == (1, 3)
    assert status_of(disk.good(lba_status(8))) == [(8, (1 << 11) - 8, 0)]
    assert disk.asked == []
    assert cdb.UNMAP not in [command.layout for command in disk.device.unit.commands]
    assert cdb.UNMAP in [command.layout for command in RamDisk().device.unit.commands]


def test_what_a_unit_says_of_its_provisioning() -> None:
    for disk, is_thin in ((RamDisk(), True), (thick(), False)):
        capacity = disk.good(cdb.READ_CAPACITY_16.build(allocation_length=32))
        assert capacity[14] == (0xC0 if is_thin else 0)
        limits = disk.good(cdb.INQUIRY.build(evpd=1, page_code=0xB0, allocation_length=64))
        assert any(limits[20:36]) is is_thin
        page = disk.good(cdb.INQUIRY.build(evpd=1, page_code=0xB2, allocation_length=64))
        assert page[5:7] == bytes((0xE4, 2) if is_thin else (0, 0))


def test_every_nexus_is_told_when_it_is_not_thin_any_more() -> None:
    disk = RamDisk()
    disk.device.nexus_established("n")
    sense_of(disk.run(cdb.TEST_UNIT_READY.build()))
    disk.device.parameters_changed(Parameters(is_thin=False))
    assert sense_of(disk.run(cdb.TEST_UNIT_READY.build())) is Sense.INQUIRY_DATA_HAS_CHANGED


def test_lba_status_beyond_the_capacity_is_refused() -> None:
    disk = RamDisk()
    beyond = len(disk.held) // 512
    asked = cdb.GET_LBA_STATUS.build(starting_logical_block_address=beyond, allocation_length=64)
    assert sense_of(disk.run(asked)) is Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE
