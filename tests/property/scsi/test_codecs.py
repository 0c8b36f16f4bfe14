"""The precompiled decoders say what the declared CDBs say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cstor_target.scsi import cdb
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.commands import COMMANDS
from cstor_target.scsi.read_write import Decoder
from cstor_target.volume.backing import Buffer

BY_LENGTH: dict[int, Decoder] = {
    10: cdb.UNPACK_BLOCK_10,
    12: cdb.UNPACK_BLOCK_12,
    16: cdb.UNPACK_BLOCK_16,
}


def _without_boundary(cdb_: Buffer) -> tuple[int, int, int, int]:
    flags, logical_block_address, _boundary, blocks, control = cdb.UNPACK_WRITE_ATOMIC(cdb_)
    return flags, logical_block_address, blocks, control


OF_THEIR_OWN: dict[int, Decoder] = {
    cdb.COMPARE_AND_WRITE.operation_code: cdb.UNPACK_COMPARE_AND_WRITE,
    cdb.WRITE_ATOMIC_16.operation_code: _without_boundary,
}
LENGTH_FIELDS = (
    "transfer_length",
    "verification_length",
    "number_of_logical_blocks",
    "prefetch_length",
)
BLOCK_LAYOUTS = [
    command.layout
    for command in COMMANDS
    if "logical_block_address" in command.layout.field_names and command.layout.length > 6
]
FLAGS = {
    "rdprotect": (5, 0b111),
    "wrprotect": (5, 0b111),
    "vrprotect": (5, 0b111),
    "orprotect": (5, 0b111),
    "anchor": (4, 1),
    "dpo": (4, 1),
    "bytchk": (1, 0b11),
    "immed": (1, 1),
    "ndob": (0, 1),
}


@pytest.mark.parametrize("layout", BLOCK_LAYOUTS, ids=lambda layout: str(layout.name))
@given(rest=st.binary(min_size=15, max_size=15))
def test_block_commands_decode_as_they_are_declared(layout: Cdb, rest: bytes) -> None:
    raw = bytes([layout.operation_code]) + rest
    fields = layout.parse(raw)
    decode = OF_THEIR_OWN.get(layout.operation_code, BY_LENGTH[layout.length])
    flags, logical_block_address, blocks, control = decode(memoryview(raw))
    (length_name,) = (name for name in LENGTH_FIELDS if name in fields)
    assert logical_block_address == fields.logical_block_address
    assert blocks == fields[length_name]
    assert control == fields.control
    for name, (shift, mask) in FLAGS.items():
        if name in fields:
            assert flags >> shift & mask == fields[name]
    if "fua" in fields:
        assert bool(flags & cdb.FUA) is bool(fields.fua)
    if "unmap" in fields:
        assert flags >> 3 & 1 == fields.unmap


@pytest.mark.parametrize("layout", [cdb.READ_6, cdb.WRITE_6], ids=lambda layout: str(layout.name))
@given(rest=st.binary(min_size=15, max_size=15))
def test_six_byte_commands_decode_as_they_are_declared(layout: Cdb, rest: bytes) -> None:
    raw = bytes([layout.operation_code]) + rest
    fields = layout.parse(raw)
    word, blocks, control = cdb.UNPACK_BLOCK_6(memoryview(raw))
    assert word & cdb.LOGICAL_BLOCK_ADDRESS_6_MASK == fields.logical_block_address
    assert (blocks, control) == (fields.transfer_length, fields.control)


@given(rest=st.binary(min_size=15, max_size=15))
def test_unmap_decodes_as_it_is_declared(rest: bytes) -> None:
    raw = bytes([cdb.UNMAP.operation_code]) + rest
    fields = cdb.UNMAP.parse(raw)
    assert cdb.UNPACK_UNMAP(raw) == (fields.parameter_list_length, fields.control)
