"""A member as the target knows it: where it is, how far it is, and its two streams."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from google.protobuf.message import DecodeError

from cstor_core.errors import CstorError, ProtocolError
from cstor_core.frames import Buffer
from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2, stream_pb2, volume_pb2
from cstor_target.volume.append_stream import AppendStream, PutOff
from cstor_target.volume.links import ReplicaLink
from cstor_target.volume.progress import Progress
from cstor_target.volume.witness import Told

OUT_OF_DATE = "its disk has failed, and it is out of date: replace it by a new, empty replica"
GIVEN_UP = (
    "its disk has failed, and it counts for nothing any more: replace it by a new, empty witness "
    "(`cstor replica replace`)"
)

UNSAID_BYTES = 1 << 62
"""Granted by a member that has not answered yet: its pool is taken for full when it says so."""


class Standing(Enum):
    """What a member counts for; the value is its word in reports."""

    OFFLINE = control_pb2.MEMBER_STATUS_OFFLINE
    REBUILDING = control_pb2.MEMBER_STATUS_REBUILDING
    IN_SYNC = control_pb2.MEMBER_STATUS_IN_SYNC
    FULL = control_pb2.MEMBER_STATUS_FULL
    FAILED = control_pb2.MEMBER_STATUS_FAILED
    LEARNER = control_pb2.MEMBER_STATUS_LEARNER
    WITNESS = control_pb2.MEMBER_STATUS_WITNESS


class Member:
    """One member of the configuration, or an address that has not said yet who is there."""

    def __init__(self, link: ReplicaLink) -> None:
        self.link = link
        self.replica_uuid = ""
        self.standing = Standing.OFFLINE
        self.reason = "it has not been reached yet"
        self.error: CstorError | None = None
        self.stands_at = (-1, 0.0)
        """Where it was when it was last looked at, and since when it has been there."""
        self.applied_seq = 0
        self.durable_seq = 0
        self.is_witness = False
        """It has no data: it is never in sync, and has no stream."""
        self.told = Told()
        """What it was told of this epoch, where it is a witness."""
        self.is_learner = False
        """It is on its way to be a member, and counts for nothing."""
        self.is_caught_up = False
        """Of a learner: it has everything, and takes what comes."""
        self.found_full = 0
        """How often in a row its disk had no space."""
        self.granted_bytes = UNSAID_BYTES
        """What its pool still takes of this volume, by its last answer."""
        self.pool_used = 0.0
        """Of its pool, from 0 to 1."""
        self.used_bytes = self.logical_bytes = 0
        """What it uses of its pool, and of that the data of the volume itself, as it said last."""
        self.warned_at = 0.0
        """The part of its pool from which on was warned the last time."""
        self.found_nobody = 0
        """How often in a row it answered, and nobody was in sync who has what it lacks."""
        self.progress = Progress()
        """On its way back."""
        self.is_unpaced = False
        """It copies as fast as it can, since it would never get there otherwise."""
        self.append_stream: AppendStream | None = None
        self.report: replica_pb2.ReplicaReport | None = None

    @property
    def name(self) -> str:
        """For sentences: its address, and the start of its UUID once that is known."""
        if not self.replica_uuid:
            return self.link.address
        return f"{self.link.address} ({self.replica_uuid[:8]})"

    @property
    def as_source(self) -> replica_pb2.Source:
        """How another replica is told to copy from it."""
        return replica_pb2.Source(address=self.link.address, replica_uuid=self.replica_uuid)

    @property
    def given_up_reason(self) -> str:
        """What people are told of it where the configuration says that it is out of date."""
        return GIVEN_UP if self.is_witness else OUT_OF_DATE

    async def why_failed(self, volume_uuid: str) -> str:
        """Why its daemon has given it up, after it refused something because of its disk; empty
        where that is not so, or the daemon does not answer.
        """
        try:
            report = await self.link.inquire(volume_uuid)
        except CstorError:
            return ""
        has_failed = report.state == replica_pb2.REPLICA_STATE_FAILED
        return report.reason if has_failed and report.replica_uuid == self.replica_uuid else ""

    def facts(self, **others: object) -> dict[str, object]:
        """The facts of an event that it has to do with: who it is, where it is, and these."""
        return {"replica": self.replica_uuid, "address": self.link.address, **others}

    def join(
        self,
        opening: stream_pb2.StreamOpening,
        applied_seq: int,
        put_off: PutOff,
        on_progress: Callable[[], None],
        on_closed: Callable[[Member, CstorError], None],
    ) -> None:
        """Open its stream of entries; what the caller sends next is the entry `applied_seq + 1`."""
        self.leave()
        self.applied_seq = applied_seq
        self.durable_seq = 0
        self.stands_at = (-1, 0.0)

        def received(message: Buffer) -> None:
            try:
                response = stream_pb2.AppendResponse.FromString(bytes(message))
            except DecodeError:
                closed(ProtocolError(f"replica {self.name} sent an answer that cannot be read"))
                return
            # Until the first entry of a rebuild's stream it says where it was before.
            self.applied_seq = max(applied_seq, response.applied_seq)
            self.durable_seq = response.durable_seq
            self.granted_bytes = response.granted_bytes
            on_progress()

        def closed(error: CstorError) -> None:
            if self.append_stream is stream:
                on_closed(self, error)

        stream = AppendStream(self.link, put_off, self._is_copying, received, closed)
        self.append_stream = stream
        request = stream_pb2.AppendRequest(format=1 << 16, opening=opening)
        stream.send(request.SerializeToString())

    def leave(self) -> None:
        """Close its stream of entries; it counts for nothing from now on."""
        stream, self.append_stream = self.append_stream, None
        if stream is not None:
            stream.close()

    def _is_copying(self) -> bool:
        return self.progress.is_on_its_way

    def named(self) -> volume_pb2.Member:
        """Who it is, and where."""
        return volume_pb2.Member(
            replica_uuid=self.replica_uuid, address=self.link.address, witness=self.is_witness
        )

    def describe(self, now_s: float) -> control_pb2.MemberReport:
        """What operators are told about it at a moment of the monotonic clock."""
        progress = self.progress
        left_s = progress.left_s(now_s)
        return control_pb2.MemberReport(
            member=self.named(),
            status=self.standing.value,
            applied_seq=self.applied_seq,
            durable_seq=self.durable_seq,
            rebuild_blocks_total=progress.blocks_total,
            rebuild_blocks_done=progress.blocks_done,
            rebuild_bytes_copied=progress.bytes_copied,
            rebuild_bytes_per_s=int(progress.bytes_per_s(now_s)),
            rebuild_left_ms=int((left_s or 0) * 1000),
            reason="" if self.standing in (Standing.IN_SYNC, Standing.WITNESS) else self.reason,
            short=self.report is not None and self.report.short,
            pool_used_percent=int(100 * self.pool_used),
            used_bytes=self.used_bytes,
            logical_bytes=self.logical_bytes,
        )
