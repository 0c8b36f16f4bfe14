"""The judge of journals finds every mistake that is planted in a good one, and no other."""

from __future__ import annotations

from random import Random

import pytest

from tests.nemesis.history import NO_WRITE, ZEROS, Record, Verb, Verdict, check

BLOCKS = 20
PORTAL = "192.0.2.1:3260"


def record(verb: Verb, block: int, number: int, answered_s: float = 1.0) -> Record:
    return Record(verb, answered_s - 0.5, answered_s, block, number, PORTAL)


def good_history(seed: int, count: int = 400) -> list[Record]:
    """What a disk answers that keeps everything; some writes have no answer."""
    random = Random(seed)
    holds = dict.fromkeys(range(BLOCKS), ZEROS)
    history = []
    for number in range(1, count):
        block = random.randrange(BLOCKS)
        verb = random.choice([Verb.READ, Verb.WRITE, Verb.WRITE, Verb.OPEN])
        if verb is Verb.READ:
            history.append(record(verb, block, holds[block], number))
            continue
        history.append(record(verb, block, number, number))
        if verb is Verb.WRITE or random.random() < 0.5:
            holds[block] = number
        else:
            # Its fate is seen, and stays so.
            history.append(record(Verb.READ, block, holds[block], number))
    return [*history, *(record(Verb.READ, block, held, count) for block, held in holds.items())]


def judged(*records: Record) -> Verdict:
    return check(records)


@pytest.mark.parametrize("seed", range(20))
def test_a_good_history_is_good(seed: int) -> None:
    history = good_history(seed)
    verdict = check(history)
    assert (verdict.lost, verdict.wrong, verdict.unread) == ([], [], 0)
    writes = [one for one in history if one.verb is Verb.WRITE]
    assert verdict.acknowledged_s == [one.answered_s for one in writes]
    assert 0 < len(verdict.verified_s) <= len(writes)


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_stale_read_is_found(seed: int) -> None:
    history = good_history(seed)
    block = Random(seed).randrange(BLOCKS)
    older = [one.number for one in history if one.block == block and one.verb is Verb.WRITE][:-1]
    settled = [*history, record(Verb.READ, block, older[0])]
    assert len(check(settled).lost) == 1
    assert check(settled).wrong == []


@pytest.mark.parametrize("planted", [NO_WRITE, 10**9])
def test_a_planted_read_of_what_nobody_wrote_is_found(planted: int) -> None:
    history = good_history(1)
    verdict = check([*history, record(Verb.READ, 3, planted)])
    assert len(verdict.wrong) == 1
    assert verdict.lost == []


def test_a_write_of_another_block_is_wrong_here() -> None:
    verdict = judged(record(Verb.WRITE, 1, 7), record(Verb.WRITE, 2, 8), record(Verb.READ, 1, 8))
    assert len(verdict.wrong) == 1


def test_zeros_where_a_write_was_acknowledged_are_a_loss() -> None:
    assert len(judged(record(Verb.WRITE, 1, 7), record(Verb.READ, 1, ZEROS)).lost) == 1


def test_an_open_write_may_be_there_or_not_and_then_stays_so() -> None:
    begun = (record(Verb.WRITE, 1, 7), record(Verb.OPEN, 1, 8))
    old, new = record(Verb.READ, 1, 7), record(Verb.READ, 1, 8)
    assert judged(*begun, old, old).lost == []
    assert judged(*begun, new, new).lost == []
    assert len(judged(*begun, old, new).lost) == 1
    assert len(judged(*begun, new, old).lost) == 1


def test_a_write_that_nobody_read_is_not_verified() -> None:
    verdict = judged(record(Verb.WRITE, 1, 7, 2.0), record(Verb.WRITE, 1, 8, 4.0))
    assert (verdict.verified_s, verdict.unread) == ([], 1)
    verdict = judged(
        record(Verb.WRITE, 1, 7, 2.0), record(Verb.READ, 1, 7, 3.0), record(Verb.WRITE, 1, 8, 4.0)
    )
    assert (verdict.verified_s, verdict.unread) == ([2.0], 1)


def test_a_record_is_the_same_after_its_line() -> None:
    one = record(Verb.WRITE, 5, 9, 1234.5)
    assert Record.parse(one.line()) == one
    with pytest.raises(ValueError, match="unpack"):
        Record.parse("write 1.0 2.0")
