"""ORDERED and HEAD OF QUEUE tasks (SAM-5, 8.6 and 8.7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cstor_target.scsi.task_order import TaskAttribute, TaskOrder

SIMPLE, ORDERED, FIRST = (
    TaskAttribute.SIMPLE,
    TaskAttribute.ORDERED,
    TaskAttribute.HEAD_OF_QUEUE,
)


@dataclass(eq=False)
class Task:
    """One that notes when it is started."""

    name: str
    attribute: int = SIMPLE
    on_end: Callable[[], None] | None = None

    def end(self) -> None:
        if self.on_end is not None:
            self.on_end()


@dataclass
class Unit:
    """As a nexus uses the order of tasks."""

    order: TaskOrder = field(default_factory=TaskOrder)
    present: list[Task] = field(default_factory=list)
    started: list[str] = field(default_factory=list)

    def task(self, name: str, attribute: int = SIMPLE) -> Task:
        task = Task(name, attribute)
        self.bring(task)
        return task

    def bring(self, task: Task) -> None:
        if self.order.is_active or task.attribute == ORDERED:
            earlier = tuple(self.present)
            self.order.enter(task, lambda: self.started.append(task.name), lambda: earlier)
        else:
            self.started.append(task.name)
        self.present.append(task)


def test_nothing_is_counted_without_an_ordered_task() -> None:
    unit = Unit()
    one = unit.task("one")
    unit.task("first", FIRST)
    assert unit.started == ["one", "first"]
    assert not unit.order.is_active
    assert one.on_end is None


def test_an_ordered_task_waits_for_those_before_it_and_holds_up_those_behind() -> None:
    unit = Unit()
    before = [unit.task("a"), unit.task("b")]
    ordered = unit.task("ordered", ORDERED)
    behind = unit.task("c")
    for task in before:
        assert unit.started == ["a", "b"]
        task.end()
    assert unit.started == ["a", "b", "ordered"]
    ordered.end()
    assert unit.started == ["a", "b", "ordered", "c"]
    assert not unit.order.is_active
    behind.end()


def test_ordered_tasks_come_one_after_the_other() -> None:
    unit = Unit()
    one, two = unit.task("one", ORDERED), unit.task("two", ORDERED)
    between, three = unit.task("between"), unit.task("three", ORDERED)
    assert unit.started == ["one"]
    one.end()
    assert unit.started == ["one", "two"]
    two.end()
    assert unit.started == ["one", "two", "between"]
    between.end()
    assert unit.started == ["one", "two", "between", "three"]
    three.end()
    assert not unit.order.is_active


def test_the_head_of_the_queue_waits_for_nobody() -> None:
    unit = Unit()
    unit.task("a")
    unit.task("ordered", ORDERED)
    unit.task("first", FIRST)
    assert unit.started == ["a", "first"]


def test_an_earlier_task_whose_data_come_late_is_not_held_up() -> None:
    unit = Unit()
    late = Task("late")
    unit.present.append(late)
    ordered = unit.task("ordered", ORDERED)
    assert unit.started == []
    unit.bring(late)
    assert unit.started == ["late"]
    late.end()
    assert unit.started == ["late", "ordered"]
    ordered.end()


def test_tasks_that_end_at_once_do_not_pile_up() -> None:
    unit = Unit()
    before = unit.task("before")
    tasks = [Task(str(number), ORDERED) for number in range(2000)]

    def starts(task: Task) -> Callable[[], None]:
        def start() -> None:
            unit.started.append(task.name)
            task.end()

        return start

    for task in tasks:
        unit.order.enter(task, starts(task), lambda: [before])
    before.end()
    assert unit.started == ["before", *(task.name for task in tasks)]
    assert not unit.order.is_active
