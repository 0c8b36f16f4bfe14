"""`cstor status`: one word for the volume, one for each replica, and where everything answers.

The target knows best.  Where it does not answer, the replicas are asked directly; where nothing
answers, `cstor.json` still says what there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cstor_cli.cluster_file import (
    ClusterFile,
    Home,
    ReplicaPlace,
    load,
    ready_facts,
    replica_name,
    target_name,
)
from cstor_cli.control_client import control
from cstor_cli.processes import Daemon, scan
from cstor_cli.replica_client import Dial
from cstor_core.errors import CstorError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2, volume_pb2
from cstor_core.properties import has_write_cache, is_thin
from cstor_core.scrub_words import scrub_document

OFFLINE = "offline"
Document = dict[str, Any]

REPLICA_WORDS = {
    replica_pb2.REPLICA_STATE_UNFOUNDED: OFFLINE,
    replica_pb2.REPLICA_STATE_COMPLETE: "in-sync",
    replica_pb2.REPLICA_STATE_REBUILDING: "rebuilding",
    replica_pb2.REPLICA_STATE_FAILED: "failed",
}
"""What a replica's own state is called while no target says how it stands to the others."""


@dataclass(frozen=True, slots=True)
class Look:
    """What runs in a directory at one moment."""

    home: Home
    cluster: ClusterFile
    running: Mapping[str, Daemon]

    def ready(self, name: str) -> Document | None:
        """What the running daemon's ready file says; None where it is not ready."""
        daemon = self.running.get(name)
        return ready_facts(self.home, name, daemon.pid) if daemon else None

    def host_of(self, index: int) -> Daemon | None:
        """The process that serves a replica: its own, or the target where all is one process."""
        if len(self.cluster.replicas) == 1:
            return self.running.get("target") or self.running.get(replica_name(index))
        return self.running.get(replica_name(index))

    def replica_address(self, index: int) -> str:
        """Where the replica's gRPC answers, as its daemon last said."""
        if len(self.cluster.replicas) == 1 and (facts := self.ready("target")):
            return str(facts.get("replica_grpc") or self.cluster.replicas[index].address)
        return self.cluster.replicas[index].address


def look_at(home: Home) -> Look:
    """Look at a directory.  Raises InputError where it holds no volume."""
    return Look(home, load(home), scan(home))


def serving_target(look: Look) -> str:
    """The name of the target that serves; of several of which none does, that of the first one
    that runs.
    """
    running = [name for name in look.cluster.target_names if name in look.running]
    if len(running) > 1:
        for name in running:
            if (facts := look.ready(name)) and not _stands_by(str(facts["control"])):
                return name
    return running[0] if running else target_name(0)


def _stands_by(address: str) -> bool:
    """Whether the target there serves nothing, because another one does."""
    try:
        with control(address) as client:
            reports = client.list_volumes()
    except CstorError:
        return True
    return all(report.status == control_pb2.VOLUME_STATUS_STANDBY for report in reports)


def control_address(look: Look) -> str:
    """Where the control service answers of the target that serves.

    Raises UnavailableError where none does yet.
    """
    name = serving_target(look)
    if name not in look.running:
        raise UnavailableError("the target does not run: start it with cstor up")
    facts = look.ready(name)
    if facts is None:
        raise UnavailableError("the target is starting")
    return str(facts["control"])


def ask_target(look: Look) -> tuple[control_pb2.VolumeReport | None, str]:
    """The target's report, or None and the reason why there is none."""
    try:
        with control(control_address(look)) as client:
            return client.show_volume(look.cluster.volume), ""
    except CstorError as error:
        return None, str(error)


def status_document(look: Look, dial: Dial) -> Document:
    """The document that `cstor status --output json` prints."""
    report, reason = ask_target(look)
    return document_of(look, report, reason, dial)


def document_of(
    look: Look, report: control_pb2.VolumeReport | None, reason: str, dial: Dial
) -> Document:
    """The same with what the target has said, or why it has not."""
    if report is None:
        members = _ask_replicas(look, dial)
        word = OFFLINE
    else:
        # Until a replica has told the target who the members are, they speak for themselves.
        members = _members(look, report) if report.members else _ask_replicas(look, dial)
        word = volume_word(report.status)
        reason = report.reason
    serving = serving_target(look)
    targets = [_target(look, index) for index in range(len(look.cluster.target_names))]
    return {
        "status": word,
        "reason": reason,
        "directory": str(look.home.path),
        "volume": _volume(look.cluster, report),
        "replicas": members,
        "target": next(target for target in targets if target["name"] == serving),
        "standbys": [target for target in targets if target["name"] != serving],
        "sessions": [
            {"initiator": session.initiator_name, "address": session.address, "tsih": session.tsih}
            for session in (report.sessions if report else ())
        ],
    }


def _target(look: Look, index: int) -> Document:
    name = target_name(index)
    daemon, facts = look.running.get(name), look.ready(name) or {}
    return {
        "name": name,
        "pid": daemon.pid if daemon else None,
        "portal": facts.get("portal", look.cluster.portals[index]),
        "control": facts.get("control"),
        "http": facts.get("http"),
        "metrics": facts.get("metrics"),
    }


def volume_document(report: control_pb2.VolumeReport) -> Document:
    """A volume as `cstor volume list` and `show` print it."""
    return {
        "name": report.identity.name,
        "uuid": report.identity.volume_uuid,
        "status": volume_word(report.status),
        "reason": report.reason,
        "iqn": report.iqn,
        "portal": report.portal,
        "standbys": [standby.portal for standby in report.standbys],
        "size_bytes": report.size_bytes,
        **properties_document(report.properties),
        "write_cache": has_write_cache(report.identity, report.properties),
        "registrations": report.registrations,
        "reservation": reservation_word(report.reservation),
        "sanitization": sanitization_word(report.sanitization),
        "sanitized_percent": int(100 * report.sanitize_progress),
        **_standing(report),
        "members": [
            {"address": member.member.address} | member_document(member)
            for member in report.members
        ],
    }


def properties_document(properties: volume_pb2.VolumeProperties) -> Document:
    """What has been set of a volume that is open."""
    return {
        "delete_protection": properties.delete_protection,
        "write_cache": properties.write_cache,
        "read_only": properties.read_only,
        "removable": properties.removable,
        "thin": is_thin(properties),
    }


def volume_word(status: control_pb2.VolumeStatus.ValueType) -> str:
    """`healthy` for VOLUME_STATUS_HEALTHY, and so on."""
    return _word(control_pb2.VolumeStatus.Name(status), "VOLUME_STATUS_")


def reservation_word(kind: volume_pb2.ReservationType.ValueType) -> str:
    """`write-exclusive` for RESERVATION_TYPE_WRITE_EXCLUSIVE, and so on; empty for none."""
    if kind == volume_pb2.RESERVATION_TYPE_UNSPECIFIED:
        return ""
    return _word(volume_pb2.ReservationType.Name(kind), "RESERVATION_TYPE_")


def sanitization_word(state: volume_pb2.SanitizationState.ValueType) -> str:
    """`under-way` or `failed`; empty for none."""
    if state == volume_pb2.SANITIZATION_STATE_UNSPECIFIED:
        return ""
    return _word(volume_pb2.SanitizationState.Name(state), "SANITIZATION_STATE_")


def member_word(status: control_pb2.MemberStatus.ValueType) -> str:
    """`in-sync` for MEMBER_STATUS_IN_SYNC, and so on."""
    return _word(control_pb2.MemberStatus.Name(status), "MEMBER_STATUS_")


def _word(name: str, prefix: str) -> str:
    word = name.removeprefix(prefix).lower().replace("_", "-")
    return OFFLINE if word == "unspecified" else word


def _volume(cluster: ClusterFile, report: control_pb2.VolumeReport | None) -> Document:
    volume: Document = {
        "name": cluster.volume,
        "uuid": cluster.volume_uuid,
        "iqn": cluster.iqn,
        "size_bytes": cluster.size_bytes,
        "logical_block_bytes": cluster.logical_block_bytes,
    }
    if report is not None:
        volume |= {
            "size_bytes": report.size_bytes or cluster.size_bytes,
            "last_seq": report.last_seq,
            "completed_seq": report.completed_seq,
            **_standing(report),
        }
    return volume


def _standing(report: control_pb2.VolumeReport) -> Document:
    """What only the target knows: under what it serves the volume, or what keeps it waiting.

    One of an earlier release tells neither how fast replicas copy nor of its lease.
    """
    tells_all = report.rebuild_pace != control_pb2.REBUILD_PACE_UNSPECIFIED
    pace = _word(control_pb2.RebuildPace.Name(report.rebuild_pace), "REBUILD_PACE_")
    return {
        "epoch": report.epoch,
        "waiting_s": report.waiting_ms / 1000,
        "awaited": list(report.awaited_addresses),
        "commands_waiting": report.commands_waiting,
        "lease_left_s": report.lease_left_ms / 1000 if tells_all else None,
        "loss_possible": report.loss_possible,
        "rebuild_pace": pace if tells_all else None,
        "scrub": scrub_document(report.scrub) if report.HasField("scrub") else None,
        "one_copy": report.one_copy,
        "standbys": [standby.portal for standby in report.standbys],
    }


def _members(look: Look, report: control_pb2.VolumeReport) -> list[Document]:
    """The replicas of the directory as the target sees them, then members that are elsewhere."""
    left = list(report.members)
    documents = []
    for index, place in enumerate(look.cluster.replicas):
        document = _replica(look, index, place)
        member = next((m for m in left if _is_at(m.member, place)), None)
        if member is None:
            document["reason"] = "the volume does not count it among its members"
        else:
            left.remove(member)
            document |= member_document(member) | {"uuid": member.member.replica_uuid or place.uuid}
        documents.append(document)
    for index, member in enumerate(left, len(documents)):
        elsewhere = ReplicaPlace(member.member.replica_uuid, member.member.address, "")
        documents.append(_replica(look, index, elsewhere) | member_document(member))
    return documents


def _is_at(member: volume_pb2.Member, place: ReplicaPlace) -> bool:
    """Whether a member is the replica of that place: by UUID, or by address until one is known."""
    if member.replica_uuid and place.uuid:
        return member.replica_uuid == place.uuid
    return member.address == place.address


def member_document(member: control_pb2.MemberReport) -> Document:
    """A replica as its target sees it."""
    rebuild = None
    if member.status == control_pb2.MEMBER_STATUS_REBUILDING:
        rebuild = {
            "blocks_total": member.rebuild_blocks_total,
            "blocks_done": member.rebuild_blocks_done,
            "bytes_copied": member.rebuild_bytes_copied,
            "bytes_per_s": member.rebuild_bytes_per_s,
            "left_s": member.rebuild_left_ms / 1000 or None,
        }
    return {
        "uuid": member.member.replica_uuid,
        "status": member_word(member.status),
        "short": member.short,
        "pool_used_percent": member.pool_used_percent,
        "applied_seq": member.applied_seq,
        "durable_seq": member.durable_seq,
        "rebuild": rebuild,
        "reason": member.reason,
    }


def _replica(look: Look, index: int, place: ReplicaPlace) -> Document:
    ours = index < len(look.cluster.replicas)
    host = look.host_of(index) if ours else None
    return {
        "index": index,
        "uuid": place.uuid,
        "address": look.replica_address(index) if ours else place.address,
        "status": OFFLINE,
        "short": False,
        "pool_used_percent": 0,
        "applied_seq": 0,
        "durable_seq": 0,
        "rebuild": None,
        "pid": host.pid if host else None,
        "pool": str(look.home.pool(index)) if ours else None,
        "metrics": place.metrics or None,
        "reason": "",
    }


def _own_word(report: replica_pb2.ReplicaReport) -> str:
    """What it is called by what it says of itself."""
    if report.witness and report.state == replica_pb2.REPLICA_STATE_COMPLETE:
        return member_word(control_pb2.MEMBER_STATUS_WITNESS)
    return REPLICA_WORDS.get(report.state, OFFLINE)


def _ask_replicas(look: Look, dial: Dial) -> list[Document]:
    return [_ask_replica(look, index, dial) for index in range(len(look.cluster.replicas))]


def _ask_replica(look: Look, index: int, dial: Dial) -> Document:
    """A replica as it sees itself."""
    document = _replica(look, index, look.cluster.replicas[index])
    if document["pid"] is None:
        return document | {"reason": "its daemon does not run"}
    client = dial(str(document["address"]))
    try:
        report = client.inquire(look.cluster.volume_uuid or look.cluster.volume)
    except CstorError as error:
        return document | {"reason": str(error)}
    finally:
        client.close()
    reigns = report.history.reigns
    return document | {
        "uuid": report.replica_uuid,
        "status": _own_word(report),
        "short": report.short,
        "applied_seq": reigns[-1].last_seq if reigns else 0,
        "durable_seq": report.durable_seq,
        "reason": report.reason,
    }
