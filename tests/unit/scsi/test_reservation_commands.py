"""PERSISTENT RESERVE IN and OUT, RESERVE and RELEASE, as initiators send them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from cstor_target.scsi import cdb
from cstor_target.scsi import cdb_reservations as layouts
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.commands import COMMANDS, access_of
from cstor_target.scsi.requests import Confirm, Outcome, Reserve, Status
from cstor_target.scsi.reservations import Access, Reservations, ReservationType
from cstor_target.scsi.sense import Sense
from cstor_target.scsi.transport_id import transport_id
from cstor_target.volume.backing import Failure
from tests.unit.scsi.ram_disk import RamDisk, field_of, sense_of

A, B, C = (f"iqn.2026-01.x:{name},i,0x00023d000001" for name in "abc")
WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
EXCLUSIVE = ReservationType.EXCLUSIVE_ACCESS
OUT = [one.layout for one in COMMANDS if one.layout.operation_code == 0x5F]
OF_REGISTRANTS = [
    layouts.RESERVE,
    layouts.RELEASE,
    layouts.CLEAR,
    layouts.PREEMPT,
    layouts.PREEMPT_AND_ABORT,
]
SPEC_I_PT, ALL_TG_PT, APTPL = 8, 4, 1
NO_FIELDS: Mapping[str, int] = MappingProxyType({})

each_out = pytest.mark.parametrize("layout", OUT, ids=lambda layout: str(layout.name))


class Pair:
    """A disk that two initiators have logged in to, and know that."""

    def __init__(self) -> None:
        self.disk = RamDisk()
        self.aborted: list[str] = []
        self.disk.device.unit.on_preempted = lambda one: self.aborted.append(one.nexus)
        for nexus in (A, B, C):
            self.disk.device.nexus_established(nexus)
            assert self.attention(nexus) is not None
        self.disk.asked.clear()

    def out(
        self,
        nexus: str,
        layout: Cdb,
        key: int = 0,
        action_key: int = 0,
        flags: int = 0,
        rest: bytes = b"",
        fields: Mapping[str, int] = NO_FIELDS,
        **more: int,
    ) -> Outcome:
        """A PERSISTENT RESERVE OUT."""
        parameters = struct.pack(">QQ4xB3x", key, action_key, flags) + rest
        built = layout.build(parameter_list_length=len(parameters), **fields, **more)
        return self.disk.run(built, parameters, nexus)

    def register(self, nexus: str, key: int) -> None:
        outcome = self.out(nexus, layouts.REGISTER_AND_IGNORE_EXISTING_KEY, 0, key)
        assert outcome.status is Status.GOOD

    def read(self, layout: Cdb, nexus: str = A, length: int = 0xFFFF) -> bytes:
        """A PERSISTENT RESERVE IN."""
        outcome = self.disk.run(layout.build(allocation_length=length), b"", nexus)
        assert outcome.status is Status.GOOD
        return b"".join(outcome.data_in)

    def keys(self) -> list[int]:
        told = self.read(layouts.READ_KEYS)
        assert len(told) == 8 + int.from_bytes(told[4:8], "big")
        return [key for (key,) in struct.iter_unpack(">Q", told[8:])]

    def attention(self, nexus: str) -> Sense | None:
        """What a nexus is told next, if anything."""
        outcome = self.disk.run(cdb.TEST_UNIT_READY.build(), b"", nexus)
        return None if outcome.status is Status.GOOD else sense_of(outcome)

    def write(self, nexus: str) -> Status:
        return self.disk.run(cdb.WRITE_10.build(transfer_length=1), bytes(512), nexus).status

    def read_block(self, nexus: str) -> Status:
        return self.disk.run(cdb.READ_10.build(transfer_length=1), b"", nexus).status


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_a_key_is_registered_changed_and_taken_away(pair: Pair) -> None:
    assert pair.out(A, layouts.REGISTER, 5, 6).status is Status.RESERVATION_CONFLICT
    assert pair.out(A, layouts.REGISTER, 0, 6).status is Status.GOOD
    assert pair.out(B, layouts.REGISTER, 0, 7, APTPL).status is Status.GOOD
    assert pair.keys() == [6, 7]
    assert pair.out(A, layouts.REGISTER, 7, 8).status is Status.RESERVATION_CONFLICT
    assert pair.out(A, layouts.REGISTER, 6, 8).status is Status.GOOD
    assert pair.keys() == [8, 7]
    assert pair.out(A, layouts.REGISTER, 8, 0).status is Status.GOOD
    assert pair.keys() == [7]
    assert pair.out(A, layouts.REGISTER, 0, 0).status is Status.GOOD
    assert int.from_bytes(pair.read(layouts.READ_KEYS)[:4], "big") == 4, (
        "what changed nothing is none"
    )
    kept = Reservations.of(pair.disk.reservations)
    assert [one.initiator_port for one in kept.keys] == [B]
    assert pair.disk.reservations == pair.disk.device.unit.reservations.message()


def test_a_reservation_keeps_others_from_writing(pair: Pair) -> None:
    pair.register(A, 1)
    assert pair.out(A, layouts.RESERVE, 2, type=1).status is Status.RESERVATION_CONFLICT
    assert pair.out(A, layouts.RESERVE, 1, type=1).status is Status.GOOD
    assert pair.write(A) is Status.GOOD
    asked = len(pair.disk.asked)
    assert pair.write(B) is Status.RESERVATION_CONFLICT
    assert [type(one) for one in pair.disk.asked[asked:]] == [Confirm], "the lease is looked at"
    assert pair.read_block(B) is Status.GOOD
    assert pair.read(layouts.READ_RESERVATION)[8:] == struct.pack(">Q4xxBxx", 1, 1)
    assert pair.out(A, layouts.RELEASE, 1, type=1).status is Status.GOOD
    assert pair.write(B) is Status.GOOD
    assert len(pair.read(layouts.READ_RESERVATION)) == 8


def test_a_conflict_that_another_target_may_have_ended_is_not_told(pair: Pair) -> None:
    pair.register(A, 1)
    pair.out(A, layouts.RESERVE, 1, type=EXCLUSIVE)
    pair.disk.failure = Failure.BUSY
    assert pair.write(B) is Status.BUSY
    assert pair.disk.run(layouts.READ_KEYS.build(allocation_length=8)).status is Status.BUSY


@pytest.mark.parametrize("is_aborting", [False, True])
def test_preempted_ones_are_told_and_their_commands_end(pair: Pair, is_aborting: bool) -> None:
    pair.register(A, 1)
    pair.register(B, 2)
    pair.out(A, layouts.RESERVE, 1, type=WERO)
    layout = layouts.PREEMPT_AND_ABORT if is_aborting else layouts.PREEMPT
    assert pair.out(B, layout, 2, 1, type=WERO).status is Status.GOOD
    assert pair.aborted == ([A] if is_aborting else [])
    assert pair.attention(A) is Sense.REGISTRATIONS_PREEMPTED
    assert pair.attention(A) is pair.attention(B) is None
    assert pair.write(A) is Status.RESERVATION_CONFLICT
    assert pair.keys() == [2]


def test_clear_and_release_tell_the_others(pair: Pair) -> None:
    for key, nexus in enumerate((A, B), 1):
        pair.register(nexus, key)
    pair.out(A, layouts.RESERVE, 1, type=WERO)
    pair.out(A, layouts.RELEASE, 1, type=WERO)
    assert pair.attention(B) is Sense.RESERVATIONS_RELEASED
    pair.out(B, layouts.CLEAR, 2)
    assert pair.attention(A) is Sense.RESERVATIONS_PREEMPTED
    assert pair.attention(B) is pair.attention(C) is None
    assert pair.keys() == []


def test_full_status_names_every_port(pair: Pair) -> None:
    pair.register(A, 1)
    pair.register(B, 2)
    pair.out(B, layouts.RESERVE, 2, type=EXCLUSIVE)
    told = pair.read(layouts.READ_FULL_STATUS)
    assert int.from_bytes(told[4:8], "big") == len(told) - 8
    at = 8
    for nexus, key, flags, kind in ((A, 1, 0, 0), (B, 2, 1, EXCLUSIVE)):
        port = transport_id(nexus)
        head = struct.pack(">Q4xBB4xHI", key, flags, kind, 1, len(port))
        assert told[at : at + 24 + len(port)] == head + port
        assert port[0] == 0x45
        assert len(port) % 4 == 0
        assert port[4:].rstrip(b"\0").decode() == nexus
        at += 24 + len(port)
    assert at == len(told)
    assert pair.read(layouts.READ_FULL_STATUS, length=20) == told[:20]


def test_capabilities_are_those_that_there_are(pair: Pair) -> None:
    assert pair.read(layouts.REPORT_CAPABILITIES) == bytes.fromhex("0008 1d 80 ea01 0000")
    pair.out(A, layouts.REGISTER, 0, 1, APTPL)
    assert pair.read(layouts.REPORT_CAPABILITIES)[3] == 0x81


def test_other_ports_are_registered_by_name(pair: Pair) -> None:
    ids = transport_id(B) + transport_id(C)
    rest = struct.pack(">I", len(ids)) + ids
    assert pair.out(A, layouts.REGISTER, 0, 5, SPEC_I_PT | ALL_TG_PT, rest).status is Status.GOOD
    assert pair.keys() == [5, 5, 5]
    assert pair.out(C, layouts.RESERVE, 5, type=WERO).status is Status.GOOD
    outcome = pair.out(A, layouts.REGISTER, 5, 6, SPEC_I_PT, rest)
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_PARAMETER_LIST


@pytest.mark.parametrize(
    "ids",
    [
        b"\x45\0\0",
        b"\x45\0\0\x10" + bytes(16),
        b"\x05\0\0\x14" + b"iqn.2026-01.x:a".ljust(20, b"\0"),
        b"\x46\0\0\x14" + b"iqn.2026-01.x:a,i,0x".ljust(20, b"\0"),
        b"\x45\0\0\x18" + b"iqn.2026-01.x:a,i,0x1".ljust(20, b"\0"),
        b"\x45\0\0\x14" + b"iqn.2026-01.x:a,i,0x".ljust(20, b"\0"),
        b"\x45\0\0\x18" + b"iqn.2026-01.x:abcd,i,0x1",
        b"\x45\0\0\x18" + b"iqn.2026-01.x:a,i,0x1\0!\0\0",
        b"\x45\0\0\x18" + b"com.example:abc,i,0x1".ljust(24, b"\0"),
    ],
)
def test_a_wrong_transport_id_is_refused(pair: Pair, ids: bytes) -> None:
    rest = struct.pack(">I", len(ids)) + ids
    outcome = pair.out(A, layouts.REGISTER, 0, 5, SPEC_I_PT, rest)
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_PARAMETER_LIST
    assert pair.keys() == []


def test_a_port_is_known_by_its_normal_name(pair: Pair) -> None:
    ids = b"\x45\0\0\x20" + b"IQN.2026-01.x:B,i,0x23D000001".ljust(32, b"\0")
    rest = struct.pack(">I", len(ids)) + ids
    assert pair.out(A, layouts.REGISTER, 0, 5, SPEC_I_PT, rest).status is Status.GOOD
    assert pair.out(B, layouts.RESERVE, 5, type=WERO).status is Status.GOOD


def move(pair: Pair, key: int, action_key: int, flags: int, port: int, ids: bytes) -> Outcome:
    parameters = struct.pack(">QQxBHI", key, action_key, flags, port, len(ids)) + ids
    built = layouts.REGISTER_AND_MOVE.build(parameter_list_length=len(parameters))
    return pair.disk.run(built, parameters, A)


def test_a_reservation_moves_to_another_port(pair: Pair) -> None:
    pair.register(A, 1)
    assert move(pair, 1, 9, 0, 1, transport_id(B)).status is Status.RESERVATION_CONFLICT
    pair.out(A, layouts.RESERVE, 1, type=EXCLUSIVE)
    assert move(pair, 2, 9, 0, 1, transport_id(B)).status is Status.RESERVATION_CONFLICT
    assert move(pair, 1, 9, 0x02, 1, transport_id(B)).status is Status.GOOD
    assert pair.keys() == [9]
    assert pair.write(A) is Status.RESERVATION_CONFLICT
    assert pair.write(B) is Status.GOOD


@pytest.mark.parametrize(
    ("action_key", "port", "ids", "sense"),
    [
        (0, 1, transport_id(B), Sense.INVALID_FIELD_IN_PARAMETER_LIST),
        (9, 2, transport_id(B), Sense.INVALID_FIELD_IN_PARAMETER_LIST),
        (9, 1, transport_id(A), Sense.INVALID_FIELD_IN_PARAMETER_LIST),
        (9, 1, transport_id(B) * 2, Sense.INVALID_FIELD_IN_PARAMETER_LIST),
        (9, 1, b"", Sense.INVALID_FIELD_IN_PARAMETER_LIST),
    ],
)
def test_a_move_to_nowhere_is_refused(
    pair: Pair, action_key: int, port: int, ids: bytes, sense: Sense
) -> None:
    pair.register(A, 1)
    pair.out(A, layouts.RESERVE, 1, type=EXCLUSIVE)
    assert sense_of(move(pair, 1, action_key, 0, port, ids)) is sense
    assert pair.keys() == [1]


@each_out
@pytest.mark.parametrize("length", [0, 8, 23])
def test_a_parameter_list_that_is_too_short_changes_nothing(
    pair: Pair, layout: Cdb, length: int
) -> None:
    for said in (length, 24):
        built = layout.build(parameter_list_length=said, **_type_of(layout))
        outcome = pair.disk.run(built, bytes(length), A)
        assert sense_of(outcome) is Sense.PARAMETER_LIST_LENGTH_ERROR
    assert pair.disk.asked == []


@pytest.mark.parametrize("layout", OF_REGISTRANTS, ids=lambda layout: str(layout.name))
def test_only_registrants_with_their_key_may_act(pair: Pair, layout: Cdb) -> None:
    pair.register(A, 1)
    pair.register(B, 2)
    for nexus, key in ((A, 2), (B, 1), (C, 0), (C, 1)):
        outcome = pair.out(nexus, layout, key, 1, fields=_type_of(layout))
        assert outcome == Outcome(Status.RESERVATION_CONFLICT)
    assert pair.keys() == [1, 2]


@pytest.mark.parametrize(
    "layout",
    [one for one in OF_REGISTRANTS if one is not layouts.CLEAR],
    ids=lambda one: str(one.name),
)
@pytest.mark.parametrize(("field", "value"), [("scope", 1), ("type", 0), ("type", 2), ("type", 9)])
def test_an_unknown_scope_or_type_is_refused(
    pair: Pair, layout: Cdb, field: str, value: int
) -> None:
    pair.register(A, 1)
    outcome = pair.out(A, layout, 1, 1, fields={"type": 1} | {field: value})
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == (2, 7 if field == "scope" else 3)


def test_a_change_waits_for_its_place_and_is_worked_out_there(pair: Pair) -> None:
    """Whatever was changed between the command and its place counts."""
    unit = pair.disk.device.unit
    parameters = struct.pack(">QQ8x", 0, 5)
    built = layouts.REGISTER.build(parameter_list_length=24)
    first = unit.start(A, built, (parameters,))
    second = unit.start(A, built, (parameters,))
    assert isinstance(first, Reserve)
    assert isinstance(second, Reserve)
    assert first.change() is not None
    assert second.change() is None
    assert first.finish is not None
    assert second.finish is not None
    assert first.finish(None) == Outcome(Status.GOOD)
    assert second.finish(None) == Outcome(Status.RESERVATION_CONFLICT)
    assert first.finish(Failure.BUSY) == Outcome(Status.BUSY)


def test_reserve_6_keeps_everybody_else_out_until_release_logout_or_reset(pair: Pair) -> None:
    disk = pair.disk
    for layout in (layouts.RESERVE_6, layouts.RESERVE_10):
        release = layouts.RELEASE_6 if layout is layouts.RESERVE_6 else layouts.RELEASE_10
        assert disk.run(layout.build(), b"", A).status is Status.GOOD
        assert disk.run(layout.build(), b"", A).status is Status.GOOD
        for refused in (
            layout,
            cdb.TEST_UNIT_READY,
            cdb.READ_10,
            layouts.READ_KEYS,
            layouts.REGISTER,
        ):
            assert disk.run(refused.build(), b"", B) == Outcome(Status.RESERVATION_CONFLICT)
        for allowed in (cdb.INQUIRY, cdb.REPORT_LUNS, cdb.REQUEST_SENSE, release):
            assert disk.run(allowed.build(), b"", B).status is Status.GOOD
        assert pair.write(A) is Status.GOOD
        assert pair.write(B) is Status.RESERVATION_CONFLICT
        assert disk.run(release.build(), b"", A).status is Status.GOOD
        assert pair.write(B) is Status.GOOD
    disk.run(layouts.RESERVE_6.build(), b"", A)
    disk.device.nexus_lost(A)
    assert pair.write(B) is Status.GOOD
    disk.run(layouts.RESERVE_6.build(), b"", B)
    disk.device.reset(B)
    assert pair.attention(C) is Sense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED
    assert pair.write(C) is Status.GOOD


def test_reserve_6_beside_registrations(pair: Pair) -> None:
    disk = pair.disk
    pair.register(A, 1)
    for nexus in (A, B):
        assert disk.run(layouts.RESERVE_6.build(), b"", nexus).status is Status.RESERVATION_CONFLICT
    pair.out(A, layouts.RESERVE, 1, type=WERO)
    for layout in (layouts.RESERVE_6, layouts.RELEASE_6):
        assert disk.run(layout.build(), b"", A).status is Status.GOOD
        assert disk.run(layout.build(), b"", B).status is Status.RESERVATION_CONFLICT
    assert disk.device.unit.reserved_by is None


def test_what_commands_are_to_reservations() -> None:
    """SPC-4 r36f, table 65; SBC-3, table 13."""
    anyhow = {0x00, 0x03, 0x12, 0x16, 0x17, 0x25, 0x56, 0x57, 0x5E, 0x5F, 0xA0}
    reading = {0x08, 0x1A, 0x28, 0x2F, 0x34, 0x37, 0x4D, 0x5A, 0x88, 0x8F, 0x90, 0xA8, 0xAF, 0xB7}
    for command in COMMANDS:
        code, action = command.layout.operation_code, command.layout.service_action or 0
        if code in (0x1B, 0x1E, 0x9E, 0xA3):
            continue
        expected = (
            Access.ANY if code in anyhow else Access.READ if code in reading else Access.WRITE
        )
        assert access_of(command.layout.build()) is expected, (hex(code), action)
    assert access_of(cdb.READ_CAPACITY_16.build()) is Access.ANY
    assert access_of(cdb.GET_LBA_STATUS.build()) is Access.READ
    assert access_of(cdb.REPORT_TARGET_PORT_GROUPS.build()) is Access.ANY
    assert access_of(cdb.REPORT_SUPPORTED_OPERATION_CODES.build()) is Access.READ
    assert access_of(cdb.START_STOP_UNIT.build(start=1)) is Access.ANY
    assert access_of(cdb.START_STOP_UNIT.build(start=1, power_condition=1)) is Access.WRITE
    assert access_of(cdb.START_STOP_UNIT.build()) is Access.WRITE
    assert access_of(cdb.PREVENT_ALLOW_MEDIUM_REMOVAL.build()) is Access.ANY
    assert access_of(cdb.PREVENT_ALLOW_MEDIUM_REMOVAL.build(prevent=1)) is Access.WRITE
    assert access_of(bytes([0xC0]).ljust(16, b"\0")) is Access.ANY


def _type_of(layout: Cdb) -> dict[str, int]:
    """A type, for those that look at it."""
    return {"type": 1} if layout in OF_REGISTRANTS and layout is not layouts.CLEAR else {}
