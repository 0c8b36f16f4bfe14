"""Sense data to the byte (SPC-4, 4.5)."""

from __future__ import annotations

from cstor_target.scsi.sense import (
    FieldPointer,
    ScsiError,
    Sense,
    descriptor_format,
    fixed_format,
)


def test_fixed_format_carries_key_and_codes() -> None:
    sense = fixed_format(Sense.UNRECOVERED_READ_ERROR)
    assert sense == bytes.fromhex("700003 00000000 0a 00000000 1100 00 000000")


def test_fixed_format_carries_information_that_fits() -> None:
    sense = fixed_format(Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, 0x1234)
    assert sense == bytes.fromhex("f00005 00001234 0a 00000000 2100 00 000000")


def test_fixed_format_leaves_out_information_that_does_not_fit() -> None:
    out_of_range = Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE
    assert fixed_format(out_of_range, 1 << 32) == fixed_format(out_of_range)


def test_field_pointer_names_byte_and_bit() -> None:
    in_cdb = fixed_format(Sense.INVALID_FIELD_IN_CDB, field=FieldPointer(True, 2, 5))
    in_list = fixed_format(Sense.INVALID_FIELD_IN_PARAMETER_LIST, field=FieldPointer(False, 258))
    assert in_cdb[15:] == bytes.fromhex("cd0002")
    assert in_list[15:] == bytes.fromhex("800102")


def test_descriptor_format_carries_only_the_descriptors_that_are_needed() -> None:
    plain = descriptor_format(Sense.CAPACITY_DATA_HAS_CHANGED)
    full = descriptor_format(Sense.INVALID_FIELD_IN_CDB, 1 << 40, FieldPointer(True, 1, 7))
    assert plain == bytes.fromhex("72062a0900000000")
    assert full == bytes.fromhex("7205240000000014 000a8000 0000010000000000 02060000 cf0001 00")


def test_error_says_to_people_what_the_standard_says() -> None:
    assert str(ScsiError(Sense.INVALID_FIELD_IN_CDB)) == "INVALID FIELD IN CDB"
