"""Whatever an initiator sends, a command ends, within the medium, with a status that is defined."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cstor_target.scsi import cdb
from cstor_target.scsi.commands import COMMANDS
from cstor_target.scsi.requests import Status
from cstor_target.volume.backing import Failure
from tests.unit.scsi.ram_disk import RamDisk, sense_of

OPERATION_CODES = sorted({command.layout.operation_code for command in COMMANDS})
LUNS = st.sampled_from([0, 1, 1 << 48, (1 << 64) - 1])
SIZE_BYTES = 64 * 1024


@st.composite
def cdbs(draw: st.DrawFn) -> bytes:
    """Random bytes, mostly behind an operation code that is known, with many zeros."""
    operation_code = draw(st.sampled_from(OPERATION_CODES) | st.integers(0, 255))
    byte = st.just(0) | st.sampled_from([1, 8, 0x10, 0x0A, 0x0C, 0x3F]) | st.integers(0, 255)
    rest = draw(st.lists(byte, min_size=15, max_size=15))
    return bytes([operation_code, *rest])


@settings(max_examples=1500)
@given(
    raw=cdbs(),
    data_out=st.lists(st.binary(max_size=600), max_size=3),
    lun=LUNS,
    failure=st.none() | st.sampled_from(Failure),
)
@example(cdb.WRITE_SAME_16.build(number_of_logical_blocks=1, ndob=1), [], 0, None)
def test_any_bytes_end_with_a_defined_status(
    raw: bytes, data_out: list[bytes], lun: int, failure: Failure | None
) -> None:
    disk = RamDisk(SIZE_BYTES)
    disk.failure = failure
    outcome = disk.run(raw, data_out, lun=lun)
    assert len(disk.held) == SIZE_BYTES
    if outcome.status is Status.CHECK_CONDITION:
        sense_of(outcome)
        assert not outcome.data_in
    else:
        assert outcome.status in (Status.GOOD, Status.BUSY)
        assert outcome.sense == b""


@settings(max_examples=300)
@given(rest=st.binary(min_size=15, max_size=15), data_out=st.binary(max_size=1200))
def test_mode_select_never_changes_what_mode_sense_says(rest: bytes, data_out: bytes) -> None:
    disk = RamDisk(SIZE_BYTES)
    sense = cdb.MODE_SENSE_10.build(page_code=0x3F, allocation_length=255)
    before = disk.good(sense)
    for layout in (cdb.MODE_SELECT_6, cdb.MODE_SELECT_10):
        disk.run(bytes([layout.operation_code]) + rest, data_out)
        built = layout.build(pf=1, parameter_list_length=len(data_out) & 0xFF)
        disk.run(built, data_out)
    assert disk.good(sense) == before
