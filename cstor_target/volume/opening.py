"""The decisions of an opening, as pure functions of what the members reported.

A target asks first without effect, and for promises only when a quorum answers.  The highest
position among those that promised is the volume's history; a complete replica must hold it; a
quorum of members is brought to it, in order, before the epoch's record makes the epoch real.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cstor_core.errors import UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.history import History, Position
from cstor_core.properties import has_write_cache
from cstor_core.words import history_from, reign_from
from cstor_target.volume.quorum import read_overlap, write_quorum
from cstor_target.volume.witness import copies_to_open, is_proven

Report = replica_pb2.ReplicaReport


def position_of(report: Report) -> Position:
    """What a replica votes with."""
    end = history_from(report.history).end
    return Position(report.configuration.forced_openings, end.epoch, end.last_seq)


def one_volume(reports: Sequence[Report]) -> None:
    """Raise UnavailableError where replicas of several volumes answer to the same name."""
    found = {report.identity.volume_uuid for report in reports}
    if len(found) > 1:
        raise UnavailableError(
            f"replicas of {len(found)} volumes of this name answer ({', '.join(sorted(found))}): "
            "name the volume by its UUID, or leave the other one's replicas out"
        )


def newest_configuration(reports: Sequence[Report]) -> volume_pb2.Configuration:
    """The configuration whose members are asked: that of the highest position.

    One of a lower position may have been dropped with its entry, whatever its number is.  Raises
    UnavailableError while no replica of the volume has one.
    """
    founded = [report for report in reports if report.configuration.members]
    if not founded:
        raise UnavailableError(
            "the volume is not founded yet: no replica that answers knows its members; "
            "run 'cstor volume create' (or 'cstor up') to found it"
        )
    newest = max(founded, key=lambda one: (position_of(one), one.configuration.number))
    return newest.configuration


def configuration_number(configuration: volume_pb2.Configuration) -> tuple[int, int]:
    """By which configurations are compared."""
    return configuration.forced_openings, configuration.number


def can_vote(report: Report) -> bool:
    """Whether a member's promise counts: it is founded and its disk has not failed."""
    return report.state in (
        replica_pb2.REPLICA_STATE_COMPLETE,
        replica_pb2.REPLICA_STATE_REBUILDING,
    )


def is_learner(report: Report, history: History) -> bool:
    """Whether a replica that is no member was brought to the volume as a new one, and has never
    been a member in this history, which is the volume's.

    An entry that the history dropped has made nobody one.  A witness that was one has been told of
    itself among the members, and holds that for good.
    """
    if report.state == replica_pb2.REPLICA_STATE_UNFOUNDED:
        return True
    if report.witness:
        named = {one.replica_uuid for one in report.configuration.members}
        return can_vote(report) and report.replica_uuid not in named
    was_made_one = report.HasField("member_by") and history.holds(reign_from(report.member_by))
    return can_vote(report) and report.learner and not was_made_one


def next_epoch(reports: Sequence[Report]) -> int:
    """An epoch higher than any that the members promised or lived through."""
    known = [history_from(report.history).end.epoch for report in reports]
    return max([*known, *(report.promised_epoch for report in reports)], default=0) + 1


def lacks_operations(own: History, history: History, operations_seq: int) -> bool:
    """Whether a member is to get to a history over an ordered operation or a configuration:
    copies of blocks bring none, and take none away that only the member has.

    `operations_seq` is of the last one that either of them has.
    """
    return own.shared_with(history).last_seq < operations_seq


def may_hide_newer(report: Report, history: History) -> bool:
    """Whether copies of blocks may hide from a member's snapshots what they see.

    A copy lies over all that is there.  Where the volume was reverted, and the member has blocks
    from outside of this history, one takes the place of such a block and may be older than what
    a snapshot has.
    """
    is_flagged = report.state == replica_pb2.REPLICA_STATE_REBUILDING
    may_be_foreign = is_flagged or not history_from(report.history).is_prefix_of(history)
    return report.reverted and may_be_foreign


def may_have_write_cache(reports: Iterable[Report]) -> bool:
    """Whether some acknowledged write may not be on stable storage, for all that these know.

    A cache that is switched on is used when a quorum has that on stable storage, and one of these
    is of it; one that is switched off counts when none of them has missed that.  A witness knows
    neither.
    """
    return any(
        has_write_cache(report.identity, report.properties)
        for report in reports
        if not report.witness
    )


def are_enough_whole(
    reports: Sequence[Report],
    members: int,
    *,
    write_cache: bool,
    out_of_date: int = 0,
    has_witness: bool = False,
    gives_up_witness: bool = False,
) -> bool:
    """Whether these voters prove that nothing acknowledged is lost: R of them are not short.

    Any R members include one that holds whatever was acknowledged.  Without a write cache that had
    been flushed, and short ones count.  False where all members are here but for those out of
    date, and there are no R of them: nobody else can be asked.  Raises UnavailableError where there
    are members that can.  Beside a witness it is as `is_proven` says.
    """
    if has_witness:
        return is_proven(
            [report for report in reports if not report.witness],
            next((report for report in reports if report.witness), None),
            members - 1,
            write_cache=write_cache,
            out_of_date=out_of_date,
            gives_up_witness=gives_up_witness,
        )
    short = sum(report.short for report in reports)
    needed = read_overlap(members)
    if not write_cache or len(reports) - short >= needed:
        return True
    if len(reports) < members - out_of_date:
        raise UnavailableError(
            f"{short} of {len(reports)} members that answer have lost power and may lack what was "
            f"written, and {needed} that have not are needed: start the missing replicas"
        )
    return False


@dataclass(frozen=True, slots=True)
class Opening:
    """What an opening builds on, by replica UUID."""

    history: History
    configuration: volume_pb2.Configuration
    """In that history."""
    sources: tuple[str, ...]
    """Complete replicas that are at the end of the history, members first: the others may have it
    from any of them."""
    holders: tuple[str, ...]
    """Those of them that are members."""
    behind: tuple[str, ...]
    """Complete replicas whose history is a prefix: they are caught up in order."""
    parted: tuple[str, ...]
    """Complete replicas with entries that the history dropped: they are staged."""
    others: tuple[str, ...]
    """Rebuilding: brought back while serving, or before it where a quorum needs them."""
    copies: int
    """So many data members have to be at the end of the history before the epoch's record."""
    loss_possible: bool = False
    """Whether something acknowledged may be gone: too many members are short."""


def choose(
    members: Sequence[str],
    promised: Mapping[str, Report],
    *,
    write_cache: bool,
    is_forced: bool = False,
    out_of_date: int = 0,
    witness: str = "",
    gives_up_witness: bool = False,
) -> Opening:
    """What to open with, given the reports that came with the promises.

    `promised` may have others than members, such as one whose removal only it has heard of: they
    count for nothing, and what they hold counts.  Where it is forced all members are needed, and
    nothing is proven.  `witness` is the member that is one; it votes, and has nothing to build on,
    or, where the configuration gives it up, does not even vote.
    Raises UnavailableError, with a sentence that says what is missing, when a quorum cannot be
    reached with those that promised.
    """
    voters = {uuid: promised[uuid] for uuid in members if uuid in promised}
    needed = len(members) if is_forced else write_quorum(len(members))
    if len(voters) < needed:
        raise UnavailableError(
            f"{len(voters)} of {len(members)} members promised and {needed} are needed: "
            "start the missing replicas"
        )
    data = {uuid: report for uuid, report in promised.items() if not report.witness}
    if not data:
        raise UnavailableError("no replica with data promised: start one")
    copies, highest = len(members) - bool(witness), max(data.values(), key=position_of)
    is_proven = (
        not is_forced
        and are_enough_whole(
            list(voters.values()),
            len(members),
            write_cache=write_cache,
            out_of_date=out_of_date,
            has_witness=bool(witness),
            gives_up_witness=gives_up_witness,
        )
        and _knows_no_later_one(
            voters.get(witness), highest, len(data.keys() & voters.keys()), copies - out_of_date
        )
    )
    history = history_from(highest.history)
    elsewhere = [
        uuid
        for uuid, report in data.items()
        if uuid not in voters
        and report.state == replica_pb2.REPLICA_STATE_COMPLETE
        and history_from(report.history) == history
    ]
    holders, behind, parted, others = _grouped(voters, history)
    sources = (*holders, *elsewhere)
    if not sources:
        raise UnavailableError(
            f"the newest entries (up to {history.end.epoch}:{history.end.last_seq}) are known only "
            "to a replica that is being rebuilt: start another member that holds them"
        )
    return Opening(
        history,
        max((promised[uuid].configuration for uuid in sources), key=configuration_number),
        sources,
        tuple(holders),
        tuple(behind),
        tuple(parted),
        tuple(others),
        copies if is_forced else copies_to_open(copies, witness in voters) if witness else needed,
        loss_possible=not is_proven or promised[sources[0]].loss_possible,
    )


def _grouped(
    voters: Mapping[str, Report], history: History
) -> tuple[list[str], list[str], list[str], list[str]]:
    """Those with data that hold a history, are behind it, have parted from it, and are rebuilt."""
    holders: list[str] = []
    behind: list[str] = []
    parted: list[str] = []
    others: list[str] = []
    for uuid, report in voters.items():
        own = history_from(report.history)
        if report.witness:
            continue
        if report.state != replica_pb2.REPLICA_STATE_COMPLETE:
            others.append(uuid)
        elif own == history:
            holders.append(uuid)
        elif own.is_prefix_of(history):
            behind.append(uuid)
        else:
            parted.append(uuid)
    return holders, behind, parted, others


def _knows_no_later_one(
    witness: Report | None, highest: Report, answering: int, copies: int
) -> bool:
    """Whether a witness has heard of no later epoch than the highest position is of.

    False where it has, and all data members are here.  Raises UnavailableError where it has, and
    another one holds it.
    """
    if witness is None or position_of(witness) <= position_of(highest):
        return True
    if answering < copies:
        end = position_of(witness)
        raise UnavailableError(
            f"the witness knows of epoch {end.epoch}, and the replica that answers has not reached "
            "it: start the other one"
        )
    return False
