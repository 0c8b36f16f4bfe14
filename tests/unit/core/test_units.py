"""Sizes as people write and read them."""

from __future__ import annotations

import pytest

from cstor_core.errors import InputError
from cstor_core.units import (
    GIB,
    KIB,
    MIB,
    format_duration,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)


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


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [("90", 90), ("90s", 90), ("30min", 1800), ("1.5h", 5400), ("7d", 604800), ("1w", 604800)],
)
def test_duration_is_a_number_and_a_unit(text: str, duration_s: float) -> None:
    assert parse_duration(text) == duration_s


@pytest.mark.parametrize("text", ["", "d", "-1d", "7 days", "1y", "1d 2h"])
def test_what_is_no_duration_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(InputError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(0, "0s"), (42.4, "42s"), (3600, "1h"), (11_105, "3h 5min"), (90_000, "1d 1h")],
)
def test_duration_is_written_with_two_units(duration_s: float, text: str) -> None:
    assert format_duration(duration_s) == text


def test_rate_is_a_size_a_second() -> None:
    assert parse_rate("100MiB/s") == parse_rate("100MiB") == 100 * MIB
    with pytest.raises(InputError, match="not a size"):
        parse_rate("fast")
