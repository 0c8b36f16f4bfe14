"""Two copies and a witness: its rules, as pure functions.

A witness is a member without data.  It promises and gives leases like any member.  Beside that it
holds, durably, what the target of the highest epoch told it last: the record of that epoch (its
position), the configuration, and a mark, which names the data member that is out of date, or none.

A write is acknowledged by both data members; or by one that holds all that was acknowledged, while
the witness holds under this epoch that the other is out of date.  So an opening without one of them
knows from the witness whether the other one lacks something: it counts as short then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cstor_core.errors import UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.words import history_from
from cstor_target.volume.quorum import read_overlap, write_quorum

COPIES = 2
"""So many data members a volume with a witness has; one on the way to be so many."""


@dataclass(frozen=True, slots=True)
class Copy:
    """How far a data member is that is in sync."""

    applied_seq: int
    durable_seq: int


@dataclass(frozen=True, slots=True)
class Attestation:
    """What a witness is told, and holds from then on in the place of what it held before."""

    configuration_number: int = 0
    out_of_date: str = ""
    """UUID of a data member; empty for none."""


def acknowledging(
    data: Collection[str], in_sync: Collection[str], *, has_witness: bool, out_of_date: str
) -> int:
    """How many data members in sync have to have an entry before it is acknowledged.

    `out_of_date` is whom the witness holds to be that, under this epoch, where it is certain.
    """
    if not has_witness:
        return write_quorum(len(data))
    others = set(data) - {out_of_date}
    is_alone = len(others) == len(data) - 1 == 1 and others == set(in_sync) & set(data)
    return 1 if is_alone else len(data)


def copies_to_open(copies: int, witness_promised: bool) -> int:
    """How many of the data members have to be at the end of the history before the epoch's record;
    the witness is told of it then, and is one of the W.
    """
    return 1 if witness_promised else copies


def others_to_flag(members: int, *, has_witness: bool) -> int:
    """How many others have to hold, flushed, what a member holds that is to be rebuilt.

    Beside a witness there is one other data member, which stands for the R.
    """
    return 1 if has_witness else read_overlap(members)


def mark_wanted(
    data: Collection[str],
    in_sync: Mapping[str, Copy],
    *,
    record_seq: int,
    completed_seq: int,
    durable_seq: int,
) -> str | None:
    """Whom the witness should hold to be out of date now, empty for nobody; None where nothing may
    be said yet, so that it holds what it holds.

    `completed_seq` and `durable_seq` are how far has been acknowledged.  It hears of an epoch only
    when a data member has the epoch's record on stable storage; that a member is out of date, when
    the other holds all that was acknowledged; and that none is, when both do.
    """
    if not any(copy.durable_seq >= record_seq for copy in in_sync.values()):
        return None
    holding = [
        uuid
        for uuid, copy in in_sync.items()
        if copy.applied_seq >= completed_seq and copy.durable_seq >= durable_seq
    ]
    if len(holding) < len(in_sync):
        return None
    missing = [uuid for uuid in data if uuid not in in_sync]
    if len(data) == COPIES and len(missing) == 1:
        return missing[0]
    return None if missing else ""


class Told:
    """What a witness has been told under one epoch, and what it holds for certain.

    Every word has a number, and the witness takes only higher ones: so a late one changes nothing.
    Between a word and its answer it may hold the last one or one before.
    """

    def __init__(self, before: Told | None = None) -> None:
        """`before` is what it was told under this epoch when somebody asked for it as a new member,
        which broke off: words of that may still be on their way, so numbers go on behind them, and
        what it holds is not known.
        """
        self._number: int = before._number if before is not None else 0
        self._possible: list[tuple[int, Attestation]] = [(0, Attestation())]
        """Ascending by number: any of these may be what it holds."""

    def next(self, attestation: Attestation) -> int:
        """The number of a word that is about to be sent."""
        self._number += 1
        self._possible.append((self._number, attestation))
        return self._number

    def answered(self, number: int) -> None:
        """The witness holds the word of this number, or a later one."""
        self._possible = [told for told in self._possible if told[0] >= number]

    @property
    def held(self) -> Attestation | None:
        """What it holds; None where that is not certain, or nothing was told yet."""
        if len(self._possible) > 1 or not self._possible[0][0]:
            return None
        return self._possible[0][1]

    @property
    def out_of_date(self) -> str:
        """Whom it holds to be out of date, whichever word it holds; empty where that differs."""
        found = {told.out_of_date for _, told in self._possible}
        return found.pop() if len(found) == 1 else ""

    @property
    def configuration_number(self) -> int:
        """It holds this configuration or a later one."""
        return min(told.configuration_number for _, told in self._possible)


def witness_of(configuration: volume_pb2.Configuration) -> str:
    """The UUID of the member that is a witness; empty where none is."""
    return next((one.replica_uuid for one in configuration.members if one.witness), "")


def gives_up_witness(configuration: volume_pb2.Configuration) -> bool:
    """Whether it says that its witness' disk has failed: the witness counts for nothing then."""
    return any(one.witness and one.out_of_date for one in configuration.members)


def calls_out_of_date(
    witness: replica_pb2.ReplicaReport | None, report: replica_pb2.ReplicaReport
) -> bool:
    """Whether a witness says that of a data member, under an epoch not older than the one that the
    member has adopted: later ones began with what the member holds.
    """
    if witness is None:
        return False
    mark, adopted = witness.out_of_date_mark, history_from(report.history).end.epoch
    return mark.replica_uuid == report.replica_uuid != "" and mark.epoch >= adopted


def is_proven(
    reports: Sequence[replica_pb2.ReplicaReport],
    witness: replica_pb2.ReplicaReport | None,
    copies: int,
    *,
    write_cache: bool,
    out_of_date: int = 0,
    gives_up_witness: bool = False,
) -> bool:
    """Whether these data members, of so many, hold whatever was acknowledged.

    `witness` is what it says; None where it does not answer.  `out_of_date` counts the data members
    that the configuration gives up, and `gives_up_witness` says whether the witness is one that
    nobody can ask any more, either.  Both data members together hold everything that neither has
    lost.  One that has lost nothing holds everything, too, unless it lacks what came later: that
    the witness knows.  False where everybody is here, and nobody who holds everything.  Raises
    UnavailableError where somebody else can be asked.
    """
    short = [report for report in reports if write_cache and report.short]
    if len(reports) == copies and not short:
        return True
    lacking = [
        report for report in reports if report in short or calls_out_of_date(witness, report)
    ]
    if witness is not None and len(lacking) < len(reports):
        return True
    if witness is None and not gives_up_witness:
        raise UnavailableError(
            "the machine of a replica has lost power, and only the witness knows whether the other "
            "one has everything: start the witness"
        )
    if len(reports) < copies - out_of_date:
        raise UnavailableError(
            "the replica that answers is out of date, or has lost power and may lack what was "
            "written: start the other one"
        )
    return False
