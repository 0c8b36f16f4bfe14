"""Comparing whole members: who is compared, how often, and what the exit code says."""

from __future__ import annotations

import pytest

from cstor_cli.comparing import Comparison, compare_volume
from cstor_cli.exit_codes import ExitCode
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from tests.unit.cli.replicas import TOMBSTONE, FakeReplica, Row, packed

ADDRESSES = ["127.0.0.1:7778", "127.0.0.1:7779", "127.0.0.1:7780"]
ROWS: list[Row] = [(block, 1, block + 2, 1000 + block) for block in range(10)]


def answer(rows: list[Row], bad: list[int] | None = None) -> list[replica_pb2.ScanResponse]:
    """A scan of these rows, in two messages."""
    numbers = b"".join(block.to_bytes(8, "little") for block in bad or [])
    return [
        replica_pb2.ScanResponse(rows=packed(rows[:4])),
        replica_pb2.ScanResponse(rows=packed(rows[4:]), bad_blocks=numbers),
    ]


class Cluster:
    """Three members that hold `ROWS`; `moving` makes each scan find them further on."""

    def __init__(self) -> None:
        members = [
            volume_pb2.Member(replica_uuid=f"replica at {address}", address=address)
            for address in ADDRESSES
        ]
        self.replicas = [FakeReplica(address) for address in ADDRESSES]
        for replica, member in zip(self.replicas, members, strict=True):
            replica.scans = [answer(ROWS)]
            report = replica.pool.replicas.add(
                identity=volume_pb2.VolumeIdentity(volume_uuid="uuid 1", name="vol1"),
                replica_uuid=member.replica_uuid,
                state=replica_pb2.REPLICA_STATE_COMPLETE,
                configuration=volume_pb2.Configuration(number=1, members=members),
            )
            report.history.reigns.add(epoch=1, last_seq=12)
        self.moving = False

    def compare(self, addresses: list[str] = ADDRESSES) -> Comparison:
        return compare_volume("vol1", addresses, self._dial, pause_s=0.0)

    def _dial(self, address: str) -> FakeReplica:
        replica = self.replicas[ADDRESSES.index(address)]
        if self.moving:
            whole = replica.scan

            def scan(volume_uuid: str) -> object:
                replica.pool.replicas[0].history.reigns[0].last_seq += 1
                return whole(volume_uuid)

            replica.scan = scan  # type: ignore[method-assign, assignment]
        return replica


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_equal_members_are_equal_after_one_pass(cluster: Cluster) -> None:
    result = cluster.compare()
    assert result.exit_code == ExitCode.OK
    assert result.passes == 1
    assert result.blocks_compared == len(ROWS)
    assert len(result.compared) == 3


@pytest.mark.parametrize(
    "row",
    [(5, 1, 8, 1005), (5, 2, 7, 1005), (5, 1, 7, 9), (5, 1, 7, TOMBSTONE)],
    ids=["seq", "epoch", "checksum", "tombstone"],
)
def test_a_block_of_another_version_or_checksum_differs(cluster: Cluster, row: Row) -> None:
    cluster.replicas[1].scans = [answer([*ROWS[:5], row, *ROWS[6:]])]
    result = cluster.compare()
    assert result.exit_code == ExitCode.FAILED
    assert result.ranges == [(5, 5)]
    assert result.blocks_differing == 1
    assert result.samples[0].copies[0] == result.samples[0].copies[2]
    assert result.samples[0].copies[0] != result.samples[0].copies[1]
    assert not result.busy


def test_a_block_that_was_never_written_differs_from_a_tombstone(cluster: Cluster) -> None:
    cluster.replicas[0].scans = [answer(ROWS[:9])]
    cluster.replicas[1].scans = [answer([*ROWS[:9], (9, 1, 11, TOMBSTONE)])]
    result = cluster.compare()
    assert result.exit_code == ExitCode.FAILED
    kinds = [copy.kind for copy in result.samples[0].copies]
    assert kinds == ["absent", "tombstone", "data"]


def test_bytes_that_do_not_match_their_checksum_differ_even_if_all_are_alike(
    cluster: Cluster,
) -> None:
    for replica in cluster.replicas:
        replica.scans = [answer(ROWS, bad=[7])]
    result = cluster.compare()
    assert result.exit_code == ExitCode.FAILED
    assert result.ranges == [(7, 7)]
    assert [member.bad_blocks for member in result.members] == [1, 1, 1]


def test_what_was_only_in_flight_is_not_called_different(cluster: Cluster) -> None:
    cluster.moving = True
    cluster.replicas[2].scans = [answer(ROWS[:7]), answer(ROWS)]
    result = cluster.compare()
    assert result.exit_code == ExitCode.OK
    assert result.passes == 2


def test_a_difference_that_stays_while_writes_go_on_is_one_and_the_volume_is_called_busy(
    cluster: Cluster,
) -> None:
    cluster.moving = True
    cluster.replicas[2].scans = [answer(ROWS[:7]), answer([*ROWS[:8], *ROWS[9:]])]
    result = cluster.compare()
    assert result.exit_code == ExitCode.FAILED
    assert result.ranges == [(8, 8)]
    assert result.busy


def test_an_idle_volume_is_not_read_more_than_twice(cluster: Cluster) -> None:
    cluster.replicas[2].scans = [answer(ROWS[:7])]
    result = cluster.compare()
    assert result.passes == 2
    assert result.ranges == [(7, 9)]


@pytest.mark.parametrize("breaks_at", ["inquire", "scan", "end of scan"])
def test_a_member_that_cannot_be_read_to_its_end_is_not_compared(
    cluster: Cluster, breaks_at: str
) -> None:
    cluster.replicas[1].breaks_at = breaks_at
    result = cluster.compare()
    assert result.exit_code == ExitCode.UNREAD
    assert [member.address for member in result.compared] == [ADDRESSES[0], ADDRESSES[2]]
    assert result.members[1].reason
    assert result.blocks_compared == len(ROWS)


def test_rows_out_of_order_make_a_member_unreadable(cluster: Cluster) -> None:
    cluster.replicas[0].scans = [answer([*ROWS[4:], *ROWS[:4]])]
    result = cluster.compare()
    assert result.exit_code == ExitCode.UNREAD
    assert "out of order" in result.members[0].reason


def test_members_that_were_not_named_are_found_by_the_configuration(cluster: Cluster) -> None:
    result = cluster.compare(addresses=ADDRESSES[:1])
    assert result.exit_code == ExitCode.OK
    assert len(result.compared) == 3


def test_nothing_is_called_equal_where_nobody_answers(cluster: Cluster) -> None:
    for replica in cluster.replicas:
        replica.reachable = False
    assert cluster.compare().exit_code == ExitCode.UNREAD
