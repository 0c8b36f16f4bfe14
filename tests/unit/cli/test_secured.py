"""When the command speaks TLS, and when it does not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from cstor_cli import processes, secured
from cstor_cli.cluster_file import Home
from cstor_cli.main import app
from cstor_core.errors import InputError
from cstor_core.secure.roles import Role
from tests.scenario.secure.certificates import Certificates

ADDRESS = "127.0.0.1:7777"


@pytest.fixture(autouse=True)
def choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins and ends without one, and with logs as they are."""
    monkeypatch.setattr(secured, "_links", [])
    secured.use(None)
    yield
    secured.use(None)
    structlog.reset_defaults()


def test_plain_text_is_spoken_where_nothing_else_was_said() -> None:
    assert secured.reached_at(ADDRESS, Role.TARGET) == ADDRESS


def test_what_runs_in_a_directory_is_spoken_to_in_plain_text(tmp_path: Path) -> None:
    secured.use(Certificates(tmp_path).operator())
    assert secured.reached_at(ADDRESS, Role.TARGET).startswith("unix-abstract:")
    Home.at(tmp_path)
    assert secured.reached_at(ADDRESS, Role.TARGET) == ADDRESS


@pytest.mark.parametrize("by_flag", [True, False])
def test_certificate_of_no_operator_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_flag: bool
) -> None:
    directory = str(Certificates(tmp_path).replica())
    if not by_flag:
        monkeypatch.setenv("CSTOR_TLS", directory)
    flags = ["--tls", directory] if by_flag else []
    said = CliRunner().invoke(app, [*flags, "volume", "list", "--control", ADDRESS])
    assert isinstance(said.exception, InputError)
    assert "the role operator is needed" in str(said.exception)


def test_daemons_of_cstor_up_take_no_certificates_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CSTOR_TARGET_TLS", "CSTOR_REPLICA_TLS", "CSTOR_TARGET_READ_CACHE"):
        monkeypatch.setenv(name, "1")
    script = "import os; print(*sorted(name for name in os.environ if 'CSTOR' in name))"
    output = tmp_path / "output"
    assert processes.start((sys.executable, "-c", script), output).wait() == 0
    told = {name for name in os.environ if "CSTOR" in name}
    assert set(output.read_text().split()) == told - {"CSTOR_TARGET_TLS", "CSTOR_REPLICA_TLS"}
