"""EXTENDED COPY (LID1), RECEIVE COPY RESULTS and VPD page 8Fh."""

from __future__ import annotations

import struct
from collections.abc import Hashable
from uuid import UUID

import pytest

from cstor_target.scsi import cdb_copy
from cstor_target.scsi.cdb import INQUIRY, TEST_UNIT_READY
from cstor_target.scsi.extended_copy import (
    COPIES_MAX,
    DESCRIPTORS_BYTES_MAX,
    SEGMENTS_MAX,
    TARGETS_MAX,
    Peer,
)
from cstor_target.scsi.geometry import PIECE_BYTES
from cstor_target.scsi.parameters import Parameters
from cstor_target.scsi.requests import Copy, Outcome, Read, Status, Write, WriteCopy
from cstor_target.scsi.sense import Sense
from cstor_target.volume.backing import Failure
from tests.unit.scsi.ram_disk import RamDisk, field_of, sense_of

OTHER_UUID = UUID("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")


def target(disk: RamDisk, **changed: int) -> bytes:
    """An identification descriptor: type code E4h, NAA, binary, of a logical unit."""
    fields = {"code": 0xE4, "flags": 0, "code_set": 1, "kind": 3} | changed
    naa = disk.device.unit.identity.naa
    return struct.pack(
        ">BB2xBBxB20s4x",
        fields["code"],
        fields["flags"],
        fields["code_set"],
        fields["kind"],
        len(naa),
        naa,
    )


def segment(
    blocks: int,
    source_block: int,
    destination_block: int,
    source: int = 0,
    destination: int = 0,
    flags: int = 0,
) -> bytes:
    return struct.pack(
        ">BBHHH2xHQQ",
        *(0x02, flags, 24, source, destination, blocks, source_block, destination_block),
    )


def listed(targets: bytes, segments: bytes, usage: int = 0, inline: int = 0) -> bytes:
    head = struct.pack(">BBH4xII", 7, usage << 3, len(targets), len(segments), inline)
    return head + targets + segments


def copy(disk: RamDisk, parameters: bytes, length: int | None = None, nexus: str = "n") -> Outcome:
    length = len(parameters) if length is None else length
    built = cdb_copy.EXTENDED_COPY.build(parameter_list_length=length)
    return disk.run(built, parameters[:length], nexus)


def pair(*, logical_block_bytes: int = 512) -> tuple[RamDisk, RamDisk]:
    """Two disks; an initiator "n" of the first one is logged in to the second as "m"."""
    one = RamDisk(1 << 15)
    other = RamDisk(1 << 15, volume_uuid=OTHER_UUID, logical_block_bytes=logical_block_bytes)
    one.held[:] = bytes(range(256)) * 128

    def find(nexus: Hashable, designator: bytes) -> Peer | None:
        is_meant = nexus == "n" and designator == other.device.unit.identity.naa
        return Peer(other.device.unit, "m") if is_meant else None

    one.device.unit.find_peer = find
    one.peers[other.device.unit] = other
    return one, other


@pytest.mark.parametrize("shares_blocks", [True, False])
def test_blocks_are_copied_within_a_unit_in_pieces(shares_blocks: bool) -> None:
    disk = RamDisk(8 * PIECE_BYTES)
    disk.shares_blocks = shares_blocks
    disk.held[:PIECE_BYTES] = b"\x11" * PIECE_BYTES
    disk.held[PIECE_BYTES : PIECE_BYTES + 512] = b"\x22" * 512
    blocks = PIECE_BYTES // 512
    parameters = listed(target(disk), segment(blocks + 1, 0, 4 * blocks))
    assert copy(disk, parameters).status is Status.GOOD
    copied = disk.held[4 * PIECE_BYTES :]
    assert copied[: PIECE_BYTES + 1024] == disk.held[: PIECE_BYTES + 512] + bytes(512)
    piece = [Copy] if shares_blocks else [Copy, Read, Write]
    assert [type(one) for one in disk.asked] == [*piece, *piece]


def test_a_copy_within_a_unit_that_fails_ends_with_copy_aborted_or_busy() -> None:
    disk = RamDisk()
    parameters = listed(target(disk), segment(8, 0, 64))
    for failure, sense in (
        (Failure.SPACE, Sense.THIRD_PARTY_DEVICE_FAILURE),
        (Failure.BUSY, None),
    ):
        disk.failure = failure
        outcome = copy(disk, parameters)
        if sense is None:
            assert outcome.status is Status.BUSY
        else:
            assert sense_of(outcome) is sense
    assert all(type(one) is Copy for one in disk.asked)


@pytest.mark.parametrize("flags", [0, 2])
def test_blocks_are_copied_to_a_unit_with_other_blocks(flags: int) -> None:
    one, other = pair(logical_block_bytes=4096)
    blocks = 2 if flags else 16
    parameters = listed(target(one) + target(other), segment(blocks, 3, 1, 0, 1, flags))
    assert copy(one, parameters).status is Status.GOOD
    assert other.held[4096:12288] == one.held[1536 : 1536 + 8192]
    assert not any(other.held[12288:])
    (written,) = other.asked
    assert isinstance(written, WriteCopy)
    assert written.origin == (str(one.device.unit.identity.volume_uuid), 1536)


def test_blocks_are_copied_from_another_unit() -> None:
    one, other = pair()
    other.held[:1024] = b"\x33" * 1024
    parameters = listed(target(one) + target(other), segment(2, 0, 0, 1, 0) + segment(1, 1, 8, 1))
    assert copy(one, parameters).status is Status.GOOD
    assert one.held[:1024] == b"\x33" * 1024
    assert one.held[4096:4608] == b"\x33" * 512


def test_only_who_is_logged_in_there_may_name_a_unit() -> None:
    one, other = pair()
    parameters = listed(target(one) + target(other), segment(1, 0, 0, 0, 1))
    outcome = copy(one, parameters, nexus="stranger")
    assert sense_of(outcome) is Sense.COPY_TARGET_DEVICE_NOT_REACHABLE
    assert not any(other.held)


def test_a_unit_that_is_ejected_protected_or_reserved_is_not_written() -> None:
    one, other = pair()
    parameters = listed(target(one) + target(other), segment(1, 0, 0, 0, 1))
    other.device.parameters_changed(Parameters(is_removable=True))
    other.device.unit.medium.is_ejected = True
    assert sense_of(copy(one, parameters)) is Sense.COPY_TARGET_DEVICE_NOT_REACHABLE
    other.device.unit.medium.is_ejected = False
    other.device.unit.reserved_by = "somebody"
    assert sense_of(copy(one, parameters)) is Sense.COPY_TARGET_DEVICE_NOT_REACHABLE
    other.device.unit.reserved_by = "m"
    other.device.parameters_changed(Parameters(read_only=True))
    assert sense_of(copy(one, parameters)) is Sense.THIRD_PARTY_DEVICE_FAILURE
    assert not any(other.held)
    other.device.parameters_changed(Parameters())
    assert copy(one, parameters).status is Status.GOOD


@pytest.mark.parametrize(
    ("parameters", "sense"),
    [
        (segment(1, 0, 0, 0, 1), Sense.COPY_TARGET_DEVICE_NOT_REACHABLE),
        (segment(1, 0, 0, 1, 0), Sense.COPY_TARGET_DEVICE_NOT_REACHABLE),
        (segment(2, 0, 63), Sense.COPY_ABORTED),
        (segment(2, 63, 0), Sense.COPY_ABORTED),
        (b"\x03\0\0\0", Sense.UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE),
        (segment(1, 0, 0)[:-1], Sense.PARAMETER_LIST_LENGTH_ERROR),
        (b"\x02\0\0\x10" + segment(1, 0, 0)[4:], Sense.INVALID_FIELD_IN_PARAMETER_LIST),
        (segment(1, 0, 0) * (SEGMENTS_MAX + 1), Sense.TOO_MANY_SEGMENT_DESCRIPTORS),
    ],
)
def test_segments_that_cannot_be_copied(parameters: bytes, sense: Sense) -> None:
    disk = RamDisk(64 * 512)
    assert sense_of(copy(disk, listed(target(disk), parameters))) is sense
    assert disk.asked == []


@pytest.mark.parametrize(
    ("changed", "sense"),
    [
        ({"code": 0xE0}, Sense.UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE),
        ({"flags": 0x20}, Sense.INVALID_FIELD_IN_PARAMETER_LIST),
        ({"kind": 1}, Sense.COPY_TARGET_DEVICE_NOT_REACHABLE),
        ({"code_set": 2}, Sense.COPY_TARGET_DEVICE_NOT_REACHABLE),
    ],
)
def test_targets_that_are_not_known(changed: dict[str, int], sense: Sense) -> None:
    disk = RamDisk()
    outcome = copy(disk, listed(target(disk, **changed), segment(1, 0, 8)))
    assert sense_of(outcome) is sense


def test_the_lu_id_type_is_not_looked_at() -> None:
    disk = RamDisk()
    outcome = copy(disk, listed(target(disk, flags=0xC0), segment(1, 0, 8)))
    assert outcome.status is Status.GOOD


def test_lists_that_are_too_long_or_too_short() -> None:
    disk = RamDisk()
    one = target(disk)
    whole = listed(one, segment(1, 0, 8))
    assert copy(disk, whole, 0).status is Status.GOOD
    for length in (1, 15, 16 + 31, 16 + 32 + 27):
        assert sense_of(copy(disk, whole, length)) is Sense.PARAMETER_LIST_LENGTH_ERROR
    many = listed(one * (TARGETS_MAX + 1), segment(1, 0, 8))
    assert sense_of(copy(disk, many)) is Sense.TOO_MANY_TARGET_DESCRIPTORS
    huge = listed(one * (DESCRIPTORS_BYTES_MAX // 32 + 1), b"")
    assert sense_of(copy(disk, huge)) is Sense.PARAMETER_LIST_LENGTH_ERROR
    inline = listed(one, segment(1, 0, 8), inline=4) + bytes(4)
    assert sense_of(copy(disk, inline)) is Sense.INLINE_DATA_LENGTH_EXCEEDED
    assert disk.asked == []


@pytest.mark.parametrize(
    ("shares_blocks", "fail_after", "segments"),
    [(True, 0, 0), (True, 1, 1), (False, 1, 0), (False, 2, 0), (False, 4, 1), (False, 5, 1)],
)
def test_a_copy_that_fails_in_between_says_how_far_it_came(
    shares_blocks: bool, fail_after: int, segments: int
) -> None:
    disk = RamDisk()
    disk.shares_blocks = shares_blocks
    disk.held[:512] = b"\x44" * 512
    disk.failure, disk.fail_after = Failure.MEDIUM_ERROR, fail_after
    outcome = copy(disk, listed(target(disk), segment(1, 0, 8) + segment(1, 0, 16)))
    assert sense_of(outcome) is Sense.THIRD_PARTY_DEVICE_FAILURE
    status = disk.good(cdb_copy.COPY_STATUS.build(list_identifier=7, allocation_length=64))
    assert status == struct.pack(">IBHBI", 8, 2, segments, 0, 0)


def test_the_status_of_a_copy_is_told_once_to_who_asked_for_it() -> None:
    disk = RamDisk()
    built = cdb_copy.COPY_STATUS.build(list_identifier=7, allocation_length=64)
    refused = disk.run(built)
    assert sense_of(refused) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(refused) == (2, 7)
    assert copy(disk, listed(target(disk), segment(1, 0, 8))).status is Status.GOOD
    assert sense_of(disk.run(built, nexus="other")) is Sense.INVALID_FIELD_IN_CDB
    assert disk.good(built) == struct.pack(">IBHBI", 8, 1, 1, 0, 0)
    assert sense_of(disk.run(built)) is Sense.INVALID_FIELD_IN_CDB
    assert copy(disk, listed(target(disk), segment(1, 0, 8), usage=3)).status is Status.GOOD
    assert sense_of(disk.run(built)) is Sense.INVALID_FIELD_IN_CDB


def test_what_is_kept_of_copies_is_bounded_and_ends_with_the_session() -> None:
    disk = RamDisk()
    for number in range(COPIES_MAX + 1):
        disk.device.unit.copies.ended("n", number, 1, failed=False)
    assert disk.device.unit.copies.take("n", 0) is None
    disk.device.nexus_established("n")
    disk.device.nexus_lost("n")
    assert disk.device.unit.copies.take("n", 5) is None


def test_what_copies_may_be_is_told() -> None:
    disk = RamDisk()
    built = cdb_copy.OPERATING_PARAMETERS.build(allocation_length=1024, list_identifier=3)
    data = disk.good(built)
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert struct.unpack(">HHI", data[8:16]) == (
        TARGETS_MAX,
        SEGMENTS_MAX,
        DESCRIPTORS_BYTES_MAX,
    )
    assert data[37] == 9
    assert data[43:] == bytes((2, 0x02, 0xE4))
    page = disk.good(INQUIRY.build(evpd=1, page_code=0x8F, allocation_length=1024))
    found = {}
    at = 4
    while at < len(page):
        code, length = struct.unpack_from(">HH", page, at)
        assert length % 4 == 0
        found[code] = page[at + 4 : at + 4 + length]
        at += 4 + length
    assert list(found) == [0x0001, 0x0004, 0x0008, 0x000C, 0x8001]
    assert found[0x0001].rstrip(b"\0") == bytes((7, 0x83, 1, 0, 0x84, 2, 0, 3))
    assert found[0x0004][4:12] == data[8:16]
    assert disk.good(INQUIRY.build(allocation_length=36))[5] & 0x08
    disk.good(TEST_UNIT_READY.build())
