"""What is left to do for a clone, by what the pools hold: a table."""

from __future__ import annotations

import pytest

from cstor_core.errors import AlreadyExistsError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_target.volume.clone_plan import WantedClone, half_made, is_opened, plan_clone

WANTED = WantedClone("copy", "parent", "s", 9)


def replica(
    at: str,
    uuid: str = "u1",
    *,
    seq: int = 9,
    snapshot: str = "s",
    members: str = "",
    number: int = 1,
    last_seq: int = 0,
    is_added: bool = False,
    knows: bool = True,
) -> replica_pb2.ReplicaReport:
    """A replica of a volume `uuid` called "copy", which `members` have been founded with; one that
    was added shares no data, and `knows` of what, where no older release added it.
    """
    bases = [] if is_added else [f"parent-{at}"]
    origin = volume_pb2.CloneOrigin(
        volume_uuid="parent", snapshot=snapshot, snapshot_seq=seq, base_replica_uuids=bases
    )
    configuration = None
    if members:
        named = [volume_pb2.Member(replica_uuid=f"{uuid}-{one}", address=one) for one in members]
        configuration = volume_pb2.Configuration(number=number, members=named)
    return replica_pb2.ReplicaReport(
        identity=volume_pb2.VolumeIdentity(volume_uuid=uuid, name="copy"),
        replica_uuid=f"{uuid}-{at}",
        configuration=configuration,
        origin=origin if knows else None,
        history=volume_pb2.History(
            reigns=[volume_pb2.Reign(epoch=1, last_seq=last_seq or seq)],
        ),
    )


def pools(
    **held: replica_pb2.ReplicaReport | None,
) -> dict[str, replica_pb2.DescribePoolResponse]:
    """Pools by their addresses, with a replica of the clone or none, and others."""
    other = replica_pb2.ReplicaReport(
        identity=volume_pb2.VolumeIdentity(volume_uuid="parent", name="vol")
    )
    return {
        at: replica_pb2.DescribePoolResponse(replicas=[other, *([one] if one else [])])
        for at, one in held.items()
    }


def test_nothing_is_there() -> None:
    plan = plan_clone(WANTED, pools(a=None, b=None))
    assert (plan.volume_uuid, plan.configuration, plan.leftovers) == ("", None, ())


def test_what_most_have_made_is_finished_and_the_rest_is_cleared() -> None:
    plan = plan_clone(WANTED, pools(a=replica("a", "u2"), b=replica("b"), c=replica("c")))
    assert plan.volume_uuid == "u1"
    assert plan.configuration is None
    assert [one.replica_uuid for one in plan.leftovers] == ["u2-a"]


def test_half_made_clone_of_an_earlier_snapshot_of_the_name_is_cleared() -> None:
    plan = plan_clone(WANTED, pools(a=replica("a", seq=4), b=None))
    assert plan.volume_uuid == ""
    assert [one.address for one in plan.leftovers] == ["a"]


def test_one_that_is_founded_says_who_the_members_are() -> None:
    found = pools(a=replica("a", members="ab"), b=replica("b"), c=replica("c"))
    plan = plan_clone(WANTED, found)
    assert plan.volume_uuid == "u1"
    assert plan.configuration is not None
    assert [member.address for member in plan.configuration.members] == ["a", "b"]
    assert [one.replica_uuid for one in plan.leftovers] == ["u1-c"]
    assert half_made("copy", "parent", found) == ()


@pytest.mark.parametrize("knows", [True, False])
def test_replicas_that_were_added_since_are_no_other_volume_and_nothing_half_made(
    knows: bool,
) -> None:
    added = replica("b", members="ab", number=3, is_added=True, knows=knows)
    learner = replica("c", is_added=True, knows=knows)
    plan = plan_clone(WANTED, pools(a=replica("a", members="a", number=2), b=added, c=learner))
    assert plan.volume_uuid == "u1"
    assert plan.configuration is not None
    assert [member.address for member in plan.configuration.members] == ["a", "b"]
    assert plan.leftovers == ()


def test_clone_is_found_when_all_that_made_it_are_gone() -> None:
    found = pools(a=replica("a", members="ad", number=5, is_added=True), b=None, c=None)
    plan = plan_clone(WANTED, found)
    assert plan.volume_uuid == "u1"
    assert plan.configuration is not None
    assert [member.address for member in plan.configuration.members] == ["a", "d"]
    with pytest.raises(AlreadyExistsError, match="an earlier snapshot"):
        plan_clone(WantedClone("copy", "parent", "s", 10), found)
    with pytest.raises(AlreadyExistsError, match="a clone of snapshot 's' that is called copy"):
        plan_clone(WantedClone("copy", "parent", "t", 10), found)


def test_clone_of_which_only_a_learner_is_in_sight_is_there_and_nothing_half_made() -> None:
    found = pools(a=replica("a", is_added=True), b=replica("b"), c=None)
    with pytest.raises(AlreadyExistsError, match=r"u1, whose members are elsewhere"):
        plan_clone(WANTED, found)
    assert half_made("copy", "parent", found) == ()


@pytest.mark.parametrize(
    "others", [{}, {"b": replica("b")}, {"b": replica("b", "u2", members="b")}]
)
def test_replica_of_which_nobody_knows_the_origin_is_something_else(
    others: dict[str, replica_pb2.ReplicaReport],
) -> None:
    with pytest.raises(AlreadyExistsError, match="a volume that is called copy"):
        plan_clone(WANTED, pools(a=replica("a", members="a", is_added=True, knows=False), **others))


def test_what_is_half_made_is_found_whatever_its_snapshot_was() -> None:
    found = pools(a=replica("a", seq=4), b=replica("b", "u2", snapshot="t"))
    assert [one.replica_uuid for one in half_made("copy", "parent", found)] == ["u1-a", "u2-b"]
    assert half_made("copy", "other", found) == ()


@pytest.mark.parametrize(
    "held",
    [
        replica("a", snapshot="t"),
        replica("a", snapshot=""),
        replica("a", seq=4, members="a"),
        replica("a", snapshot="t", members="a"),
    ],
)
def test_name_of_something_else_is_refused(held: replica_pb2.ReplicaReport) -> None:
    with pytest.raises(AlreadyExistsError, match="choose another name"):
        plan_clone(WANTED, pools(a=held, b=replica("b")))


@pytest.mark.parametrize(
    ("report", "opened"),
    [
        (replica("a"), False),
        (replica("a", members="abc"), False),
        (replica("a", members="abc", last_seq=10), True),
        (replica("a", members="abc", number=2), True),
    ],
)
def test_a_clone_with_entries_of_its_own_has_been_opened(
    report: replica_pb2.ReplicaReport, opened: bool
) -> None:
    assert is_opened(report) is opened
