"""Rows of a packed table: the struct and the NumPy type are one declaration."""

from __future__ import annotations

import pytest

from cstor_core.rows import ABSENT_ROW, ROW, ROW_BYTES, ROW_DTYPE, UNMAP, has_data, rows_of


def test_row_has_32_bytes_and_reads_the_same_by_struct_and_numpy() -> None:
    assert ROW_BYTES == ROW_DTYPE.itemsize == len(ABSENT_ROW) == 32
    table = ROW.pack(1, UNMAP | 9, 3, 4, 5) + ROW.pack(2**63 + 1, 7, 2**64 - 1, 2**32 - 1, 6)
    assert [tuple(map(int, row)) for row in rows_of(table)] == list(ROW.iter_unpack(table))


def test_rows_are_a_view_of_the_table() -> None:
    table = bytearray(ROW.pack(1, 0, 3, 4, 5))
    rows_of(table)["seq"] = 8
    assert ROW.unpack(table) == (1, 0, 8, 4, 5)


def test_table_that_is_not_a_number_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        rows_of(bytes(33))


def test_only_a_row_with_a_place_has_data() -> None:
    assert has_data(1)
    assert not has_data(0)
    assert not has_data(UNMAP)
    assert not has_data(UNMAP | 3)
