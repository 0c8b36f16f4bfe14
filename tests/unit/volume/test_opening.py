"""The decisions of an opening as a table: what the members reported, and what follows from it."""

from __future__ import annotations

import pytest

from cstor_core.errors import UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.history import history_of
from cstor_core.words import history_message
from cstor_target.volume.opening import (
    can_vote,
    choose,
    is_learner,
    newest_configuration,
    next_epoch,
)

COMPLETE = replica_pb2.REPLICA_STATE_COMPLETE
REBUILDING = replica_pb2.REPLICA_STATE_REBUILDING
FAILED = replica_pb2.REPLICA_STATE_FAILED
UNFOUNDED = replica_pb2.REPLICA_STATE_UNFOUNDED

Reigns = list[tuple[int, int]]


def report(
    reigns: Reigns,
    state: replica_pb2.ReplicaState.ValueType = COMPLETE,
    *,
    forced_openings: int = 0,
    number: int = 1,
    promised_epoch: int = 0,
) -> replica_pb2.ReplicaReport:
    return replica_pb2.ReplicaReport(
        state=state,
        history=history_message(history_of(reigns)),
        configuration=volume_pb2.Configuration(number=number, forced_openings=forced_openings),
        promised_epoch=promised_epoch,
    )


@pytest.mark.parametrize(
    ("reports", "holders", "behind", "others"),
    [
        ({"a": report([]), "b": report([]), "c": report([])}, "abc", "", ""),
        ({"a": report([(1, 5)]), "b": report([(1, 5)])}, "ab", "", ""),
        ({"a": report([(1, 5)]), "b": report([(1, 9)]), "c": report([])}, "b", "ac", ""),
        # The highest position wins, not the longest order.
        (
            {"a": report([(1, 90)]), "b": report([(1, 5), (2, 6)]), "c": report([(1, 5)])},
            "b",
            "c",
            "a",
        ),
        ({"a": report([(1, 5)]), "b": report([(1, 5), (2, 8)])}, "b", "a", ""),
        (
            {"a": report([(1, 9)]), "b": report([(1, 5), (3, 7)]), "c": report([(1, 5), (3, 6)])},
            "b",
            "c",
            "a",
        ),
        # A rebuilding member votes, and neither holds nor counts as brought in order.
        (
            {"a": report([(1, 9)]), "b": report([(1, 8)]), "c": report([(1, 3)], REBUILDING)},
            "a",
            "b",
            "c",
        ),
        (
            {"a": report([(1, 9)]), "b": report([(1, 9)]), "c": report([(1, 9)], REBUILDING)},
            "ab",
            "",
            "c",
        ),
        (
            {"a": report([(1, 9)]), "c": report([(1, 3)], REBUILDING)},
            "a",
            "",
            "c",
        ),
        # A higher count of forced openings goes before any epoch.
        (
            {
                "a": report([(1, 5)], forced_openings=1),
                "b": report([(1, 5)], forced_openings=1),
                "c": report([(1, 5), (9, 99)]),
            },
            "ab",
            "",
            "c",
        ),
    ],
)
def test_history_is_that_of_the_highest_position(
    reports: dict[str, replica_pb2.ReplicaReport], holders: str, behind: str, others: str
) -> None:
    opening = choose(["a", "b", "c"], reports, write_cache=True)
    rest = (*opening.parted, *opening.others)
    found = [sorted(group) for group in (opening.holders, opening.behind, rest)]
    assert found == [sorted(holders), sorted(behind), sorted(others)]
    assert history_message(opening.history) == reports[holders[0]].history


@pytest.mark.parametrize(
    ("members", "reports", "words"),
    [
        ("abc", {"a": report([(1, 5)])}, "1 of 3 members promised and 2 are needed"),
        ("abc", {}, "0 of 3 members promised"),
        ("ab", {"a": report([(1, 5)])}, "1 of 2 members promised and 2 are needed"),
        # Somebody who is no member does not count.
        ("abc", {"a": report([(1, 5)]), "x": report([(1, 5)])}, "1 of 3 members promised"),
        # The newest entries are known only to a member that is rebuilt.
        ("abc", {"a": report([(1, 5)]), "b": report([(1, 9)], REBUILDING)}, "being rebuilt"),
        (
            "abc",
            {"a": report([(1, 5)]), "b": report([(1, 5)]), "c": report([(2, 9)], REBUILDING)},
            "being rebuilt",
        ),
    ],
)
def test_opening_that_cannot_be_proved_safe_is_refused_with_a_sentence(
    members: str, reports: dict[str, replica_pb2.ReplicaReport], words: str
) -> None:
    with pytest.raises(UnavailableError, match=words):
        choose(list(members), reports, write_cache=True)


def test_history_may_be_held_by_a_replica_whose_removal_only_it_has_heard_of() -> None:
    removed = report([(1, 22)], number=2)
    reports = {"a": report([(1, 6)]), "b": report([(1, 4)]), "x": removed}
    opening = choose("abc", reports, write_cache=True)
    assert opening.history == history_of([(1, 22)])
    assert (opening.sources, opening.holders) == (("x",), ())
    assert set(opening.behind) == {"a", "b"}
    assert opening.configuration.number == 2
    rebuilding = report([(1, 22)], REBUILDING)
    with pytest.raises(UnavailableError, match="being rebuilt"):
        choose("abc", {**reports, "x": rebuilding}, write_cache=True)


def test_configuration_is_the_one_in_the_history_whatever_others_have() -> None:
    dropped = report([(1, 9)], number=2)
    reports = {"a": report([(1, 5), (2, 7)]), "b": dropped, "c": report([(1, 5), (2, 7)])}
    assert choose("abc", reports, write_cache=True).configuration.number == 1
    rebuilt = report([(1, 5), (2, 7)], number=3)  # a holder may not have heard of a change
    reports = {"a": report([(1, 5), (2, 7)]), "b": dropped, "c": rebuilt}
    assert choose("abc", reports, write_cache=True).configuration.number == 3


def test_members_that_the_history_dropped_entries_of_are_staged_and_count() -> None:
    opening = choose(
        ["a", "b", "c"],
        {"a": report([(1, 9)]), "b": report([(1, 5), (2, 6)])},
        write_cache=True,
    )
    assert (opening.holders, opening.parted, opening.others) == (("b",), ("a",), ())


def short(reigns: list[tuple[int, int]]) -> replica_pb2.ReplicaReport:
    found = report(reigns)
    found.short = True
    return found


def test_short_members_prove_nothing_unless_nobody_else_can_be_asked() -> None:
    members, whole, less = ["a", "b", "c"], report([(1, 5)]), short([(1, 4)])
    with pytest.raises(UnavailableError, match="1 of 2 members that answer have lost power"):
        choose(members, {"a": whole, "b": less}, write_cache=True)
    assert not choose(members, {"a": whole, "b": less}, write_cache=False).loss_possible
    assert not choose(members, {"a": whole, "b": less, "c": whole}, write_cache=True).loss_possible
    assert choose(members, {"a": whole, "b": less, "c": less}, write_cache=True).loss_possible
    assert choose(["a"], {"a": less}, write_cache=True).loss_possible
    assert not choose(["a"], {"a": whole}, write_cache=True).loss_possible


def test_next_epoch_is_higher_than_all_that_was_promised_or_lived_through() -> None:
    assert next_epoch([]) == 1
    assert next_epoch([report([])]) == 1
    assert next_epoch([report([(3, 9)], promised_epoch=2), report([])]) == 4
    assert next_epoch([report([(1, 9)]), report([], promised_epoch=7)]) == 8


def test_only_a_founded_replica_whose_disk_works_votes() -> None:
    assert can_vote(report([]))
    assert can_vote(report([], REBUILDING))
    assert not can_vote(report([], FAILED))
    assert not can_vote(report([], UNFOUNDED))


def test_newest_configuration_is_that_of_the_highest_position() -> None:
    def having(
        number: int, forced_openings: int, members: int, *reigns: tuple[int, int]
    ) -> replica_pb2.ReplicaReport:
        configuration = volume_pb2.Configuration(
            number=number,
            forced_openings=forced_openings,
            members=[volume_pb2.Member(replica_uuid=str(member)) for member in range(members)],
        )
        return replica_pb2.ReplicaReport(
            configuration=configuration, history=history_message(history_of([*reigns]))
        )

    chosen = newest_configuration([having(1, 0, 3), having(2, 0, 2), having(9, 0, 0)])
    assert (chosen.number, len(chosen.members)) == (2, 2)
    assert newest_configuration([having(7, 0, 3), having(1, 1, 1)]).forced_openings == 1
    dropped, in_force = having(4, 0, 4, (1, 12)), having(3, 0, 3, (1, 9), (2, 10))
    assert newest_configuration([dropped, in_force]).number == 3
    with pytest.raises(UnavailableError, match="not founded"):
        newest_configuration([having(0, 0, 0)])
    with pytest.raises(UnavailableError, match="not founded"):
        newest_configuration([])


@pytest.mark.parametrize(
    ("state", "learner", "member_by", "expected"),
    [
        (UNFOUNDED, False, None, True),
        (COMPLETE, True, None, True),
        (REBUILDING, True, None, True),
        (COMPLETE, True, (1, 7), True),  # it was in an entry that the history dropped
        (COMPLETE, True, (2, 4), True),
        (COMPLETE, True, (1, 5), False),
        (COMPLETE, True, (3, 9), False),
        (COMPLETE, True, (0, 0), False),  # nobody knows which entry it was
        (COMPLETE, False, None, False),  # it was a member from the beginning
        (FAILED, True, None, False),
    ],
)
def test_learner_is_who_was_never_made_a_member_in_this_history(
    state: replica_pb2.ReplicaState.ValueType,
    learner: bool,
    member_by: tuple[int, int] | None,
    expected: bool,
) -> None:
    found = report([(1, 5)], state)
    found.learner = learner
    if member_by is not None:
        found.member_by.epoch, found.member_by.last_seq = member_by
    assert is_learner(found, history_of([(1, 5), (3, 9)])) is expected


@pytest.mark.parametrize(
    ("state", "named", "expected"),
    [(COMPLETE, "ab", True), (COMPLETE, "abw", False), (FAILED, "ab", False)],
)
def test_witness_is_new_as_long_as_it_was_never_told_that_it_is_a_member(
    state: replica_pb2.ReplicaState.ValueType, named: str, expected: bool
) -> None:
    found = report([(3, 6)], state)
    found.replica_uuid, found.witness = "w", True
    for uuid in named:
        found.configuration.members.add(replica_uuid=uuid)
    assert is_learner(found, history_of([(1, 5), (3, 9)])) is expected
