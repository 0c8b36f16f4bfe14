"""Replica daemons in memory, as founding and comparing see them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cstor_core.errors import UnavailableError, UnknownVolumeError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.rows import ROW, UNMAP

Row = tuple[int, int, int, int]
"""Block, epoch, seq, checksum; a checksum of TOMBSTONE makes it one."""
TOMBSTONE = -1


def packed(rows: list[Row], place: int = 7) -> bytes:
    """Rows as they stand in a map."""
    return b"".join(
        ROW.pack(block, UNMAP, seq, epoch, 0)
        if checksum == TOMBSTONE
        else ROW.pack(block, place + block, seq, epoch, checksum)
        for block, epoch, seq, checksum in rows
    )


@dataclass
class FakeReplica:
    """A daemon at an address, with one pool; `calls` are the changes that it was asked for."""

    address: str
    reachable: bool = True
    breaks_at: str = ""
    """The change that fails."""
    pool: replica_pb2.DescribePoolResponse = field(default_factory=replica_pb2.DescribePoolResponse)
    calls: list[str] = field(default_factory=list)
    scans: list[list[replica_pb2.ScanResponse]] = field(default_factory=list)
    """What each scan answers; the last again and again."""

    def __post_init__(self) -> None:
        self.pool.pool_uuid = f"pool of {self.address}"

    def describe_pool(self) -> replica_pb2.DescribePoolResponse:
        self._check("describe")
        return self.pool

    def create_replica(self, identity: volume_pb2.VolumeIdentity) -> replica_pb2.ReplicaReport:
        self._check("create")
        for replica in self.pool.replicas:
            if replica.identity.volume_uuid == identity.volume_uuid:
                return replica
        self.calls.append("create")
        return self.pool.replicas.add(
            identity=identity,
            replica_uuid=f"replica at {self.address}",
            state=replica_pb2.REPLICA_STATE_UNFOUNDED,
        )

    def found_replica(
        self, volume_uuid: str, configuration: volume_pb2.Configuration
    ) -> replica_pb2.ReplicaReport:
        self._check("found")
        self.calls.append("found")
        report = self.inquire(volume_uuid)
        report.configuration.CopyFrom(configuration)
        report.state = replica_pb2.REPLICA_STATE_COMPLETE
        return report

    def inquire(self, volume: str) -> replica_pb2.ReplicaReport:
        self._check("inquire")
        for replica in self.pool.replicas:
            if volume in (replica.identity.volume_uuid, replica.identity.name):
                return replica
        raise UnknownVolumeError(f"{self.address} holds no volume {volume}")

    def scan(self, volume_uuid: str) -> Iterator[replica_pb2.ScanResponse]:
        self._check("scan")
        answers = self.scans.pop(0) if len(self.scans) > 1 else self.scans[0]
        for number, answer in enumerate(answers):
            if number == 0:
                answer.replica.CopyFrom(self.inquire(volume_uuid))
            yield answer
        if self.breaks_at == "end of scan":
            raise UnavailableError(f"{self.address} was lost")

    def close(self) -> None:
        """Nothing is held."""

    def _check(self, call: str) -> None:
        if not self.reachable or self.breaks_at == call:
            raise UnavailableError(f"{self.address} does not answer")
