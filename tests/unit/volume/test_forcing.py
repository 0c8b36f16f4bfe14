"""Forced openings as a table: who is named, what follows, and what is said before."""

from __future__ import annotations

import pytest

from cstor_core.errors import InputError, UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.history import history_of
from cstor_core.words import history_message
from cstor_target.volume.forcing import forced

COMPLETE = replica_pb2.REPLICA_STATE_COMPLETE
CONFIGURATION = volume_pb2.Configuration(
    number=4,
    forced_openings=1,
    members=[volume_pb2.Member(replica_uuid=name, address=f"host-{name}:1") for name in "abc"],
)


def report(
    seq: int, state: replica_pb2.ReplicaState.ValueType = COMPLETE, *, short: bool = False
) -> replica_pb2.ReplicaReport:
    return replica_pb2.ReplicaReport(
        state=state, history=history_message(history_of([(3, seq)])), short=short, reason="EIO"
    )


def test_nobody_opens_a_volume_again_by_force_that_has_been_deleted() -> None:
    deleted = report(9)
    deleted.deleted = True
    assert len(forced(CONFIGURATION, {"a": report(8), "b": deleted}, []).configuration.members) == 1
    with pytest.raises(InputError, match="has been deleted"):
        forced(CONFIGURATION, {"b": deleted}, ["b"])
    with pytest.raises(UnavailableError):
        forced(CONFIGURATION, {"b": deleted}, [])


def test_all_that_answer_and_are_complete_are_taken_where_nobody_is_named() -> None:
    rebuilding = report(9, replica_pb2.REPLICA_STATE_REBUILDING)
    found = forced(CONFIGURATION, {"a": report(7), "c": rebuilding}, [])
    assert [member.replica_uuid for member in found.configuration.members] == ["a"]
    assert (found.configuration.number, found.configuration.forced_openings) == (5, 2)
    assert found.sentence == (
        "it is opened with 1 of its 3 replicas, host-a:1, as it was at entry 3:7; lost for good is "
        "what only host-b:1, host-c:1 held, acknowledged or not; those left out come back only as "
        "new, empty replicas"
    )


def test_members_are_named_by_uuid_or_by_address() -> None:
    reports = {name: report(7) for name in "abc"}
    found = forced(CONFIGURATION, reports, ["host-c:1", "a"])
    assert [member.replica_uuid for member in found.configuration.members] == ["a", "c"]


def test_short_members_may_be_named_and_what_they_may_lack_is_said() -> None:
    found = forced(CONFIGURATION, {name: report(7, short=name == "b") for name in "abc"}, [])
    assert "what host-b:1 had not flushed before the power was lost" in found.sentence
    assert "left out" not in found.sentence


@pytest.mark.parametrize(
    ("named", "reports", "words"),
    [
        (["x"], {"a": report(7)}, "x is none of the volume's replicas, which are host-a:1"),
        (["b"], {"a": report(7)}, "host-b:1 cannot be opened with: it does not answer"),
        (
            ["a"],
            {"a": report(7, replica_pb2.REPLICA_STATE_REBUILDING)},
            "some of its blocks are old",
        ),
        (["a"], {"a": report(7, replica_pb2.REPLICA_STATE_FAILED)}, "cannot be opened with: EIO"),
        (["a"], {"a": report(7, replica_pb2.REPLICA_STATE_UNFOUNDED)}, "was never part"),
    ],
)
def test_who_cannot_be_opened_with_is_refused_with_the_reason(
    named: list[str], reports: dict[str, replica_pb2.ReplicaReport], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        forced(CONFIGURATION, reports, named)


def test_nothing_can_be_forced_where_nobody_is_left() -> None:
    with pytest.raises(UnavailableError, match="start at least one"):
        forced(CONFIGURATION, {"a": report(7, replica_pb2.REPLICA_STATE_FAILED)}, [])
