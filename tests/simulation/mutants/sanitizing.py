"""Mistakes with what is to be erased."""

from __future__ import annotations

from typing import Any

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.volume.operations import Operations
from cstor_target.volume.sanitizing import Sanitizing
from replica.store.standing import Standing
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


@_found.breaks("A target that takes over goes on with a sanitization.")
def forget_what_is_erased() -> None:
    """A new target knows of none."""
    begin = Operations.begin

    def forgetful(self: Operations, tenure: Any, report: Any) -> None:
        begin(self, tenure, report)
        self.sanitization = volume_pb2.Sanitization()

    Operations.begin = forgetful  # type: ignore[method-assign]


@_found.breaks("Nobody writes before a sanitization that was begun is over.")
def let_in_who_waits_at_the_gate() -> None:
    """A new target refuses writes only when it has opened."""
    carry_on = Sanitizing.carry_on

    def late(self: Sanitizing) -> None:
        self._changed(self._operations.sanitization)
        carry_on(self)

    Sanitizing.opens = lambda self: None  # type: ignore[method-assign]
    Sanitizing.carry_on = late  # type: ignore[method-assign]


@_found.breaks("What a member that was away gets in one step is also a sanitization.")
def leave_what_is_erased_behind() -> None:
    """A staged map brings all else that operations have left."""
    switch = Standing.switch

    def lacking(self: Standing, *arguments: Any, **named: Any) -> Any:
        before = volume_pb2.Sanitization()
        before.CopyFrom(self.operations.sanitization)
        outcome = switch(self, *arguments, **named)
        self.operations.sanitization.CopyFrom(before)
        return outcome

    Standing.switch = lacking  # type: ignore[method-assign]


@_found.breaks("GOOD for a sanitization that is to go on by itself: it has begun for certain.")
def acknowledge_an_erasure_at_once() -> None:
    """Before anybody has the entry."""
    ordered = Operations.set_sanitization

    def hasty(self: Operations, change: Any, done: Any) -> None:
        ordered(self, change, lambda failure: None)
        done(None)

    Operations.set_sanitization = hasty  # type: ignore[method-assign]
