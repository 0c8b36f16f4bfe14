"""One scrub: all copies of all blocks are read and verified, compared, and put right.

It goes through the volume range by range.  What is not equal is looked at again, a little later,
as often as it takes until it is equal, has been put right, or is given up; what it is then is for
`scrub_plan` to say.  What snapshots need beside the volume comes after that: it never changes, and
only data that are bad are put right.

It takes whoever is in sync at the moment: a member that leaves is missed, and one that comes is
asked from then on.  Without a quorum it waits.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from cstor_core.clock import Clock
from cstor_core.errors import CstorError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2, volume_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.counters import Counters
from cstor_target.volume.events import EventSink
from cstor_target.volume.members import Member
from cstor_target.volume.order import Order
from cstor_target.volume.quorum import write_quorum
from cstor_target.volume.roster import Roster
from cstor_target.volume.scrub_plan import Look, Verdict, Wrong, judge, odd_ones, suspects
from cstor_target.volume.tenure import Tenure

RANGE_BLOCKS_MIN, RANGE_BLOCKS, RANGE_BLOCKS_MAX = 32, 1024, 1 << 16
PIECES_PER_S = 4
"""A range takes no longer than this part of a second, unless the rate is very low."""
ASKED_MAX = 3
AGAIN_S = 1.0
NOBODY_ANSWERS_S_MAX = 60.0
SETTLES_S = (0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 1.0, 1.0)
"""Pauses before a block that is not equal is looked at again; after the last it is given up."""
HOPELESS_AFTER = 3
"""Looks that found nothing but what cannot be put right."""

Find = Callable[[Member], replica_pb2.ScrubBlocksRequest]
"""What a member is asked."""


@dataclass(slots=True)
class Tally:
    """What one member was asked, and what was wrong with its copies."""

    address: str
    blocks_done: int = 0
    blocks_missed: int = 0
    wrong: dict[Wrong, int] = field(default_factory=lambda: dict.fromkeys(Wrong, 0))
    unrepaired: int = 0

    def message(self, replica_uuid: str) -> control_pb2.ScrubbedMember:
        """For a report."""
        return control_pb2.ScrubbedMember(
            member=volume_pb2.Member(replica_uuid=replica_uuid, address=self.address),
            blocks_done=self.blocks_done,
            blocks_missed=self.blocks_missed,
            bad_checksums=self.wrong[Wrong.BAD_CHECKSUM],
            lost_writes=self.wrong[Wrong.LOST_WRITE],
            other_data=self.wrong[Wrong.OTHER_DATA],
            foreign=self.wrong[Wrong.FOREIGN],
            repaired=sum(self.wrong.values()) - self.unrepaired,
            unrepaired=self.unrepaired,
        )


@dataclass(slots=True)
class _Findings:
    """Of one range."""

    wrong: dict[tuple[Member, int], Wrong] = field(default_factory=dict)
    """Copies that were wrong at any time."""
    left: dict[int, Mapping[Member, Wrong]] = field(default_factory=dict)
    """Blocks that are not equal: which copies are wrong; none where nobody can say."""
    reason: str = ""
    """Why the last repair came to nothing."""


class ScrubRun:
    """One scrub of one volume, from its beginning to its end."""

    def __init__(
        self,
        tenure: Tenure,
        roster: Roster,
        order: Order,
        clock: Clock,
        counters: Counters,
        events: EventSink,
        size_blocks: Callable[[], int],
        rate_bytes_per_s: int,
        *,
        has_snapshots: bool,
    ) -> None:
        self.rate_bytes_per_s = rate_bytes_per_s
        self.blocks_done = self.blocks_changing = self.bytes_read = 0
        self.tallies: dict[str, Tally] = {}
        self._tenure = tenure
        self._roster = roster
        self._order = order
        self._clock = clock
        self._counters = counters
        self._events = events
        self._size_blocks = size_blocks
        self._passes = (False, True) if has_snapshots else (False,)
        self._silent: set[str] = set()
        """Members that have left a question unanswered: they are not waited for."""
        self._next_s = clock.monotonic()

    @property
    def blocks_total(self) -> int:
        """The volume's blocks, and once more for its snapshots."""
        return self._size_blocks() * len(self._passes)

    async def run(self) -> None:
        """All of it.  Raises UnavailableError where it cannot go on."""
        for of_snapshots in self._passes:
            await self._walk(of_snapshots=of_snapshots)

    async def _walk(self, *, of_snapshots: bool) -> None:
        """Go through the volume once.

        Fewer blocks at a time where the rate is low, more where nothing has been written.
        """
        usual = self.rate_bytes_per_s // PIECES_PER_S // BLOCK_BYTES
        usual = count = max(RANGE_BLOCKS_MIN, min(usual, RANGE_BLOCKS))
        block = 0
        while block < (size_blocks := self._size_blocks()):
            asked = min(count, size_blocks - block)
            looks = await self._ask(partial(self._question, block, asked, of_snapshots))
            end = min(look.end_block for look in looks.values())
            looks = {member: look.before(end) for member, look in looks.items()}
            self._count_done(looks, end - block)
            found = suspects(list(looks.values()))
            if found and of_snapshots:
                self._close(await self._settle_snapshots(found), of_snapshots=True)
            elif found:
                self._close(await self._settle(found, looks), of_snapshots=False)
            block = end
            is_empty = not any(len(look.rows) for look in looks.values())
            count = min(2 * count, RANGE_BLOCKS_MAX) if is_empty else usual
            await self._clock.sleep(max(self._next_s - self._clock.monotonic(), 0.0))

    def _question(
        self, block: int, count: int, of_snapshots: bool, member: Member
    ) -> replica_pb2.ScrubBlocksRequest:
        return self._tenure.scrub_request(
            member.replica_uuid, block, count, of_snapshots=of_snapshots
        )

    async def _ask(self, request_of: Find) -> dict[Member, Look]:
        """What members in sync say; one that does not answer is asked again, but not for ever.

        Raises UnavailableError where nobody answers.
        """
        began_s = self._clock.monotonic()
        tries = 0
        while True:
            members = await self._in_sync()
            answers = await asyncio.gather(*(self._look(m, request_of(m)) for m in members))
            looks = {
                member: answer
                for member, answer in zip(members, answers, strict=True)
                if isinstance(answer, Look)
            }
            awaited = [m for m in members if m not in looks and m.replica_uuid not in self._silent]
            tries += 1
            if looks and (not awaited or tries == ASKED_MAX):
                self._silent = {m.replica_uuid for m in members if m not in looks}
                self._count_read(looks)
                return looks
            reasons = [str(answer) for answer in answers if isinstance(answer, CstorError)]
            if not looks and self._clock.monotonic() - began_s > NOBODY_ANSWERS_S_MAX:
                raise UnavailableError(f"no replica can be read: {'; '.join(reasons)}")
            await self._clock.sleep(AGAIN_S)

    async def _in_sync(self) -> list[Member]:
        """The members in sync, once they are a quorum.

        Raises UnavailableError where this target does not serve the volume any more.
        """
        while self._roster.serving:
            if self._roster.has_quorum:
                return list(self._roster.in_sync)
            await self._clock.sleep(AGAIN_S)
        raise UnavailableError("this target serves the volume no more: scrub it at its next one")

    async def _look(
        self, member: Member, request: replica_pb2.ScrubBlocksRequest
    ) -> Look | CstorError:
        try:
            answer = await member.link.scrub_blocks(request)
            return Look.of(
                answer.floor_seq,
                answer.operations_seq,
                answer.end_block,
                answer.rows,
                answer.bad_blocks,
            )
        except CstorError as error:
            return error

    def _count_read(self, looks: Mapping[Member, Look]) -> None:
        """The rate is of one replica, the one that has read most."""
        read_bytes = max(look.data_blocks for look in looks.values()) * BLOCK_BYTES
        self.bytes_read += read_bytes
        self._counters.scrub_read_bytes += read_bytes
        now_s = self._clock.monotonic()
        self._next_s = max(self._next_s, now_s - 1) + read_bytes / self.rate_bytes_per_s

    def _count_done(self, looks: Mapping[Member, Look], blocks: int) -> None:
        self.blocks_done += blocks
        for member in self._roster.members:
            if member.is_witness:
                continue
            tally = self._tally(member)
            if member in looks:
                tally.blocks_done += blocks
            else:
                tally.blocks_missed += blocks

    def _tally(self, member: Member) -> Tally:
        return self.tallies.setdefault(member.replica_uuid, Tally(member.link.address))

    async def _settle(self, blocks: Sequence[int], looks: Mapping[Member, Look]) -> _Findings:
        """Have put right what is not equal, and look at it again until it is."""
        findings = _Findings()
        hopeless = 0
        for tried, pause_s in enumerate((0.0, *SETTLES_S)):
            if tried:
                await self._clock.sleep(pause_s)
                looks = await self._ask_for(blocks, of_snapshots=False)
            verdicts = self._judged(blocks, looks)
            members = list(looks)
            findings.left = {
                block: {members[number]: wrong for number, wrong in verdict.wrong.items()}
                for block, verdict in verdicts.items()
            }
            for block, copies in findings.left.items():
                findings.wrong |= {(member, block): wrong for member, wrong in copies.items()}
            blocks = list(verdicts)
            may_change = any(
                not verdict.wrong or any(map(verdict.may_repair, verdict.wrong))
                for verdict in verdicts.values()
            )
            hopeless = 0 if may_change else hopeless + 1
            if not blocks or hopeless == HOPELESS_AFTER or tried == len(SETTLES_S):
                break
            await self._repair(verdicts, members, tried, findings)
        return findings

    async def _ask_for(self, blocks: Sequence[int], *, of_snapshots: bool) -> dict[Member, Look]:
        return await self._ask(
            lambda member: self._tenure.scrub_ones_request(
                member.replica_uuid, blocks, of_snapshots=of_snapshots
            )
        )

    def _judged(self, blocks: Sequence[int], looks: Mapping[Member, Look]) -> dict[int, Verdict]:
        """Of those blocks that are not equal and good."""
        each = list(looks.values())
        floor_seq = min(look.floor_seq for look in each)
        if len({look.operations_seq for look in each}) > 1:
            floor_seq = -1  # they do not see the same entries
        history = self._tenure.history.extended(self._order.last_seq)
        # One of two that is alone, by the word of a witness, decides nothing against the other.
        quorum = max(self._roster.quorum, write_quorum(len(looks)))
        return {
            block: judge([look.copy(block) for look in each], floor_seq, history, quorum)
            for block in sorted(set(suspects(each)) & set(blocks))
        }

    async def _repair(
        self,
        verdicts: Mapping[int, Verdict],
        members: Sequence[Member],
        tried: int,
        findings: _Findings,
    ) -> None:
        """Have wrong copies replaced by right ones; another try takes another source."""
        rows: dict[tuple[Member, Member], list[bytes]] = defaultdict(list)
        for block, verdict in sorted(verdicts.items()):
            for number in filter(verdict.may_repair, verdict.wrong):
                assert verdict.right is not None, "there are sources of it"
                source = members[verdict.sources[tried % len(verdict.sources)]]
                rows[members[number], source].append(verdict.right.row(block))
        for (member, source), table in rows.items():
            request = self._tenure.repair_rows_request(
                member.replica_uuid, source.as_source, b"".join(table)
            )
            await self._have_repaired(member, request, findings)

    async def _settle_snapshots(self, blocks: Sequence[int]) -> _Findings:
        """The same of what snapshots need, of which only data are put right."""
        findings = _Findings()
        for tried, pause_s in enumerate(SETTLES_S):
            await self._clock.sleep(pause_s)
            looks = await self._ask_for(blocks, of_snapshots=True)
            each, members = list(looks.values()), list(looks)
            same = len({look.operations_seq for look in each}) == 1
            findings.left = {
                block: {
                    members[number]: _kind(each[number], block)
                    for number in (odd_ones(each, block) if same else ())
                }
                for block in set(suspects(each)) & set(blocks)
            }
            for block, copies in findings.left.items():
                findings.wrong |= {(member, block): wrong for member, wrong in copies.items()}
            is_last = tried + 1 == len(SETTLES_S)
            if same and (is_last or not await self._repair_snapshots(members, tried, findings)):
                break
        return findings

    async def _repair_snapshots(
        self, members: Sequence[Member], tried: int, findings: _Findings
    ) -> bool:
        """Have bad data replaced by those of a member that is not odd; whether there is any."""
        asked: dict[tuple[Member, Member], list[int]] = defaultdict(list)
        for block, copies in sorted(findings.left.items()):
            sources = [member for member in members if member not in copies]
            for member, wrong in copies.items():
                if sources and wrong is Wrong.BAD_CHECKSUM:
                    asked[member, sources[tried % len(sources)]].append(block)
        for (member, source), blocks in asked.items():
            request = self._tenure.repair_snapshots_request(
                member.replica_uuid, source.as_source, blocks
            )
            await self._have_repaired(member, request, findings)
        return bool(asked)

    async def _have_repaired(
        self, member: Member, request: replica_pb2.RepairBlocksRequest, findings: _Findings
    ) -> None:
        try:
            answer = await member.link.repair_blocks(request)
        except CstorError as error:
            findings.reason = str(error)
        else:
            self._counters.blocks_repaired += answer.blocks_repaired

    def _close(self, findings: _Findings, *, of_snapshots: bool) -> None:
        """Count what was found, and tell of it."""
        told: dict[tuple[Member, Wrong], list[int]] = defaultdict(list)
        unrepaired: dict[Member, list[int]] = defaultdict(list)
        for (member, block), wrong in sorted(findings.wrong.items(), key=lambda each: each[0][1]):
            self._tally(member).wrong[wrong] += 1
            told[member, wrong].append(block)
            if member in findings.left.get(block, ()):
                unrepaired[member].append(block)
        self.blocks_changing += sum(not copies for copies in findings.left.values())
        self._counters.scrub_mismatches += len(findings.wrong)
        left = sum(map(len, unrepaired.values()))
        self._counters.scrub_unrepaired += left
        self._counters.scrub_repaired += len(findings.wrong) - left
        where = "snapshots" if of_snapshots else "the volume"
        for (member, wrong), blocks in told.items():
            self._events(
                "block_mismatch",
                member.facts(
                    blocks=len(blocks), first_block=blocks[0], kind=wrong.value, where=where
                ),
            )
        for member, blocks in unrepaired.items():
            self._tally(member).unrepaired += len(blocks)
            reason = findings.reason or "no replica in sync has a copy that is known to be right"
            self._events(
                "blocks_unrepaired",
                member.facts(blocks=len(blocks), first_block=blocks[0], where=where, reason=reason),
            )


def _kind(look: Look, block: int) -> Wrong:
    return Wrong.BAD_CHECKSUM if bool((look.bad == block).any()) else Wrong.OTHER_DATA
