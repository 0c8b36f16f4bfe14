"""The checks of `cstor doctor`, over pictures of deployments: what is found, and where."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import typer.core
import typer.main

from cstor_cli import main
from cstor_cli.doctor.examining import examine
from cstor_cli.doctor.findings import Finding, Severity
from cstor_cli.doctor.picture import (
    CertificateSeen,
    CopySeen,
    DaemonSeen,
    Picture,
    TargetSeen,
    TimeoutSeen,
)
from cstor_cli.doctor.volume_checks import DAY_S
from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2, volume_pb2
from cstor_core.units import GIB, MIB
from tests.unit.cli.pictures import (
    NOW_S,
    REPLICAS,
    TARGET,
    VOLUME,
    configuration,
    healthy,
    held,
    pool,
    report,
    silent,
    target,
    with_daemon,
    with_replicas,
    with_status,
)

REFUSED = "the replica daemon at node-b:7778 does not answer (Connection refused)"
UNKNOWN = "does not answer (Domain name not found)"
OFFLINE = control_pb2.MEMBER_STATUS_OFFLINE
OTHERS = volume_pb2.VolumeIdentity(volume_uuid="volume-2", name="vol2")
LATE = configuration(2)
YEAR_S = 365 * DAY_S
B = REPLICAS[1]
OF_OTHERS = volume_pb2.Configuration(
    number=1,
    members=[
        volume_pb2.Member(replica_uuid="x", address=B),
        volume_pb2.Member(replica_uuid="y", address="node-x:7778"),
    ],
)


def without_target(picture: Picture) -> Picture:
    """The same where no target is known."""
    return replace(picture, targets=())


def certificate(begins_s: float, ends_s: float) -> Picture:
    """A certificate that is valid from one time to another, from now."""
    seen = CertificateSeen("tls.crt", "CN=node-a", NOW_S + begins_s, NOW_S + ends_s)
    return replace(healthy(), certificates=[seen])


def event(name: str, age_s: float = 60.0) -> control_pb2.Event:
    facts = {"address": B, "bad": "1"}
    return control_pb2.Event(
        volume="vol1",
        name=name,
        facts=facts,
        unix_ms=int((NOW_S - age_s) * 1000),
        sentence="it was",
    )


def with_events(*events: control_pb2.Event) -> Picture:
    return replace(healthy(), targets=(target(events=events),))


def told(**changes: object) -> Picture:
    """The target says something else of the volume."""
    changed = report()
    for name, value in changes.items():
        setattr(changed, name, value)
    return replace(healthy(), targets=(target(changed),))


def opening() -> control_pb2.VolumeReport:
    """A volume of which nothing is known yet but its name."""
    identity = volume_pb2.VolumeIdentity(name="vol1")
    return control_pb2.VolumeReport(identity=identity, status=control_pb2.VOLUME_STATUS_WAITING)


def elsewhere() -> Picture:
    """The daemon of a member was started at another address that is known."""
    picture = with_status(silent(healthy(), 1, REFUSED), 1, OFFLINE)
    return replace(picture, pools={**picture.pools, "node-d:7778": pool(1)})


def scrubbed() -> Picture:
    changed = report()
    changed.scrub.members.add(unrepaired=1).member.CopyFrom(changed.members[1].member)
    return replace(healthy(), targets=(target(changed),))


def on_one_machine(*numbers: int) -> Picture:
    picture = healthy()
    for number in numbers:
        picture = with_daemon(picture, number, boot_id="boot of node-a")
    return picture


FAULTS: list[tuple[str, Picture, list[tuple[str, str]]]] = [
    ("dead", with_status(silent(healthy(), 1, REFUSED), 1, OFFLINE), [("replica_dead", B)]),
    ("dead, nobody serves", without_target(silent(healthy(), 1, REFUSED)), [("replica_dead", B)]),
    (
        "all are dead",
        without_target(
            silent(silent(silent(healthy(), 0, REFUSED), 1, REFUSED), 2, UNKNOWN, is_astray=True)
        ),
        [("replica_dead", REPLICAS[0]), ("replica_dead", B), ("wrong_address", REPLICAS[2])],
    ),
    (
        "the target was told of nobody who answers",
        replace(
            silent(silent(silent(healthy(), 0, REFUSED), 1, REFUSED), 2, REFUSED),
            targets=(target(opening()),),
        ),
        [("volume_waiting", "vol1"), *(("replica_dead", address) for address in REPLICAS)],
    ),
    ("cut off from here", silent(healthy(), 1, REFUSED), [("replica_unreachable", B)]),
    ("cut off from the target", with_status(healthy(), 1, OFFLINE), [("replica_away", B)]),
    (
        "short",
        without_target(with_replicas(healthy(), 1, held(1, short=True))),
        [("replica_short", B)],
    ),
    (
        "failed",
        with_status(
            with_replicas(healthy(), 1, held(1, state=replica_pb2.REPLICA_STATE_FAILED)),
            *(1, control_pb2.MEMBER_STATUS_FAILED),
        ),
        [("replica_failed", B)],
    ),
    (
        "rebuilding",
        with_status(healthy(), 1, control_pb2.MEMBER_STATUS_REBUILDING),
        [("replica_rebuilding", B)],
    ),
    (
        "another replica of the volume",
        with_status(with_replicas(healthy(), 1, held(1, replica_uuid="new")), 1, OFFLINE),
        [("replica_foreign", B)],
    ),
    (
        "another volume",
        with_status(
            with_replicas(healthy(), 1, held(1, replica_uuid="new", identity=OTHERS)), 1, OFFLINE
        ),
        [("replica_foreign", B)],
    ),
    (
        "an empty pool",
        with_status(with_replicas(healthy(), 1), 1, OFFLINE),
        [("replica_foreign", B)],
    ),
    (
        "could not be opened",
        with_status(
            with_replicas(
                *(healthy(), 1),
                held(1, replica_uuid="", state=replica_pb2.REPLICA_STATE_FAILED, reason="rot"),
            ),
            *(1, OFFLINE),
        ),
        [("replica_failed", B)],
    ),
    (
        "an unknown name",
        with_status(silent(healthy(), 1, UNKNOWN, is_astray=True), 1, OFFLINE),
        [("wrong_address", B)],
    ),
    (
        "a name that only the target knows",
        silent(healthy(), 1, UNKNOWN, is_astray=True),
        [("replica_unreachable", B)],
    ),
    (
        "somebody else",
        with_status(silent(healthy(), 1, "says: unknown method", is_astray=True), 1, OFFLINE),
        [("wrong_address", B)],
    ),
    ("at another address", elsewhere(), [("wrong_address", B)]),
    (
        "an address of nobody",
        replace(
            healthy(),
            targets=(target(given=(*REPLICAS, "node-x:1")),),
            pools={
                **healthy().pools,
                "node-x:1": replace(pool(0), daemon=DaemonSeen("node-x:1", REFUSED), pool=None),
            },
        ),
        [("wrong_address", TARGET)],
    ),
    ("full", with_replicas(healthy(), 1, available_bytes=GIB), [("pool_full", B)]),
    (
        "too full for a write",
        with_status(
            with_replicas(healthy(), 1, available_bytes=GIB + MIB),
            *(1, control_pb2.MEMBER_STATUS_FULL),
        ),
        [("pool_full", B)],
    ),
    ("filling", with_replicas(healthy(), 1, available_bytes=20 * GIB), [("pool_nearly_full", B)]),
    (
        "a witness without space",
        with_replicas(healthy(), 1, available_bytes=4096, witness=True),
        [("pool_full", B)],
    ),
    ("a bad block", with_events(event("blocks_repaired")), [("bad_block", B)]),
    ("a bad block, scrubbed", with_events(event("block_mismatch")), [("bad_block", B)]),
    ("a bad block that stays", with_events(event("blocks_unrepaired")), [("bad_block", B)]),
    ("a scrub that left one", scrubbed(), [("bad_block", B)]),
    (
        "a bad block that was looked for",
        replace(healthy(), copies=[CopySeen("vol1", REPLICAS[0]), CopySeen("vol1", B, 1)]),
        [("bad_block", B)],
    ),
    (
        "blocks that were not read",
        replace(healthy(), copies=[CopySeen("vol1", B, 0, "it ended")]),
        [("not_verified", B)],
    ),
    (
        "blocks of one that does not answer",
        replace(
            with_status(silent(healthy(), 1, REFUSED), 1, OFFLINE),
            copies=[CopySeen("vol1", B, 0, "it does not answer")],
        ),
        [("replica_dead", B)],
    ),
    (
        "a clock ahead",
        with_daemon(healthy(), 1, clock_ahead_s=60.0),
        [("clock_apart", B)],
    ),
    (
        "a clock that was set",
        with_daemon(
            healthy(), 1, clock_step_ms=90_000, clock_stepped_unix_ms=int((NOW_S - 600) * 1000)
        ),
        [("clock_stepped", B)],
    ),
    (
        "a clock that was set and is wrong",
        with_daemon(
            *(healthy(), 1),
            clock_ahead_s=90.0,
            clock_step_ms=90_000,
            clock_stepped_unix_ms=int((NOW_S - 600) * 1000),
        ),
        [("clock_apart", B)],
    ),
    ("expired", certificate(-YEAR_S, -1), [("certificate_expired", "tls.crt")]),
    ("expires", certificate(-YEAR_S, 20 * DAY_S), [("certificate_expires", "tls.crt")]),
    ("a short life ends", certificate(-DAY_S, 3600), [("certificate_expires", "tls.crt")]),
    ("of the future", certificate(60, YEAR_S), [("certificate_not_yet_valid", "tls.crt")]),
    (
        "no certificate",
        replace(healthy(), certificates=[CertificateSeen("tls.crt", reason="no PEM")]),
        [("certificate_unreadable", "tls.crt")],
    ),
    ("versions", with_daemon(healthy(), 1, version="1.3.0"), [("versions_apart", "versions")]),
    ("an older one", with_daemon(healthy(), 1, facts=None), [("versions_apart", "versions")]),
    (
        "an old configuration",
        without_target(with_replicas(healthy(), 0, held(0, configuration=LATE))),
        [("configuration_missing", B), ("configuration_missing", REPLICAS[2])],
    ),
    ("one machine", on_one_machine(1), [("same_node", REPLICAS[0])]),
    (
        "a short timeout",
        replace(healthy(), timeouts=[TimeoutSeen("session1", 5, "iqn.x")]),
        [("initiator_timeout", "session1")],
    ),
    ("few files", with_daemon(healthy(), 1, open_files_max=512), [("open_files", B)]),
    (
        "nearly all files",
        with_daemon(healthy(), 1, open_files_max=2048, open_files=1900),
        [("open_files", B)],
    ),
    (
        "no target",
        replace(healthy(), targets=(TargetSeen(DaemonSeen(TARGET, "does not answer")),)),
        [("target_dead", TARGET)],
    ),
    (
        "another target does not answer, and nobody tells of its volume",
        replace(
            with_replicas(
                *(healthy(), 1),
                *(held(1), held(1, replica_uuid="x", identity=OTHERS, configuration=OF_OTHERS)),
            ),
            targets=(target(), TargetSeen(DaemonSeen("node-b:7777", "does not answer"))),
        ),
        [("target_dead", "node-b:7777"), ("replica_dead", "node-x:7778")],
    ),
    (
        "no target at all",
        replace(
            healthy(),
            targets=(TargetSeen(DaemonSeen(TARGET, "knows no such call", is_astray=True)),),
        ),
        [("wrong_address", TARGET)],
    ),
    (
        "waiting",
        told(status=control_pb2.VOLUME_STATUS_WAITING, reason="2 are missing"),
        [("volume_waiting", "vol1")],
    ),
    ("full volume", told(status=control_pb2.VOLUME_STATUS_FULL), [("volume_full", "vol1")]),
    ("loss", told(loss_possible=True), [("loss_possible", "vol1")]),
]


def found(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.name) for finding in findings]


@pytest.mark.parametrize(
    ("picture", "expected"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_each_fault_is_found_once_and_says_what_to_do(
    picture: Picture, expected: list[tuple[str, str]]
) -> None:
    findings = examine(picture)
    assert found(findings) == expected
    assert all(finding.problem and finding.remedy for finding in findings)


WELL: list[tuple[str, Picture]] = [
    ("all is well", healthy()),
    ("no target is named", without_target(healthy())),
    ("an initiator that waits for ever", replace(healthy(), timeouts=[TimeoutSeen("s", -1, "")])),
    ("an initiator that waits", replace(healthy(), timeouts=[TimeoutSeen("s", 120, "")])),
    ("clocks differ by little", with_daemon(healthy(), 1, clock_ahead_s=1.5)),
    (
        "a slow answer tells little of a clock",
        with_daemon(healthy(), 1, clock_ahead_s=3.0, clock_error_s=2.0),
    ),
    (
        "a clock was set long ago",
        with_daemon(
            *(healthy(), 1),
            clock_step_ms=90_000,
            clock_stepped_unix_ms=int((NOW_S - 2 * DAY_S) * 1000),
        ),
    ),
    (
        "a target with a replica in its process",
        with_daemon(
            *(healthy(), 1), open_files_max=512, settings={"state_dir": "/var/lib/cstor/target"}
        ),
    ),
    (
        "cstor up has found another port for a replica",
        replace(
            healthy(),
            targets=(replace(target(given=(*REPLICAS, "node-x:1")), is_of_directory=True),),
            pools={
                **healthy().pools,
                "node-x:1": replace(pool(0), daemon=DaemonSeen("node-x:1", REFUSED), pool=None),
            },
        ),
    ),
    ("a block was bad long ago", with_events(event("blocks_repaired", 8 * DAY_S))),
    ("a certificate lives long", certificate(-DAY_S, YEAR_S)),
    ("a certificate of a day is new", certificate(-3600, 0.5 * DAY_S)),
    (
        "a configuration that is on its way to who counts",
        with_replicas(healthy(), 0, held(0, configuration=LATE)),
    ),
    (
        "an address of a member under another name",
        replace(
            healthy(),
            targets=(target(given=("10.0.0.1:7778", *REPLICAS[1:])),),
            pools={**healthy().pools, "10.0.0.1:7778": pool(0)},
        ),
    ),
    (
        "pools hold volumes of other targets",
        with_replicas(
            *(healthy(), 1),
            *(held(1), held(1, replica_uuid="x", identity=OTHERS, short=True)),
        ),
    ),
]


@pytest.mark.parametrize("picture", [each[1] for each in WELL], ids=[each[0] for each in WELL])
def test_what_is_well_is_passed_over_in_silence(picture: Picture) -> None:
    assert found(examine(picture)) == []


def test_what_is_graver_comes_first() -> None:
    picture = with_daemon(with_replicas(healthy(), 2, available_bytes=0), 1, clock_ahead_s=60.0)
    severities = [finding.severity for finding in examine(picture)]
    assert severities == [Severity.ERROR, Severity.WARNING]


def test_a_fault_of_several_follows_the_volume_that_it_is_of() -> None:
    picture = with_status(silent(healthy(), 1, REFUSED), 1, OFFLINE)
    (finding,) = examine(picture)
    assert finding.subject == f"replica {B} of vol1"
    assert finding.document()["volume"] == VOLUME.name


@pytest.mark.parametrize(
    ("version", "severity"),
    [("1.3.0", Severity.WARNING), ("1.4.0", Severity.ERROR), ("2.2.0", Severity.ERROR)],
)
def test_versions_that_do_not_work_together_are_graver(version: str, severity: Severity) -> None:
    (finding,) = examine(with_daemon(healthy(), 1, version=version))
    assert finding.severity is severity


def test_most_clocks_are_believed_and_not_this_host_s() -> None:
    picture = healthy()
    for number in range(3):
        picture = with_daemon(picture, number, clock_ahead_s=60.0)
    assert found(examine(picture)) == [("clock_apart", TARGET), ("clock_apart", "this host")]


def test_commands_that_are_named_are_commands() -> None:
    texts = [finding.remedy for _, picture, _ in FAULTS for finding in examine(picture)]
    named = {words for text in texts for words in re.findall(r"cstor ([a-z]+) ([a-z]+)", text)}
    root = typer.main.get_command(main.app)
    assert isinstance(root, typer.core.TyperGroup)
    for verb, noun in named - {("certs", "issue")}:
        command = root.commands.get(verb)
        assert command is not None, verb
        assert not isinstance(command, typer.core.TyperGroup) or noun in command.commands, noun


def test_the_page_lists_each_check_with_its_severities() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "doctor.md").read_text()
    table = page.partition("## What it finds")[2].partition("## For scripts")[0]
    rows = [row.split(" | ") for row in table.splitlines() if row.startswith("| `")]
    listed = {
        (check, severity)
        for checks, severities, *_ in rows
        for check in re.findall(r"`(\w+)`", checks)
        for severity in re.findall(r"error|warning", severities)
    }
    finds = {
        (finding.check, finding.severity.value)
        for _, picture, _ in FAULTS
        for finding in examine(picture)
    }
    assert finds <= listed
    assert {check for check, _ in listed} == {check for check, _ in finds}
