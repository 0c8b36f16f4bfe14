"""The table of who may call what, against the services as they are declared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from cstor_core.generated.cstor.v1 import control_pb2, daemon_pb2, replica_pb2, volume_pb2
from cstor_core.secure.permissions import RULES
from cstor_core.secure.roles import Role

FILES = (control_pb2, daemon_pb2, replica_pb2, health_pb2, reflection_pb2)
REPLICA = "/cstor.v1.ReplicaService/"
STREAMS = {REPLICA + name for name in ("Append", "Read", "PullCopies")}
"""Their sessions ask when the volume has been named: tests/scenario/secure/test_roles.py."""


def methods() -> Iterator[tuple[str, MethodDescriptor]]:
    """Every call of every service that a daemon has, by its path."""
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}", method


METHODS = dict(methods())


def field(message: Descriptor, path: str) -> FieldDescriptor:
    """The field of a message at a path of names."""
    *names, last = path.split(".")
    for name in names:
        inner = message.fields_by_name[name].message_type
        assert inner is not None
        message = inner
    return message.fields_by_name[last]


def of(role: Role) -> set[str]:
    return {path for path, rule in RULES.items() if role in rule.roles}


def test_every_call_of_every_service_is_in_the_table_and_no_other() -> None:
    assert set(RULES) == set(METHODS)


@pytest.mark.parametrize("path", sorted(path for path, rule in RULES.items() if rule.volume))
def test_requests_name_their_volume_where_the_table_says(path: str) -> None:
    found = field(METHODS[path].input_type, RULES[path].volume)
    kind = found.message_type
    if kind is None:
        assert found.type == FieldDescriptor.TYPE_STRING
    else:
        assert {"volume_uuid", "name"} <= set(kind.fields_by_name)


def test_every_call_of_a_target_names_a_volume_but_that_of_its_pool() -> None:
    nameless = {path for path in of(Role.TARGET) if not RULES[path].volume}
    health = {path for path in RULES if path.startswith("/grpc.")}
    assert nameless - STREAMS - health == {REPLICA + "DescribePool"}


def test_a_replica_fetches_and_gives_no_orders() -> None:
    pulls = {"PullStacks", "PullEntries", "PullBlocks", "PullCopies"}
    assert {path for path in of(Role.REPLICA) if "cstor.v1" in path} == {
        REPLICA + name for name in pulls
    }


def test_only_operators_have_the_control_api_and_none_of_them_the_data() -> None:
    control = {path for path in RULES if "ControlService" in path}
    assert all(RULES[path].roles == {Role.OPERATOR} for path in control)
    reigning = {"Promise", "Lease", "Append", "Read", "Rebuild", "Stage", "Attest", "CloneReplica"}
    assert not {REPLICA + name for name in reigning} & of(Role.OPERATOR)


def test_names_of_a_volume_are_read_wherever_they_stand() -> None:
    identity = volume_pb2.VolumeIdentity(volume_uuid="u", name="n")
    orders = replica_pb2.Orders(volume_uuid="u")
    assert RULES[REPLICA + "CreateReplica"].volumes_in(
        replica_pb2.CreateReplicaRequest(identity=identity)
    ) == ("u", "n")
    assert RULES[REPLICA + "Lease"].volumes_in(replica_pb2.LeaseRequest(orders=orders)) == ("u",)
    request = replica_pb2.InquireRequest(volume="n")
    assert RULES[REPLICA + "Inquire"].volumes_in(request) == ("n",)
