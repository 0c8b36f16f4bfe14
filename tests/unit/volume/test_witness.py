"""Two copies and a witness: who may acknowledge alone, what the witness is told, how one opens."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cstor_core.errors import UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.history import history_of
from cstor_core.words import history_message
from cstor_target.volume.opening import choose
from cstor_target.volume.witness import (
    Attestation,
    Copy,
    Told,
    acknowledging,
    mark_wanted,
    others_to_flag,
)

COMPLETE = replica_pb2.REPLICA_STATE_COMPLETE
REBUILDING = replica_pb2.REPLICA_STATE_REBUILDING
MEMBERS = ["a", "b", "w"]


@pytest.mark.parametrize(
    ("data", "in_sync", "has_witness", "out_of_date", "needed"),
    [
        ("abc", "ab", False, "", 2),
        ("ab", "ab", False, "", 2),
        # A mark that a removed witness holds lets nobody acknowledge alone.
        ("ab", "a", False, "b", 2),
        ("ab", "ab", True, "", 2),
        ("ab", "a", True, "", 2),
        ("ab", "a", True, "b", 1),
        ("ab", "b", True, "a", 1),
        # The one that is out of date never acknowledges alone.
        ("ab", "b", True, "b", 2),
        ("ab", "", True, "b", 2),
        # Both are in sync: from before the mark is cleared both have to.
        ("ab", "ab", True, "b", 2),
        ("ab", "a", True, "x", 2),
        ("a", "a", True, "", 1),
        ("a", "", True, "", 1),
        ("a", "a", True, "a", 1),
    ],
)
def test_one_acknowledges_alone_only_while_the_witness_holds_that_the_other_is_out_of_date(
    data: str, in_sync: str, has_witness: bool, out_of_date: str, needed: int
) -> None:
    found = acknowledging(data, in_sync, has_witness=has_witness, out_of_date=out_of_date)
    assert found == needed


HOLDS, LAGS, UNFLUSHED, NO_RECORD = Copy(20, 20), Copy(19, 19), Copy(20, 14), Copy(20, 9)


@pytest.mark.parametrize(
    ("data", "in_sync", "wanted"),
    [
        ("ab", {"a": HOLDS, "b": HOLDS}, ""),
        ("ab", {"a": HOLDS, "b": Copy(20, 15)}, ""),
        ("ab", {"a": HOLDS}, "b"),
        ("ab", {"b": HOLDS}, "a"),
        ("ab", {}, None),
        # It lacks something that was acknowledged, or has not flushed what was said to be flushed.
        ("ab", {"a": LAGS}, None),
        ("ab", {"a": UNFLUSHED}, None),
        ("ab", {"a": HOLDS, "b": LAGS}, None),
        ("ab", {"a": HOLDS, "b": UNFLUSHED}, None),
        # Nobody has flushed the record of the epoch.
        ("ab", {"a": NO_RECORD}, None),
        ("a", {"a": HOLDS}, ""),
        ("a", {"a": LAGS}, None),
        ("a", {}, None),
    ],
)
def test_witness_hears_of_a_member_out_of_date_when_the_other_holds_all_that_was_acknowledged(
    data: str, in_sync: dict[str, Copy], wanted: str | None
) -> None:
    found = mark_wanted(data, in_sync, record_seq=10, completed_seq=20, durable_seq=15)
    assert found == wanted


def test_epoch_is_told_when_one_data_member_has_flushed_its_record() -> None:
    both = {"a": Copy(10, 10), "b": Copy(9, 0)}
    assert mark_wanted("ab", both, record_seq=10, completed_seq=9, durable_seq=0) == ""
    one = {"a": Copy(10, 9)}
    assert mark_wanted("ab", one, record_seq=10, completed_seq=9, durable_seq=0) is None


def test_what_a_witness_holds_is_certain_when_its_last_word_was_answered() -> None:
    told = Told()
    first = told.next(Attestation(1, "b"))
    assert told.held is None
    assert (told.out_of_date, told.configuration_number) == ("", 0)
    told.answered(first)
    assert told.held == Attestation(1, "b")
    assert (told.out_of_date, told.configuration_number) == ("b", 1)
    second = told.next(Attestation(2, "b"))
    assert told.held is None
    assert (told.out_of_date, told.configuration_number) == ("b", 1)  # either way
    told.answered(second)
    third = told.next(Attestation(2, ""))
    assert told.out_of_date == ""  # from before it is sent
    fourth = told.next(Attestation(2, "b"))
    assert told.out_of_date == ""
    told.answered(third)
    assert told.held is None
    assert told.out_of_date == ""
    told.answered(fourth)
    assert told.out_of_date == "b"
    assert (first, second, third, fourth) == (1, 2, 3, 4)


def test_words_to_one_that_is_asked_for_again_go_on_behind_those_that_may_be_on_their_way() -> None:
    before = Told()
    before.answered(before.next(Attestation(1, "")))
    late = before.next(Attestation(1, "b"))
    told = Told(before)
    assert (told.held, told.out_of_date, told.configuration_number) == (None, "", 0)
    number = told.next(Attestation(1, ""))
    assert number > late
    assert told.held is None
    told.answered(number)
    assert told.held == Attestation(1, "")


def test_beside_a_witness_the_other_data_member_stands_for_the_r() -> None:
    assert [others_to_flag(n, has_witness=False) for n in (1, 2, 3, 5)] == [1, 1, 2, 3]
    assert others_to_flag(3, has_witness=True) == 1


@dataclass(frozen=True)
class Data:
    """What a data member says: the last entry of each epoch."""

    reigns: tuple[tuple[int, int], ...]
    short: bool = False
    rebuilding: bool = False


@dataclass(frozen=True)
class Witness:
    """What a witness says: its position, and in which epoch it called whom out of date."""

    position: tuple[int, int]
    epoch: int = 0
    out_of_date: str = ""


Said = Data | Witness
CONFIGURATION = volume_pb2.Configuration(
    number=1,
    members=[
        volume_pb2.Member(replica_uuid="a"),
        volume_pb2.Member(replica_uuid="b"),
        volume_pb2.Member(replica_uuid="w", witness=True),
    ],
)


def report(uuid: str, said: Said) -> replica_pb2.ReplicaReport:
    found = replica_pb2.ReplicaReport(
        replica_uuid=uuid, state=COMPLETE, configuration=CONFIGURATION
    )
    if isinstance(said, Witness):
        found.witness = True
        found.history.CopyFrom(history_message(history_of([said.position])))
        found.out_of_date_mark.epoch = said.epoch
        found.out_of_date_mark.replica_uuid = said.out_of_date
        return found
    found.history.CopyFrom(history_message(history_of(said.reigns)))
    found.short = said.short
    if said.rebuilding:
        found.state = REBUILDING
    return found


AT_5, AT_9 = Data(((1, 5),)), Data(((1, 9),))
SHORT_5, SHORT_9 = Data(((1, 5),), short=True), Data(((1, 9),), short=True)
NEXT = Data(((1, 5), (2, 6)))
UNMARKED = Witness((1, 1))


def marked(uuid: str, epoch: int = 1, position: tuple[int, int] = (1, 1)) -> Witness:
    return Witness(position, epoch, uuid)


@pytest.mark.parametrize(
    ("said", "write_cache", "found"),
    [
        # Both data members: the highest position decides, whatever the witness would say.
        ({"a": AT_5, "b": AT_9}, True, "b"),
        ({"a": AT_5, "b": AT_9, "w": marked("b")}, True, "b"),
        ({"a": AT_9, "b": AT_9}, True, "ab"),
        ({"a": AT_9, "b": NEXT, "w": marked("a")}, True, "b"),
        # One of them has lost power: the other one has everything unless it is out of date.
        ({"a": SHORT_5, "b": AT_9}, True, "the witness knows"),
        ({"a": SHORT_5, "b": AT_9}, False, "b"),
        ({"a": SHORT_5, "b": AT_9, "w": UNMARKED}, True, "b"),
        ({"a": SHORT_5, "b": AT_9, "w": marked("a")}, True, "b"),
        ({"a": SHORT_5, "b": AT_9, "w": marked("b")}, True, "b?"),
        ({"a": SHORT_9, "b": AT_5, "w": marked("b")}, True, "a?"),
        ({"a": SHORT_5, "b": AT_9, "w": marked("b")}, False, "b"),
        ({"a": SHORT_5, "b": SHORT_9, "w": UNMARKED}, True, "b?"),
        ({"a": SHORT_5, "b": SHORT_9}, True, "start the witness"),
        ({"a": SHORT_5, "b": SHORT_9}, False, "b"),
        # One of them and the witness.
        ({"a": AT_5, "w": UNMARKED}, True, "a"),
        ({"b": AT_5, "w": marked("a")}, True, "b"),
        ({"a": AT_5, "w": marked("a")}, True, "start the other one"),
        ({"a": AT_5, "w": marked("a")}, False, "start the other one"),
        ({"a": SHORT_5, "w": UNMARKED}, True, "start the other one"),
        ({"a": SHORT_5, "w": UNMARKED}, False, "a"),
        ({"a": SHORT_5, "w": marked("a")}, False, "start the other one"),
        # Marks of an older epoch than the member has adopted, of the same, of a newer one.
        ({"a": NEXT, "w": marked("a", epoch=1)}, True, "a"),
        ({"a": NEXT, "w": marked("a", epoch=2, position=(2, 6))}, True, "start the other one"),
        ({"a": NEXT, "w": marked("a", epoch=3, position=(2, 6))}, True, "start the other one"),
        # The witness has heard of an epoch that the member has not reached.
        ({"a": AT_9, "w": Witness((2, 6))}, True, "has not reached it"),
        ({"a": AT_9, "w": Witness((2, 6))}, False, "has not reached it"),
        ({"a": AT_9, "b": AT_5, "w": Witness((2, 6))}, True, "a?"),
        ({"a": NEXT, "w": Witness((2, 6))}, True, "a"),
        # Fewer than W, and nobody with everything.
        ({"a": AT_5}, True, "1 of 3 members promised and 2 are needed"),
        ({"w": UNMARKED}, True, "1 of 3 members promised"),
        ({"a": Data(((1, 5),), rebuilding=True), "w": UNMARKED}, True, "being rebuilt"),
        ({"a": Data(((1, 5),), rebuilding=True), "b": AT_9, "w": UNMARKED}, True, "b"),
    ],
)
def test_opening_with_each_pair_and_with_all_three(
    said: dict[str, Said], write_cache: bool, found: str
) -> None:
    promised = {uuid: report(uuid, words) for uuid, words in said.items()}
    if " " in found:
        with pytest.raises(UnavailableError, match=found):
            choose(MEMBERS, promised, write_cache=write_cache, witness="w")
        return
    opening = choose(MEMBERS, promised, write_cache=write_cache, witness="w")
    loss = "?" if opening.loss_possible else ""
    assert "".join(opening.holders) + loss == found
    assert opening.copies == (1 if "w" in said else 2)


def test_witness_is_no_source_though_its_position_is_the_highest_of_the_history() -> None:
    at_record = Data(((1, 5), (2, 6)))
    promised = {"a": report("a", at_record), "w": report("w", Witness((2, 6)))}
    opening = choose(MEMBERS, promised, write_cache=True, witness="w")
    assert (opening.sources, opening.holders) == (("a",), ("a",))
    assert opening.history == history_of([(1, 5), (2, 6)])
    assert (*opening.behind, *opening.parted, *opening.others) == ()


def test_member_that_the_configuration_gives_up_is_not_waited_for() -> None:
    promised = {"a": report("a", SHORT_5), "w": report("w", UNMARKED)}
    opening = choose(MEMBERS, promised, write_cache=True, witness="w", out_of_date=1)
    assert opening.loss_possible
    promised = {"a": report("a", AT_5), "w": report("w", Witness((2, 6)))}
    assert choose(MEMBERS, promised, write_cache=True, witness="w", out_of_date=1).loss_possible


@pytest.mark.parametrize(
    ("said", "write_cache", "found"),
    [
        ({"a": AT_5, "b": AT_9}, True, "b"),
        ({"a": AT_5}, True, "1 of 3 members promised and 2 are needed"),
        # Whether the other one is out of date nobody can say any more.
        ({"a": SHORT_5, "b": AT_9}, True, "b?"),
        ({"a": SHORT_5, "b": AT_9}, False, "b"),
        ({"a": SHORT_5, "b": SHORT_9}, True, "b?"),
    ],
)
def test_opening_without_a_witness_that_was_given_up(
    said: dict[str, Said], write_cache: bool, found: str
) -> None:
    promised = {uuid: report(uuid, words) for uuid, words in said.items()}
    if " " in found:
        with pytest.raises(UnavailableError, match=found):
            choose(MEMBERS, promised, write_cache=write_cache, witness="w", gives_up_witness=True)
        return
    opening = choose(MEMBERS, promised, write_cache=write_cache, witness="w", gives_up_witness=True)
    assert "".join(opening.holders) + ("?" if opening.loss_possible else "") == found
    assert opening.copies == 2


def test_one_copy_and_a_witness_need_each_other() -> None:
    members, witness = ["a", "w"], report("w", UNMARKED)
    alone = {"a": report("a", AT_5)}
    with pytest.raises(UnavailableError, match="1 of 2 members promised and 2 are needed"):
        choose(members, alone, write_cache=True, witness="w")
    assert not choose(members, {**alone, "w": witness}, write_cache=True, witness="w").loss_possible
    less = {"a": report("a", SHORT_5), "w": witness}
    assert choose(members, less, write_cache=True, witness="w").loss_possible


def test_forced_opening_takes_what_the_witness_would_not() -> None:
    promised = {"a": report("a", AT_5), "w": report("w", marked("a", position=(2, 6)))}
    opening = choose(["a", "w"], promised, write_cache=True, is_forced=True, witness="w")
    assert (opening.holders, opening.copies, opening.loss_possible) == (("a",), 1, True)
