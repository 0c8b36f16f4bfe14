"""One target instance's reign over a volume, and the requests that are made in its name."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from cstor_core.frames import FORMAT
from cstor_core.generated.cstor.v1 import replica_pb2, stream_pb2, volume_pb2
from cstor_core.history import History
from cstor_core.words import history_message


@dataclass(slots=True)
class Tenure:
    """Which volume, which epoch, which instance, on top of which history."""

    identity: volume_pb2.VolumeIdentity
    configuration: volume_pb2.Configuration
    epoch: int
    instance: str
    history: History
    operations_seq: int = 0
    """Of the last entry that changed snapshots, size, configuration or contents as a whole."""
    forced_from: volume_pb2.Configuration | None = None
    """Where an operator has forced the opening: the configuration before."""

    def is_out_of_date(self, replica_uuid: str) -> bool:
        """Whether the configuration says that of a member."""
        return any(
            member.out_of_date and member.replica_uuid == replica_uuid
            for member in self.configuration.members
        )

    def orders(self, replica_uuid: str) -> replica_pb2.Orders:
        """The header of every order to a replica."""
        return replica_pb2.Orders(
            volume_uuid=self.identity.volume_uuid,
            replica_uuid=replica_uuid,
            epoch=self.epoch,
            target_instance=self.instance,
        )

    def stream_opening(self, replica_uuid: str, rebuilding: bool) -> stream_pb2.StreamOpening:
        """The first words of a stream."""
        return stream_pb2.StreamOpening(
            volume_uuid=self.identity.volume_uuid,
            replica_uuid=replica_uuid,
            epoch=self.epoch,
            target_instance=self.instance,
            rebuilding=rebuilding,
        )

    def promise_request(self, replica_uuid: str) -> replica_pb2.PromiseRequest:
        """The request for a promise of this epoch."""
        return replica_pb2.PromiseRequest(
            volume_uuid=self.identity.volume_uuid,
            replica_uuid=replica_uuid,
            epoch=self.epoch,
            target_instance=self.instance,
        )

    def lease_request(
        self, replica_uuid: str, duration_s: float, successor: str = ""
    ) -> replica_pb2.LeaseRequest:
        """The request for a lease of this length; `successor` is who stands by to follow soon."""
        return replica_pb2.LeaseRequest(
            orders=self.orders(replica_uuid),
            duration_ms=int(duration_s * 1000),
            successor=successor,
        )

    def attest_request(
        self,
        replica_uuid: str,
        number: int,
        record_seq: int,
        configuration: volume_pb2.Configuration,
        out_of_date: str,
    ) -> replica_pb2.AttestRequest:
        """The word to a witness, what it is to hold from now on."""
        return replica_pb2.AttestRequest(
            orders=self.orders(replica_uuid),
            number=number,
            record_seq=record_seq,
            configuration=configuration,
            out_of_date_replica_uuid=out_of_date,
        )

    def make_whole_request(self, replica_uuid: str) -> replica_pb2.MakeWholeRequest:
        """The word that a replica is short no longer."""
        return replica_pb2.MakeWholeRequest(orders=self.orders(replica_uuid))

    def stage_request(
        self,
        replica_uuid: str,
        source: replica_pb2.Source,
        history: History,
        bytes_per_s: int = 0,
    ) -> replica_pb2.StageRequest:
        """The order to get to a history in one step, with what a source has of it."""
        return replica_pb2.StageRequest(
            orders=self.orders(replica_uuid),
            source=source,
            history=history_message(history),
            bytes_per_s=bytes_per_s,
        )

    def pace_request(self, replica_uuid: str, bytes_per_s: int) -> replica_pb2.SetPaceRequest:
        """The word how fast to copy."""
        return replica_pb2.SetPaceRequest(orders=self.orders(replica_uuid), bytes_per_s=bytes_per_s)

    def repair_request(
        self, replica_uuid: str, source: replica_pb2.Source, blocks: Sequence[int]
    ) -> replica_pb2.RepairBlocksRequest:
        """The order to look at some blocks, and to replace those that are bad."""
        packed = struct.pack(f"<{len(blocks)}Q", *blocks)
        return replica_pb2.RepairBlocksRequest(
            orders=self.orders(replica_uuid), source=source, blocks=packed
        )

    def repair_snapshots_request(
        self, replica_uuid: str, source: replica_pb2.Source, blocks: Sequence[int]
    ) -> replica_pb2.RepairBlocksRequest:
        """The same of what snapshots need of some blocks."""
        request = self.repair_request(replica_uuid, source, blocks)
        request.of_snapshots = True
        return request

    def repair_rows_request(
        self, replica_uuid: str, source: replica_pb2.Source, rows: bytes
    ) -> replica_pb2.RepairBlocksRequest:
        """The order to make blocks what these rows say, with copies of a source."""
        return replica_pb2.RepairBlocksRequest(
            orders=self.orders(replica_uuid), source=source, rows=rows
        )

    def scrub_request(
        self, replica_uuid: str, block: int, count: int, *, of_snapshots: bool
    ) -> replica_pb2.ScrubBlocksRequest:
        """The question what consecutive blocks are."""
        return replica_pb2.ScrubBlocksRequest(
            orders=self.orders(replica_uuid), block=block, count=count, of_snapshots=of_snapshots
        )

    def scrub_ones_request(
        self, replica_uuid: str, blocks: Sequence[int], *, of_snapshots: bool
    ) -> replica_pb2.ScrubBlocksRequest:
        """The same of blocks by number."""
        return replica_pb2.ScrubBlocksRequest(
            orders=self.orders(replica_uuid),
            blocks=struct.pack(f"<{len(blocks)}Q", *blocks),
            of_snapshots=of_snapshots,
        )

    def epoch_record(self, seq: int, *, loss_possible: bool) -> bytes:
        """The message with the record of this epoch as the entry `seq`, to be flushed."""
        record = volume_pb2.EpochRecord(
            seq=seq,
            epoch=self.epoch,
            target_instance=self.instance,
            loss_possible=loss_possible,
            configuration=self.configuration if self.forced_from is not None else None,
        )
        return self.entry(volume_pb2.Entry(epoch_record=record), seq - 1)

    def entry(self, entry: volume_pb2.Entry, completed_seq: int, *, flush: bool = True) -> bytes:
        """The message with one entry; most of these are to be flushed."""
        return stream_pb2.AppendRequest(
            format=FORMAT, completed_seq=completed_seq, flush=flush, entries=[entry]
        ).SerializeToString()

    def begin_rebuild_request(
        self, replica_uuid: str, *, loss_possible: bool
    ) -> replica_pb2.BeginRebuildRequest:
        """The order to flag itself."""
        return replica_pb2.BeginRebuildRequest(
            orders=self.orders(replica_uuid), loss_possible=loss_possible
        )

    def rebuild_request(
        self,
        replica_uuid: str,
        source: replica_pb2.Source,
        through_seq: int,
        bytes_per_s: int = 0,
    ) -> replica_pb2.RebuildRequest:
        """The order to copy from a source that holds everything up to `through_seq`."""
        return replica_pb2.RebuildRequest(
            orders=self.orders(replica_uuid),
            source=source,
            history=history_message(self.history.extended(through_seq)),
            bytes_per_s=bytes_per_s,
        )
