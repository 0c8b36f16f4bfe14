"""Certificates in use, while their files change."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from cstor_core.clock import SystemClock
from cstor_core.errors import InputError
from cstor_core.secure.credentials import Tls
from cstor_core.secure.metrics import TlsCollector
from cstor_core.secure.refusals import Reason, Refusals, reason_of
from cstor_core.secure.roles import Role, identity_of
from tests.scenario.secure.certificates import Certificates


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def opened(directory: Path, *roles: Role) -> Tls:
    return Tls(directory, roles or (Role.REPLICA,), SystemClock())


def replaced(directory: Path, source: Path, *names: str) -> None:
    """Put other files in the place of some, each in one step."""
    for name in names or ("tls.key", "tls.crt", "ca.crt"):
        shutil.copy(source / name, directory / "new")
        (directory / "new").rename(directory / name)


def test_files_that_cannot_be_used_are_refused_with_the_reason(
    certificates: Certificates, tmp_path: Path
) -> None:
    wrong = (
        (certificates.operator(), "the role replica is needed"),
        (certificates.issue("old", (Role.REPLICA, "a"), age_days=60), "has expired"),
        (certificates.issue("early", (Role.REPLICA, "a"), age_days=-60), "is not valid before"),
        (certificates.issue("nowhere", (Role.REPLICA, "a"), addresses=()), "names no address"),
        (tmp_path / "nothing", "tls.crt cannot be read: No such file"),
    )
    for directory, sentence in wrong:
        with pytest.raises(InputError, match=sentence):
            opened(directory)
    foreign = Certificates(tmp_path, "foreign").replica()
    good = certificates.replica()
    for names, sentence in ((("ca.crt",), "no authority in ca.crt"), (("tls.key",), "not the key")):
        mixed = tmp_path / names[0]
        shutil.copytree(good, mixed)
        replaced(mixed, foreign, *names)
        with pytest.raises(InputError, match=sentence):
            opened(mixed)


def test_changed_files_are_taken_once_they_stay_as_they_are(certificates: Certificates) -> None:
    directory = certificates.replica("a")
    tls = opened(directory)
    first = tls.current
    tls.look()
    assert tls.current is first
    later = certificates.replica("b")
    replaced(directory, later, "tls.key")
    tls.look()
    replaced(directory, later, "tls.crt")
    tls.look()
    assert tls.current is first
    tls.look()
    assert str(tls.current.holder.identity) == "replica b"
    assert (tls.reloads, tls.failed_reloads) == (1, 0)
    assert tls.current.server is not first.server


def test_a_directory_that_is_a_link_which_is_exchanged_is_followed(
    certificates: Certificates, tmp_path: Path
) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "..data").symlink_to(certificates.replica("a"))
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (mounted / name).symlink_to(Path("..data") / name)
    tls = opened(mounted)
    (mounted / "..new").symlink_to(certificates.replica("b"))
    os.replace(mounted / "..new", mounted / "..data")
    tls.look()
    tls.look()
    assert str(tls.current.holder.identity) == "replica b"


def test_broken_files_are_counted_once_and_change_nothing(certificates: Certificates) -> None:
    directory = certificates.replica()
    tls = opened(directory)
    first = tls.current
    (directory / "tls.crt").write_text("nothing")
    for _ in range(5):
        tls.look()
    assert (tls.current, tls.reloads, tls.failed_reloads) == (first, 0, 1)
    (directory / "tls.key").unlink()
    for _ in range(5):
        tls.look()
    assert (tls.current, tls.failed_reloads) == (first, 2)
    replaced(directory, certificates.replica("b"))
    tls.look()
    tls.look()
    assert (str(tls.current.holder.identity), tls.reloads) == ("replica b", 1)


class Wall(SystemClock):
    """Goes on by two hours with each look, and ends at the last one."""

    def __init__(self, looks: int) -> None:
        self._left = looks
        self._wall_s = time.time()

    def wall(self) -> float:
        return self._wall_s

    async def sleep(self, delay_s: float) -> None:
        self._left -= 1
        if not self._left:
            raise asyncio.CancelledError
        self._wall_s += 7200


async def test_end_of_a_certificate_is_said_once_a_day_from_two_weeks_before(
    certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = certificates.issue("a", (Role.REPLICA, "a"), age_days=20)  # 10 of its 30 are left
    with pytest.raises(asyncio.CancelledError):
        await Tls(directory, (Role.REPLICA,), Wall(looks=12 * 12)).watch()
    said = capsys.readouterr().out
    assert 10 <= said.count("certificate_ends_soon") <= 11
    assert 1 <= said.count("certificate_has_expired") <= 2
    with pytest.raises(asyncio.CancelledError):
        await Tls(certificates.replica(), (Role.REPLICA,), Wall(looks=12)).watch()
    assert "certificate_ends_soon" not in capsys.readouterr().out


def test_metrics_say_when_it_ends_and_who_was_refused(certificates: Certificates) -> None:
    tls = opened(certificates.replica())
    tls.refusals.add(Reason.EXPIRED, "somebody", "his certificate has expired")
    registry = CollectorRegistry()
    registry.register(TlsCollector(tls))
    said = generate_latest(registry).decode()
    assert 'cstor_tls_refusals_total{reason="expired"} 1.0' in said
    assert said.count("cstor_tls_refusals_total{") == len(Reason)
    end_s = float(said.split("\ncstor_tls_certificate_expiry_timestamp_seconds ")[1].split()[0])
    assert end_s == tls.current.holder.not_after.timestamp()


def test_refusals_are_counted_each_and_said_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    refusals = Refusals(SystemClock())
    for _ in range(100):
        refusals.add(Reason.PLAIN_TEXT, "192.0.2.7:1", "it does not speak TLS")
    assert refusals.counts[Reason.PLAIN_TEXT] == 100
    assert capsys.readouterr().out.count("peer_refused") < 10


def test_what_nobody_knows_is_a_handshake_that_failed() -> None:
    assert reason_of(ConnectionResetError()) is Reason.HANDSHAKE
    assert reason_of(ssl.SSLError(1, "new")) is Reason.HANDSHAKE


def test_roles_are_those_of_cstor_alone() -> None:
    uris = [
        *("cstor:target/vol1", "cstor:target/*", "cstor:replica/node-a", "cstor:operator/alice"),
        *("cstor:replica/*", "cstor:operator/*", "cstor:king/me", "cstor:target/", "cstor:target"),
        *("spiffe://cstor:target/vol1", "cstor:target/a b", "CSTOR:target/x", "cstor:target/x/y"),
    ]
    assert str(identity_of(uris)) == "target vol1, target *, replica node-a, operator alice"
