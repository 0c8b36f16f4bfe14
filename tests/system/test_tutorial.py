"""Pages are run as they stand: each command in its order, and it prints what is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.system.tools import HarnessError, free_port, qemu

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORTAL = "127.0.0.1:3260"
MARK = "@@ step"
ANYTHING = "…"
RUN_S_MAX = 300.0


@dataclass(slots=True)
class Step:
    """Commands, and lines that they print."""

    commands: str
    shown: list[str] = field(default_factory=list)


def steps_of(page: str) -> list[Step]:
    """What a reader of the page does."""
    steps: list[Step] = []
    for language, content in FENCE.findall(page):
        if language == "sh":
            steps.append(Step(content))
        else:
            assert language == "text"
            steps[-1].shown += content.splitlines()
    return steps


def outputs_of(steps: list[Step], directory: Path) -> list[str]:
    """Run all in one shell; what each step has printed.

    Raises HarnessError where one ends with an error, and leaves nothing running.
    """
    script = directory / "tutorial.sh"
    script.write_text("set -eu\n" + "".join(f"echo '{MARK}'\n{one.commands}" for one in steps))
    environment = os.environ | {"TMPDIR": str(directory), "COLUMNS": "200"}
    try:
        ended = subprocess.run(
            ["bash", str(script)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=RUN_S_MAX,
            check=False,
        )
    finally:
        for data in directory.glob("*/cstor-data"):
            subprocess.run(
                [Path(sys.executable).parent / "cstor", "down", f"--dir={data}"], check=True
            )
    _, *outputs = ended.stdout.split(f"{MARK}\n")
    if ended.returncode != 0:
        raise HarnessError(
            f"step {len(outputs)}: {steps[len(outputs) - 1]}\n{ended.stdout[-3000:]}"
        )
    return outputs


def is_shown(line: str, output: str) -> bool:
    """Whether a line of the page was printed, with anything in the place of its dots."""
    pattern = ".*".join(map(re.escape, line.rstrip().split(ANYTHING)))
    return re.search(f"^{pattern} *$", output, re.MULTILINE) is not None


def follow(steps: list[Step], directory: Path) -> None:
    """Run all, on a portal that is free, and compare what is printed with what is shown."""
    qemu("qemu-img")  # which says what to install
    portal = f"127.0.0.1:{free_port()}"
    for step in steps:
        step.commands = step.commands.replace(PORTAL, portal)
        step.shown = [line.replace(PORTAL, portal) for line in step.shown]
    for step, output in zip(steps, outputs_of(steps, directory), strict=True):
        for line in step.shown:
            assert is_shown(line, output), (
                f"{line!r} is not in what {step.commands} said:\n{output}"
            )


def test_every_command_of_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    steps = steps_of((DOCS / "tutorial.md").read_text())
    assert len(steps) > 15
    follow(steps, tmp_path)


def test_every_command_on_backups_does_what_it_says(tmp_path: Path) -> None:
    """On a volume as the tutorial makes it, which holds again in the end what the backup held."""
    url = f"iscsi://{PORTAL}/iqn.2016-09.com.openebs.cstor:vol1/0"
    before = f"""
        export PATH="{Path(sys.executable).parent}:$PATH"
        cd "$(mktemp -d)"
        cstor up --detach --size 64MiB --portal {PORTAL}
        qemu-io -f raw -c 'write -P 0xaa 8M 8M' {url}
    """
    steps = steps_of((DOCS / "backup.md").read_text())
    spoilt = Step(f"qemu-io -f raw -c 'write -P 0xbb 8M 8M' {url}\n")
    after = Step(f"qemu-io -f raw -c 'read -P 0xaa 8M 8M' {url}\n")
    follow([Step(before), *steps[:-1], spoilt, steps[-1], after], tmp_path)
