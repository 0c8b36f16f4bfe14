"""Ports that do not serve the medium: what is answered through them, and what initiators hear."""

from __future__ import annotations

import pytest

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.scsi import cdb
from cstor_target.scsi.asymmetric_access import AccessState
from cstor_target.scsi.requests import Status
from cstor_target.scsi.reservations import Access
from cstor_target.scsi.sense import Sense
from tests.unit.scsi.ram_disk import RamDisk, sense_of

NEXUS, OTHER = "nexus", "other"
STATE = slice(4, 5)
STATUS_CODE = slice(9, 10)
REFUSED = {
    AccessState.STANDBY: Sense.TARGET_PORT_IN_STANDBY_STATE,
    AccessState.TRANSITIONING: Sense.ASYMMETRIC_ACCESS_STATE_TRANSITION,
}
MEDIUM = {
    "TEST UNIT READY": cdb.TEST_UNIT_READY.build(),
    "READ (10)": cdb.READ_10.build(transfer_length=1),
    "WRITE (16)": cdb.WRITE_16.build(transfer_length=1),
    "SYNCHRONIZE CACHE (10)": cdb.SYNCHRONIZE_CACHE_10.build(),
    "UNMAP": cdb.UNMAP.build(parameter_list_length=8),
    "COMPARE AND WRITE": cdb.COMPARE_AND_WRITE.build(number_of_logical_blocks=1),
    "GET LBA STATUS": cdb.GET_LBA_STATUS.build(allocation_length=24),
    "SANITIZE": cdb.SANITIZE_BLOCK_ERASE.build(),
}
EVERYBODY = {
    "INQUIRY": cdb.INQUIRY.build(allocation_length=36),
    "REPORT LUNS": cdb.REPORT_LUNS.build(allocation_length=16),
    "REQUEST SENSE": cdb.REQUEST_SENSE.build(allocation_length=18),
    "REPORT TARGET PORT GROUPS": cdb.REPORT_TARGET_PORT_GROUPS.build(allocation_length=255),
    "REPORT SUPPORTED OPERATION CODES": cdb.REPORT_SUPPORTED_OPERATION_CODES.build(
        allocation_length=4096
    ),
    "MODE SENSE (10)": cdb.MODE_SENSE_10.build(page_code=0x3F, allocation_length=255),
    "READ CAPACITY (10)": cdb.READ_CAPACITY_10.build(),
    "READ CAPACITY (16)": cdb.READ_CAPACITY_16.build(allocation_length=32),
}


def disk_in(state: AccessState) -> RamDisk:
    """A disk whose ports are in a state, about which its initiators have heard."""
    disk = RamDisk()
    for nexus in (NEXUS, OTHER):
        disk.device.nexus_established(nexus)
    disk.device.access_changed(state)
    for nexus in (NEXUS, OTHER):
        while disk.device.unit.attentions.take(nexus) is not None:
            pass
    return disk


@pytest.mark.parametrize("state", REFUSED)
@pytest.mark.parametrize("name", MEDIUM)
def test_what_needs_the_medium_is_refused(state: AccessState, name: str) -> None:
    disk = disk_in(state)
    outcome = disk.run(MEDIUM[name], nexus=NEXUS)
    if state is AccessState.TRANSITIONING and name != "TEST UNIT READY":
        assert outcome.status is Status.BUSY
    else:
        assert outcome.status is Status.CHECK_CONDITION
        assert sense_of(outcome) is REFUSED[state]
    assert disk.asked == []


@pytest.mark.parametrize("state", REFUSED)
@pytest.mark.parametrize("name", EVERYBODY)
def test_what_a_host_needs_to_know_the_path_is_answered(state: AccessState, name: str) -> None:
    active, disk = disk_in(AccessState.ACTIVE_OPTIMIZED), disk_in(state)
    outcome = disk.run(EVERYBODY[name], nexus=NEXUS)
    assert outcome.status is Status.GOOD
    if name != "REPORT TARGET PORT GROUPS":
        assert outcome.data_in == active.run(EVERYBODY[name], nexus=NEXUS).data_in


@pytest.mark.parametrize(
    ("state", "descriptor"),
    [
        (AccessState.ACTIVE_OPTIMIZED, "00 85 0001 00 00 00 01 0000 0001"),
        (AccessState.STANDBY, "02 85 0001 00 02 00 01 0000 0001"),
        (AccessState.TRANSITIONING, "0f 85 0001 00 02 00 01 0000 0001"),
    ],
)
def test_the_state_is_told_with_the_target_port_group(state: AccessState, descriptor: str) -> None:
    disk = RamDisk()
    if state is not AccessState.ACTIVE_OPTIMIZED:
        disk.device.access_changed(state)
    asked = cdb.REPORT_TARGET_PORT_GROUPS.build(allocation_length=255)
    told = b"".join(bytes(piece) for piece in disk.run(asked).data_in)
    assert told == bytes.fromhex("0000000c" + descriptor)


def test_each_nexus_hears_of_the_end_of_a_transition_and_not_of_its_begin() -> None:
    disk = disk_in(AccessState.STANDBY)
    disk.device.access_changed(AccessState.TRANSITIONING)
    refused = disk.run(cdb.TEST_UNIT_READY.build(), nexus=NEXUS)
    assert sense_of(refused) is Sense.ASYMMETRIC_ACCESS_STATE_TRANSITION
    disk.device.access_changed(AccessState.ACTIVE_OPTIMIZED)
    for nexus in (NEXUS, OTHER):
        told = disk.run(cdb.TEST_UNIT_READY.build(), nexus=nexus)
        assert sense_of(told) is Sense.ASYMMETRIC_ACCESS_STATE_CHANGED
        assert disk.run(cdb.TEST_UNIT_READY.build(), nexus=nexus).status is Status.GOOD


def test_a_sanitization_is_still_in_the_way_when_the_ports_are_active() -> None:
    disk = disk_in(AccessState.STANDBY)
    under_way = volume_pb2.Sanitization(state=volume_pb2.SANITIZATION_STATE_UNDER_WAY)
    disk.device.unit.sanitization_changed(under_way)
    disk.device.unit.access_changed(AccessState.ACTIVE_OPTIMIZED)
    disk.run(cdb.TEST_UNIT_READY.build(), nexus=NEXUS)
    refused = disk.run(cdb.TEST_UNIT_READY.build(), nexus=NEXUS)
    assert sense_of(refused) is Sense.SANITIZE_IN_PROGRESS
    disk.device.unit.sanitization_changed(volume_pb2.Sanitization())
    assert disk.run(cdb.TEST_UNIT_READY.build(), nexus=NEXUS).status is Status.GOOD


def test_no_copy_reads_or_writes_through_such_a_port() -> None:
    disk = disk_in(AccessState.STANDBY)
    assert not disk.device.unit.is_usable(NEXUS, Access.READ)


GROUP = bytes.fromhex("00000000 00 00 0001")


def wanted(disk: RamDisk) -> list[None]:
    """A list that grows when an initiator wants the ports to serve."""
    asked: list[None] = []
    disk.device.unit.on_access_wanted = lambda: asked.append(None)
    return asked


def set_groups(parameters: bytes, length: int | None = None) -> bytes:
    return cdb.SET_TARGET_PORT_GROUPS.build(
        parameter_list_length=len(parameters) if length is None else length
    )


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (AccessState.ACTIVE_OPTIMIZED, 0),
        (AccessState.STANDBY, 1),
        (AccessState.TRANSITIONING, 1),
    ],
)
def test_an_initiator_asks_for_a_port_that_does_not_serve(
    state: AccessState, expected: int
) -> None:
    disk = disk_in(state)
    asked = wanted(disk)
    assert disk.run(set_groups(GROUP), GROUP, NEXUS).status is Status.GOOD
    assert len(asked) == expected
    assert disk.device.unit.access_state is state, "that is some time later"


@pytest.mark.parametrize("parameters", ["", "00000000", "00000000 02 00 0001"])
def test_nothing_is_asked_for_with_no_group_or_the_state_that_there_is(parameters: str) -> None:
    disk = disk_in(AccessState.STANDBY)
    asked, data = wanted(disk), bytes.fromhex(parameters)
    assert disk.run(set_groups(data), data, NEXUS).status is Status.GOOD
    assert asked == []


@pytest.mark.parametrize(
    ("parameters", "byte"),
    [
        ("00000000 00 00 0002", 6),
        ("00000000 01 00 0001", 4),
        ("00000000 0f 00 0001", 4),
        ("00000000 00 00 0001 02 00 0009", 10),
    ],
)
def test_a_group_or_a_state_that_cannot_be_set_is_refused_with_all_others(
    parameters: str, byte: int
) -> None:
    disk = disk_in(AccessState.STANDBY)
    asked, data = wanted(disk), bytes.fromhex(parameters)
    outcome = disk.run(set_groups(data), data, NEXUS)
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_PARAMETER_LIST
    assert outcome.sense[15:18] == bytes((0x80, 0, byte))
    assert asked == []


@pytest.mark.parametrize(
    ("sent", "length", "sense"),
    [
        (GROUP, 12, Sense.PARAMETER_LIST_LENGTH_ERROR),
        (GROUP, (1 << 32) - 4, Sense.PARAMETER_LIST_LENGTH_ERROR),
        (GROUP, 6, Sense.INVALID_FIELD_IN_CDB),
        (GROUP, 2, Sense.INVALID_FIELD_IN_CDB),
    ],
)
def test_a_list_that_is_cut_off_is_refused(sent: bytes, length: int, sense: Sense) -> None:
    disk = disk_in(AccessState.STANDBY)
    asked = wanted(disk)
    assert sense_of(disk.run(set_groups(sent, length), sent, NEXUS)) is sense
    assert asked == []
