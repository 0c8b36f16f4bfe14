"""Forced openings: an operator names the replicas to go on with, whatever the others held.

The engine never guesses.  Where fewer than a quorum are left, somebody who knows that the others
are lost may say so: what they alone held is lost then.  A forced opening is a new configuration of
the replicas that are named, and is counted in it, so that its history goes before any other; one
that was left out returns only as a new, empty replica.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from cstor_core.errors import InputError, UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_target.volume.members import OUT_OF_DATE
from cstor_target.volume.opening import Report, position_of


@dataclass(frozen=True, slots=True)
class Forced:
    """What to open with, and what a person is told before that."""

    configuration: volume_pb2.Configuration
    sentence: str


def forced(
    configuration: volume_pb2.Configuration,
    reports: Mapping[str, Report],
    named: Collection[str],
) -> Forced:
    """The opening with the members named by UUID or address; with none, all that can be.

    `reports` are of those that answer, by replica UUID.  Raises InputError where somebody is named
    who cannot be opened with, UnavailableError where nobody is left.
    """
    members = configuration.members
    known = {name for member in members for name in (member.replica_uuid, member.address)}
    strangers = [name for name in named if name not in known]
    if strangers:
        raise InputError(
            f"{', '.join(strangers)} is none of the volume's replicas, which are {_names(members)}"
        )
    chosen = [
        member
        for member in members
        if (member.replica_uuid in named or member.address in named)
        or (not named and _why_not(member, reports) == "")
    ]
    for member in chosen:
        if why_not := _why_not(member, reports):
            raise InputError(f"the replica at {member.address} cannot be opened with: {why_not}")
    if all(member.witness for member in chosen):
        raise UnavailableError(
            "no replica with data that answers can be opened with: start at least one that is "
            "complete"
        )
    return Forced(
        volume_pb2.Configuration(
            number=configuration.number + 1,
            forced_openings=configuration.forced_openings + 1,
            members=chosen,
        ),
        _sentence(members, chosen, reports),
    )


def _why_not(member: volume_pb2.Member, reports: Mapping[str, Report]) -> str:
    """Why a volume cannot be opened with a replica; empty where it can."""
    if member.out_of_date:
        return OUT_OF_DATE
    report = reports.get(member.replica_uuid)
    if report is None:
        return "it does not answer"
    if report.deleted:
        return "it holds that the volume has been deleted, and is to be destroyed"
    match report.state:
        case replica_pb2.REPLICA_STATE_COMPLETE:
            return ""
        case replica_pb2.REPLICA_STATE_REBUILDING:
            return "it is being rebuilt, so that some of its blocks are old and some are new"
        case replica_pb2.REPLICA_STATE_FAILED:
            return report.reason
        case _:
            return "it was never part of the volume"


def _sentence(
    members: Collection[volume_pb2.Member],
    chosen: Collection[volume_pb2.Member],
    reports: Mapping[str, Report],
) -> str:
    left_out = [member for member in members if member not in chosen]
    short = [member for member in chosen if reports[member.replica_uuid].short]
    newest = max(
        position_of(reports[member.replica_uuid]) for member in chosen if not member.witness
    )
    lost = [f"what only {_names(left_out)} held"] if left_out else []
    if short:
        lost.append(f"what {_names(short)} had not flushed before the power was lost")
    said = (
        f"it is opened with {len(chosen)} of its {len(members)} replicas, {_names(chosen)}, as it "
        f"was at entry {newest.epoch}:{newest.seq}"
    )
    if lost:
        said += f"; lost for good is {' and '.join(lost)}, acknowledged or not"
    if left_out:
        said += "; those left out come back only as new, empty replicas"
    return said


def _names(members: Iterable[volume_pb2.Member]) -> str:
    return ", ".join(member.address for member in members)
