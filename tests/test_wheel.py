"""The wheel builds, and alone in an empty environment gives the three commands."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = ("cstor", "cstor-target", "cstor-replica")


def run(*command: str | Path) -> str:
    """What a program prints; it must succeed."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    out = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT)
    run(*build)
    (found,) = out.glob("*.whl")
    return found


def test_wheel_holds_all_packages_with_the_stubs_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "cstor_cli/main.py",
        "cstor_target/main.py",
        "replica/main.py",
        "cstor_core/generated/cstor/v1/volume_pb2.py",
    } <= names
    tops = {name.partition("/")[0] for name in names}
    packages = {"cstor_cli", "cstor_core", "cstor_target", "replica"}
    assert {top for top in tops if not top.endswith(".dist-info")} == packages


def test_wheel_gives_the_three_commands_in_an_empty_environment(
    wheel: Path, tmp_path: Path
) -> None:
    home = tmp_path / "environment"
    venv.create(home, with_pip=True)
    # The versions of the lock: what is tested is the wheel, not today's registry.
    constraints = tmp_path / "constraints.txt"
    locked = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = [line.removesuffix(" \\") for line in locked if "==" in line]
    constraints.write_text("\n".join(pinned))
    pip = (home / "bin" / "python", "-m", "pip", "install", "--quiet")
    run(*pip, "--constraint", constraints, wheel)
    for command in COMMANDS:
        assert "Usage" in run(home / "bin" / command, "--help")
