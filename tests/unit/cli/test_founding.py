"""Founding a volume on replica daemons: all of it, half of it again, or nothing."""

from __future__ import annotations

import itertools

import pytest

from cstor_cli.founding import Founded, Wanted, found
from cstor_core.errors import CstorError, InputError, UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2
from tests.unit.cli.replicas import FakeReplica

WANTED = Wanted("vol1", 1 << 30, 512)
ADDRESSES = ["127.0.0.1:7778", "127.0.0.1:7779", "127.0.0.1:7780"]


class Cluster:
    """Three daemons, and what founding needs of the world."""

    def __init__(self) -> None:
        self.replicas = {address: FakeReplica(address) for address in ADDRESSES}
        self._numbers = itertools.count(1)

    def found(self, wanted: Wanted = WANTED, addresses: list[str] = ADDRESSES) -> Founded:
        return found(wanted, addresses, self.replicas.__getitem__, self._new_uuid, lambda: 4711)

    def changes(self) -> list[str]:
        return [call for replica in self.replicas.values() for call in replica.calls]

    def configurations(self) -> list[bytes]:
        return [
            replica.inquire(WANTED.name).configuration.SerializeToString(deterministic=True)
            for replica in self.replicas.values()
        ]

    def _new_uuid(self) -> str:
        return f"uuid {next(self._numbers)}"


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_all_members_store_the_same_configuration_with_their_addresses(cluster: Cluster) -> None:
    result = cluster.found()
    assert result.completed
    assert result.configuration.number == 1
    assert [member.address for member in result.configuration.members] == ADDRESSES
    assert [member.replica_uuid for member in result.configuration.members] == [
        f"replica at {address}" for address in ADDRESSES
    ]
    assert len(set(cluster.configurations())) == 1
    assert result.identity.checksum_salt == 4711
    assert result.identity.write_cache
    assert result.identity.physical_block_bytes == 4096


def test_founding_twice_changes_nothing_and_says_so(cluster: Cluster) -> None:
    first = cluster.found()
    before = cluster.changes()
    again = cluster.found()
    assert not again.completed
    assert again.identity == first.identity
    assert cluster.changes() == before


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("call", ["create", "found"])
def test_a_founding_that_broke_off_is_completed_by_the_next(
    cluster: Cluster, address: str, call: str
) -> None:
    cluster.replicas[address].breaks_at = call
    with pytest.raises(UnavailableError):
        cluster.found()
    cluster.replicas[address].breaks_at = ""
    assert cluster.found().completed
    assert len(set(cluster.configurations())) == 1
    states = {replica.pool.replicas[0].state for replica in cluster.replicas.values()}
    assert states == {replica_pb2.REPLICA_STATE_COMPLETE}
    assert all(len(replica.pool.replicas) == 1 for replica in cluster.replicas.values())


@pytest.mark.parametrize("address", ADDRESSES)
def test_nothing_is_changed_where_a_daemon_does_not_answer(cluster: Cluster, address: str) -> None:
    cluster.replicas[address].reachable = False
    with pytest.raises(InputError, match="nothing was changed"):
        cluster.found()
    assert cluster.changes() == []


def test_two_addresses_of_one_pool_are_refused(cluster: Cluster) -> None:
    cluster.replicas[ADDRESSES[2]].pool.pool_uuid = cluster.replicas[ADDRESSES[0]].pool.pool_uuid
    with pytest.raises(InputError, match="same pool"):
        cluster.found()
    assert cluster.changes() == []


def test_a_name_that_is_in_use_on_one_daemon_is_refused(cluster: Cluster) -> None:
    cluster.found(addresses=ADDRESSES[:1])
    before = cluster.changes()
    with pytest.raises(InputError, match="exists already"):
        cluster.found()
    assert cluster.changes() == before


def test_a_lost_member_is_not_founded_anew(cluster: Cluster) -> None:
    cluster.found()
    cluster.replicas[ADDRESSES[1]] = FakeReplica(ADDRESSES[1])
    with pytest.raises(InputError, match="exists already"):
        cluster.found()
    assert cluster.replicas[ADDRESSES[1]].calls == []


def test_half_a_founding_of_another_size_is_refused(cluster: Cluster) -> None:
    cluster.replicas[ADDRESSES[1]].breaks_at = "create"
    with pytest.raises(UnavailableError):
        cluster.found()
    cluster.replicas[ADDRESSES[1]].breaks_at = ""
    with pytest.raises(InputError, match="choose another name"):
        cluster.found(Wanted("vol1", 2 << 30, 512))


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted("", 1 << 30, 512),
        Wanted("Vol", 1 << 30, 512),
        Wanted("-vol", 1 << 30, 512),
        Wanted("a/b", 1 << 30, 512),
        Wanted("a" * 129, 1 << 30, 512),
        Wanted("vol1", 0, 512),
        Wanted("vol1", (1 << 30) + 512, 512),
        Wanted("vol1", 1 << 30, 1024),
    ],
)
def test_a_volume_that_cannot_be_is_refused_before_anybody_is_asked(
    cluster: Cluster, wanted: Wanted
) -> None:
    for replica in cluster.replicas.values():
        replica.reachable = False
    with pytest.raises(InputError) as refusal:
        cluster.found(wanted)
    assert "does not answer" not in str(refusal.value)


@pytest.mark.parametrize("count", [0, 10])
def test_a_number_of_replicas_that_cannot_be_is_refused(cluster: Cluster, count: int) -> None:
    with pytest.raises(CstorError, match="replicas"):
        cluster.found(addresses=["127.0.0.1:7778"] * count)


WITNESS = ADDRESSES[2]


def with_witness(cluster: Cluster, addresses: list[str], witness: str) -> Founded:
    dial = cluster.replicas.__getitem__
    return found(WANTED, addresses, dial, lambda: "uuid", lambda: 4711, witness)


def test_witness_is_a_member_that_is_named_as_one(cluster: Cluster) -> None:
    cluster.replicas[WITNESS].pool.witness = True
    result = with_witness(cluster, ADDRESSES[:2], WITNESS)
    assert [member.witness for member in result.configuration.members] == [False, False, True]
    assert len(set(cluster.configurations())) == 1
    assert not with_witness(cluster, ADDRESSES[:2], WITNESS).completed


@pytest.mark.parametrize(
    ("addresses", "witness", "is_one", "words"),
    [
        (ADDRESSES[:2], WITNESS, False, "is no witness: start it with cstor-replica --witness"),
        (ADDRESSES, "", True, "that of a witness, which has no data: name it with --witness"),
        (ADDRESSES[:1], WITNESS, True, "a witness is for 2 replicas, and these are 1"),
        (ADDRESSES[:2], ADDRESSES[0], True, "are the same pool|is no witness"),
    ],
)
def test_daemon_of_the_wrong_kind_is_refused_and_nothing_is_changed(
    cluster: Cluster, addresses: list[str], witness: str, is_one: bool, words: str
) -> None:
    cluster.replicas[WITNESS].pool.witness = is_one
    with pytest.raises(InputError, match=words):
        with_witness(cluster, addresses, witness)
    assert cluster.changes() == []
