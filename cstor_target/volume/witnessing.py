"""Keeping a witness told: of the epoch, of the configuration, and of which replica is out of date.

What it should hold follows from who is in sync (`witness.mark_wanted`); this tells it so whenever
that differs from what it holds.  While the witness holds, for certain, that one replica is out of
date, the other one acknowledges alone; as soon as both are in sync both have to, and the mark is
taken away behind that, when both hold all that was acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cstor_core.clock import Clock
from cstor_core.errors import CorruptError, CstorError, FencedError, UnavailableError
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.volume.finding import Finding
from cstor_target.volume.members import Member, Standing
from cstor_target.volume.order import Order
from cstor_target.volume.roster import Roster
from cstor_target.volume.settings import EngineSettings
from cstor_target.volume.tenure import Tenure
from cstor_target.volume.witness import (
    Attestation,
    Copy,
    Told,
    gives_up_witness,
    mark_wanted,
)

_POLL_S = 0.01
_LOOK_AGAIN_S = 1.0


class Witnessing:
    """Of one volume and one attempt to open it, until that has failed or another target reigns."""

    def __init__(
        self,
        tenure: Tenure,
        roster: Roster,
        order: Order,
        clock: Clock,
        settings: EngineSettings,
        finding: Finding,
        is_over: Callable[[], bool],
        depose: Callable[[str], None],
        give_up: Callable[[Member], None],
    ) -> None:
        """`give_up` has the configuration do that with a witness, as soon as it can be."""
        self._tenure = tenure
        self._roster = roster
        self._order = order
        self._clock = clock
        self._settings = settings
        self._finding = finding
        self._is_over = is_over
        self._depose = depose
        self._give_up = give_up
        self._wake = asyncio.Event()
        self.record_seq = 0
        """The place of the epoch's record; 0 before it has one."""
        self._flushed_s = clock.monotonic()
        roster.on_standing = self._wake.set

    async def keep(self, member: Member, *, has_promised: bool) -> None:
        """Keep a witness told for as long as the roster knows it."""
        while not self._is_over() and member in self._roster.receivers:
            pause_s = self._settings.retry_s
            try:
                self._check_trusted(member)
                if isinstance(member.error, CorruptError):
                    has_promised = False  # it gave no lease because of its disk: ask what that is
                if not has_promised:
                    await self._fence(member)
                    has_promised = True
                pause_s = await self._tell(member, member.told)
            except FencedError as error:
                self._depose(str(error))
            except CstorError as error:
                has_promised = False
                if not self._is_over():
                    await self._lost(member, error)
                    if member.standing is Standing.FAILED:
                        pause_s = _LOOK_AGAIN_S
                    self._wake.clear()  # it is this loss that has been told of
            await self._woken(pause_s)

    def _check_trusted(self, member: Member) -> None:
        """Raise UnavailableError where the witness was given up: it is asked for nothing more,
        whatever it says after its machine was booted anew.
        """
        if not member.is_learner and gives_up_witness(self._roster.configuration):
            raise UnavailableError(member.given_up_reason)

    async def _lost(self, member: Member, error: CstorError) -> None:
        """It has not answered, has refused, or its disk has failed."""
        failure = ""
        if not member.is_learner and gives_up_witness(self._roster.configuration):
            failure = member.given_up_reason
        elif isinstance(error, CorruptError):
            failure = await member.why_failed(self._tenure.identity.volume_uuid)
        self._roster.witness_lost(member, error, failure)
        if member.standing is Standing.FAILED:
            self._give_up(member)
        else:
            self._finding.look_for(member)

    async def _woken(self, pause_s: float) -> None:
        """Wait until somebody's standing has changed, or for so long."""
        timer = self._clock.call_later(pause_s, self._wake.set)
        await self._wake.wait()
        self._wake.clear()
        timer.cancel()

    async def _fence(self, member: Member) -> None:
        """Have it promise this epoch, if it has not."""
        tenure = self._tenure
        answer = await member.link.promise(tenure.promise_request(member.replica_uuid))
        report = answer.replica
        if not answer.promised:
            raise FencedError(
                f"witness {member.name} of volume {tenure.identity.name} has promised epoch "
                f"{report.promised_epoch} to another target, which serves the volume now"
            )
        member.report = report

    async def _tell(self, member: Member, told: Told) -> float:
        """Tell it what it should hold; how long to wait before the next look."""
        roster = self._roster
        if member not in roster.receivers:
            return _POLL_S  # it was given up meanwhile, and somebody else may tell it by now
        configuration = roster.configuration_to_tell(member)
        wanted = self._wanted(configuration)
        if wanted is None:
            return _POLL_S if roster.in_sync else _LOOK_AGAIN_S
        attestation = Attestation(configuration.number, wanted)
        if told.held == attestation:
            return _POLL_S if roster.is_changing else _LOOK_AGAIN_S
        number = told.next(attestation)
        roster.count()
        request = self._tenure.attest_request(
            member.replica_uuid, number, self.record_seq, configuration, wanted
        )
        member.report = await member.link.attest(request)
        told.answered(number)
        if not self._is_over():
            member.is_caught_up = True
            roster.witness_there(member)
            roster.progressed()
        return _POLL_S

    def _wanted(self, configuration: volume_pb2.Configuration) -> str | None:
        """Whom it should hold to be out of date; see `mark_wanted`."""
        roster, order = self._roster, self._order
        if not self.record_seq:
            return None
        data = [one.replica_uuid for one in configuration.members if not one.witness]
        wanted = mark_wanted(
            data,
            {
                one.replica_uuid: Copy(one.applied_seq, one.durable_seq)
                for one in roster.in_sync
                if one.replica_uuid in data
            },
            record_seq=self.record_seq,
            completed_seq=order.completed_seq,
            durable_seq=order.durable_seq,
        )
        if wanted is None:
            self._ask_for_flush()
        return wanted

    def _ask_for_flush(self) -> None:
        """Whoever is in sync says now and then what it has on stable storage."""
        now_s = self._clock.monotonic()
        if self._roster.in_sync and now_s - self._flushed_s > _LOOK_AGAIN_S:
            self._flushed_s = now_s
            self._order.ask_for_flush()
