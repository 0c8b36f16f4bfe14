"""A volume with one replica in the target's own process: from its founding to its loss."""

from __future__ import annotations

import json
from pathlib import Path

import grpc

from cstor_core.generated.cstor.v1 import replica_pb2, replica_pb2_grpc, volume_pb2
from tests.scenario.target.daemon import ANY_PORT, WAIT_S, Target, get, local_ports, until
from tests.scenario.target.test_forced import cstor

UUID = "7a9b4f0e-7c1e-4a57-9d5e-6b8f5a1c2d3e"
SIZE_BYTES = 16 << 20


def with_pool(directory: Path, *flags: str) -> Target:
    """A target that keeps its replica itself."""
    pool = ("--pool", str(directory / "pool"))
    ports = ("--replica-grpc", ANY_PORT, "--replica-metrics", ANY_PORT)
    return Target(directory, *pool, *ports, *local_ports(), *flags)


def found(address: str) -> None:
    """Make volume vol1 with one replica, as `cstor volume create` does."""
    identity = volume_pb2.VolumeIdentity(
        volume_uuid=UUID,
        name="vol1",
        size_bytes=SIZE_BYTES,
        logical_block_bytes=512,
        physical_block_bytes=4096,
        checksum_salt=7,
        write_cache=True,
    )
    with grpc.insecure_channel(address) as channel:
        pool = replica_pb2_grpc.ReplicaServiceStub(channel)
        made = pool.CreateReplica(
            replica_pb2.CreateReplicaRequest(identity=identity), timeout=WAIT_S
        )
        member = volume_pb2.Member(replica_uuid=made.replica.replica_uuid, address=address)
        configuration = volume_pb2.Configuration(number=1, members=[member])
        pool.FoundReplica(
            replica_pb2.FoundReplicaRequest(volume_uuid=UUID, configuration=configuration),
            timeout=WAIT_S,
        )


def is_ready(facts: dict[str, str]) -> bool:
    """Whether initiators can use the volume."""
    return get(facts["http"], "/readyz")[0] == 200


def test_volume_opens_when_it_is_founded_and_again_after_a_restart(tmp_path: Path) -> None:
    with with_pool(tmp_path) as target:
        facts = target.ready()
        assert not is_ready(facts)
        found(facts["replica_grpc"])
        until(lambda: is_ready(facts))
        metrics = get(facts["metrics"], "/metrics")[1]
        assert 'cstor_volume_epoch{volume="vol1"} 1.0' in metrics
        (volume,) = json.loads(get(facts["http"], "/status")[1])["volumes"]
        assert (volume["uuid"], volume["size_bytes"]) == (UUID, SIZE_BYTES)
        assert get(facts["replica_metrics"], "/metrics")[0] == 200
        assert target.stop() == 0
    with with_pool(tmp_path) as target:
        facts = target.ready()
        until(lambda: is_ready(facts))
        assert 'cstor_volume_epoch{volume="vol1"} 2.0' in get(facts["metrics"], "/metrics")[1]


def test_clone_is_served_by_the_same_process_and_outlives_its_volume(tmp_path: Path) -> None:
    def all_of_them(target: Target) -> tuple[str, str]:
        return ("--target", target.ready()["control"])

    def served(target: Target) -> dict[str, str]:
        documents = json.loads(cstor("volume", "list", "-o", "json", *all_of_them(target)))
        return {one["name"]: one["status"] for one in documents}

    with with_pool(tmp_path, "--all-volumes") as target:
        found(target.ready()["replica_grpc"])
        until(lambda: is_ready(target.ready()))
        at = all_of_them(target)
        cstor("snapshot", "create", "s", *at)
        assert "it is served as" in cstor("clone", "s", "copy", *at)
        assert target.stop() == 0
    both = {"vol1": "healthy", "copy": "healthy"}
    with with_pool(tmp_path, "--all-volumes") as target:
        until(lambda: served(target) == both)
        cstor("volume", "delete", "vol1", "--yes", *all_of_them(target))
        until(lambda: served(target) == {"copy": "healthy"})
        assert target.stop() == 0
    with with_pool(tmp_path, "--all-volumes") as target:
        until(lambda: served(target) == {"copy": "healthy"})
        until(lambda: is_ready(target.ready()))
        cstor("volume", "delete", "copy", "--yes", *all_of_them(target))
        until(lambda: served(target) == {})
        code, said = get(target.ready()["http"], "/readyz")
        assert (code, said) == (503, "no volume is served\n")
        assert target.stop() == 0


def test_target_whose_volume_was_taken_over_says_so_and_exits_with_3(tmp_path: Path) -> None:
    with with_pool(tmp_path) as old:
        facts = old.ready()
        found(facts["replica_grpc"])
        until(lambda: is_ready(facts))
        replica = ("--replica", facts["replica_grpc"])
        with Target(tmp_path, *replica, *local_ports(), name="new") as new:
            new.ready()
            assert old.exit_code() == 3
            assert "deposed" in old.log
            assert not old.ready_file.exists()
