"""`cstor volume open --force` on a volume two of whose three replicas are lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.scenario.replica.test_daemon import Daemon
from tests.scenario.target.daemon import ANY_PORT, WAIT_S, Target, get, local_ports, until

CSTOR = (sys.executable, "-c", "from cstor_cli.main import main; main()")


def cstor(*words: str, code: int = 0, answer: str = "") -> str:
    """Run a command to its end; returns stdout and stderr."""
    ended = subprocess.run(
        [*CSTOR, *words],
        input=answer,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * WAIT_S,
        check=False,
    )
    assert ended.returncode == code, ended.stdout
    return ended.stdout


def is_ready(target: Target) -> bool:
    return get(target.ready()["http"], "/readyz")[0] == 200


async def test_volume_is_forced_open_with_what_is_left(tmp_path: Path) -> None:
    with ExitStack() as stack:
        daemons = []
        for number in range(3):
            daemon = Daemon(
                tmp_path / f"pool-{number}", "--listen", ANY_PORT, "--metrics", ANY_PORT
            )
            stack.callback(daemon.process.wait)
            stack.callback(daemon.process.kill)
            daemons.append(daemon)
        addresses = [(await daemon.ready())["grpc"] for daemon in daemons]
        replicas = [word for address in addresses for word in ("--replica", address)]
        cstor("volume", "create", "vol1", "--size", "64MiB", *replicas)
        with Target(tmp_path, *replicas, *local_ports()) as target:
            until(lambda: is_ready(target))
            control = ("--target", target.ready()["control"])
            said = cstor("volume", "open", "vol1", *control, code=2)
            assert "opens by itself" in said
            said = cstor("volume", "open", "vol1", "--force", "--yes", *control, code=2)
            assert "the volume is open" in said
            assert target.stop() == 0
        for daemon in daemons[1:]:
            assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
        with Target(tmp_path, *replicas, *local_ports()) as target:
            control = ("--target", target.ready()["control"])
            until(lambda: "missing" in get(target.ready()["http"], "/readyz")[1])
            said = cstor("volume", "open", "vol1", "--force", *control, code=2, answer="n\n")
            assert f"with 1 of its 3 replicas, {addresses[0]}" in said
            assert "nothing was done" in said
            said = cstor(
                *("volume", "open", "vol1", "--force", *control),
                *("--replica", addresses[1]),
                code=2,
            )
            assert f"{addresses[1]} cannot be opened with: it does not answer" in said
            assert not is_ready(target)
            said = cstor("volume", "open", "vol1", "--force", "--yes", "-o", "json", *control)
            assert json.loads(said[said.index("{") :])["status"] == "healthy"
            until(lambda: is_ready(target))
            (volume,) = json.loads(get(target.ready()["http"], "/status")[1])["volumes"]
            assert [replica["address"] for replica in volume["replicas"]] == addresses[:1]
            names = [
                json.loads(line)["name"]
                for line in cstor("events", "-o", "json", *control).splitlines()
            ]
            assert {"forced_open", "loss_possible"} <= set(names)
            assert target.stop() == 0
