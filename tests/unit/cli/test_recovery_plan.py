"""Which pool directories a volume is best opened with, and what is lost then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cstor_cli.recovery_plan import Configured, Held, held_in, of_volume, plan
from cstor_core.errors import InputError
from cstor_core.history import Position

UUID = "7a9b4f0e-7c1e-4a57-9d5e-6b8f5a1c2d3e"
MEMBERS = tuple(Configured(name, f"node-{name}:7778") for name in "abc")


def held(name: str, seq: int = 100, **others: Any) -> Held:
    """A complete member of a volume of three."""
    usual = Held(
        directory=f"/disks/{name}",
        replica_uuid=name,
        volume="vol1",
        volume_uuid=UUID,
        position=Position(0, 4, seq),
        configuration=(0, 7),
        members=MEMBERS,
        promised_epoch=4,
    )
    return replace(usual, **others)


@pytest.mark.parametrize(
    ("replicas", "chosen"),
    [
        ((held("a"), held("b"), held("c")), "abc"),
        ((held("a"), held("c")), "ac"),
        ((held("a", 90), held("c")), "ca"),
        ((held("a", is_rebuilding=True), held("c")), "ca"),
        ((held("a", 90, is_short=True), held("b", is_short=True), held("c")), "cab"),
        # Nobody else can be asked.
        ((held("a", is_short=True), held("b", is_short=True), held("c", is_short=True)), "abc"),
        # Without a write cache what was acknowledged had been flushed.
        ((held("a", is_short=True, write_cache=False), held("b", write_cache=False)), "ba"),
    ],
)
def test_a_quorum_opens_by_itself_with_the_best_first(
    replicas: tuple[Held, ...], chosen: str
) -> None:
    found = plan(replicas)
    assert not found.is_forced
    assert found.lost == ()
    assert found.best.replica_uuid == chosen[0]
    assert sorted(each.replica_uuid for each in found.chosen) == sorted(chosen)


@pytest.mark.parametrize(
    ("replicas", "chosen", "lost"),
    [
        ((held("b"),), "b", "what only the replicas at node-a:7778, node-c:7778 held is lost"),
        ((held("b", promised_epoch=6),), "b", "a target was promised epoch 6, and these have"),
        ((held("a", 90), held("b", 95, is_rebuilding=True)), "a", "/disks/b knows of later"),
        ((held("a", is_short=True), held("b")), "ba", "what /disks/a had not flushed"),
    ],
)
def test_fewer_are_forced_and_what_is_lost_is_said(
    replicas: tuple[Held, ...], chosen: str, lost: str
) -> None:
    found = plan(replicas)
    assert found.is_forced
    assert "".join(each.replica_uuid for each in found.chosen) == chosen
    assert any(sentence.startswith(lost) for sentence in found.lost), found.lost


def test_the_newest_configuration_says_who_the_members_are() -> None:
    newer = (0, 8)
    left = (Configured("b", "node-b:7778"), Configured("d", "node-d:7778"))
    found = plan(
        (
            held("a", 100),
            held("b", 110, configuration=newer, members=left),
            held("d", 110, configuration=newer, members=left),
        )
    )
    assert not found.is_forced
    assert [each.replica_uuid for each in found.chosen] == ["b", "d"]
    assert found.left_out == {"/disks/a": "it is no member of the volume any more"}


def test_forced_openings_go_before_any_number() -> None:
    alone = (Configured("c", "node-c:7778"),)
    forced = held("c", 50, configuration=(1, 3), members=alone, position=Position(1, 3, 50))
    found = plan((held("a", 900), held("b", 900), forced))
    assert [each.replica_uuid for each in found.chosen] == ["c"]
    assert not found.is_forced


def test_what_cannot_be_read_or_has_failed_is_left_out_with_the_reason() -> None:
    broken = Held("/disks/a", "a", "vol1", UUID, damage=("the journal is damaged",))
    failed = held("b", failed="a flush failed")
    found = plan((broken, failed, held("c")))
    assert found.is_forced
    assert found.left_out == {"/disks/a": "the journal is damaged", "/disks/b": "a flush failed"}
    assert found.missing == ("node-a:7778", "node-b:7778")


def test_what_is_left_of_a_deleted_volume_is_not_opened() -> None:
    found = plan([held("a"), held("b"), held("c", 200, is_deleted=True)])
    assert [one.replica_uuid for one in found.chosen] == ["a", "b"]
    assert "has been deleted" in " ".join(found.left_out.values())


def test_one_that_is_out_of_date_counts_for_nothing() -> None:
    members = (replace(MEMBERS[0], out_of_date=True), *MEMBERS[1:])
    found = plan((held("a", members=members), held("b", members=members)))
    assert found.is_forced
    assert [each.replica_uuid for each in found.chosen] == ["b"]
    assert "out of date" in found.left_out["/disks/a"]


@pytest.mark.parametrize(
    ("replicas", "sentence"),
    [
        ((held("a", is_rebuilding=True),), "no directory holds a complete replica"),
        ((held("a", members=()),), "/disks/a: it was never founded"),
        ((held("a"), held("a", directory="/copy")), "/disks/a and /copy are the same replica"),
    ],
)
def test_what_cannot_be_opened_is_refused(replicas: tuple[Held, ...], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        plan(replicas)


def test_a_volume_is_named_where_there_are_several() -> None:
    other = held("x", volume="vol2", volume_uuid="other")
    both = [held("a"), other]
    with pytest.raises(InputError, match="say which with --volume"):
        of_volume(both, "")
    assert of_volume(both, "vol2") == of_volume(both, "other") == [other]
    assert of_volume([held("a")], "") == [held("a")]
    with pytest.raises(InputError, match="none of these directories holds volume vol3"):
        of_volume(both, "vol3")
    with pytest.raises(InputError, match="can be read"):
        of_volume([], "")


def test_a_directory_is_read_from_what_the_daemon_shows() -> None:
    member = {"replica_uuid": "a", "address": "h:1", "witness": False, "out_of_date": True}
    replica = {
        "directory": "/disks/a/volumes/v",
        "replica_uuid": "a",
        "findings": [
            {"severity": "damage", "what": "it is torn"},
            {"severity": "trace", "what": "it was killed"},
        ],
        "volume": "vol1",
        "volume_uuid": UUID,
        "size_bytes": 4096,
        "current_size_bytes": 8192,
        "logical_block_bytes": 4096,
        "write_cache": False,
        "promised_epoch": 9,
        "will_be_short": True,
        "epoch": 8,
        "seq": 77,
        "rebuilding": True,
        "configuration": {"number": 3, "forced_openings": 1, "members": [member]},
        "snapshots": [{"name": "s"}],
        "used_bytes": 5,
    }
    assert held_in("/disks/a", {"replicas": [replica]}) == [
        Held(
            directory="/disks/a",
            replica_uuid="a",
            volume="vol1",
            volume_uuid=UUID,
            size_bytes=8192,
            logical_block_bytes=4096,
            write_cache=False,
            position=Position(1, 8, 77),
            configuration=(1, 3),
            members=(Configured("a", "h:1", out_of_date=True),),
            promised_epoch=9,
            is_rebuilding=True,
            is_short=True,
            snapshots=("s",),
            used_bytes=5,
            damage=("it is torn",),
        )
    ]
    unread: dict[str, Any] = {
        "directory": "d",
        "replica_uuid": "",
        "findings": [],
        "configuration": None,
    }
    assert held_in("/disks/a", {"replicas": [unread]})[0].why_unusable == "it cannot be read"
