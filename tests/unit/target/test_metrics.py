"""What a target's metrics say of its members, and how many series they are."""

from __future__ import annotations

from collections import Counter

import pytest

from cstor_core.generated.cstor.v1 import control_pb2, volume_pb2
from cstor_target.event_log import EventLog
from cstor_target.events import KINDS
from cstor_target.iscsi.counters import Counters as IscsiCounters
from cstor_target.metrics import REPLICA_LABELS, TargetCollector
from tests.unit.target.standin import StandInEngine, served
from tests.unit.target.test_reporting import scraped
from tests.unit.volume.hand_clock import HandClock

IN_SYNC = control_pb2.MEMBER_STATUS_IN_SYNC
OFFLINE = control_pb2.MEMBER_STATUS_OFFLINE
WITNESS = control_pb2.MEMBER_STATUS_WITNESS
SERIES_OF_A_VOLUME_MAX = 400


class ManyEngine(StandInEngine):
    """An engine whose volume has a name, members and sessions of the test's choice."""

    def __init__(self, name: str = "vol1", statuses: tuple[int, ...] = (IN_SYNC,)) -> None:
        super().__init__()
        self.name, self.statuses = name, statuses
        self.witnesses = 0
        self.one_copy = False
        self.open()

    def report(self) -> control_pb2.VolumeReport:
        report = super().report()
        report.identity.name, report.one_copy = self.name, self.one_copy
        del report.members[:]
        for number, status in enumerate(self.statuses):
            is_witness = number >= len(self.statuses) - self.witnesses
            member = volume_pb2.Member(
                replica_uuid=f"{self.name}-{number}", address=f"h:{number}", witness=is_witness
            )
            report.members.add(member=member, status=control_pb2.MemberStatus.ValueType(status))
        report.sessions.extend(
            control_pb2.SessionReport(initiator_name=f"iqn.{number}", tsih=number)
            for number in range(self.sessions)
        )
        return report

    sessions = 0


def series(*engines: ManyEngine, events: EventLog | None = None) -> Counter[str]:
    """How many samples each metric has."""
    volumes = []
    for engine in engines:
        assert engine.identity is not None
        engine.identity.name = engine.name
        volumes.append(served(engine, engine.name))
    told = events or EventLog(HandClock())
    collector = TargetCollector(volumes, IscsiCounters(), told, lambda: 2000.0)
    return Counter(sample.name for family in collector.collect() for sample in family.samples)


@pytest.mark.parametrize(
    ("statuses", "witnesses", "one_copy", "tolerated"),
    [
        ((IN_SYNC,), 0, False, 0),
        ((IN_SYNC, IN_SYNC), 0, False, 0),
        ((IN_SYNC,) * 3, 0, False, 1),
        ((IN_SYNC, IN_SYNC, OFFLINE), 0, False, 0),
        ((IN_SYNC, OFFLINE, OFFLINE), 0, False, -1),
        ((IN_SYNC,) * 5, 0, False, 2),
        ((IN_SYNC, IN_SYNC, WITNESS), 1, False, 1),
        ((IN_SYNC, IN_SYNC, OFFLINE), 1, False, 0),
        ((IN_SYNC, OFFLINE, WITNESS), 1, True, 0),
        ((IN_SYNC, OFFLINE, OFFLINE), 1, False, -1),
        ((), 0, False, 0),
    ],
)
def test_losses_that_are_tolerated_are_those_until_commands_wait(
    statuses: tuple[int, ...], witnesses: int, one_copy: bool, tolerated: int
) -> None:
    engine = ManyEngine(statuses=statuses)
    engine.witnesses, engine.one_copy = witnesses, one_copy
    assert scraped(engine, IscsiCounters())["cstor_volume_losses_tolerated", "vol1"] == tolerated


def test_each_volume_adds_as_many_series_and_a_bounded_number() -> None:
    one, two, five = (
        series(*(ManyEngine(f"vol{number}") for number in range(count))) for count in (1, 2, 5)
    )
    added = two - one
    assert five - one == Counter({name: 4 * count for name, count in added.items()})
    assert sum(added.values()) < SERIES_OF_A_VOLUME_MAX
    assert all(name.startswith(("cstor_volume_", "cstor_events_", "openebs_")) for name in added)


def test_each_replica_adds_series_with_its_labels_and_no_others() -> None:
    one = series(ManyEngine(statuses=(IN_SYNC,)))
    three = series(ManyEngine(statuses=(IN_SYNC, OFFLINE, IN_SYNC)))
    added = three - one
    assert all(name.startswith("cstor_volume_replica_") for name in added)
    states = len(control_pb2.MemberStatus.values()) - 1
    assert added["cstor_volume_replica_state"] == 2 * states
    assert sum(added.values()) < 2 * (states + 16)
    assert REPLICA_LABELS == ("volume", "replica", "address")


def test_sessions_commands_and_events_add_no_series() -> None:
    quiet = series(ManyEngine())
    busy, events = ManyEngine(), EventLog(HandClock())
    busy.sessions = 1000
    for number in range(1000):
        busy.counters.write_latency.observe(number / 7)
        events.add("vol1", list(KINDS)[number % len(KINDS)], {"address": f"h:{number}"})
    assert series(busy, events=events) == quiet


def test_events_of_a_volume_that_is_not_served_any_more_are_forgotten() -> None:
    events = EventLog(HandClock())
    events.add("vol1", "open", {})
    events.add("gone", "volume_deleted", {})
    before = series(ManyEngine(), events=events)["cstor_events_total"]
    events.forget("gone")
    assert before == len(KINDS) + 1
    assert series(ManyEngine(), events=events)["cstor_events_total"] == len(KINDS)
    assert events.counts == {("vol1", "open"): 1}
