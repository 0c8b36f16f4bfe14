"""Memory that connections share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from cstor_target.iscsi.budget import Budget
from cstor_target.iscsi.constants import Opcode
from cstor_target.iscsi.limits import Limits
from tests.unit.iscsi.trace import ISID, Process, logged_in


def test_bytes_are_taken_while_there_are_some() -> None:
    budget = Budget(100)
    heard: list[str] = []
    assert budget.take(60, lambda: heard.append("a"))
    assert not budget.take(41, lambda: heard.append("b"))
    assert budget.take(40, lambda: heard.append("c"))
    budget.give(60)
    assert heard == ["b"]
    budget.give(40)
    assert heard == ["b"]
    assert budget.used_bytes == 0


def test_what_is_larger_than_all_gets_it_for_itself() -> None:
    budget = Budget(100)
    assert budget.take(1000, lambda: None)
    assert not budget.take(1, lambda: None)


def test_turns_are_taken_in_the_order_of_asking() -> None:
    budget = Budget(100)
    got: list[int] = []

    def asker(number: int) -> Callable[[], None]:
        def ask() -> None:
            if budget.take(50, ask):
                got.append(number)

        return ask

    askers = [asker(number) for number in range(6)]
    for ask in askers:
        ask()
    assert got == [0, 1]
    budget.give(50)
    budget.give(50)
    assert got == [0, 1, 2, 3]
    budget.forget(askers[4])
    budget.give(50)
    assert got == [0, 1, 2, 3, 5]


def test_connections_share_what_writes_may_ask_for() -> None:
    process = Process(limits=replace(Limits(), solicited_bytes_max=1 << 20))
    first, second = logged_in(process), process.connect()
    second.isid = ISID[:-1] + b"\x09"
    second.login()
    first.write(1 << 20)
    second.write(1 << 20)
    asked = [answer for answer in first.answers() if answer.opcode is Opcode.READY_TO_TRANSFER]
    assert asked
    assert second.answers() == []
    first.core.drop()
    assert second.wakes
    assert second.answers()[0].opcode is Opcode.READY_TO_TRANSFER


def test_a_write_that_fails_while_it_waits_takes_no_memory() -> None:
    process = Process(limits=replace(Limits(), solicited_bytes_max=8192))
    first, second = logged_in(process), process.connect()
    second.isid = ISID[:-1] + b"\x09"
    second.login()
    first.write(8192)
    second.write(8192, initiator_task_tag=5)
    second.data_out(5, bytes(512), target_transfer_tag=77)
    assert second.answer().sense == (0x0B, 0x0C, 0x0C)
    first.core.drop()
    assert process.sessions.write_memory.used_bytes == 0
    assert second.answers() == []


@pytest.mark.parametrize(
    ("sessions", "window"), [(0, 256), (1, 256), (4, 256), (8, 128), (256, 4), (10_000, 4)]
)
def test_command_window_is_smaller_where_there_are_more_sessions(
    sessions: int, window: int
) -> None:
    assert Limits().command_window_of(sessions) == window
