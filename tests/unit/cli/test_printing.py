"""What a person is told of how a volume stands."""

from __future__ import annotations

import json

import pytest
import yaml
from rich import box
from rich.table import Table
from typer.testing import CliRunner

from cstor_cli.events import as_text
from cstor_cli.main import app
from cstor_cli.options import Output
from cstor_cli.printing import (
    LOSS_POSSIBLE,
    SHORT,
    console_of,
    duration,
    print_document,
    print_volumes,
    rebuilt,
)
from cstor_cli.status import volume_document
from cstor_core.generated.cstor.v1 import control_pb2, volume_pb2
from cstor_core.units import MIB


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
        **{"rebuild_pace": control_pb2.REBUILD_PACE_GENTLE, **fields},  # type: ignore[arg-type]
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


def test_nothing_is_made_up_of_what_a_target_of_an_earlier_release_does_not_tell(
    capsys: pytest.CaptureFixture[str],
) -> None:
    silent = report(rebuild_pace=control_pb2.REBUILD_PACE_UNSPECIFIED)
    document = volume_document(silent)
    assert (document["lease_left_s"], document["rebuild_pace"]) == (None, None)
    said = printed(silent, capsys)
    assert "  epoch 4, and nothing of its lease: the target is of an earlier release\n" in said


def test_volume_that_waits_says_how_long_and_for_whom(capsys: pytest.CaptureFixture[str]) -> None:
    waits = report(waiting_ms=34_400, awaited_addresses=["b:1", "c:2"], commands_waiting=12)
    said = printed(waits, capsys)
    assert "  epoch 4, no lease: no read is answered\n" in said
    assert "  it has been waiting for 34 s, for b:1, c:2, and 12 commands with it\n" in said


def test_properties_are_said_that_most_volumes_have_otherwise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = volume_pb2.VolumeProperties(write_cache=True)
    assert "cache" not in printed(report(properties=usual), capsys)
    unusual = volume_pb2.VolumeProperties(write_cache=False, read_only=True, delete_protection=True)
    said = printed(report(properties=unusual), capsys)
    assert "  read only, delete protection, no write cache\n" in said


def test_doubt_is_said_with_what_it_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert f"  {LOSS_POSSIBLE}\n" in printed(report(loss_possible=True), capsys)


@pytest.mark.parametrize(
    ("scrub", "line"),
    [
        (
            control_pb2.ScrubReport(
                state=control_pb2.SCRUB_STATE_RUNNING,
                blocks_total=1000,
                blocks_done=250,
                seconds_left=90,
            ),
            "  a scrub is under way: 25 % done, 1min 30s left; 0 copies of blocks were wrong, ",
        ),
        (
            control_pb2.ScrubReport(
                state=control_pb2.SCRUB_STATE_FAILED,
                ended_unix_ms=1_700_000_000_000,
                reason="no replica can be read",
                mismatches=3,
                repaired=2,
            ),
            " (no replica can be read): 3 copies of blocks were wrong, 2 put right\n",
        ),
    ],
)
def test_scrub_is_told_in_a_line(
    scrub: control_pb2.ScrubReport, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "scrub" not in printed(report(), capsys)
    assert line in printed(report(scrub=scrub), capsys)


def test_member_that_is_short_says_so_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    volume = report()
    volume.members[0].short = True
    assert f"  node-a:7778 in-sync, short: {SHORT}\n" in printed(volume, capsys)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((0, "0 s"), (0.4, "1 s"), (59.2, "1 min"), (61, "1 min 1 s"), (3600, "1 h")),
        *((3661, "1 h 1 min"), (3605, "1 h"), (200_000, "2 d 7 h")),
    ],
)
def test_a_time_has_its_two_largest_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_way_back_says_how_far_how_fast_and_how_long() -> None:
    told = {"blocks_total": 300, "blocks_done": 200, "bytes_per_s": 123 * MIB + 5, "left_s": 61.0}
    assert rebuilt(None) == "-"
    assert rebuilt(told | {"blocks_total": 0}) == "begins"
    assert rebuilt(told | {"left_s": None}) == "66 %, 123MiB/s"
    assert rebuilt(told) == "66 %, 123MiB/s, 1 min 1 s left"


def test_nothing_is_cut_off_in_a_pipe() -> None:
    table = Table("one", "two", box=box.SIMPLE)
    table.add_row("x" * 200, "y" * 200)
    for columns, is_whole in ((None, True), (80, False)):
        printing = console_of(columns)
        with printing.capture() as captured:
            printing.print(table)
        assert (f"{'x' * 200}   {'y' * 200}" in captured.get()) is is_whole


def test_events_that_were_missed_are_said_where_there_are_any() -> None:
    none, some = (control_pb2.WatchEventsResponse(missed=count) for count in (0, 12))
    assert [as_text(none, output) for output in Output] == ["", "", ""]
    assert as_text(some, Output.TABLE) == "(12 events are not kept any more)"
    assert as_text(some, Output.JSON) == '{"missed": 12}'
    assert as_text(some, Output.YAML) == "---\nmissed: 12"


def test_an_event_in_one_line_has_its_time_and_its_severity() -> None:
    event = control_pb2.Event(
        unix_ms=1_700_000_000_123,
        volume="disk",
        name="quorum_lost",
        severity=control_pb2.SEVERITY_ERROR,
        sentence="commands wait",
    )
    time, _, rest = as_text(control_pb2.WatchEventsResponse(event=event), Output.TABLE).partition(
        " "
    )
    assert rest == "ERROR   disk quorum_lost: commands wait"
    assert ".123" in time


def test_yaml_holds_the_same_document_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    volume = report(reason="no: #1 is 'off', " * 20, loss_possible=True, waiting_ms=34_400)
    volume.identity.name = "0x1F"
    document = {
        "volumes": [volume_document(volume)],
        "none": None,
        "again": volume_document(volume),
    }
    print_document(document, Output.JSON)
    as_json = capsys.readouterr().out
    print_document(document, Output.YAML)
    as_yaml = capsys.readouterr().out
    assert yaml.safe_load(as_yaml) == json.loads(as_json)
    assert list(yaml.safe_load(as_yaml)) == list(document)
    assert f"reason: '{volume.reason.replace(chr(39), 2 * chr(39))}'\n" in as_yaml


def test_yaml_of_what_is_there_twice_needs_no_anchors(capsys: pytest.CaptureFixture[str]) -> None:
    extent = {"offset_bytes": 0}
    print_document([extent, extent], Output.YAML)
    assert capsys.readouterr().out == "- offset_bytes: 0\n- offset_bytes: 0\n"


def test_events_are_a_stream_of_yaml_documents() -> None:
    events = [control_pb2.Event(number=at, sentence="a: b", facts={"x": "1"}) for at in (1, 2)]
    lines = [
        as_text(control_pb2.WatchEventsResponse(event=event), Output.YAML) + "\n"
        for event in events
    ]
    told = list(yaml.safe_load_all("".join(lines)))
    assert [event["number"] for event in told] == [1, 2]
    assert told[0]["facts"] == {"x": "1"}


@pytest.mark.parametrize("command", [["status"], ["events"], ["snapshot", "list"]])
def test_another_output_is_refused_with_those_that_there_are(command: list[str]) -> None:
    said = CliRunner().invoke(app, [*command, "--output", "xml"])
    assert said.exit_code == 2
    assert "'table', 'json', 'yaml'" in said.output
