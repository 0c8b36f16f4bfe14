"""READ and WRITE in all four lengths of CDB."""

from __future__ import annotations

import pytest

from cstor_target.scsi import cdb
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.geometry import TRANSFER_BYTES_MAX
from cstor_target.scsi.requests import Flush, Outcome, Read, Status, Write
from cstor_target.scsi.sense import Sense
from tests.unit.scsi.ram_disk import RamDisk, field_of, information_of, sense_of

READS = [cdb.READ_6, cdb.READ_10, cdb.READ_12, cdb.READ_16]
WRITES = [cdb.WRITE_6, cdb.WRITE_10, cdb.WRITE_12, cdb.WRITE_16]
LONG_READS = READS[1:]
LONG_WRITES = WRITES[1:]

each_pair = pytest.mark.parametrize(
    ("read", "write"), list(zip(READS, WRITES, strict=True)), ids=["6", "10", "12", "16"]
)
each_long = pytest.mark.parametrize(
    "layout", LONG_READS + LONG_WRITES, ids=lambda layout: str(layout.name)
)


@each_pair
@pytest.mark.parametrize("block_bytes", [512, 4096])
def test_what_was_written_is_read(read: Cdb, write: Cdb, block_bytes: int) -> None:
    disk = RamDisk(logical_block_bytes=block_bytes)
    data = bytes(range(256)) * (3 * block_bytes // 256)
    disk.good(write.build(logical_block_address=5, transfer_length=3), data)
    assert disk.good(read.build(logical_block_address=5, transfer_length=3)) == data
    assert disk.held[5 * block_bytes : 8 * block_bytes] == data
    assert not any(disk.held[: 5 * block_bytes])


def test_a_plain_read_or_write_is_one_request_without_a_closure() -> None:
    disk = RamDisk()
    unit = disk.device.unit
    data = (bytes(1024),)
    read = unit.start("n", cdb.READ_10.build(logical_block_address=3, transfer_length=2))
    write = unit.start("n", cdb.WRITE_10.build(logical_block_address=3, transfer_length=2), data)
    assert read == Read(1536, 1024, None)
    assert write == Write(1536, data, False, None)
    assert isinstance(write, Write)
    assert write.data is data


def test_six_byte_form_reads_256_blocks_for_a_length_of_zero() -> None:
    disk = RamDisk()
    assert len(disk.good(cdb.READ_6.build(transfer_length=0))) == 256 * 512


@each_long
def test_zero_blocks_are_answered_at_once(layout: Cdb) -> None:
    disk = RamDisk()
    blocks = len(disk.held) // 512
    assert disk.good(layout.build(logical_block_address=blocks)) == b""
    assert disk.asked == []


@each_long
def test_zero_blocks_beyond_the_end_are_out_of_range(layout: Cdb) -> None:
    disk = RamDisk()
    blocks = len(disk.held) // 512
    outcome = disk.run(layout.build(logical_block_address=blocks + 1))
    assert sense_of(outcome) is Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE


@pytest.mark.parametrize("layout", READS + WRITES, ids=lambda layout: str(layout.name))
def test_a_range_that_leaves_the_medium_is_refused_whole(layout: Cdb) -> None:
    disk = RamDisk()
    last = len(disk.held) // 512 - 1
    outcome = disk.run(layout.build(logical_block_address=last, transfer_length=2), b"x" * 1024)
    assert sense_of(outcome) is Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE
    assert information_of(outcome) == last
    assert disk.asked == []


@each_long
def test_more_than_the_maximum_transfer_length_is_refused(layout: Cdb) -> None:
    disk = RamDisk(2 * TRANSFER_BYTES_MAX)
    outcome = disk.run(layout.build(transfer_length=TRANSFER_BYTES_MAX // 512 + 1))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    byte = {10: 7, 12: 6, 16: 10}[layout.length]
    assert field_of(outcome) == (byte, 7)


@each_long
@pytest.mark.parametrize("protect", range(1, 8))
def test_protection_information_is_refused(layout: Cdb, protect: int) -> None:
    built = bytearray(layout.build(transfer_length=1))
    built[1] |= protect << 5
    outcome = RamDisk().run(bytes(built), bytes(512))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == (1, 4 + protect.bit_length())


@each_pair
def test_naca_is_refused(read: Cdb, write: Cdb) -> None:
    for layout in (read, write):
        outcome = RamDisk().run(layout.build(control=0x04, transfer_length=1), bytes(512))
        assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
        assert field_of(outcome) == (layout.length - 1, 2)


@pytest.mark.parametrize("layout", LONG_WRITES, ids=lambda layout: str(layout.name))
@pytest.mark.parametrize(
    ("write_cache", "fua", "durable"),
    [(True, 0, False), (True, 1, True), (False, 0, True), (False, 1, True)],
)
def test_fua_or_no_write_cache_make_a_write_durable(
    layout: Cdb, write_cache: bool, fua: int, durable: bool
) -> None:
    disk = RamDisk(write_cache=write_cache)
    disk.good(layout.build(transfer_length=1, fua=fua), bytes(512))
    (request,) = disk.asked
    assert isinstance(request, Write)
    assert request.durable is durable


@pytest.mark.parametrize("layout", LONG_READS, ids=lambda layout: str(layout.name))
def test_a_read_with_fua_flushes_the_write_cache_first(layout: Cdb) -> None:
    cached, uncached = RamDisk(), RamDisk(write_cache=False)
    for disk in (cached, uncached):
        assert disk.good(layout.build(transfer_length=1, fua=1)) == bytes(512)
    assert [type(request) for request in cached.asked] == [Flush, Read]
    assert [type(request) for request in uncached.asked] == [Read]


@pytest.mark.parametrize("layout", WRITES, ids=lambda layout: str(layout.name))
def test_more_data_than_the_cdb_asks_for_are_not_written(layout: Cdb) -> None:
    disk = RamDisk()
    disk.good(layout.build(transfer_length=1), [b"a" * 300, b"b" * 300, b"c" * 9400])
    assert disk.held[:1024] == b"a" * 300 + b"b" * 212 + bytes(512)


@pytest.mark.parametrize("layout", WRITES, ids=lambda layout: str(layout.name))
@pytest.mark.parametrize(("sent", "written"), [(0, 0), (200, 0), (512, 512), (700, 512)])
def test_of_fewer_data_the_whole_blocks_are_written(layout: Cdb, sent: int, written: int) -> None:
    disk = RamDisk()
    disk.good(layout.build(transfer_length=2), b"x" * sent)
    assert disk.held[:1024] == (b"x" * written).ljust(1024, b"\0")


def test_hints_and_obsolete_bits_change_nothing() -> None:
    built = bytearray(cdb.READ_10.build(transfer_length=1, group_number=31, dpo=1))
    built[1] |= 0x07
    assert RamDisk().good(bytes(built)) == bytes(512)


def test_an_address_beyond_32_bits_is_out_of_range_without_information() -> None:
    outcome = RamDisk().run(
        cdb.READ_16.build(logical_block_address=(1 << 64) - 1, transfer_length=1)
    )
    assert sense_of(outcome) is Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE
    assert information_of(outcome) is None


def test_data_in_are_the_pieces_that_the_volume_gave() -> None:
    disk = RamDisk()
    step = disk.device.start("n", 0, cdb.READ_10.build(transfer_length=1))
    assert isinstance(step, Read)
    outcome = disk.run(cdb.READ_10.build(transfer_length=1))
    assert isinstance(outcome, Outcome)
    assert outcome.status is Status.GOOD
    assert [len(piece) for piece in outcome.data_in] == [256, 256]
