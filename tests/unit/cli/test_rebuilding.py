"""What somebody sees who watches replicas come back."""

from __future__ import annotations

import json

import pytest

from cstor_cli.options import Output
from cstor_cli.rebuilding import Lines, documents, is_over
from cstor_core.errors import InputError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2, volume_pb2

IN_SYNC = control_pb2.MEMBER_STATUS_IN_SYNC
REBUILDING = control_pb2.MEMBER_STATUS_REBUILDING
OFFLINE = control_pb2.MEMBER_STATUS_OFFLINE
FAILED = control_pb2.MEMBER_STATUS_FAILED


def report(
    *statuses: control_pb2.MemberStatus.ValueType, done: int = 0
) -> control_pb2.VolumeReport:
    """Of a volume whose replicas have these statuses; one that is rebuilt has done so much."""
    return control_pb2.VolumeReport(
        identity=volume_pb2.VolumeIdentity(name="disk"),
        members=[
            control_pb2.MemberReport(
                member=volume_pb2.Member(replica_uuid=f"uuid-{number}", address=f"node-{number}:1"),
                status=status,
                reason="" if status == IN_SYNC else "it was lost",
                rebuild_blocks_total=100 if status == REBUILDING else 0,
                rebuild_blocks_done=done,
            )
            for number, status in enumerate(statuses)
        ],
    )


def test_it_is_over_when_all_that_are_meant_are_in_sync() -> None:
    found = report(IN_SYNC, REBUILDING)
    assert not is_over(documents(found, ""))
    assert not is_over(documents(found, "node-1:1"))
    assert is_over(documents(found, "uuid-0"))
    assert is_over(documents(report(IN_SYNC, IN_SYNC), ""))
    assert not is_over([])


def test_replica_that_does_not_come_back_ends_the_waiting_when_the_others_are_there() -> None:
    assert not is_over(documents(report(FAILED, REBUILDING), ""))
    with pytest.raises(UnavailableError, match=r"node-0:1: it was lost; `cstor replica replace`"):
        is_over(documents(report(FAILED, IN_SYNC), ""))


def test_replica_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="disk has no replica 'node-7:1'"):
        documents(report(IN_SYNC), "node-7:1")


def test_a_line_for_each_change_of_a_replica(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(Output.TABLE)
    for found in (
        report(IN_SYNC, OFFLINE),
        report(IN_SYNC, REBUILDING, done=10),
        report(IN_SYNC, REBUILDING, done=10),
        report(IN_SYNC, REBUILDING, done=60),
        report(IN_SYNC, IN_SYNC),
    ):
        lines.show(documents(found, ""))
    assert capsys.readouterr().out.splitlines() == [
        "node-0:1 in-sync",
        "node-1:1 offline: it was lost",
        "node-1:1 rebuilding: 10 %, 0B/s",
        "node-1:1 rebuilding: 60 %, 0B/s",
        "node-1:1 in-sync",
    ]


def test_a_script_gets_a_document_for_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(Output.JSON)
    lines.show(documents(report(REBUILDING, done=10), ""))
    lines.show(documents(report(IN_SYNC), ""))
    first, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first[0]["rebuild"]["blocks_done"] == 10
    assert (last[0]["address"], last[0]["status"]) == ("node-0:1", "in-sync")
