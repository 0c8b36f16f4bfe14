"""A volume's names, its readiness, and how it is found."""

from __future__ import annotations

import pytest

from cstor_core.errors import UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_target.scsi.requests import Outcome, Status
from cstor_target.scsi.sense import Sense, check_condition
from cstor_target.served_volume import Directory
from cstor_target.volume.succession import Role
from tests.unit.target.standin import IDENTITY, IQN, UUID, StandInEngine, served

INQUIRY_OF_SERIAL_NUMBER = bytes((0x12, 1, 0x80, 0, 0xFF, 0, *bytes(10)))


def test_login_is_held_until_the_volume_has_opened() -> None:
    engine = StandInEngine()
    volume = served(engine)
    assert Directory([volume]).find(IQN) is volume
    assert not volume.ready
    engine.open()
    assert volume.ready


def test_device_is_in_doubt_where_the_opening_was() -> None:
    engine = StandInEngine()
    engine.loss_possible = True
    volume = served(engine)
    engine.open()
    volume.device.nexus_established("nexus")
    attention = volume.device.start("nexus", 0, bytes(16))
    flush = volume.device.start("nexus", 0, bytes((0x35, *bytes(15))))
    for outcome in (attention, flush):
        assert isinstance(outcome, Outcome)
        assert outcome.status is Status.CHECK_CONDITION
    assert engine.told == 1


def test_device_carries_the_volumes_uuid_as_serial_number() -> None:
    engine = StandInEngine()
    volume = served(engine)
    engine.open()
    outcome = volume.device.start("nexus", 0, INQUIRY_OF_SERIAL_NUMBER, (), 255)
    assert isinstance(outcome, Outcome)
    assert outcome.status is Status.GOOD
    assert UUID.encode() in b"".join(bytes(piece) for piece in outcome.data_in)


def test_other_names_are_not_found() -> None:
    engine = StandInEngine()
    directory = Directory([served(engine)])
    assert directory.find("iqn.2016-09.com.openebs.cstor:other") is None
    engine.open()
    assert directory.find("iqn.2016-09.com.openebs.cstor:other") is None


def test_volume_asked_for_by_uuid_holds_logins_until_it_says_its_name() -> None:
    engine = StandInEngine()
    volume = served(engine, UUID)
    directory = Directory([volume])
    assert directory.find(IQN) is volume
    assert directory.find("iqn.2001-04.com.example:disk") is None
    engine.open()
    assert directory.find(IQN) is volume
    assert directory.find(f"iqn.2016-09.com.openebs.cstor:{UUID}") is None


def test_volume_is_not_discovered_before_its_name_is_known() -> None:
    engine = StandInEngine()
    by_uuid, by_name = served(engine, UUID), served(StandInEngine(), "other")
    directory = Directory([by_uuid, by_name])
    assert directory.targets() == [by_name]
    engine.open()
    assert directory.targets() == [by_uuid, by_name]


def test_iscsi_name_is_in_lower_case() -> None:
    assert served(StandInEngine(), "Vol1").name == IQN


def test_volume_answers_to_name_uuid_and_iscsi_name() -> None:
    engine = StandInEngine()
    volume = served(engine)
    assert volume.is_called("vol1")
    assert not volume.is_called(UUID)
    engine.open()
    assert volume.is_called(UUID)
    assert volume.is_called(IQN)
    assert not volume.is_called("vol2")


async def test_reservations_of_a_volume_that_is_not_open_are_not_taken_away() -> None:
    volume = served(StandInEngine())
    with pytest.raises(UnavailableError, match="not open"):
        await volume.clear_reservations()


async def test_who_takes_reservations_away_is_told_where_no_quorum_answers() -> None:
    engine = StandInEngine()
    volume = served(engine)
    engine.open()
    with pytest.raises(UnavailableError, match="ask again"):
        await volume.clear_reservations()


def stands_by(engine: StandInEngine, role: Role = Role.STANDBY) -> None:
    """The engine has seen what the volume is, and does not serve it."""
    engine.identity = IDENTITY
    engine.is_serving = False
    succession = engine.succession
    succession.seen = replica_pb2.ReplicaReport(identity=IDENTITY, size_bytes=engine.size_bytes)
    succession.role = role
    succession.on_change()


def test_who_logs_in_where_the_target_stands_by_sees_the_disk_and_no_medium() -> None:
    engine = StandInEngine()
    volume = served(engine)
    stands_by(engine)
    assert volume.ready
    assert not volume.is_open
    volume.device.nexus_established("nexus")
    outcome = volume.device.start("nexus", 0, INQUIRY_OF_SERIAL_NUMBER, (), 255)
    assert isinstance(outcome, Outcome)
    assert UUID.encode() in b"".join(bytes(piece) for piece in outcome.data_in)
    volume.device.unit.attentions.take("nexus")
    assert volume.device.start("nexus", 0, bytes(16)) == check_condition(
        Sense.TARGET_PORT_IN_STANDBY_STATE
    )


def test_logins_wait_where_the_volume_is_about_to_be_left_and_what_was_begun_does_not() -> None:
    engine = StandInEngine()
    volume = served(engine)
    engine.open()
    volume.stopping = True
    assert not volume.ready
    assert volume.is_there
    assert volume.is_open


def test_logins_that_wait_are_told_when_the_target_stands_by_or_serves() -> None:
    engine = StandInEngine()
    volume = served(engine)
    told: list[bool] = []
    volume.on_ready = lambda: told.append(volume.ready)
    stands_by(engine)
    assert told == [True]
    stands_by(engine, Role.TAKING_OVER)
    engine.succession.role = Role.SERVING
    engine.open()
    assert told == [True, True]


def test_logins_wait_while_the_target_takes_over() -> None:
    engine = StandInEngine()
    volume = served(engine)
    stands_by(engine)
    device = volume.device
    device.nexus_established("nexus")
    stands_by(engine, Role.TAKING_OVER)
    assert not volume.ready
    engine.succession.role = Role.SERVING
    engine.loss_possible = True
    engine.open()
    assert volume.is_open
    assert volume.device is device, "sessions go on with the disk that they have seen"
    waiting = [device.unit.attentions.take("nexus") for _ in range(3)]
    assert waiting == [
        Sense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED,
        Sense.POWER_ON_OCCURRED,
        Sense.ASYMMETRIC_ACCESS_STATE_CHANGED,
    ]
    assert device.start("nexus", 0, bytes(16)) == Outcome(Status.GOOD)
    flush = device.start("nexus", 0, bytes((0x35, *bytes(15))))
    assert isinstance(flush, Outcome)
    assert flush.status is Status.CHECK_CONDITION, "a nexus of before is told of the doubt, too"


def test_a_size_that_grew_is_seen_where_the_target_stands_by() -> None:
    engine = StandInEngine()
    volume = served(engine)
    stands_by(engine)
    volume.device.nexus_established("nexus")
    volume.device.unit.attentions.take("nexus")
    engine.size_bytes *= 2
    stands_by(engine)
    assert volume.device.unit.block_count == engine.size_bytes // 512
    assert volume.device.unit.attentions.take("nexus") is Sense.CAPACITY_DATA_HAS_CHANGED
