"""What can happen to a volume, as people are told: every kind of event in one table.

The engine and the daemon name an event and give its facts (`EventSink`); the level of its line in
the log, its sentence in `cstor events`, and its metric follow from its row here.  A new kind is a
new row and the call that emits it; a test holds that each has the other, and that a sentence asks
for no fact which its event does not have.

A sentence says what happened, to whom, and what would help, where anything would.  Reasons are
sentences themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from string import Formatter

from cstor_core.generated.cstor.v1 import control_pb2


class Severity(Enum):
    """How grave an event is; the levels mean what they mean in the log (`cstor_core.logs`)."""

    INFO = control_pb2.SEVERITY_INFO
    WARNING = control_pb2.SEVERITY_WARNING
    ERROR = control_pb2.SEVERITY_ERROR

    @property
    def log_level(self) -> int:
        """The level of its line in the log."""
        return logging.getLevelNamesMapping()[self.name]


@dataclass(frozen=True, slots=True)
class Kind:
    """What all events of a name have in common; the template is filled in with their facts."""

    severity: Severity
    template: str

    @property
    def facts(self) -> set[str]:
        """The facts that the template asks for."""
        return {name for _, name, _, _ in Formatter().parse(self.template) if name is not None}


KINDS: dict[str, Kind] = {
    # The volume
    "waiting": Kind(
        Severity.WARNING,
        "the volume cannot be opened yet: {reason}",
    ),
    "open": Kind(
        Severity.INFO,
        "the volume is open in epoch {epoch}, with everything up to entry {after_seq}",
    ),
    "loss_possible": Kind(
        Severity.ERROR,
        "the volume was opened in epoch {epoch} without proof that all acknowledged writes are "
        "there, since its replicas have lost power: check what is on it before you rely on it",
    ),
    "forced_open": Kind(
        Severity.WARNING,
        "an operator has forced the volume open in epoch {epoch}, with the replicas at {members}: "
        "what others held is lost, and they return only as new ones",
    ),
    "opened_without": Kind(
        Severity.WARNING,
        "the volume is open without the newest entries of the replica at {address}, since no other "
        "one could get them from there: nothing acknowledged is among them; look after its disk",
    ),
    "loss_told": Kind(
        Severity.INFO,
        "initiators have been told that acknowledged writes may be gone: it is not said again",
    ),
    "standing_by": Kind(
        Severity.INFO,
        "this target stands by, and does not open the volume: {reason}",
    ),
    "taking_over": Kind(
        Severity.WARNING,
        "this target stood by and opens the volume now: {reason}",
    ),
    "standby_waits": Kind(
        Severity.INFO,
        "a target with the portal {portal} stands by, and takes the volume over when this one "
        "serves it no more",
    ),
    "standby_gone": Kind(
        Severity.WARNING,
        "the target with the portal {portal} stands by no more: if this one fails, nobody takes "
        "the volume over until another one is started",
    ),
    "let_go": Kind(
        Severity.ERROR,
        "this target has had no lease for so long that another one may serve the volume: it stands "
        "by now, and initiators have to log in anew",
    ),
    "wanted": Kind(
        Severity.WARNING,
        "an initiator wants this target to serve the volume, though it stands by: the one that "
        "serves is asked to leave it; see whether initiators have lost their way there",
    ),
    "leaving": Kind(
        Severity.INFO,
        "the volume is left to the target with the portal {portal}, which stands by",
    ),
    "not_left": Kind(
        Severity.ERROR,
        "the volume is not left to the target that stood by, since that does not say in time that "
        "it knows: look after it, and drain this one again",
    ),
    "lease_lapsed": Kind(
        Severity.WARNING,
        "no quorum of replicas has renewed the lease: reads wait until one does",
    ),
    "lease_renewed": Kind(
        Severity.INFO,
        "a quorum of replicas has renewed the lease: reads are answered again",
    ),
    "volume_full": Kind(
        Severity.ERROR,
        "writes are refused, since a quorum of pools takes only {left_bytes} bytes more: "
        "discard what is not needed, delete snapshots, or enlarge the pools",
    ),
    "volume_has_space": Kind(
        Severity.INFO,
        "a quorum of pools has space again: writes are taken",
    ),
    "quorum": Kind(
        Severity.INFO,
        "{in_sync} members are in sync, which is a quorum: commands are carried out",
    ),
    "quorum_lost": Kind(
        Severity.ERROR,
        "commands wait for a quorum: {reason}",
    ),
    "deposed": Kind(
        Severity.ERROR,
        "this target serves the volume no more, and ends: {reason}",
    ),
    "snapshot_created": Kind(
        Severity.INFO,
        "snapshot {snapshot} has been taken",
    ),
    "snapshot_deleted": Kind(
        Severity.INFO,
        "snapshot {snapshot} has been deleted: its space is given back in the background",
    ),
    "cloned": Kind(
        Severity.INFO,
        "volume {clone} has been made, a clone of snapshot {snapshot}",
    ),
    "property_set": Kind(
        Severity.INFO,
        "{property} is {value} now: an operator has set it",
    ),
    "volume_deleted": Kind(
        Severity.WARNING,
        "the volume has been deleted, with {replicas} replicas; {left} did not answer",
    ),
    "replica_left": Kind(
        Severity.WARNING,
        "the replica at {address} was not destroyed with its volume: {reason}; delete it there "
        "when its daemon answers",
    ),
    "reverted": Kind(
        Severity.WARNING,
        "the volume holds again what snapshot {snapshot} holds: what was written since is gone",
    ),
    "resized": Kind(
        Severity.INFO,
        "the volume has {size} now: initiators see it after a rescan",
    ),
    "scrub_started": Kind(
        Severity.INFO,
        "all copies of the volume are read and compared, at up to {rate} a second",
    ),
    "scrub_finished": Kind(
        Severity.INFO,
        "all copies have been read and compared, {read} each in {seconds} s: {mismatches} copies "
        "of blocks were wrong, {repaired} have been put right and {unrepaired} have not",
    ),
    "scrub_ended": Kind(
        Severity.WARNING,
        "the scrub has ended behind block {done} of {total}: {reason}",
    ),
    # Its initiators
    "session_dropped": Kind(
        Severity.WARNING,
        "an operator has dropped session {tsih} of {initiator} at {peer}, with {commands} of its "
        "commands unanswered: the initiator may log in again",
    ),
    "registration_preempted": Kind(
        Severity.WARNING,
        "{initiator} is not registered any more: another initiator has preempted or cleared it",
    ),
    "chap_set": Kind(
        Severity.INFO,
        "an operator has set the CHAP secret of {name} for {scope}",
    ),
    "chap_cleared": Kind(
        Severity.WARNING,
        "an operator has taken away the CHAP secret of {name} for {scope}",
    ),
    "access_allowed": Kind(
        Severity.INFO,
        "an operator has let {who} log in for {scope}",
    ),
    "access_denied": Kind(
        Severity.WARNING,
        "an operator has taken back that {who} may log in for {scope}",
    ),
    "reservations_cleared": Kind(
        Severity.WARNING,
        "an operator has taken away {registrations} registrations, and the reservation with them",
    ),
    "logins_redirected": Kind(
        Severity.WARNING,
        "an operator has initiators log in at {address} from now on",
    ),
    "sanitize_started": Kind(
        Severity.WARNING,
        "all that the volume holds is being erased, as SANITIZE asks ({method})",
    ),
    "sanitize_ended": Kind(
        Severity.WARNING,
        "all that the volume held is erased ({method})",
    ),
    "sanitize_failed": Kind(
        Severity.ERROR,
        "the volume could not be sanitized: {reason}; initiators are refused until it is",
    ),
    # Its members
    "member_in_sync": Kind(
        Severity.INFO,
        "the replica at {address} is in sync, and counts again",
    ),
    "member_lost": Kind(
        Severity.WARNING,
        "the replica at {address} does not count any more: {reason}; it is brought back when its "
        "daemon can be reached and has space",
    ),
    "member_whole": Kind(
        Severity.INFO,
        "the replica at {address} holds again all that it had when its machine lost power",
    ),
    "blocks_repaired": Kind(
        Severity.WARNING,
        "the replica at {address} had {bad} bad blocks, block {first_block} first, and {repaired} "
        "of them have been replaced by another replica's copies: look after its disk",
    ),
    "repair_failed": Kind(
        Severity.WARNING,
        "bad blocks of the replica at {address} could not be replaced, and will be when they are "
        "read again: {reason}",
    ),
    "block_mismatch": Kind(
        Severity.WARNING,
        "of {where} the replica at {address} had {blocks} wrong copies of blocks, block "
        "{first_block} first ({kind}): look after its disk",
    ),
    "blocks_unrepaired": Kind(
        Severity.ERROR,
        "of {where} the replica at {address} has {blocks} wrong copies of blocks, block "
        "{first_block} first, which could not be put right: {reason}; replace the replica, or go "
        "back to a backup where all are damaged",
    ),
    "pool_filling": Kind(
        Severity.WARNING,
        "the pool of the replica at {address} is {used_percent} % full",
    ),
    "pool_nearly_full": Kind(
        Severity.ERROR,
        "the pool of the replica at {address} is {used_percent} % full: enlarge it, or discard "
        "and delete what is not needed, before writes are refused",
    ),
    "member_failed": Kind(
        Severity.ERROR,
        "the replica at {address} has failed, and is recorded as out of date: {reason}; replace it "
        "by a new one",
    ),
    "one_copy": Kind(
        Severity.WARNING,
        "the replica at {address} carries commands out alone, and the witness holds that the other "
        "one is out of date: while that is so, a loss of this replica is a loss of the volume",
    ),
    "two_copies": Kind(
        Severity.INFO,
        "both replicas are in sync again, and each write waits for both",
    ),
    "witness_lost": Kind(
        Severity.WARNING,
        "the witness at {address} does not answer: {reason}; should a replica be lost meanwhile, "
        "commands wait",
    ),
    "witness_failed": Kind(
        Severity.ERROR,
        "the disk of the witness at {address} has failed, and it is recorded as one that counts "
        "for nothing: {reason}; replace it by a new one (cstor replica replace), since a loss of "
        "either replica stops commands until then",
    ),
    "witness_there": Kind(
        Severity.INFO,
        "the witness at {address} answers again",
    ),
    "learner_added": Kind(
        Severity.INFO,
        "the new replica at {address} is brought to what the others hold",
    ),
    "learner_taken_up": Kind(
        Severity.INFO,
        "the replica at {address}, which was on its way to be a member, goes on where it was",
    ),
    "member_added": Kind(
        Severity.INFO,
        "the replica at {address} is a member of the volume now",
    ),
    "member_removed": Kind(
        Severity.INFO,
        "the replica at {address} is no member of the volume any more: it can be deleted",
    ),
    "member_moved": Kind(
        Severity.INFO,
        "replica {replica} is looked for at {address} from now on",
    ),
    "replica_deleted": Kind(
        Severity.INFO,
        "the replica at {address}, which was no member of the volume, has been deleted",
    ),
    "rebuild_started": Kind(
        Severity.INFO,
        "the replica at {address} is being rebuilt from another one, while the volume serves",
    ),
    "source_replaced": Kind(
        Severity.WARNING,
        "the replica at {address} goes on to be rebuilt from another replica, and keeps what it "
        "has copied: {reason}",
    ),
    "pace_set": Kind(
        Severity.INFO,
        "an operator wants replicas that come back to copy {pace}",
    ),
    # The process
    "target_starting": Kind(
        Severity.INFO,
        "the target starts, and looks for replicas at {replicas}",
    ),
    "target_stopping": Kind(
        Severity.INFO,
        "the target was told to stop: initiators are logged out, and a quorum flushes",
    ),
    "stopped_unflushed": Kind(
        Severity.ERROR,
        "the target has stopped, and no quorum answered its last flush: start it again with its "
        "replicas before their machines are switched off",
    ),
    "engine_failed": Kind(
        Severity.ERROR,
        "the target ends because of a defect of its own, which its log tells of: {reason}",
    ),
}
"""By name; `docs/operations.md` has the same table for operators."""


def describe(name: str, facts: Mapping[str, str]) -> tuple[Severity, str]:
    """How grave an event is, and its sentence.

    One that the table has no row for, or that lacks a fact, is a defect which tests find; in a
    target it is told as what it is, and harms nothing.
    """
    kind = KINDS.get(name)
    if kind is not None and kind.facts <= facts.keys():
        return kind.severity, kind.template.format_map(facts)
    words = "; ".join(f"{fact} {value}" for fact, value in facts.items())
    return Severity.WARNING, f"{name}: {words}"
