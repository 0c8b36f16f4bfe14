"""Any sequence of block commands leaves what a plain array of bytes would hold."""

from __future__ import annotations

import struct
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from cstor_target.scsi import cdb
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.requests import Status
from tests.unit.scsi.ram_disk import RamDisk

BLOCKS = 64
BLOCK = 512

Change = tuple[str, int, int, int]

CHANGES = st.tuples(
    st.sampled_from(
        ["write", "write_and_verify", "write_same", "unmap", "orwrite", "compare_and_write"]
    ),
    st.integers(0, BLOCKS - 1),
    st.integers(1, 16),
    st.integers(0, 3),
).map(lambda change: (change[0], change[1], min(change[2], BLOCKS - change[1]), change[3]))

FORMS: dict[str, list[Cdb]] = {
    "write": [cdb.WRITE_6, cdb.WRITE_10, cdb.WRITE_12, cdb.WRITE_16],
    "write_and_verify": [
        cdb.WRITE_AND_VERIFY_10,
        cdb.WRITE_AND_VERIFY_12,
        cdb.WRITE_AND_VERIFY_16,
    ],
    "write_same": [cdb.WRITE_SAME_10, cdb.WRITE_SAME_16],
}


def content(start: int, blocks: int, seed: int) -> bytes:
    """Data that differ from block to block, or zeros."""
    if not seed:
        return bytes(blocks * BLOCK)
    return b"".join(struct.pack(">HH", start + n, seed) * (BLOCK // 4) for n in range(blocks))


def write(disk: RamDisk, model: bytearray, change: Change) -> None:
    kind, start, blocks, seed = change
    layout = FORMS[kind][seed % len(FORMS[kind])]
    data = content(start, blocks, seed)
    extra = {"bytchk": 1} if kind == "write_and_verify" else {}
    disk.good(layout.build(logical_block_address=start, transfer_length=blocks, **extra), data)
    model[start * BLOCK : (start + blocks) * BLOCK] = data


def write_same(disk: RamDisk, model: bytearray, change: Change) -> None:
    kind, start, blocks, seed = change
    layout = FORMS[kind][seed % 2]
    data = content(start, 1, seed)
    built = layout.build(
        logical_block_address=start, number_of_logical_blocks=blocks, unmap=seed >> 1
    )
    disk.good(built, data)
    model[start * BLOCK : (start + blocks) * BLOCK] = data * blocks


def unmap(disk: RamDisk, model: bytearray, change: Change) -> None:
    _kind, start, blocks, _seed = change
    parameters = struct.pack(">HH4xQI4x", 22, 16, start, blocks)
    disk.good(cdb.UNMAP.build(parameter_list_length=len(parameters)), parameters)
    model[start * BLOCK : (start + blocks) * BLOCK] = bytes(blocks * BLOCK)


def orwrite(disk: RamDisk, model: bytearray, change: Change) -> None:
    _kind, start, blocks, seed = change
    data = content(start, blocks, seed)
    disk.good(cdb.ORWRITE_16.build(logical_block_address=start, transfer_length=blocks), data)
    for at, byte in enumerate(data, start * BLOCK):
        model[at] |= byte


def compare_and_write(disk: RamDisk, model: bytearray, change: Change) -> None:
    """Some are compared with what is there, and some with what may be there."""
    _kind, start, blocks, seed = change
    where = slice(start * BLOCK, (start + blocks) * BLOCK)
    expected = model[where] if seed % 2 else content(start, blocks, seed)
    data = content(start, blocks, seed + 1)
    built = cdb.COMPARE_AND_WRITE.build(
        logical_block_address=start, number_of_logical_blocks=blocks
    )
    outcome = disk.run(built, bytes(expected) + data)
    is_equal = model[where] == expected
    assert (outcome.status is Status.GOOD) == is_equal
    if is_equal:
        model[where] = data


APPLY: dict[str, Callable[[RamDisk, bytearray, Change], None]] = {
    "write": write,
    "write_and_verify": write,
    "write_same": write_same,
    "unmap": unmap,
    "orwrite": orwrite,
    "compare_and_write": compare_and_write,
}


@settings(max_examples=150)
@given(changes=st.lists(CHANGES, max_size=12))
def test_the_medium_holds_what_was_ordered(changes: list[Change]) -> None:
    disk = RamDisk(BLOCKS * BLOCK)
    model = bytearray(BLOCKS * BLOCK)
    for change in changes:
        APPLY[change[0]](disk, model, change)
    assert disk.held == model
    assert disk.good(cdb.READ_16.build(transfer_length=BLOCKS)) == model
    disk.good(cdb.VERIFY_16.build(bytchk=1, verification_length=BLOCKS), bytes(model))
