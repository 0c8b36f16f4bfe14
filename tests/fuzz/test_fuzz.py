"""A little of the fuzzing on every run, and the whole corpus wherever there is no fuzzer."""

from __future__ import annotations

import platform
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS, WARM_RUNS, Growth, MemoryGrewError
from tests.fuzz.harnesses import HARNESSES

ROOT = Path(__file__).parents[2]
RUNS = 3000
NAMES = sorted(HARNESSES)
HAS_ATHERIS = platform.machine() == "x86_64" and sys.version_info < (3, 15)
"""As pyproject.toml says: there it is installed, and its absence an error."""


@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_were_kept_do_no_harm(name: str) -> None:
    paths = sorted((CORPUS / name).iterdir())
    assert paths
    for path in paths:
        HARNESSES[name](path.read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_were_kept_and_are_cut_or_joined_do_no_harm(name: str) -> None:
    chance = random.Random(7)
    inputs = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    for _ in range(200):
        first, second = chance.choice(inputs), chance.choice(inputs)
        cut = chance.randrange(len(first) + 1)
        HARNESSES[name](first[:cut] + second[cut:])


@pytest.mark.skipif(
    not HAS_ATHERIS, reason="atheris is made for Linux on x86_64, and for Python before 3.15"
)
@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_a_fuzzer_makes_up_do_no_harm(name: str, tmp_path: Path) -> None:
    words = (sys.executable, "-m", "tests.fuzz", name, "--runs", str(RUNS))
    done = subprocess.run(
        (*words, "--artifacts", str(tmp_path)),
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert f"Done {RUNS} runs" in done.stderr


def test_memory_that_grows_is_told() -> None:
    kept = []

    def leaks(data: bytes) -> None:
        kept.append(bytearray(1 << 16))

    harness = Growth(leaks)

    def many() -> None:
        for _ in range(4 * WARM_RUNS):
            harness(b"")

    with pytest.raises(MemoryGrewError):
        many()
    assert len(kept) > WARM_RUNS
