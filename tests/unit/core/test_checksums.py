"""Checksums of blocks: one polynomial, and a seed that shows bytes in the wrong place."""

from __future__ import annotations

from cstor_core.checksums import (
    block_checksum,
    block_checksums,
    block_seed,
    crc32c,
    reference_crc32c,
)
from cstor_core.units import BLOCK_BYTES

SALT = 0xC0FFEE11


def test_crc32c_is_that_of_rfc_3720_appendix_b_4() -> None:
    for check in (crc32c, reference_crc32c):
        assert check(bytes(32)) == 0x8A9136AA
        assert check(b"\xff" * 32) == 0x62A8AB43
        assert check(bytes(range(32))) == 0x46DD794E
        assert check(b"123456789") == 0xE3069283


def test_checksum_is_the_same_for_every_kind_of_buffer() -> None:
    data = bytes(range(256)) * 16
    sums = {
        block_checksum(data, SALT, 5),
        block_checksum(bytearray(data), SALT, 5),
        block_checksum(memoryview(bytearray(b"x" + data))[1:], SALT, 5),
        reference_crc32c(data, block_seed(SALT, 5)),
    }
    assert len(sums) == 1


def test_misplaced_block_and_block_of_another_family_show() -> None:
    data = b"\xa5" * BLOCK_BYTES
    sums = {block_checksum(data, SALT, block) for block in range(1000)}
    assert len(sums) == 1000
    assert block_checksum(data, SALT, 7) != block_checksum(data, SALT + 1, 7)
    assert block_checksum(data, SALT, 1) != block_checksum(data, SALT, 1 + (1 << 32))


def test_checksums_of_a_run_are_those_of_its_blocks() -> None:
    data = b"".join(bytes([number]) * BLOCK_BYTES for number in range(5))
    expected = [
        block_checksum(bytes([number]) * BLOCK_BYTES, SALT, 100 + number) for number in range(5)
    ]
    assert block_checksums(data, SALT, 100) == expected
