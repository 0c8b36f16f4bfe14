"""The one order: seqs, batches, listeners, and the backlog."""

from __future__ import annotations

import pytest

from cstor_core.checksums import block_checksum
from cstor_core.frames import RunView, decode_append
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW, UNMAP
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Done, Failure
from cstor_target.volume.order import Backlog, Order, Sent
from tests.unit.volume.hand_clock import HandClock

SALT = 77
BATCH_BYTES = 4 * BLOCK_BYTES
DATA = b"\x5a" * BLOCK_BYTES


class Sending:
    """An order at epoch 3 behind entry 10, what it sent, and what listeners heard."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.sent: list[bytes] = []
        self.heard: list[tuple[str, Failure | None]] = []
        self.order = Order(self.clock, self.sent.append, BATCH_BYTES, 1 << 20)
        self.order.start(3, 10, SALT)

    def listen(self, name: str) -> Done:
        """A listener that notes what it hears under a name."""
        return lambda error: self.heard.append((name, error))

    def write(self, block: int, name: str = "", *, count: int = 1, durable: bool = False) -> None:
        """A write of whole blocks, and the end of the burst."""
        self.order.write(block, count, [DATA * count], durable, self.listen(name))
        self.order.kick()

    def names(self) -> list[str]:
        """Who heard of success, in order; nobody may have heard anything else."""
        assert all(error is None for _, error in self.heard)
        return [name for name, _ in self.heard]


def rows_in(message: bytes) -> list[tuple[int, int, int, int, int]]:
    """The rows of the one run in a message."""
    (run,) = decode_append(message).entries
    assert isinstance(run, RunView)
    return list(ROW.iter_unpack(run.table))


def seqs_in(message: bytes) -> list[int]:
    """The seqs of the rows in a message."""
    return [row[2] for row in rows_in(message)]


def test_write_at_depth_one_is_sent_at_once_with_checksum_and_version() -> None:
    sending = Sending()
    sending.write(5)
    assert rows_in(sending.sent[0]) == [(5, 0, 11, 3, block_checksum(DATA, SALT, 5))]
    frame = decode_append(sending.sent[0])
    assert frame.completed_seq == 10
    assert not frame.flush


def test_writes_gather_while_one_batch_is_unfinished() -> None:
    sending = Sending()
    for block in range(4):
        sending.write(block)
    assert [seqs_in(message) for message in sending.sent] == [[11]]
    sending.order.advance(11, 0)
    assert [seqs_in(message) for message in sending.sent] == [[11], [12, 13, 14]]


def test_full_batch_goes_although_an_earlier_one_is_unfinished() -> None:
    sending = Sending()
    for block in range(6):
        sending.write(block)
    assert [seqs_in(message) for message in sending.sent] == [[11], [12, 13, 14, 15]]


def test_write_of_many_blocks_is_one_entry_with_a_row_a_block() -> None:
    sending = Sending()
    pieces = [bytes([1]) * BLOCK_BYTES, bytes([2]) * 2 * BLOCK_BYTES]
    sending.order.write(8, 3, pieces, False, None)
    sending.order.kick()
    assert rows_in(sending.sent[0]) == [
        (8, 0, 11, 3, block_checksum(bytes([1]) * BLOCK_BYTES, SALT, 8)),
        (9, 0, 11, 3, block_checksum(bytes([2]) * BLOCK_BYTES, SALT, 9)),
        (10, 0, 11, 3, block_checksum(bytes([2]) * BLOCK_BYTES, SALT, 10)),
    ]
    (run,) = decode_append(sending.sent[0]).entries
    assert isinstance(run, RunView)
    assert bytes(run.data) == b"".join(pieces)


def test_a_copy_of_another_volume_is_a_batch_of_its_own_that_says_where_its_data_are() -> None:
    sending = Sending()
    sending.write(1, "a")
    sending.write(2, "b")
    origin = volume_pb2.DataOrigin(volume_uuid="another", block=7)
    encoded = origin.SerializeToString()
    sending.order.write_copy(40, 2, [DATA * 2], False, sending.listen("c"), encoded)
    sending.order.write_copy(50, 9, [DATA * 9], True, sending.listen("d"), encoded)
    sending.write(3, "e")
    sending.order.advance(14, 0)
    assert [seqs_in(message) for message in sending.sent] == [
        [11], [12], [13, 13], [14] * 9, [15]
    ]  # fmt: skip
    entries = [entry for message in sending.sent for entry in decode_append(message).entries]
    said = [entry.origin for entry in entries if isinstance(entry, RunView)]
    assert said == [None, None, origin, origin, None]
    assert [decode_append(message).flush for message in sending.sent][2:] == [False, True, False]


def test_long_discard_is_several_entries_and_one_answer() -> None:
    sending = Sending()
    sending.order.unmap(7, (1 << 20) + 5, False, sending.listen("unmap"))
    sending.order.kick()
    assert rows_in(sending.sent[0]) == [
        (7, UNMAP | 1 << 20, 11, 3, 0),
        (7 + (1 << 20), UNMAP | 5, 12, 3, 0),
    ]
    sending.order.advance(11, 0)
    assert sending.names() == []
    sending.order.advance(12, 0)
    assert sending.names() == ["unmap"]


def test_listeners_hear_in_the_order_of_their_seqs() -> None:
    sending = Sending()
    for block in range(6):
        sending.write(block, str(block))
    sending.order.advance(13, 0)
    assert sending.names() == ["0", "1", "2"]
    sending.order.advance(12, 0)
    assert sending.order.completed_seq == 13
    sending.order.advance(15, 0)
    sending.order.advance(16, 0)
    assert sending.names() == ["0", "1", "2", "3", "4", "5"]
    assert sending.order.idle


def test_durable_write_waits_for_stable_storage_and_asks_for_it() -> None:
    sending = Sending()
    sending.write(1, "durable", durable=True)
    sending.write(2, "plain")
    assert decode_append(sending.sent[0]).flush
    sending.order.advance(11, 0)
    assert sending.names() == []
    sending.order.advance(12, 11)
    assert sending.names() == ["plain", "durable"]


def test_flush_covers_everything_ordered_before_it_and_nothing_after() -> None:
    sending = Sending()
    sending.write(1)
    sending.write(2)
    sending.order.flush(sending.listen("flush"))
    sending.write(3)
    sending.order.advance(11, 11)
    assert decode_append(sending.sent[1]).flush
    sending.order.advance(13, 11)
    assert ("flush", None) not in sending.heard
    sending.order.advance(13, 12)
    assert ("flush", None) in sending.heard


def test_durable_listeners_hear_in_order_although_flushes_wait_from_the_start() -> None:
    sending = Sending()
    sending.write(1, "first", durable=True)
    sending.write(2)
    sending.order.flush(sending.listen("flush"))
    sending.write(3, "last", durable=True)
    sending.order.advance(11, 0)
    sending.order.advance(13, 0)
    sending.order.advance(13, 13)
    assert sending.names() == ["", "first", "flush", "last"]


def test_blocking_seq_is_exact_to_the_block() -> None:
    sending = Sending()
    sending.write(4, count=3)
    sending.write(5)
    sending.order.unmap(20, 10, False, None)
    expected = {3: 0, 4: 11, 5: 12, 6: 11, 7: 0, 19: 0, 20: 13, 29: 13, 30: 0}
    assert {block: sending.order.blocking_seq(block, 1) for block in expected} == expected
    assert sending.order.blocking_seq(0, 4) == 0
    assert sending.order.blocking_seq(0, 5) == 11
    assert sending.order.blocking_seq(6, 14) == 11
    assert sending.order.blocking_seq(0, 100) == 13


def test_nothing_blocks_once_it_is_completed_and_a_later_write_still_does() -> None:
    sending = Sending()
    sending.write(4, count=3)
    sending.write(5)
    sending.order.unmap(4, 2, False, None)
    sending.order.advance(11, 0)
    assert [sending.order.blocking_seq(block, 1) for block in (4, 5, 6)] == [13, 13, 0]
    sending.order.advance(12, 0)
    assert [sending.order.blocking_seq(block, 1) for block in (4, 5, 6)] == [13, 13, 0]
    sending.order.advance(13, 0)
    assert sending.order.blocking_seq(0, 100) == 0


def test_expired_listener_hears_busy_once_and_its_entry_stays_in_flight() -> None:
    sending = Sending()
    sending.write(1, "old")
    sending.order.flush(sending.listen("old flush"))
    sending.order.when_completed(11, sending.listen("old read"))
    sending.clock.now_s = 5.0
    sending.write(2, "young")
    assert sending.order.expire(3.0) == 3
    assert sending.heard == [
        ("old", Failure.BUSY),
        ("old flush", Failure.BUSY),
        ("old read", Failure.BUSY),
    ]
    assert sending.order.expire(3.0) == 0
    assert sending.order.blocking_seq(1, 1) == 11
    sending.order.advance(11, 11)
    sending.order.advance(12, 12)
    assert sending.heard[3:] == [("young", None)]


def test_listener_that_writes_again_when_it_expires_does_no_harm() -> None:
    sending = Sending()
    for block in range(3):
        sending.order.write(block, 1, [DATA], False, lambda _: sending.write(9, "again"))
    sending.clock.now_s = 5.0
    assert sending.order.expire(3.0) == 3
    assert sending.order.last_seq == 16


def test_waiting_reads_go_on_when_their_seq_is_completed() -> None:
    sending = Sending()
    sending.write(1)
    sending.order.when_completed(12, sending.listen("later"))
    sending.order.when_completed(11, sending.listen("sooner"))
    sending.write(2)
    sending.order.advance(11, 0)
    assert sending.names()[1:] == ["sooner"]
    sending.order.advance(12, 0)
    assert "later" in sending.names()


def test_acknowledgement_of_what_was_never_sent_completes_nothing_to_come() -> None:
    sending = Sending()
    sending.write(1, "sent")
    sending.write(2, "gathered")
    sending.order.advance(1 << 60, 1 << 60)
    assert sending.names() == ["sent"]
    assert sending.order.completed_seq == 11


@pytest.fixture
def backlog() -> Backlog:
    """Three messages: entries 11 to 12, 13, and 14 to 16."""
    backlog = Backlog(bytes_max=100)
    for first_seq, last_seq in ((11, 12), (13, 13), (14, 16)):
        backlog.append(Sent(first_seq, last_seq, bytes(30), float(first_seq)), 0)
    return backlog


def test_backlog_gives_exactly_what_follows_a_seq(backlog: Backlog) -> None:
    def firsts(seq: int) -> list[int] | None:
        found = backlog.after(seq)
        return None if found is None else [sent.first_seq for sent in found]

    assert firsts(10) == [11, 13, 14]
    assert firsts(12) == [13, 14]
    assert firsts(13) == [14]
    assert firsts(16) == []


@pytest.mark.parametrize("seq", [0, 9, 11, 14, 15, 17])
def test_backlog_gives_nothing_where_entries_would_be_missing_or_come_twice(
    backlog: Backlog, seq: int
) -> None:
    assert backlog.after(seq) is None


def test_backlog_keeps_so_many_bytes_of_what_a_quorum_holds() -> None:
    backlog = Backlog(bytes_max=100)
    for seq in range(1, 8):
        backlog.append(Sent(seq, seq, bytes(30), 0.0), seq - 1)
    assert backlog.first_seq == 4
    assert backlog.after(2) is None
    backlog.append(Sent(8, 8, bytes(1000), 0.0), 7)
    assert backlog.first_seq == 5
    backlog.append(Sent(9, 9, bytes(30), 0.0), 8)
    assert backlog.first_seq == 9
    assert backlog.after(9) == []


def test_backlog_keeps_what_no_quorum_holds_whatever_its_size() -> None:
    backlog = Backlog(bytes_max=100)
    for seq in range(1, 8):
        backlog.append(Sent(seq, seq, bytes(60), 0.0), completed_seq=2)
    assert backlog.first_seq == 2
    missed = backlog.after(2)
    assert missed is not None
    assert [sent.first_seq for sent in missed] == [3, 4, 5, 6, 7]
    backlog.append(Sent(8, 8, bytes(60), 0.0), completed_seq=7)
    assert backlog.first_seq == 7


def test_backlog_keeps_a_part_of_what_everybody_has_taken() -> None:
    backlog = Backlog(bytes_max=200)
    for seq in range(1, 6):
        backlog.append(Sent(seq, seq, bytes(20), 0.0), seq - 1)
    backlog.taken(2)
    assert backlog.first_seq == 3
    backlog.taken(5)
    assert backlog.first_seq == 4, "of what no quorum holds nothing is dropped, nor counted"
    backlog.append(Sent(6, 6, bytes(20), 0.0), 5)
    assert backlog.first_seq == 4
    backlog.taken(6)
    assert backlog.first_seq == 5
    missed = backlog.after(4)
    assert missed is not None
    assert [sent.first_seq for sent in missed] == [5, 6]


def test_backlog_says_since_when_an_entry_waits(backlog: Backlog) -> None:
    assert backlog.sent_s(10) == 11.0
    assert backlog.sent_s(11) == 11.0
    assert backlog.sent_s(13) == 14.0
    assert backlog.sent_s(16) is None


def test_cleared_backlog_is_empty(backlog: Backlog) -> None:
    backlog.clear()
    assert backlog.first_seq == 0
    assert backlog.sent_s(0) is None
