"""Whom to ask for a read: what each member has been asked, and how fast it answers.

A member costs as many seconds as its unanswered blocks and the new ones will take it, by how it
has answered lately.  One that is slow is asked less; what it was measured at fades, so that it is
tried again.  A question that takes several times as long as questions usually do is asked of
another member as well, and the first good answer counts: one slow disk must not be felt.
"""

from __future__ import annotations

from collections.abc import Sequence

from cstor_core.message_stream import MessageStream
from cstor_target.volume.backing import Buffer, Failure, ReadDone
from cstor_target.volume.members import Member

HEDGE_FACTOR = 8.0
"""So many times the usual time of an answer a question is left with one member alone."""
HEDGE_S_MIN, HEDGE_S_MAX = 0.005, 0.5
_WEIGHT = 0.1
"""Of the last answer in the averages."""


class Question:
    """A stretch of at most 256 blocks that is being read."""

    __slots__ = (
        *("answered", "asked", "bad", "block", "count", "done", "excluded", "min_seq", "number"),
        "started_s",
    )

    def __init__(self, number: int, block: int, count: int, min_seq: int, done: ReadDone) -> None:
        self.number = number
        self.block = block
        self.count = count
        self.min_seq = min_seq
        self.done: ReadDone | None = done
        self.started_s = 0.0
        self.answered = False
        """A good answer has come; it may still wait to be handed on."""
        self.asked: list[Member] = []
        """Who has not answered it yet."""
        self.excluded: list[Member] = []
        """Who is not asked again."""
        self.bad: list[Member] = []
        """Whose copy is not what it should be."""

    def finish(self, error: Failure | None, pieces: Sequence[Buffer]) -> None:
        """Hand the answer on; a later one is heard by nobody."""
        done, self.done = self.done, None
        if done is not None:
            done(error, pieces)


class Reader:
    """The stream of reads to one member and what it has been asked."""

    __slots__ = ("_block_s", "asked", "blocks_outstanding", "member", "stream")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.stream: MessageStream | None = None
        self.asked: dict[int, tuple[Question, float, int]] = {}
        """By number, oldest first: when, and how many blocks it had to answer then."""
        self.blocks_outstanding = 0
        self._block_s = 0.0

    def cost_s(self, blocks: int) -> tuple[float, int]:
        """What so many more blocks would cost here, to be compared."""
        outstanding = self.blocks_outstanding + blocks
        return outstanding * self._block_s, outstanding

    def ask(self, question: Question, now_s: float) -> None:
        """A question goes to this member."""
        self.blocks_outstanding += question.count
        self.asked[question.number] = question, now_s, self.blocks_outstanding
        question.asked.append(self.member)

    def answered(self, question: Question) -> None:
        """Take a question off the list."""
        del self.asked[question.number]
        self.blocks_outstanding -= question.count
        question.asked.remove(self.member)

    def took(self, duration_s: float, blocks: int) -> None:
        """An answer came after so long, with so many blocks to answer before it."""
        self._block_s += _WEIGHT * (duration_s / blocks - self._block_s)

    def fade(self) -> None:
        """Time has passed: what was measured counts less."""
        self._block_s /= 2

    def overdue(self, before_s: float) -> list[Question]:
        """Questions asked before a moment that nobody else has answered or been asked."""
        found = []
        for question, sent_s, _ in self.asked.values():
            if sent_s >= before_s:
                break
            if not question.answered and len(question.asked) == 1:
                found.append(question)
        return found


class Usual:
    """How long answers usually take, of all members together."""

    __slots__ = ("_answer_s",)

    def __init__(self) -> None:
        self._answer_s = 0.0

    def took(self, duration_s: float) -> None:
        """An answer came after so long."""
        self._answer_s += _WEIGHT * (duration_s - self._answer_s)

    @property
    def hedge_s(self) -> float:
        """How long a question is left with one member alone."""
        return min(max(HEDGE_FACTOR * self._answer_s, HEDGE_S_MIN), HEDGE_S_MAX)
