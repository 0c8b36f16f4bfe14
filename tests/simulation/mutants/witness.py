"""Mistakes with two copies and a witness; all lives have one then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cstor_target.volume import roster, witness, witnessing
from cstor_target.volume.quorum import write_quorum
from cstor_target.volume.witness import COPIES
from replica.witness_file import WitnessFile
from tests.simulation import cluster
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


def _with_a_witness() -> None:
    """Live no other lives."""
    cluster.REPLICAS = (COPIES,) * len(cluster.REPLICAS)
    cluster.WITNESSED = 1.0


@_found.breaks("A witness is a member without data: it acknowledges none.")
def let_a_witness_acknowledge() -> None:
    """A witness that answers counts as one of W that have an entry."""
    _with_a_witness()
    needed = roster.Roster.needed

    def careless(self: roster.Roster, group: Any) -> int:
        there = self.witness is not None and self.witness.error is None
        return write_quorum(len(group)) - 1 if there and self.serving else needed(self, group)

    roster.Roster.needed = careless  # type: ignore[method-assign]


@_found.breaks(
    "One acknowledges alone when the witness holds, durably, that the other is out of date."
)
def go_on_alone_before_the_mark_is_held() -> None:
    """It is enough that the other one is not in sync."""
    _with_a_witness()

    def careless(data: Any, in_sync: Any, *, has_witness: bool, out_of_date: str) -> int:
        return 1 if has_witness else write_quorum(len(data))

    def never(*_found: Any, **_named: Any) -> str:
        return ""

    roster.acknowledging = careless  # type: ignore[attr-defined]
    witnessing.mark_wanted = never  # type: ignore[attr-defined]


@_found.breaks("A data member that the witness calls out of date counts as short.")
def believe_the_one_that_is_out_of_date() -> None:
    """An opening asks the witness for its promise, and not for its mark."""
    _with_a_witness()
    witness.calls_out_of_date = lambda *_reports: False


@_found.breaks("The mark is cleared when both are in sync, and hold all that was acknowledged.")
def clear_the_mark_too_early() -> None:
    """It is taken away as soon as the other one is being brought back."""
    _with_a_witness()
    wanted = witness.mark_wanted

    def careless(data: Any, in_sync: Any, **seqs: int) -> str | None:
        found = wanted(data, in_sync, **seqs)
        return "" if found and chance() else found

    turns = iter(range(1 << 60))

    def chance() -> bool:
        return next(turns) % 3 == 2

    def still_alone(data: Any, in_sync: Any, *, has_witness: bool, out_of_date: str) -> int:
        if not has_witness:
            return write_quorum(len(data))
        return 1 if len(set(in_sync)) == 1 else len(data)

    witnessing.mark_wanted = careless  # type: ignore[attr-defined]
    roster.acknowledging = still_alone  # type: ignore[attr-defined]


@_found.breaks("From before the clear is sent both must acknowledge.")
def go_on_alone_with_both_in_sync() -> None:
    """While the mark is held the first of the two is enough, and the other counts as well."""
    _with_a_witness()
    wanted = witness.mark_wanted

    def careless(data: Any, in_sync: Any, *, has_witness: bool, out_of_date: str) -> int:
        if not has_witness:
            return write_quorum(len(data))
        return 1 if out_of_date and set(in_sync) - {out_of_date} else len(data)

    def at_once(data: Any, in_sync: Any, **seqs: int) -> str | None:
        found = {uuid: witness.Copy(1 << 60, 1 << 60) for uuid in in_sync}
        return wanted(data, found, **seqs)

    told = witness.Told.out_of_date.fget  # type: ignore[attr-defined]

    def last_held(self: witness.Told) -> str:
        held = [word for _, word in self._possible if word.out_of_date]
        return told(self) or (held[0].out_of_date if held else "")

    witness.Told.out_of_date = property(last_held)  # type: ignore[method-assign, assignment]
    roster.acknowledging = careless  # type: ignore[attr-defined]
    witnessing.mark_wanted = at_once  # type: ignore[attr-defined]


@_found.breaks("Marks and clears are numbered, so that a late one is refused.")
def accept_a_late_mark() -> None:
    """A witness holds whatever it hears last, from whatever target it has promised itself to."""
    _with_a_witness()
    attest = WitnessFile.attest

    async def careless(self: WitnessFile, request: Any, check: Any) -> None:
        self.held = replace(self.held, number=0)
        await attest(self, request, lambda: None)

    WitnessFile.attest = careless  # type: ignore[method-assign]


@_found.breaks("The witness holds the mark durably.")
def forget_the_mark_over_a_restart() -> None:
    """It is kept in memory only."""
    _with_a_witness()

    async def careless(self: WitnessFile, request: Any, check: Any) -> None:
        check()
        self.held = replace(
            self.held,
            record_epoch=request.orders.epoch,
            record_seq=request.record_seq,
            number=request.number,
            out_of_date=request.out_of_date_replica_uuid,
        )

    async def promise(self: WitnessFile, epoch: int, instance: str) -> None:
        kept = self.held
        self.held = replace(kept, record_epoch=0, record_seq=0, number=0, out_of_date="")
        async with self._changing:
            await self._change(promised_epoch=epoch, promised_instance=instance)
        self.held = replace(kept, promised_epoch=epoch, promised_instance=instance)

    WitnessFile.attest = careless  # type: ignore[method-assign]
    WitnessFile.promise = promise  # type: ignore[method-assign]
