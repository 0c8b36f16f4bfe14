"""`cstor certs`: what it issues, and what it says is wrong with a directory."""

from __future__ import annotations

import json
import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cstor_cli.authority import Wanted, issue, read_authority
from cstor_cli.main import app
from cstor_core.errors import CstorError, InputError
from cstor_core.secure.roles import Role


def run(*words: str | Path, code: int = 0) -> str:
    """What the command says; an error of ours is raised as `main` would print it."""
    said = CliRunner().invoke(app, ["certs", *(str(word) for word in words)])
    if isinstance(said.exception, CstorError):
        raise said.exception
    assert said.exit_code == code, said.output
    return said.output


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    directory = tmp_path / "authority"
    run("init", directory)
    return directory


def issued(authority: Path, *words: str) -> Path:
    out = authority.parent / "-".join(words).replace("*", "all").replace("/", "")
    run("issue", *words, "--dir", authority, "--out", out)
    return out


def shown(directory: Path, code: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run("show", directory, "--output", "json", code=code))
    return document


@pytest.mark.parametrize(
    ("words", "roles", "addresses"),
    [
        (("replica", "node-a"), [("replica", "node-a")], ["localhost", "127.0.0.1", "::1"]),
        (
            ("replica", "a", "--address", "node-a.example", "--address", "10.0.0.7"),
            [("replica", "a")],
            ["node-a.example", "10.0.0.7"],
        ),
        (
            ("target", "t", "--volume", "vol1", "--volume", "vol2", "--address", "[fd00::1]"),
            [("target", "vol1"), ("target", "vol2")],
            ["fd00::1"],
        ),
        (
            ("target", "vol1", "--pool"),
            [("target", "vol1"), ("replica", "vol1")],
            ["localhost", "127.0.0.1", "::1"],
        ),
        (("target", "*"), [("target", "*")], ["localhost", "127.0.0.1", "::1"]),
        (("operator", "alice"), [("operator", "alice")], []),
    ],
)
def test_a_certificate_says_what_its_holder_is(
    authority: Path, words: tuple[str, ...], roles: list[tuple[str, str]], addresses: list[str]
) -> None:
    directory = issued(authority, *words)
    document = shown(directory)
    assert [(one["role"], one["name"]) for one in document["roles"]] == roles
    assert document["addresses"] == addresses
    assert document["problems"] == []
    assert str(roles[0][1]) in run("show", directory)


def test_keys_are_their_owners_alone(authority: Path) -> None:
    for key in (authority / "ca.key", issued(authority, "replica", "a") / "tls.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_an_authority_is_not_overwritten(authority: Path) -> None:
    before = (authority / "ca.key").read_bytes()
    with pytest.raises(InputError, match="already: name another directory"):
        run("init", authority)
    assert (authority / "ca.key").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("operator", "a b"), "cannot name the operator"),
        (("replica", "*"), "cannot name the replica"),
        (("replica", "a", "--volume", "v"), "are for a target"),
        (("operator", "a", "--address", "h"), "nobody connects to an operator"),
        (("replica", "a", "--address", "h:7778"), "is no host"),
        (("replica", "a", "--days", "4000"), "the authority itself is valid until"),
    ],
)
def test_what_cannot_be_issued_is_refused(
    authority: Path, words: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        issued(authority, *words)
    assert [path.name for path in authority.parent.iterdir()] == ["authority"]


def test_without_an_authority_there_is_nothing_to_issue_with(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make one with cstor certs init"):
        run("issue", "replica", "a", "--dir", tmp_path, "--out", tmp_path / "out")


def test_what_is_wrong_with_a_directory_is_said(authority: Path, tmp_path: Path) -> None:
    good = issued(authority, "replica", "a")
    run("init", tmp_path / "other")

    def damaged(name: str, file: str, source: Path) -> Path:
        directory = tmp_path / name
        shutil.copytree(good, directory)
        (directory / file).write_bytes(source.read_bytes())
        return directory

    other = issued(authority, "replica", "b")
    foreign = damaged("foreign", "ca.crt", tmp_path / "other" / "ca.crt")
    mixed = damaged("mixed", "tls.key", other / "tls.key")
    assert "no authority in ca.crt has issued" in shown(foreign, code=1)["problems"][0]
    assert "is not the key of tls.crt" in shown(mixed, code=1)["problems"][0]
    for file, sentence in (("tls.key", "no private key"), ("tls.crt", "no certificate in PEM")):
        broken = damaged(f"broken-{file}", file, Path("/proc/version"))
        with pytest.raises(InputError, match=sentence):
            shown(broken)
    (mixed / "ca.crt").unlink()
    with pytest.raises(InputError, match="cannot be read: No such file"):
        shown(mixed)


def test_a_certificate_out_of_its_time_is_a_problem(authority: Path, tmp_path: Path) -> None:
    held = read_authority(authority)
    wanted = Wanted("a", ((Role.REPLICA, "a"),), ("localhost",), 30)
    now = datetime.now(UTC)
    for days, sentence in ((-60, "has expired"), (60, "is not valid before")):
        issue(held, wanted, tmp_path / "out", now + timedelta(days=days))
        assert sentence in shown(tmp_path / "out", code=1)["problems"][0]
