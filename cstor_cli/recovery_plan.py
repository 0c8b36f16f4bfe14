"""What stopped pool directories hold of a volume, and which of them it is best opened with: pure.

`cstor-replica show --output json` says what a directory holds; this is what follows from it.  The
newest configuration that any of them has says who the members are.  With W of them, enough of which
have lost nothing in a power loss, the volume opens as it always does, and nothing that was
acknowledged is lost.  With fewer it has to be forced, with those that are complete; what would be
lost is said first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cstor_core.errors import InputError
from cstor_core.history import Position

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Configured:
    """A member as a configuration names it."""

    replica_uuid: str
    address: str
    witness: bool = False
    out_of_date: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """A replica in a directory; without a position its files could not be understood."""

    directory: str
    replica_uuid: str
    volume: str
    volume_uuid: str
    size_bytes: int = 0
    logical_block_bytes: int = 512
    write_cache: bool = True
    position: Position | None = None
    configuration: tuple[int, int] = (0, 0)
    """(forced openings, number): of two the higher one is newer."""
    members: tuple[Configured, ...] = ()
    promised_epoch: int = 0
    is_rebuilding: bool = False
    is_short: bool = False
    """It lost power, and what it had not flushed may be gone."""
    is_deleted: bool = False
    """Its volume has been deleted: whoever opened it would destroy what is left."""
    failed: str = ""
    """Why it was given up."""
    snapshots: tuple[str, ...] = ()
    used_bytes: int = 0
    damage: tuple[str, ...] = ()

    @property
    def why_unusable(self) -> str:
        """Why it counts for nothing; empty where it counts."""
        if self.position is None:
            return self.damage[0] if self.damage else "it cannot be read"
        if self.is_deleted:
            return "it holds that the volume has been deleted"
        if self.failed:
            return self.failed
        return "" if self.members else "it was never founded"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to open a volume with."""

    chosen: tuple[Held, ...]
    """The best first."""
    is_forced: bool
    left_out: Mapping[str, str]
    """Directories that hold a replica of the volume and are not used, and why."""
    lost: tuple[str, ...] = ()
    """What is lost or may be, as sentences."""
    missing: tuple[str, ...] = field(default=())
    """Addresses of members that none of the directories is of."""

    @property
    def best(self) -> Held:
        """Whose history counts."""
        return self.chosen[0]


def held_in(directory: str, document: Document) -> list[Held]:
    """What `cstor-replica show` has said of a directory."""
    return [_held(directory, replica) for replica in document["replicas"]]


def _held(directory: str, replica: Document) -> Held:
    damage = tuple(each["what"] for each in replica["findings"] if each["severity"] == "damage")
    found = replica.get("configuration")
    configuration: Document = found if found is not None else {}
    properties: Document = replica.get("properties", {})
    position = None
    if "epoch" in replica:
        forced = configuration.get("forced_openings", 0)
        position = Position(forced, replica["epoch"], replica["seq"])
    return Held(
        directory=directory,
        replica_uuid=replica["replica_uuid"],
        volume=replica.get("volume", ""),
        volume_uuid=replica.get("volume_uuid", ""),
        size_bytes=replica.get("current_size_bytes", replica.get("size_bytes", 0)),
        logical_block_bytes=replica.get("logical_block_bytes", 512),
        write_cache=properties.get("write_cache", replica.get("write_cache", True)),
        position=position,
        configuration=(
            configuration.get("forced_openings", 0),
            configuration.get("number", 0),
        ),
        members=tuple(
            Configured(
                member["replica_uuid"],
                member["address"],
                member["witness"],
                member["out_of_date"],
            )
            for member in configuration.get("members", ())
        ),
        promised_epoch=replica.get("promised_epoch", 0),
        is_rebuilding=replica.get("rebuilding", False),
        is_short=replica.get("will_be_short", False),
        is_deleted=replica.get("deleted", False),
        failed=replica.get("failed_reason", ""),
        snapshots=tuple(snapshot["name"] for snapshot in replica.get("snapshots", ())),
        used_bytes=replica.get("used_bytes", 0),
        damage=damage,
    )


def of_volume(replicas: Sequence[Held], volume: str) -> list[Held]:
    """Those of one volume, which is named where there are several.

    Raises InputError where there is none, or it is not clear which one is meant.
    """
    names = {held.volume_uuid: held.volume for held in replicas if held.volume_uuid}
    if not names:
        raise InputError("none of these directories holds a replica that can be read")
    listed = ", ".join(f"{name} ({uuid})" for uuid, name in sorted(names.items()))
    wanted = [uuid for uuid, name in names.items() if not volume or volume in (uuid, name)]
    if not wanted:
        raise InputError(f"none of these directories holds volume {volume}: they hold {listed}")
    if len(wanted) > 1:
        raise InputError(f"these directories hold {listed}: say which with --volume")
    return [held for held in replicas if held.volume_uuid == wanted[0]]


def plan(replicas: Sequence[Held]) -> Plan:
    """What to open a volume with, of its replicas in some directories.

    Raises InputError where it cannot be opened with any of them, or one is there twice.
    """
    _check_apart(replicas)
    readable = [held for held in replicas if not held.why_unusable]
    left_out = {held.directory: held.why_unusable for held in replicas if held.why_unusable}
    if not readable:
        reasons = "; ".join(f"{directory}: {why}" for directory, why in left_out.items())
        raise InputError(f"no directory holds a replica that can be opened: {reasons}")
    newest = max(readable, key=lambda held: held.configuration)
    members = {member.replica_uuid: member for member in newest.members}
    voters = []
    for held in sorted(readable, key=_rank, reverse=True):
        member = members.get(held.replica_uuid)
        if member is None:
            left_out[held.directory] = "it is no member of the volume any more"
        elif member.out_of_date:
            left_out[held.directory] = "its disk had failed, and it is recorded as out of date"
        else:
            voters.append(held)
    found = {held.replica_uuid for held in voters}
    missing = tuple(member.address for uuid, member in members.items() if uuid not in found)
    if _opens_by_itself(voters, newest.members):
        return Plan(tuple(voters), is_forced=False, left_out=left_out, missing=missing)
    chosen = [held for held in voters if not held.is_rebuilding]
    for held in voters:
        if held.is_rebuilding:
            left_out[held.directory] = (
                "it was being rebuilt: some of its blocks are old and some are new"
            )
    if not chosen:
        reasons = "; ".join(f"{directory}: {why}" for directory, why in left_out.items())
        raise InputError(f"no directory holds a complete replica of the volume: {reasons}")
    lost = _lost(chosen, newest.members, [held for held in voters if held.is_rebuilding])
    return Plan(tuple(chosen), True, left_out, lost, missing)


def _rank(held: Held) -> tuple[Position, bool, bool]:
    assert held.position is not None, "it can be read"
    return held.position, not held.is_rebuilding, not held.is_short


def _check_apart(replicas: Sequence[Held]) -> None:
    """Raise InputError where two directories have the same replica."""
    seen: dict[str, str] = {}
    for held in replicas:
        before = seen.setdefault(held.replica_uuid, held.directory)
        if held.replica_uuid and before != held.directory:
            raise InputError(
                f"{before} and {held.directory} are the same replica ({held.replica_uuid}), one a "
                "copy of the other: name one of them"
            )


def _opens_by_itself(voters: Sequence[Held], members: Sequence[Configured]) -> bool:
    """Whether the volume opens with these members of it, as it always does."""
    quorum = len(members) // 2 + 1
    if len(voters) < quorum or voters[0].is_rebuilding:
        return False
    whole = sum(not held.is_short for held in voters)
    able = sum(not member.out_of_date for member in members)
    is_enough = whole >= len(members) - quorum + 1 or len(voters) == able
    return is_enough or not voters[0].write_cache


def _lost(
    chosen: Sequence[Held], members: Sequence[Configured], rebuilding: Sequence[Held]
) -> tuple[str, ...]:
    """What a forced opening with these loses, against what any of them knows of."""
    used = {held.replica_uuid for held in chosen}
    others = [member.address for member in members if member.replica_uuid not in used]
    lost = []
    if others:
        where = ", ".join(others)
        lost.append(f"what only the replicas at {where} held is lost, acknowledged or not")
    best = chosen[0].position
    assert best is not None, "it can be read"
    later = max((held.promised_epoch for held in (*chosen, *rebuilding)), default=0)
    if later > best.epoch:
        lost.append(
            f"a target was promised epoch {later}, and these have epoch {best.epoch}: what it may "
            "have written with others is lost"
        )
    ahead = [held for held in rebuilding if held.position is not None and held.position > best]
    if ahead:
        lost.append(
            f"{', '.join(held.directory for held in ahead)} knows of later entries, up to "
            f"{max(held.position for held in ahead if held.position)}, and is not complete"
        )
    short = [held.directory for held in chosen if held.is_short]
    if short:
        where = ", ".join(short)
        lost.append(f"what {where} had not flushed before the power was lost may be gone")
    return tuple(lost)
