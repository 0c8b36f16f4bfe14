"""Sizes as people write and read them."""

from __future__ import annotations

import pytest

from cstor_core.errors import InputError
from cstor_core.units import GIB, KIB, MIB, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4096", 4096),
        ("4096B", 4096),
        ("1GiB", GIB),
        ("512M", 512 * MIB),
        ("512MiB", 512 * MIB),
        (" 3 KiB ", 3 * KIB),
        ("2tib", 2048 * GIB),
        ("0", 0),
    ],
)
def test_size_is_read_in_powers_of_1024(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1.5GiB", "1GB", "1 XiB", "1GiB 2", "0x10"])
def test_what_is_no_size_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(InputError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize("size_bytes", [0, 17, KIB, 5 * MIB, GIB, 1024 * GIB])
def test_whole_sizes_are_written_so_that_they_read_back(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


def test_size_that_is_not_whole_is_rounded() -> None:
    assert format_size(3 * MIB // 2) == "1.5MiB"
