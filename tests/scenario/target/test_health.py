"""`cstor-target health` and `cstor-replica health`, as a probe in the daemon's container runs them:
with the settings in the environment and no argument.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cstor_core.secure.roles import Role
from tests.scenario.secure.certificates import Certificates
from tests.scenario.target.daemon import NOBODY, WAIT_S, Target, get, local_ports, until

COMMANDS = {
    "cstor-target": "from cstor_target.main import main; main()",
    "cstor-replica": "from replica.main import main; main()",
}


def health(command: str, *flags: str, **environment: str) -> tuple[int, str]:
    """The exit code, and what was said."""
    ended = subprocess.run(
        [sys.executable, "-c", COMMANDS[command], "health", *flags],
        env={"PYTHONPATH": ":".join(sys.path), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    return ended.returncode, ended.stdout


def test_a_target_that_waits_for_its_replicas_is_alive_and_not_ready(tmp_path: Path) -> None:
    with Target(tmp_path, "--replica", NOBODY, *local_ports()) as target:
        control = target.ready()["control"]
        code, said = health("cstor-target", "--live", CSTOR_TARGET_CONTROL=control)
        assert (code, said) == (0, "alive\n")
        code, said = health("cstor-target", CSTOR_TARGET_CONTROL=control)
        assert code == 1
        assert (
            said == f"cstor-target: {control} is alive, and does not serve yet: its log says why\n"
        )
        assert target.stop() == 0
    code, said = health("cstor-target", "--live", CSTOR_TARGET_CONTROL=control)
    assert code == 1
    assert f"{control} does not answer" in said


def test_a_target_that_serves_and_its_replica_are_ready(tmp_path: Path) -> None:
    pool = ("--pool", str(tmp_path / "pool"), "--replica-metrics", "127.0.0.1:0")
    with Target(tmp_path, *pool, "--replica-grpc", "127.0.0.1:0", *local_ports()) as target:
        facts = target.ready()
        assert health("cstor-replica", CSTOR_REPLICA_LISTEN=facts["replica_grpc"])[0] == 0
        create = ("volume", "create", "vol1", "--size=64MiB", f"--replica={facts['replica_grpc']}")
        code = "from cstor_cli.main import main; main()"
        subprocess.run([sys.executable, "-c", code, *create], check=True, timeout=WAIT_S)
        until(lambda: get(facts["http"], "/readyz")[0] == 200)
        until(lambda: health("cstor-target", "--address", facts["control"]) == (0, "ready\n"))


def test_a_daemon_with_certificates_is_asked_with_its_own(tmp_path: Path) -> None:
    """Which are for the name that others know it by, and not for the address that is asked."""
    names = [(Role.TARGET, "vol1")]
    own = Certificates(tmp_path).issue("own", *names, addresses=("*.volumes.example",))
    others = Certificates(tmp_path, "others").issue("target", *names)
    with Target(tmp_path, "--replica", NOBODY, "--tls", str(own), *local_ports()) as target:
        setting = {"CSTOR_TARGET_CONTROL": target.ready()["control"]}
        assert health("cstor-target", "--live", CSTOR_TARGET_TLS=str(own), **setting)[0] == 0
        assert health("cstor-target", "--live", f"--tls={own}", **setting)[0] == 0
        assert health("cstor-target", "--live", CSTOR_TARGET_TLS=str(others), **setting)[0] == 1
        assert health("cstor-target", "--live", **setting)[0] == 1
        code, said = health("cstor-target", "--live", CSTOR_TARGET_TLS=str(tmp_path), **setting)
        assert code == 2
        assert "tls.crt" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_where_to_ask_is_read_as_the_daemon_reads_it(command: str, tmp_path: Path) -> None:
    key = {"cstor-target": "control", "cstor-replica": "listen"}[command]
    file = tmp_path / "settings.toml"
    # Other settings of the daemon are none of the probe's business.
    file.write_text(f'{key} = "{NOBODY}"\nlog_format = "json"\nmetrics = "127.0.0.1:0"\n')
    code, said = health(command, "--config", str(file))
    assert code == 1
    assert f"{NOBODY} does not answer" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_address_is_exit_code_2(command: str) -> None:
    code, said = health(command, "--address", "host:port")
    assert code == 2
    assert "'port' in 'host:port' is not a port" in said
