"""What the command asks of a replica daemon (proto/cstor/v1/replica.proto)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from cstor_cli.calls import Connection
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.secure.roles import Role

ASK_S_MAX = 3.0
CHANGE_S_MAX = 30.0
"""Making a replica allocates its journal and waits for the disk more than once."""


class ReplicaClient(Protocol):
    """A replica daemon as founding and comparing see it.  Every call may raise a CstorError."""

    address: str

    def describe_pool(self) -> replica_pb2.DescribePoolResponse:
        """The pool and its replicas."""

    def create_replica(self, identity: volume_pb2.VolumeIdentity) -> replica_pb2.ReplicaReport:
        """Make an empty replica, or find the one that was made for the same volume."""

    def found_replica(
        self, volume_uuid: str, configuration: volume_pb2.Configuration
    ) -> replica_pb2.ReplicaReport:
        """Store the founding configuration."""

    def inquire(self, volume: str) -> replica_pb2.ReplicaReport:
        """What the replica of a volume, by name or UUID, reports."""

    def scan(self, volume_uuid: str) -> Iterator[replica_pb2.ScanResponse]:
        """Read everything and give version and checksum of every block, ascending."""

    def close(self) -> None:
        """Close the connection."""


Dial = Callable[[str], ReplicaClient]


class GrpcReplicaClient:
    """A replica daemon over gRPC."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._connection = Connection(
            address, "cstor.v1.ReplicaService", "the replica daemon", Role.REPLICA
        )

    def describe_pool(self) -> replica_pb2.DescribePoolResponse:
        return self._connection.ask(
            "DescribePool",
            replica_pb2.DescribePoolRequest(),
            replica_pb2.DescribePoolResponse,
            ASK_S_MAX,
        )

    def create_replica(self, identity: volume_pb2.VolumeIdentity) -> replica_pb2.ReplicaReport:
        return self._connection.ask(
            "CreateReplica",
            replica_pb2.CreateReplicaRequest(identity=identity),
            replica_pb2.CreateReplicaResponse,
            CHANGE_S_MAX,
        ).replica

    def found_replica(
        self, volume_uuid: str, configuration: volume_pb2.Configuration
    ) -> replica_pb2.ReplicaReport:
        return self._connection.ask(
            "FoundReplica",
            replica_pb2.FoundReplicaRequest(volume_uuid=volume_uuid, configuration=configuration),
            replica_pb2.FoundReplicaResponse,
            CHANGE_S_MAX,
        ).replica

    def inquire(self, volume: str) -> replica_pb2.ReplicaReport:
        return self._connection.ask(
            "Inquire",
            replica_pb2.InquireRequest(volume=volume),
            replica_pb2.InquireResponse,
            ASK_S_MAX,
        ).replica

    def delete_replica(self, volume_uuid: str, replica_uuid: str) -> None:
        """Delete a replica, and what only it needs."""
        self._connection.ask(
            "DeleteReplica",
            replica_pb2.DeleteReplicaRequest(volume_uuid=volume_uuid, replica_uuid=replica_uuid),
            replica_pb2.DeleteReplicaResponse,
            CHANGE_S_MAX,
        )

    def scan(self, volume_uuid: str) -> Iterator[replica_pb2.ScanResponse]:
        return self._connection.listen(
            "Scan", replica_pb2.ScanRequest(volume_uuid=volume_uuid), replica_pb2.ScanResponse
        )

    def close(self) -> None:
        self._connection.close()
