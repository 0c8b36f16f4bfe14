"""Clusters in which much goes wrong: nothing acknowledged is lost, nothing stale is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from tests.simulation.clients import ZEROS, OwnBlocks, content_of
from tests.simulation.configurations import Configurations
from tests.simulation.life import Result, run
from tests.simulation.mutants.mistakes import MISTAKES
from tests.simulation.oracle import NEVER, Registers
from tests.simulation.running import SEEDS_FOR_COVERAGE, summary_of
from tests.simulation.script import read, scripts, shrunk

COUNTED_MIN = 0.8
"""So many of the seeds have enough going on in them to prove something."""
ROOT = Path(__file__).parents[2]


def test_a_thousand_lives_keep_the_contract() -> None:
    summary = summary_of(range(1, SEEDS_FOR_COVERAGE + 1))
    assert [(result.seed, result.broken) for result in summary.broken] == []
    assert summary.missing == []
    assert summary.counted >= COUNTED_MIN * summary.seeds


@pytest.mark.parametrize("seed", [2, 7, 10, 24])
def test_a_seed_lives_the_same_life_again_whatever_the_hash_seed(seed: int) -> None:
    code = (
        "from tests.simulation.life import run; import hashlib;"
        f"r = run({seed}); print(hashlib.sha256(repr((r.trace, r.answers, r.script)).encode())"
        ".hexdigest())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()[-1]
        for hash_seed in ("1", "2")
    }
    assert len(said) == 1


def test_a_life_written_down_is_lived_again() -> None:
    whole = run(9)
    again = run(9, whole.script)
    assert len(whole.script) > 10
    assert again.script == whole.script
    assert again.trace == [line for line in whole.trace if "storm: " not in line]
    assert (again.commands, again.answers) == (whole.commands, whole.answers)


@pytest.mark.parametrize("path", scripts(), ids=lambda path: path.stem)
def test_what_was_once_found_stays_right(path: Path) -> None:
    script = read(path)
    assert script.taught
    assert script.live().broken == []
    assert script.text() == path.read_text()


@pytest.mark.parametrize(
    "path",
    [path for path in scripts() if read(path).mistake],
    ids=lambda path: path.stem,
)
def test_a_script_sees_the_mistake_that_it_was_made_for(path: Path) -> None:
    planted = subprocess.run(
        [sys.executable, "-m", "tests.simulation.replay", str(path), "planted"],
        cwd=ROOT,
        check=False,
        capture_output=True,
    )
    assert planted.returncode == 1


def test_shrinking_leaves_only_what_is_needed() -> None:
    deeds = [(float(at), ("heal_network", (at,))) for at in range(20)]

    def is_broken(result: Result) -> bool:
        return {3.0, 11.0} <= {at_s for at_s, _ in result.script}

    def live(seed: int, script: object) -> Result:
        return Result(seed, [], script=list(script))  # type: ignore[call-overload]

    assert [at_s for at_s, _ in shrunk(1, deeds, is_broken, live)] == [3.0, 11.0]


def test_there_is_a_mistake_for_each_rule() -> None:
    assert len(MISTAKES) >= 25
    sentences = [mistake.sentence for mistake in MISTAKES.values()]
    assert len(set(sentences)) == len(sentences)


def registers(*operations: tuple[str, int, float, float]) -> list[str]:
    """What is wrong with operations on one block: (kind, value, start, end); l is a loss, and b
    brings a value back.
    """
    found = Registers()
    for kind, value, start_s, end_s in operations:
        if kind == "w":
            found.wrote(0, value, start_s, end_s, "w")
        elif kind == "l":
            found.loss_said(start_s)
        elif kind == "b":
            found.revert({0: value}, start_s, "b").end_s = end_s
        else:
            found.read(0, value, start_s, end_s, "r")
    return found.violations()


def test_the_oracle_takes_what_a_register_may_do() -> None:
    assert registers(("r", 0, 0, 1), ("w", 1, 2, 3), ("r", 1, 4, 5)) == []
    assert registers(("w", 1, 2, 6), ("r", 0, 3, 4), ("r", 1, 4, 5)) == []
    assert registers(("w", 1, 0, 9), ("w", 2, 0, 9), ("r", 2, 3, 4), ("r", 1, 5, 6)) == []
    assert registers(("w", 1, 0, NEVER), ("r", 0, 5, 6), ("r", 1, 7, 8)) == []
    assert registers(("w", 1, 0, NEVER), ("r", 0, 5, 6)) == []


def test_the_oracle_sees_what_a_register_never_does() -> None:
    assert registers(("w", 1, 0, 1), ("r", 0, 2, 3))  # lost, or stale
    assert registers(("w", 1, 0, 1), ("w", 2, 2, 3), ("r", 1, 4, 5))  # stale
    assert registers(("w", 1, 5, 6), ("r", 1, 2, 3))  # before it was written
    assert registers(("r", 7, 2, 3))  # invented
    assert registers(("w", 1, 0, NEVER), ("r", 1, 2, 3), ("r", 0, 4, 5))  # there and back
    assert registers(  # two reads at odds about the order of two writes
        ("w", 1, 0, 9), ("w", 2, 0, 9), ("r", 1, 1, 2), ("r", 2, 3, 4), ("r", 1, 5, 6)
    )


def test_after_a_loss_that_was_said_a_block_is_a_register_again() -> None:
    both = (("w", 1, 0, 1), ("w", 2, 2, 3), ("l", 0, 5, 5))
    assert registers(*both, ("r", 1, 6, 7), ("r", 1, 8, 9)) == []
    assert registers(*both, ("r", 0, 6, 7), ("w", 3, 8, 9), ("r", 3, 10, 11)) == []
    assert registers(*both, ("r", 1, 6, 7), ("r", 2, 8, 9))  # it held two
    assert registers(*both, ("w", 3, 6, 7), ("r", 1, 8, 9))  # lost without a word
    assert registers(*both, ("r", 7, 6, 7))  # invented


def test_a_block_of_one_client_holds_what_was_answered() -> None:
    own = OwnBlocks(range(1))
    first, second = content_of(1 << 8), content_of(2 << 8)
    own.begin(0, lambda _: first)
    own.done(0)
    assert own.read(0, first) == ""
    own.begin(0, lambda content: content[:512] + second[512:])  # not answered
    assert own.read(0, first[:512] + second[512:]) == ""
    assert own.read(0, first)  # there and back
    assert own.read(0, bytes(BLOCK_BYTES))


def test_a_block_of_one_client_holds_what_there_was_at_first() -> None:
    first, second = content_of(1 << 8), content_of(2 << 8)
    own = OwnBlocks(range(2), {1: first})
    assert own.read(0, ZEROS) == own.read(1, first) == ""
    assert own.read(0, first)
    assert own.read(1, ZEROS)
    own.begin(1, lambda _: second)
    own.done(1)
    assert own.read(1, first)
    own.lost()
    assert own.read(1, first) == ""


def test_a_block_of_one_client_keeps_what_was_flushed_through_a_loss() -> None:
    own = OwnBlocks(range(1))
    first, second = content_of(1 << 8), content_of(2 << 8)
    own.begin(0, lambda _: first)
    own.done(0)
    own.durable([0])
    own.begin(0, lambda _: second)
    own.done(0)
    assert own.read(0, first)
    own.lost()
    assert own.read(0, ZEROS)
    assert own.read(0, first) == ""
    assert own.read(0, second)


def test_after_a_revert_a_value_comes_back() -> None:
    """A read of it saw the write or the revert: either may explain it, and one of them must."""
    both = (("w", 1, 0, 1), ("w", 2, 2, 3))
    back = ("b", 1, 4, 5)
    assert registers(*both, back, ("r", 2, 3, 4), ("r", 1, 6, 7)) == []
    assert registers(*both, back, ("r", 1, 4, 6), ("r", 1, 6, 7)) == []
    assert registers(*both, back, ("w", 3, 6, 7), ("b", 1, 8, NEVER), ("r", 1, 9, 10)) == []
    assert registers(*both, ("b", 1, 4, NEVER), ("r", 2, 6, 7), ("r", 1, 8, 9)) == []
    assert registers(*both, ("b", 1, 4, NEVER), ("r", 2, 6, 7)) == []
    assert registers(*both, ("b", 0, 4, 5), ("r", 0, 6, 7), ("b", 1, 8, 9), ("r", 1, 9, 10)) == []
    assert registers(*both, back, ("r", 2, 6, 7))  # it was not carried out
    assert registers(*both, ("r", 1, 3.5, 3.7), back)  # before it was asked for
    assert registers(*both, back, ("w", 3, 6, 7), ("r", 1, 8, 9))  # a write behind it is lost
    assert registers(*both, ("b", 1, 4, NEVER), ("r", 1, 6, 7), ("r", 2, 8, 9))  # there and back
    assert registers(*both, back, ("l", 0, 6, 6), ("r", 2, 7, 8), ("r", 1, 9, 10))  # it held two


def test_a_block_of_one_client_has_what_a_snapshot_held_after_a_revert() -> None:
    own = OwnBlocks(range(1))
    first, second, third = (content_of(number << 8) for number in (1, 2, 3))
    for content in (first, second):
        own.begin(0, lambda _, content=content: content)  # type: ignore[misc]
        own.done(0)
        own.command_ends()
    own.revert_begins({0: first})
    own.is_busy = True
    assert own.read(0, second) == ""
    own.revert_ends(is_done=True)
    own.command_ends()
    assert own.read(0, second)
    assert own.read(0, first) == ""
    own.revert_begins({})
    own.begin(0, lambda content: content[:512] + third[512:])
    own.done(0)
    own.revert_ends(is_done=False)
    own.command_ends()
    assert own.read(0, bytes(512) + third[512:]) == ""
    assert own.read(0, first)


def configurations(*in_force: tuple[int, int, int, str]) -> list[str]:
    """What is wrong with these: (epoch, forced openings, number, members), each of an opening."""
    found = Configurations()
    for epoch, forced, number, members in in_force:
        configuration = volume_pb2.Configuration(number=number, forced_openings=forced)
        for member in members:
            configuration.members.add(replica_uuid=member, address=member)
        found.in_force(epoch, configuration, is_open=True)
    return found.broken


def test_configurations_in_force_make_one_chain() -> None:
    assert configurations((1, 0, 1, "abc"), (2, 0, 2, "abcd"), (3, 0, 2, "abcd")) == []
    assert configurations((1, 0, 1, "abc"), (2, 0, 2, "abcd"), (1, 0, 1, "abc")) == []
    assert configurations((2, 0, 2, "abcd"), (3, 1, 3, "a"), (3, 1, 3, "a")) == []
    assert configurations((5, 0, 2, "abcd"), (3, 1, 3, "a"), (6, 1, 4, "ae")) == []
    assert configurations((1, 0, 2, "abcd"), (2, 0, 1, "abc"))  # a change is lost
    assert configurations((1, 0, 2, "abcd"), (2, 0, 2, "abce"))  # two at a time
    assert configurations((2, 0, 1, "abc"), (1, 0, 2, "abcd"))  # one that nobody heard of
    assert configurations((3, 1, 2, "a"), (4, 0, 1, "abc"))  # those left out are back


def test_so_many_may_be_lost_as_every_possible_configuration_survives() -> None:
    found = Configurations()
    configuration = volume_pb2.Configuration(number=1)
    for member in "abc":
        configuration.members.add(replica_uuid=member, address=member)
    found.in_force(1, configuration, is_open=True)
    assert found.survive(["a"])
    assert not found.survive(["a", "b"])
    assert found.survive(["a", "d", "e"])
    wish = found.wish(lambda addresses: tuple(one for one in addresses if one != "c"))
    assert not found.survive(["a"])
    assert found.survive(["c"])
    wish.is_possible = lambda: False
    assert found.survive(["a"])
    found.ordered((0, 1), ("a", "b"))
    assert not found.survive(["a"])
    found.in_force(2, configuration, is_open=True)
    assert found.survive(["a"])
    found.ordered((0, 1), ("a", "b"))  # by a target that has not heard of the later one
    assert found.survive(["a"])
    found.told("d", is_member=True)
    assert found.broken
