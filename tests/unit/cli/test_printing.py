"""What a person is told of how a volume stands."""

from __future__ import annotations

import pytest

from cstor_cli.events import as_json, as_line
from cstor_cli.printing import LOSS_POSSIBLE, SHORT, print_volumes
from cstor_cli.status import volume_document
from cstor_core.generated.cstor.v1 import control_pb2, volume_pb2


def report(**fields: object) -> control_pb2.VolumeReport:
    """Of a volume with one member."""
    member = control_pb2.MemberReport(
        member=volume_pb2.Member(address="node-a:7778"),
        status=control_pb2.MEMBER_STATUS_IN_SYNC,
    )
    return control_pb2.VolumeReport(
        identity=volume_pb2.VolumeIdentity(name="disk"),
        status=control_pb2.VOLUME_STATUS_HEALTHY,
        epoch=4,
        members=[member],
        **fields,  # type: ignore[arg-type]
    )


def printed(volume: control_pb2.VolumeReport, capsys: pytest.CaptureFixture[str]) -> str:
    """What `cstor volume show` prints."""
    print_volumes([volume_document(volume)])
    return capsys.readouterr().out


def test_volume_that_serves_says_under_what(capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(report(lease_left_ms=2540), capsys)
    assert "  epoch 4, its lease runs for 2.5 s more\n" in said
    assert "  node-a:7778 in-sync\n" in said
    assert "waiting" not in said
    assert "LOSS" not in said


def test_volume_that_waits_says_how_long_and_for_whom(capsys: pytest.CaptureFixture[str]) -> None:
    waits = report(waiting_ms=34_400, awaited_addresses=["b:1", "c:2"], commands_waiting=12)
    said = printed(waits, capsys)
    assert "  epoch 4, no lease: no read is answered\n" in said
    assert "  it has been waiting for 34 s, for b:1, c:2, and 12 commands with it\n" in said


def test_doubt_is_said_with_what_it_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert f"  {LOSS_POSSIBLE}\n" in printed(report(loss_possible=True), capsys)


def test_member_that_is_short_says_so_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    volume = report()
    volume.members[0].short = True
    assert f"  node-a:7778 in-sync, short: {SHORT}\n" in printed(volume, capsys)


def test_events_that_were_missed_are_said_where_there_are_any() -> None:
    none, some = (control_pb2.WatchEventsResponse(missed=count) for count in (0, 12))
    assert (as_line(none), as_json(none)) == ("", "")
    assert as_line(some) == "(12 events are not kept any more)"
    assert as_json(some) == '{"missed": 12}'


def test_an_event_in_one_line_has_its_time_and_its_severity() -> None:
    event = control_pb2.Event(
        unix_ms=1_700_000_000_123,
        volume="disk",
        name="quorum_lost",
        severity=control_pb2.SEVERITY_ERROR,
        sentence="commands wait",
    )
    time, _, rest = as_line(control_pb2.WatchEventsResponse(event=event)).partition(" ")
    assert rest == "ERROR   disk quorum_lost: commands wait"
    assert ".123" in time
