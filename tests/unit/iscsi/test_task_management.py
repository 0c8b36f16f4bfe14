"""Task management: an abort drops the answer of a task (RFC 7143, 11.5, 11.6)."""

from __future__ import annotations

from typing import Any

import pytest

from cstor_target.iscsi import pdu
from cstor_target.iscsi.constants import (
    Opcode,
    TaskManagementFunction,
    TaskManagementResponse,
)
from cstor_target.iscsi.events import TaskManagementReceived
from cstor_target.iscsi.limits import Limits
from tests.unit.iscsi.trace import Initiator, Process, logged_in, only_task


def abort(initiator: Initiator, tag: int, **fields: Any) -> TaskManagementResponse:
    """ABORT TASK, immediate, and what it is answered with."""
    initiator.numbered(
        pdu.TASK_MANAGEMENT_REQUEST,
        **{
            "immediate": True,
            "function": TaskManagementFunction.ABORT_TASK,
            "referenced_task_tag": tag,
            **fields,
        },
    )
    answer = initiator.answer()
    assert answer.opcode is Opcode.TASK_MANAGEMENT_RESPONSE
    return TaskManagementResponse(answer.fields.response)


def test_an_aborted_task_is_not_answered_and_keeps_its_place_until_it_ends() -> None:
    initiator = logged_in(Process(limits=Limits(command_window=1)))
    task = only_task(initiator.write(4, b"data"))
    assert abort(initiator, task.initiator_task_tag) is TaskManagementResponse.FUNCTION_COMPLETE
    assert task.aborted
    assert initiator.core.tasks_in_flight == 1
    assert initiator.write(4, b"data", cmd_sn=101) == []
    initiator.core.complete(task, 0)
    assert initiator.is_told_of_the_window()
    assert initiator.core.tasks_in_flight == 0
    assert only_task(initiator.write(4, b"data", cmd_sn=101))


def test_the_tag_of_an_aborted_task_may_be_used_again() -> None:
    initiator = logged_in()
    old = only_task(initiator.write(4, b"old!", initiator_task_tag=5))
    abort(initiator, 5)
    new = only_task(initiator.write(4, b"new!", initiator_task_tag=5))
    initiator.core.complete(old, 0)
    assert initiator.is_told_of_the_window()
    initiator.core.complete(new, 0)
    assert initiator.answer().opcode is Opcode.SCSI_RESPONSE


def test_a_task_that_still_collects_data_ends_at_once() -> None:
    limits = Limits(solicited_bytes_max=8192)
    initiator = logged_in(Process(limits=limits))
    initiator.write(8192, initiator_task_tag=5)
    initiator.write(8192, initiator_task_tag=6)
    (r2t,) = initiator.answers()
    initiator.numbered(
        pdu.TASK_MANAGEMENT_REQUEST, immediate=True, function=1, referenced_task_tag=5
    )
    next_r2t, response = initiator.answers()
    assert next_r2t.fields.initiator_task_tag == 6
    assert response.fields.response == TaskManagementResponse.FUNCTION_COMPLETE
    assert initiator.core.tasks_in_flight == 1
    tag = {"target_transfer_tag": r2t.fields.target_transfer_tag}
    assert initiator.data_out(5, bytes(8192), **tag) == []
    assert initiator.answers() == []


def test_a_waiting_task_that_is_aborted_never_asks_for_data() -> None:
    initiator = logged_in(Process(limits=Limits(solicited_bytes_max=8192)))
    initiator.write(8192, initiator_task_tag=5)
    initiator.write(8192, initiator_task_tag=6)
    initiator.answers()
    abort(initiator, 6)
    assert abort(initiator, 5) is TaskManagementResponse.FUNCTION_COMPLETE


def test_a_task_that_is_not_there_does_not_exist() -> None:
    initiator = logged_in()
    task = initiator.read(4)
    initiator.core.complete(task, 0)
    initiator.answers()
    response = abort(initiator, task.initiator_task_tag, ref_cmd_sn=task.cmd_sn)
    assert response is TaskManagementResponse.TASK_DOES_NOT_EXIST


def test_a_command_that_was_lost_counts_as_received_when_it_is_aborted() -> None:
    initiator = logged_in()
    assert initiator.write(4, b"next", cmd_sn=101) == []
    initiator.cmd_sn = 102
    events = initiator.numbered(
        pdu.TASK_MANAGEMENT_REQUEST,
        immediate=True,
        function=TaskManagementFunction.ABORT_TASK,
        referenced_task_tag=77,
        ref_cmd_sn=100,
    )
    assert only_task(events).cmd_sn == 101
    answer = initiator.answer()
    assert answer.fields.response == TaskManagementResponse.FUNCTION_COMPLETE
    assert answer.fields.exp_cmd_sn == 102


def test_a_parked_command_can_be_aborted_before_its_turn() -> None:
    initiator = logged_in()
    initiator.write(4, b"next", cmd_sn=101, initiator_task_tag=5)
    abort(initiator, 5)
    assert only_task(initiator.write(4, b"frst", cmd_sn=100)).cmd_sn == 100
    assert initiator.core.tasks_in_flight == 1


@pytest.mark.parametrize(
    ("function", "response"),
    [
        (TaskManagementFunction.TASK_REASSIGN, 4),
        (TaskManagementFunction.CLEAR_ACA, 5),
        (42, 5),
    ],
)
def test_what_is_not_supported_says_so(function: int, response: int) -> None:
    initiator = logged_in()
    initiator.numbered(pdu.TASK_MANAGEMENT_REQUEST, function=function)
    answer = initiator.answer()
    assert answer.fields.response == response
    assert answer.fields.exp_cmd_sn == 101


def test_what_concerns_more_than_a_task_is_handed_on() -> None:
    initiator = logged_in()
    (event,) = initiator.numbered(
        pdu.TASK_MANAGEMENT_REQUEST,
        function=TaskManagementFunction.LOGICAL_UNIT_RESET,
        lun=bytes((0, 1)) + bytes(6),
        initiator_task_tag=9,
    )
    assert event == TaskManagementReceived(TaskManagementFunction.LOGICAL_UNIT_RESET, 1 << 48, 9)
    assert isinstance(event, TaskManagementReceived)
    assert initiator.answers() == []
    initiator.core.answer_task_management(event, TaskManagementResponse.LUN_DOES_NOT_EXIST)
    answer = initiator.answer()
    assert (answer.fields.initiator_task_tag, answer.fields.response) == (9, 2)


def test_tasks_of_one_lun_are_aborted() -> None:
    initiator = logged_in()
    other = bytes((0, 1)) + bytes(6)
    tasks = [initiator.read(4), initiator.read(4, lun=other), initiator.read(4)]
    initiator.core.abort_tasks({0})
    assert [task.aborted for task in tasks] == [True, False, True]
    initiator.core.abort_tasks(None)
    assert tasks[1].aborted
    for task in tasks:
        initiator.core.complete(task, 0, (b"data",))
    assert initiator.is_told_of_the_window()
    assert initiator.core.tasks_in_flight == 0
