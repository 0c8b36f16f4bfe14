"""A member's stream of entries, its answers and its end."""

from __future__ import annotations

from collections.abc import Callable

from cstor_core.clock import Timer
from cstor_core.errors import CstorError, ProtocolError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2, stream_pb2
from cstor_target.volume.members import Member, Standing
from tests.unit.volume.hand_clock import HandClock
from tests.unit.volume.standins import OPENING, HeldLink, in_sync_member


class Joined:
    """A member whose stream was opened, and what was heard of it."""

    def __init__(self) -> None:
        self.link = HeldLink()
        self.member = in_sync_member(self.link, "a" * 36)
        self.progress = 0
        self.errors: list[CstorError] = []
        self.join(10)

    def join(self, applied_seq: int) -> None:
        """Open its stream behind an entry."""
        self.member.join(OPENING, applied_seq, self._put_off, self._progressed, self._closed)

    @staticmethod
    def _put_off(callback: Callable[[], None]) -> Timer:
        return HandClock().call_later(0.0, callback)

    def _progressed(self) -> None:
        self.progress += 1

    def _closed(self, member: Member, error: CstorError) -> None:
        assert member is self.member
        self.errors.append(error)


def test_stream_begins_with_its_opening_and_at_the_position_given() -> None:
    joined = Joined()
    first = stream_pb2.AppendRequest.FromString(joined.link.stream.sent[0])
    assert first.opening == OPENING
    assert (joined.member.applied_seq, joined.member.durable_seq) == (10, 0)


def test_answer_says_how_far_it_is() -> None:
    joined = Joined()
    answer = stream_pb2.AppendResponse(format=1 << 16, applied_seq=12, durable_seq=11)
    joined.link.stream.on_message(answer.SerializeToString())
    assert (joined.member.applied_seq, joined.member.durable_seq) == (12, 11)
    assert joined.progress == 1


def test_answer_from_before_the_first_entry_of_a_stream_takes_nothing_back() -> None:
    joined = Joined()
    answer = stream_pb2.AppendResponse(format=1 << 16, applied_seq=3)
    joined.link.stream.on_message(answer.SerializeToString())
    assert joined.member.applied_seq == 10


def test_answer_that_cannot_be_read_ends_the_stream() -> None:
    joined = Joined()
    joined.link.stream.on_message(b"\xff\xff\xff")
    assert [type(error) for error in joined.errors] == [ProtocolError]
    assert joined.progress == 0


def test_end_of_an_earlier_stream_is_not_the_end_of_the_present_one() -> None:
    joined = Joined()
    joined.join(20)
    earlier, present = joined.link.streams
    assert earlier.closed
    earlier.on_closed(UnavailableError("late"))
    assert joined.errors == []
    present.on_closed(UnavailableError("now"))
    assert [str(error) for error in joined.errors] == ["now"]


def test_reason_is_told_only_of_a_member_that_does_not_count() -> None:
    member = Joined().member
    member.reason = "it was away"
    assert member.describe(0.0).reason == ""
    member.standing = Standing.OFFLINE
    report = member.describe(0.0)
    assert (report.status, report.reason) == (control_pb2.MEMBER_STATUS_OFFLINE, "it was away")
