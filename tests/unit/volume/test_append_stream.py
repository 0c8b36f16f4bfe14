"""What a member is sent together, and when."""

from __future__ import annotations

from functools import partial
from typing import cast

from cstor_core.errors import CstorError, UnavailableError
from cstor_core.frames import Buffer
from cstor_target.volume.append_stream import HELD_BYTES_MAX, AppendStream
from cstor_target.volume.links import ReplicaLink
from tests.unit.volume.hand_clock import HandClock
from tests.unit.volume.standins import HeldLink, HeldStream


class Played:
    """A stream whose member is played by the test."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.link = HeldLink()
        self.copies = False
        self.answers: list[Buffer] = []
        self.errors: list[CstorError] = []
        self.stream = AppendStream(
            cast(ReplicaLink, self.link),
            partial(self.clock.call_later, 0.0),
            lambda: self.copies,
            self.answers.append,
            self.errors.append,
        )

    @property
    def member(self) -> HeldStream:
        """The other end."""
        return self.link.stream

    def send(self, *messages: bytes) -> list[bytes]:
        """Send; what has arrived so far."""
        for message in messages:
            self.stream.send(message)
        return self.member.sent


def test_one_who_has_answered_is_sent_a_message_at_once() -> None:
    played = Played()
    assert played.send(b"a") == [b"a"]
    played.member.on_message(b"yes")
    assert played.send(b"b") == [b"a", b"b"]
    assert played.answers == [b"yes"]


def test_one_who_has_not_answered_gets_the_rest_together_when_it_does() -> None:
    played = Played()
    assert played.send(b"a", b"b", b"c") == [b"a"]
    played.member.on_message(b"yes")
    assert played.send() == [b"a", b"b", b"c"]
    assert played.send(b"d") == [b"a", b"b", b"c"]
    played.member.on_message(b"yes")
    assert played.send(b"e") == [b"a", b"b", b"c", b"d"]


def test_an_answer_with_nothing_held_is_waited_for_no_more() -> None:
    played = Played()
    played.send(b"a")
    played.member.on_message(b"yes")
    played.member.on_message(b"flushed, too")
    assert played.send(b"b") == [b"a", b"b"]


def test_so_many_bytes_are_not_held() -> None:
    played = Played()
    long = bytes(HELD_BYTES_MAX)
    assert played.send(b"a", b"b", long) == [b"a", b"b", long]
    assert played.send(long) == [b"a", b"b", long]
    assert played.send(b"c") == [b"a", b"b", long, long, b"c"]


def test_one_that_copies_gets_a_burst_at_times_whether_it_answers_or_not() -> None:
    played = Played()
    played.copies = True
    assert played.send(b"a", b"b") == []
    assert len(played.clock.put_off) == 1
    played.clock.run_put_off()
    assert played.send() == [b"a", b"b"]
    assert played.send(b"c") == [b"a", b"b"]
    played.member.on_message(b"yes")
    assert played.send() == [b"a", b"b"]
    played.clock.run_put_off()
    assert played.send() == [b"a", b"b", b"c"]


def test_one_that_copies_no_more_gets_all_with_its_next_message() -> None:
    played = Played()
    played.copies = True
    played.send(b"a")
    played.copies = False
    assert played.send(b"b") == [b"a", b"b"]
    assert played.send(b"c") == [b"a", b"b"]


def test_nothing_is_sent_after_the_end() -> None:
    played = Played()
    played.copies = True
    played.send(b"a")
    played.stream.close()
    played.clock.run_put_off()
    assert played.send() == []
    assert played.member.closed


def test_end_is_told_and_what_was_held_is_dropped() -> None:
    played = Played()
    played.send(b"a", b"b")
    played.member.on_closed(UnavailableError("gone"))
    assert [str(error) for error in played.errors] == ["gone"]
    assert played.send() == [b"a"]
