"""What can be wrong with machines: their clocks, their limits, what is installed, certificates,
and the initiators of this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from statistics import median

from cstor_cli.doctor.findings import Finding, Kind, Severity
from cstor_cli.doctor.picture import CertificateSeen, DaemonSeen, Picture
from cstor_cli.doctor.volume_checks import DAY_S
from cstor_core.generated.cstor.v1 import daemon_pb2

APART_S_MAX = 2.0
CROWD = 3
"""From so many daemons on what most clocks say is believed, and else what this host's says."""
STEP_AGE_S_MAX = DAY_S
SOON_S_MAX = 30 * DAY_S
SOON_PART = 0.2
"""Of its life: a certificate that lives for a day is not renewed a month before its end."""
FAILOVER_S = 30
"""What an initiator should wait for at least: the lease of the old target, the start of the new
one and its opening, and an initiator that notices only after ten seconds."""
OPEN_FILES_MIN = {
    daemon_pb2.DAEMON_ROLE_TARGET: 4096,
    daemon_pb2.DAEMON_ROLE_REPLICA: 1024,
    daemon_pb2.DAEMON_ROLE_WITNESS: 256,
}
"""A target may have 1,024 sessions, and as many connections again that have not logged in."""
OPEN_FILES_PART = 0.8
OLDER = "older than this command"


def clocks(picture: Picture) -> Iterator[Finding]:
    """Clocks that differ from the others, or that were set while a daemon ran."""
    daemons = [daemon for daemon in picture.daemons if daemon.facts is not None]
    is_crowd = len(daemons) >= CROWD
    usual_s = median(daemon.clock_ahead_s for daemon in daemons) if is_crowd else 0.0
    others = "most others" if is_crowd else "this host's"
    for daemon in daemons:
        ahead_s = daemon.clock_ahead_s - usual_s
        step = _step(picture, daemon)
        if abs(ahead_s) > APART_S_MAX + daemon.clock_error_s:
            way = "ahead of" if ahead_s > 0 else "behind"
            yield _of_clock("clock_apart", daemon, f"{abs(ahead_s):.1f} s {way} {others}{step}")
        elif step:
            yield _of_clock("clock_stepped", daemon, f"right now{step}")
    if abs(usual_s) > APART_S_MAX:
        way = "behind" if usual_s > 0 else "ahead of"
        yield Finding(
            *("clock_apart", Severity.WARNING, Kind.DEPLOYMENT, "this host"),
            f"the clock of this host is {abs(usual_s):.1f} s {way} those of the daemons",
            "synchronise it (chrony, systemd-timesyncd)",
        )


def _step(picture: Picture, daemon: DaemonSeen) -> str:
    """What is said of a clock that was set lately; empty where it was not."""
    facts = daemon.facts
    if facts is None or not facts.clock_step_ms:
        return ""
    since_s = picture.now_s + daemon.clock_ahead_s - facts.clock_stepped_unix_ms / 1000
    if abs(since_s) > STEP_AGE_S_MAX:
        return ""
    when = _time(facts.clock_stepped_unix_ms / 1000)
    return f"; it was set by {facts.clock_step_ms / 1000:+.1f} s at {when}, while the daemon ran"


def _of_clock(check: str, daemon: DaemonSeen, words: str) -> Finding:
    return Finding(
        *(check, Severity.WARNING, _kind(daemon), daemon.address),
        f"its machine's clock is {words}",
        "synchronise the clocks of all machines (chrony, systemd-timesyncd); leases do not go by "
        "them, but certificates, snapshots' times and logs do",
    )


def versions(picture: Picture) -> Iterator[Finding]:
    """Daemons of several versions."""
    found: dict[str, list[str]] = {}
    for daemon in picture.daemons:
        if not daemon.reason:
            version = daemon.facts.version if daemon.facts is not None else OLDER
            found.setdefault(version, []).append(daemon.address)
    if len(found) < 2:
        return
    words = "; ".join(f"{version} at {', '.join(at)}" for version, at in sorted(found.items()))
    apart = _minors_apart(list(found))
    yield Finding(
        *("versions_apart", Severity.ERROR if apart > 1 else Severity.WARNING),
        *(Kind.DEPLOYMENT, "versions"),
        f"the daemons are of several versions: {words}",
        "finish the upgrade: only versions that are one minor number apart work together",
    )


def _minors_apart(found: Sequence[str]) -> int:
    """How many minor versions lie between the oldest and the newest; 1 where nobody can say."""
    try:
        minors = [tuple(map(int, version.split(".")[:2])) for version in found]
    except ValueError:
        return 1
    (old_major, old_minor), (new_major, new_minor) = min(minors), max(minors)
    return new_minor - old_minor if old_major == new_major else 2


def open_files(picture: Picture) -> Iterator[Finding]:
    """Daemons that may have few files open, or have nearly as many as they may."""
    for daemon in picture.daemons:
        facts = daemon.facts
        if facts is None or _is_in_a_target(facts):
            continue
        least = OPEN_FILES_MIN.get(facts.role, 0)
        if facts.open_files_max >= least and (
            facts.open_files < OPEN_FILES_PART * facts.open_files_max
        ):
            continue
        yield Finding(
            *("open_files", Severity.WARNING, _kind(daemon), daemon.address),
            f"it may have {facts.open_files_max} files and connections open, of which "
            f"{facts.open_files} are: beyond that initiators and replicas are refused",
            f"raise its limit to {max(least, 2 * facts.open_files)} or more (LimitNOFILE= of its "
            "systemd unit, ulimit -n -H, the container's nofile), and start it again",
        )


def _is_in_a_target(facts: daemon_pb2.DescribeDaemonResponse) -> bool:
    """Whether it is a replica in the process of a target, and has the settings of that."""
    return facts.role == daemon_pb2.DAEMON_ROLE_REPLICA and "state_dir" in facts.settings


def certificates(picture: Picture) -> Iterator[Finding]:
    """Certificates that are not valid now, or soon will not be."""
    renew = "issue a new one (cstor certs issue, or whoever issues them here), and put it in place"
    for seen in picture.certificates:
        if seen.reason:
            yield _of_certificate(
                *("certificate_unreadable", Severity.ERROR, seen),
                f"it cannot be read: {seen.reason}",
                "put a certificate in PEM format there that this user may read",
            )
        elif picture.now_s >= seen.not_after_s:
            yield _of_certificate(
                *("certificate_expired", Severity.ERROR, seen),
                f"the certificate of {seen.subject} expired at {_time(seen.not_after_s)}: who "
                "shows it is refused",
                renew,
            )
        elif picture.now_s < seen.not_before_s:
            yield _of_certificate(
                *("certificate_not_yet_valid", Severity.ERROR, seen),
                f"the certificate of {seen.subject} is valid only from "
                f"{_time(seen.not_before_s)} on",
                "look at the clocks of this host and of the one that issued it",
            )
        elif seen.not_after_s - picture.now_s < _soon_s(seen):
            left = (seen.not_after_s - picture.now_s) / DAY_S
            yield _of_certificate(
                *("certificate_expires", Severity.WARNING, seen),
                f"the certificate of {seen.subject} expires in {left:.1f} days, at "
                f"{_time(seen.not_after_s)}",
                renew,
            )


def _soon_s(seen: CertificateSeen) -> float:
    return min(SOON_S_MAX, SOON_PART * (seen.not_after_s - seen.not_before_s))


def _of_certificate(
    check: str, severity: Severity, seen: CertificateSeen, problem: str, remedy: str
) -> Finding:
    return Finding(check, severity, Kind.CERTIFICATE, seen.where, problem, remedy)


def initiators(picture: Picture) -> Iterator[Finding]:
    """Initiators of this host that give a target up before another one can have taken over."""
    for seen in picture.timeouts:
        if 0 <= seen.replacement_timeout_s < FAILOVER_S:
            whose = f" for {seen.target_name}" if seen.target_name else ""
            yield Finding(
                *("initiator_timeout", Severity.WARNING, Kind.INITIATOR, seen.where),
                f"it waits {seen.replacement_timeout_s} s for a target{whose}, and then fails its "
                f"commands; a failover may take up to {FAILOVER_S} s",
                "set node.session.timeo.replacement_timeout to 120 (iscsiadm -m node -o update, "
                "and iscsid.conf for new ones), and log in again; under dm-multipath, which waits "
                "in its place, let that queue",
            )


def _kind(daemon: DaemonSeen) -> Kind:
    is_target = daemon.facts is not None and daemon.facts.role == daemon_pb2.DAEMON_ROLE_TARGET
    return Kind.TARGET if is_target else Kind.DAEMON


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")
