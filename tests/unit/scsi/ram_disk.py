"""A logical unit over a `bytearray`: carries requests out at once, and fails where told to."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.scsi.completion import finish, finish_read
from cstor_target.scsi.geometry import Geometry
from cstor_target.scsi.identity import Identity
from cstor_target.scsi.logical_unit import LogicalUnit
from cstor_target.scsi.parameters import Parameters
from cstor_target.scsi.requests import (
    Copy,
    Elsewhere,
    Map,
    Outcome,
    Read,
    Request,
    Reserve,
    Status,
    Step,
    Unmap,
    Update,
    Write,
    WriteCopy,
)
from cstor_target.scsi.sense import Sense
from cstor_target.scsi.target_device import TargetDevice
from cstor_target.volume.backing import Buffer, Failure

VOLUME_UUID = UUID("0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0ff")
TARGET_NAME = "iqn.2016-09.com.openebs.cstor:vol"
STEPS_MAX = 10_000


class RamDisk:
    """A target device, its volume, and a log of what the volume was asked for."""

    def __init__(
        self,
        size_bytes: int = 1 << 20,
        *,
        logical_block_bytes: int = 512,
        write_cache: bool = True,
        volume_uuid: UUID = VOLUME_UUID,
    ) -> None:
        self.held = bytearray(size_bytes)
        self.asked: list[Request] = []
        self.reservations = volume_pb2.Reservations()
        """What the volume keeps of them."""
        self.peers: dict[LogicalUnit, RamDisk] = {}
        """Other disks of the same process."""
        self.shares_blocks = True
        """Whether it copies within itself without reading and writing."""
        self.failure: Failure | None = None
        self.fail_after = 0
        self.device = TargetDevice(
            Identity(volume_uuid, TARGET_NAME, "0.1.0"),
            Geometry(lambda: len(self.held), logical_block_bytes),
            Parameters(write_cache=write_cache),
        )

    def run(
        self, cdb: bytes, data_out: bytes | Sequence[Buffer] = b"", nexus: str = "n", lun: int = 0
    ) -> Outcome:
        """Start a command and carry out its requests until it has ended."""
        pieces = (data_out,) if isinstance(data_out, bytes) else data_out
        step = self.device.start(nexus, lun, cdb, [piece for piece in pieces if piece])
        for _ in range(STEPS_MAX):
            if isinstance(step, Outcome):
                return step
            step = self._carry_out(step)
        raise AssertionError(f"{cdb.hex()} has not ended after {STEPS_MAX} steps")

    def good(self, cdb: bytes, data_out: bytes | Sequence[Buffer] = b"") -> bytes:
        """Run a command that must end with GOOD; its Data-In."""
        outcome = self.run(cdb, data_out)
        assert outcome.status is Status.GOOD, outcome
        return b"".join(outcome.data_in)

    def _carry_out(self, request: Request) -> Step:
        self.asked.append(request)
        failure = self.failure if len(self.asked) > self.fail_after else None
        if isinstance(request, Elsewhere):
            return self.peers[request.unit]._carry_out(request.request)
        if isinstance(request, Read):
            end = request.offset + request.length
            assert 0 < request.length <= end <= len(self.held)
            # Two pieces, so that nobody relies on one.
            middle = request.offset + request.length // 2
            data = [self.held[request.offset : middle], self.held[middle:end]]
            return finish_read(request, failure, () if failure else data)
        if isinstance(request, Map):
            assert 0 < request.length <= len(self.held) - request.offset
            return request.finish(failure, () if failure else self._mapping(request))
        if isinstance(request, Write | WriteCopy) and failure is None:
            data_out = b"".join(request.data)
            assert 0 < len(data_out) <= len(self.held) - request.offset
            self.held[request.offset : request.offset + len(data_out)] = data_out
        if isinstance(request, Copy) and failure is None:
            length = request.length
            assert 0 < length <= len(self.held) - max(request.source, request.destination)
            if not self.shares_blocks:
                failure = Failure.DATA_NEEDED
            else:
                copied = self.held[request.source : request.source + length]
                self.held[request.destination : request.destination + length] = copied
        if isinstance(request, Update) and failure is None:
            end = request.offset + request.length
            assert 0 < request.length <= end <= len(self.held)
            changed = request.change(self.held[request.offset : end])
            if changed is not None:
                assert len(changed) == request.length
                self.held[request.offset : end] = changed
        if isinstance(request, Reserve) and failure is None:
            kept = request.change()
            if kept is not None:
                self.reservations.CopyFrom(kept)
        if isinstance(request, Unmap) and failure is None:
            for offset, length in request.extents:
                assert 0 < length <= len(self.held) - offset
                self.held[offset : offset + length] = bytes(length)
        assert not isinstance(request, Read)
        return finish(request, failure)

    def _mapping(self, request: Map) -> list[tuple[bool, int]]:
        """Sectors that are not zeros are mapped."""
        runs: list[tuple[bool, int]] = []
        for at in range(request.offset, request.offset + request.length, 512):
            is_mapped = any(self.held[at : at + 512])
            length = runs.pop()[1] if runs and runs[-1][0] is is_mapped else 0
            runs.append((is_mapped, length + 512))
        return runs[: request.stretches_max]


def sense_of(outcome: Outcome) -> Sense:
    """The sense key and codes of fixed format sense data."""
    assert outcome.status is Status.CHECK_CONDITION, outcome
    assert len(outcome.sense) == 18
    assert outcome.sense[0] & 0x7F == 0x70
    assert outcome.sense[7] == 10
    return Sense((outcome.sense[2], outcome.sense[12], outcome.sense[13]))


def information_of(outcome: Outcome) -> int | None:
    """The INFORMATION field, if it is valid."""
    return int.from_bytes(outcome.sense[3:7], "big") if outcome.sense[0] & 0x80 else None


def field_of(outcome: Outcome) -> tuple[int, int | None] | None:
    """(byte, bit) of the refused field of the CDB, if the sense data point at one."""
    flags = outcome.sense[15]
    if not flags & 0x80:
        return None
    assert flags & 0x40, "the field lies in the parameter list"
    return int.from_bytes(outcome.sense[16:18], "big"), flags & 7 if flags & 8 else None
