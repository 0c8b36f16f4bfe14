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
from cstor_target.scsi.requests import Unmap, Write
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
def test_neither_zero_nor_too_many_blocks_are_accepted(layout: Cdb, blocks: int) -> None:
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


def test_every_block_is_mapped_or_unknown() -> None:
    disk = RamDisk()
    last = len(disk.held) // 512 - 1
    asked = cdb.GET_LBA_STATUS.build(starting_logical_block_address=8, allocation_length=64)
    assert disk.good(asked) == struct.pack(">I4xQIB3x", 20, 8, last - 7, 0)
    short = cdb.GET_LBA_STATUS.build(starting_logical_block_address=8, allocation_length=10)
    assert len(disk.good(short)) == 10


def test_lba_status_beyond_the_capacity_is_refused() -> None:
    disk = RamDisk()
    beyond = len(disk.held) // 512
    asked = cdb.GET_LBA_STATUS.build(starting_logical_block_address=beyond, allocation_length=64)
    assert sense_of(disk.run(asked)) is Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE
