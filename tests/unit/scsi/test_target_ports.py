"""A unit that is reached through several target ports, each a target port group of its own."""

from __future__ import annotations

import struct

from cstor_target.scsi import cdb, cdb_reservations
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.geometry import Geometry
from cstor_target.scsi.identity import Identity
from cstor_target.scsi.requests import Status
from cstor_target.scsi.reservations import Registrant
from cstor_target.scsi.sense import Sense
from cstor_target.scsi.target_device import TargetDevice
from tests.unit.scsi.ram_disk import TARGET_NAME, VOLUME_UUID, RamDisk, sense_of

PORT = "iqn.2004-10.com.example:host,i,0x800000000001"
FIRST, SECOND = Registrant(PORT, 1).nexus, Registrant(PORT, 2).nexus


def two_ports() -> RamDisk:
    disk = RamDisk()
    disk.device = TargetDevice(
        Identity(VOLUME_UUID, TARGET_NAME, target_ports=(1, 2)), Geometry(lambda: len(disk.held))
    )
    for nexus in (FIRST, SECOND):
        disk.device.nexus_established(nexus)
        disk.run(cdb.TEST_UNIT_READY.build(), nexus=nexus)
    return disk


def out(disk: RamDisk, nexus: str, layout: Cdb, key: int, action_key: int = 0) -> Status:
    """PERSISTENT RESERVE OUT, type write exclusive."""
    fields = {"parameter_list_length": 24}
    if layout is not cdb_reservations.REGISTER:
        fields["type"] = 1
    parameters = struct.pack(">QQ8x", key, action_key)
    return disk.run(layout.build(**fields), parameters, nexus).status


def test_a_nexus_is_named_by_both_ports() -> None:
    assert FIRST == PORT
    assert SECOND != PORT
    assert [Registrant.of(nexus) for nexus in (FIRST, SECOND)] == [(PORT, 1), (PORT, 2)]


def test_device_identification_is_of_the_port_that_was_reached() -> None:
    disk = two_ports()
    asked = cdb.INQUIRY.build(evpd=1, page_code=0x83, allocation_length=0xFFFF)
    for nexus, port in ((FIRST, 1), (SECOND, 2)):
        page = b"".join(disk.run(asked, nexus=nexus).data_in)
        name = f"{TARGET_NAME},t,0x{port:04x}".encode()
        assert name in page
        assert struct.pack(">BBxB2xH", 0x51, 0x94, 4, port) in page
        assert struct.pack(">BBxB2xH", 0x51, 0x95, 4, port) in page
    pages = [b"".join(disk.run(asked, nexus=nexus).data_in) for nexus in (FIRST, SECOND)]
    naa = disk.device.unit.identity.naa
    assert all(naa in page for page in pages)


def test_each_port_is_a_group() -> None:
    asked = cdb.REPORT_TARGET_PORT_GROUPS.build(allocation_length=256)
    data = b"".join(two_ports().run(asked, nexus=SECOND).data_in)
    groups = b"".join(struct.pack(">BBHxBxB2xH", 0, 0x85, port, 0, 1, port) for port in (1, 2))
    assert data == struct.pack(">I", len(groups)) + groups


def test_who_has_registered_through_one_port_has_not_through_the_other() -> None:
    disk = two_ports()
    assert out(disk, FIRST, cdb_reservations.REGISTER, 0, 7) is Status.GOOD
    assert out(disk, FIRST, cdb_reservations.RESERVE, 7) is Status.GOOD
    write = cdb.WRITE_10.build(transfer_length=1)
    assert disk.run(write, bytes(512), FIRST).status is Status.GOOD
    assert disk.run(write, bytes(512), SECOND).status is Status.RESERVATION_CONFLICT
    assert out(disk, SECOND, cdb_reservations.REGISTER, 0, 9) is Status.GOOD
    aborted: list[Registrant] = []
    disk.device.unit.on_preempted = aborted.append
    assert out(disk, SECOND, cdb_reservations.PREEMPT_AND_ABORT, 9, 7) is Status.GOOD
    assert aborted == [Registrant(PORT, 1)]
    told = disk.run(cdb.TEST_UNIT_READY.build(), nexus=FIRST)
    assert sense_of(told) is Sense.REGISTRATIONS_PREEMPTED
    assert disk.run(cdb.TEST_UNIT_READY.build(), nexus=SECOND).status is Status.GOOD
    assert disk.run(write, bytes(512), SECOND).status is Status.GOOD
