"""Who may touch which volume."""

from __future__ import annotations

from pathlib import Path

import pytest

from cstor_core.clock import SystemClock
from cstor_core.errors import ForbiddenError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.secure.credentials import Tls
from cstor_core.secure.gate import Gate
from cstor_core.secure.refusals import Reason
from cstor_core.secure.roles import Identity, Role
from replica.identities import names_of
from tests.scenario.secure.certificates import Certificates

REPLICA = "/cstor.v1.ReplicaService/"
UUID = "3a0c1e0c-0000-4000-8000-000000000001"
CLONE = "3a0c1e0c-0000-4000-8000-000000000002"
NEW = "3a0c1e0c-0000-4000-8000-000000000003"
NAMES = {name: frozenset({UUID, "vol1"}) for name in (UUID, "vol1")}


def aliases(name: str, with_parents: bool) -> frozenset[str]:
    """Of two volumes, one of which is a clone of the other that was never opened."""
    if name in (CLONE, "copy"):
        return frozenset({CLONE, "copy"}) | (NAMES["vol1"] if with_parents else frozenset())
    return NAMES.get(name, frozenset())


class From:
    """A call that came from a socket."""

    def __init__(self, name: str) -> None:
        self._name = name

    def peer(self) -> str:
        return f"unix-abstract:{self._name}"


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    tls = Tls(Certificates(tmp_path).replica(), (Role.REPLICA,), SystemClock())
    return Gate(tls, aliases)


def holder(*names: tuple[Role, str]) -> Identity:
    return Identity(names)


def refused(gate: Gate, caller: Identity, call: str, *volume: str) -> Reason | None:
    """Why the call is refused, if it is."""
    before = gate.tls.refusals.counts.copy()
    try:
        rule = gate.check(caller, REPLICA + call)
        if volume:
            gate.check_volume(caller, volume, rule)
    except ForbiddenError:
        ((reason, count),) = (gate.tls.refusals.counts - before).items()
        assert count == 1
        return reason
    assert gate.tls.refusals.counts == before
    return None


@pytest.mark.parametrize("name", ["vol1", UUID, "*"])
@pytest.mark.parametrize("asked", ["vol1", UUID])
def test_a_target_has_its_volume_by_either_name(gate: Gate, name: str, asked: str) -> None:
    assert refused(gate, holder((Role.TARGET, name)), "Inquire", asked) is None
    assert refused(gate, holder((Role.TARGET, name)), "Promise", asked) is None


def test_a_target_has_no_other_volume(gate: Gate) -> None:
    other = holder((Role.TARGET, "vol2"), (Role.REPLICA, "vol1"))
    for call in ("Inquire", "Promise", "DeleteReplica", "FoundReplica", "DiffSnapshots"):
        assert refused(gate, other, call, UUID) is Reason.WRONG_VOLUME
    # There it is told that there is none, and makes none.
    assert refused(gate, other, "Inquire", "vol3") is None
    assert refused(gate, other, "CreateReplica", NEW, "vol3") is Reason.WRONG_VOLUME
    assert refused(gate, other, "CreateReplica", NEW, "vol2") is None
    # By its own name it gets at no replica that there is by another one.
    assert refused(gate, other, "CreateReplica", UUID, "vol2") is Reason.WRONG_VOLUME


def test_roles_do_not_lend_one_another_their_rights(gate: Gate) -> None:
    both = holder((Role.OPERATOR, "alice"), (Role.TARGET, "vol2"))
    assert refused(gate, both, "DeleteReplica", UUID) is None  # as an operator
    assert refused(gate, both, "Promise", UUID) is Reason.WRONG_VOLUME


def test_a_call_that_nobody_knows_is_for_nobody(gate: Gate) -> None:
    everything = holder((Role.OPERATOR, "a"), (Role.TARGET, "*"), (Role.REPLICA, "r"))
    assert refused(gate, everything, "FormatDisk") is Reason.WRONG_ROLE
    assert refused(gate, holder(), "DescribePool") is Reason.WRONG_ROLE


def test_callers_are_known_by_the_socket_that_they_came_from_while_it_is_open(gate: Gate) -> None:
    alice = holder((Role.OPERATOR, "alice"))
    name = gate.enter(alice)
    assert gate.caller(From(name)) is alice
    with pytest.raises(ForbiddenError, match="has shown no certificate"):
        gate.caller(From(""))
    gate.leave(name)
    with pytest.raises(ForbiddenError, match="has shown no certificate"):
        gate.caller(From(name))


def report(
    uuid: str, name: str, *, last_seq: int = 0, parent: str = ""
) -> replica_pb2.ReplicaReport:
    return replica_pb2.ReplicaReport(
        identity=volume_pb2.VolumeIdentity(volume_uuid=uuid, name=name),
        history=volume_pb2.History(reigns=[volume_pb2.Reign(epoch=1, last_seq=last_seq)]),
        origin=volume_pb2.CloneOrigin(volume_uuid=parent, snapshot_seq=7) if parent else None,
    )


def test_a_clone_is_its_parents_to_found_until_it_was_opened_and_never_to_serve(gate: Gate) -> None:
    parents = holder((Role.TARGET, "vol1"))
    for call in ("Inquire", "FoundReplica", "DeleteReplica"):
        assert refused(gate, parents, call, CLONE) is None
    for call in ("Promise", "Lease", "Append", "Rebuild", "DiffSnapshots"):
        assert refused(gate, parents, call, CLONE) is Reason.WRONG_VOLUME
    parent = report(UUID, "vol1", last_seq=9)
    made = report(CLONE, "copy", last_seq=7, parent=UUID)
    opened = report(CLONE, "copy", last_seq=8, parent=UUID)
    assert names_of("copy", [parent, made], True) == {CLONE, "copy", UUID, "vol1"}
    assert names_of(CLONE, [made], True) == {CLONE, "copy", UUID}
    for reports, with_parents in (([parent, opened], True), ([parent, made], False)):
        assert names_of("copy", reports, with_parents) == {CLONE, "copy"}
    assert names_of("vol1", [parent, made], True) == {UUID, "vol1"}
    assert names_of("", [parent, made], True) == frozenset()
