"""`cstor volume compare`: every member reads all its data, and the answers are merged.

While initiators write, members differ for a moment by what is in flight.  So a block counts as
different only if it differed in every pass, and passes go on until nothing was written between
two of them, or `PASSES_MAX` have been made; then the result says that the volume was busy.

A member that cannot be read to its end is not compared at all, and the others are compared anew
without it: a result always speaks of whole copies.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from cstor_cli.compare import (
    NO_BLOCKS,
    Blocks,
    Difference,
    Piece,
    ascending,
    merge,
    piece_of,
    ranges,
)
from cstor_cli.exit_codes import ExitCode
from cstor_cli.replica_client import Dial, ReplicaClient
from cstor_core.errors import CstorError, ForeignReplicaError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.history import Position
from cstor_core.words import history_from

PASSES_MAX = 5
PAUSE_S = 0.5
BLOCKS_KEPT_MAX = 1 << 20
"""Differing blocks that are remembered from one pass to the next; more are only counted."""
SAMPLES_MAX = 16


@dataclass(slots=True)
class MemberCopy:
    """One member of the volume and how far it could be read."""

    address: str
    replica_uuid: str = ""
    report: replica_pb2.ReplicaReport | None = None
    client: ReplicaClient | None = None
    bad_blocks: int = 0
    reason: str = ""
    """Why it was not compared; empty where it was."""

    @property
    def position(self) -> Position:
        """How far the member was when it was last asked."""
        if self.report is None:
            return Position(0, 0, 0)
        end = history_from(self.report.history).end
        return Position(self.report.configuration.forced_openings, end.epoch, end.last_seq)


@dataclass(slots=True)
class Comparison:
    """The result: what was compared, and what differs."""

    volume: str
    members: list[MemberCopy]
    blocks_compared: int = 0
    blocks_differing: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)
    samples: list[Difference] = field(default_factory=list)
    passes: int = 0
    busy: bool = False

    @property
    def compared(self) -> list[MemberCopy]:
        """The members that were read to their end; the copies of a sample are in this order."""
        return [member for member in self.members if not member.reason]

    @property
    def exit_code(self) -> ExitCode:
        """FAILED where copies differ, UNREAD where a member is missing, OK where all are equal."""
        if self.blocks_differing:
            return ExitCode.FAILED
        if not self.members or len(self.compared) != len(self.members):
            return ExitCode.UNREAD
        return ExitCode.OK


@dataclass(slots=True)
class _Pass:
    """What one pass over the copies found among the blocks that were still in question."""

    compared: int = 0
    differing: int = 0
    kept: Blocks = field(default_factory=lambda: NO_BLOCKS)
    samples: list[Difference] = field(default_factory=list)


def compare_volume(
    volume: str, addresses: Sequence[str], dial: Dial, pause_s: float = PAUSE_S
) -> Comparison:
    """Compare all copies of a volume, by name or UUID, from the daemons at these addresses on.

    A member that the volume's configuration names and that none of them is, is looked for at
    the address that the configuration gives.
    """
    with contextlib.ExitStack() as stack:
        members = _find_members(volume, addresses, dial, stack)
        result = Comparison(volume, members)
        question: Blocks | None = None
        before: list[Position] = []
        while result.passes < PASSES_MAX and result.compared:
            found = _run_pass(result.compared, question)
            if found is None:
                question, before = None, []
                continue
            result.passes += 1
            result.blocks_compared = found.compared
            result.blocks_differing = found.differing
            result.ranges = ranges(found.kept)
            result.samples = found.samples
            positions = [member.position for member in result.compared]
            result.busy = bool(before) and positions != before
            if not found.differing or found.differing > len(found.kept) or positions == before:
                break
            question, before = found.kept, positions
            time.sleep(pause_s)
    return result


def _find_members(
    volume: str, addresses: Sequence[str], dial: Dial, stack: contextlib.ExitStack
) -> list[MemberCopy]:
    """The members that the latest configuration names, or the daemons asked if none answers."""
    asked = [_inquire(volume, address, dial, stack) for address in addresses]
    reporting = [member for member in asked if member.report is not None]
    if not reporting:
        return asked
    latest = max(reporting, key=lambda member: member.position).report
    if latest is None or not latest.configuration.members:
        return asked
    volume_uuid = latest.identity.volume_uuid
    by_uuid = {member.replica_uuid: member for member in reporting}
    members = []
    for configured in latest.configuration.members:
        if configured.witness:
            continue
        member = by_uuid.get(configured.replica_uuid)
        if member is None:
            member = _inquire(volume_uuid, configured.address, dial, stack)
            if member.report is not None and member.replica_uuid != configured.replica_uuid:
                member = MemberCopy(configured.address, reason="another replica answers there")
            member.replica_uuid = configured.replica_uuid
        elif member.report is not None and member.report.identity.volume_uuid != volume_uuid:
            member.reason = "it holds another volume of that name"
        members.append(member)
    return members


def _inquire(volume: str, address: str, dial: Dial, stack: contextlib.ExitStack) -> MemberCopy:
    client = dial(address)
    stack.callback(client.close)
    try:
        report = client.inquire(volume)
    except CstorError as error:
        return MemberCopy(address, reason=str(error))
    return MemberCopy(address, report.replica_uuid, report, client)


def _run_pass(members: Sequence[MemberCopy], question: Blocks | None) -> _Pass | None:
    """Read and merge the members' copies; `question` are the blocks in question, None for all.

    None where a member could not be read to its end: its `reason` says why.
    """
    found = _Pass()
    for member in members:
        member.bad_blocks = 0
    with contextlib.ExitStack() as stack:
        streams = []
        for member in members:
            pieces = _pieces(member)
            stack.callback(pieces.close)
            streams.append(pieces)
        for stretch in merge(streams):
            if any(member.reason for member in members):
                return None
            found.compared += stretch.compared
            for member, bad in zip(members, stretch.bad, strict=True):
                member.bad_blocks += len(bad)
            if question is not None:
                stretch = stretch.among(question)
            found.differing += len(stretch.differing)
            room = BLOCKS_KEPT_MAX - len(found.kept)
            found.kept = np.concatenate((found.kept, stretch.differing[:room]))
            found.samples += stretch.differences(SAMPLES_MAX - len(found.samples))
    return None if any(member.reason for member in members) else found


def _pieces(member: MemberCopy) -> Generator[Piece]:
    """The member's map; ends early, with the reason in the member, where it cannot be read."""
    try:
        yield from ascending(_answers(member))
    except CstorError as error:
        member.reason = str(error)


def _answers(member: MemberCopy) -> Generator[Piece]:
    """What a scan answers, piece by piece.  Raises a CstorError where it breaks off."""
    if member.client is None or member.report is None:
        raise ForeignReplicaError(f"{member.address} does not say what it holds")
    first = True
    for answer in member.client.scan(member.report.identity.volume_uuid):
        if first:
            _check_same_replica(member, answer)
            member.report = answer.replica
            first = False
        yield piece_of(answer.rows, answer.bad_blocks)
    if first:
        raise ForeignReplicaError(f"{member.address} answered a scan with nothing")


def _check_same_replica(member: MemberCopy, answer: replica_pb2.ScanResponse) -> None:
    if answer.replica.replica_uuid != member.replica_uuid:
        raise ForeignReplicaError(
            f"{member.address} answered a scan without saying that it is {member.replica_uuid}"
        )
