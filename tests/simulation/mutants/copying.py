"""Mistakes in copies within a volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Done
from cstor_target.volume.order import Order
from cstor_target.volume.roster import Roster
from replica.store import block_copies, recovery, writer
from replica.store.bits import Units
from replica.store.family import Space
from replica.store.parts import Parts
from replica.store.replay import copied_from
from replica.store.writer import Writer
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


@_found.breaks("A unit that blocks share is free when none of them needs it any more.")
def forget_who_shares_a_unit() -> None:
    """Whoever wrote it frees it."""
    share = Space.share

    def careless(self: Space, replica: str, units: Units, shares_max: int) -> Units:
        shares = share(self, replica, units, shares_max)
        for number in range(1, shares_max):
            self._held.get((replica, number), units_of_nobody).remove(units[shares == number])
        return shares

    units_of_nobody: Any = type("Nobody", (), {"remove": lambda *_: None})()
    Space.share = careless  # type: ignore[method-assign]


@_found.breaks("A copied block has the checksum that its data have at its place.")
def keep_the_checksum_of_the_source() -> None:
    """It has the one that they had at the other one."""

    def careless(checksums: Any, *_: Any) -> Any:
        return checksums

    block_copies.moved_checksums = careless  # type: ignore[assignment,attr-defined]


@_found.breaks("A read of what a copy changes waits for the copy.")
def read_past_a_copy() -> None:
    """It is asked at once, and the read cache keeps what was there."""

    def careless(
        self: Order,
        message_of: Callable[[int, int], bytes],
        first: int,
        count: int,
        durable: bool,
        done: Done,
    ) -> None:
        self._place_alone(message_of, 0, 0, durable, done)

    Order.copy = careless  # type: ignore[method-assign]


@_found.breaks("What was copied is there after a restart.")
def forget_copies_at_a_restart() -> None:
    """The journal is read without what came of them."""

    def careless(payload: bytes) -> tuple[volume_pb2.Operation, bytearray]:
        return copied_from(payload)[0], bytearray()

    recovery.copied_from = careless  # type: ignore[attr-defined]


@_found.breaks("A replica that is being rebuilt applies no entry that makes blocks of others.")
def copy_while_being_rebuilt() -> None:
    """It copies what it has."""
    append = Writer.append_operation

    def careless(self: Writer, operation: volume_pb2.Operation) -> None:
        if operation.HasField("copy_blocks") and self._parts.standing.rebuilding:
            self._check_next(operation.seq)
            self._stream_moves_to(operation.seq)
            self._append_copy(operation)
        else:
            append(self, operation)

    Writer.append_operation = careless  # type: ignore[method-assign]
    Roster.is_bringing_back = False  # type: ignore[assignment, method-assign]


@_found.breaks("Of a unit that too many blocks share the data are copied.")
def copy_no_data() -> None:
    """The new place gets zeros."""

    def careless(_parts: Parts, places: Units) -> list[bytes]:
        return [bytes(BLOCK_BYTES)] * len(places)

    writer.data_at = careless  # type: ignore[attr-defined,assignment]


@_found.breaks("Blocks that were not written are copied as such.")
def leave_what_the_source_lacks() -> None:
    """The destination keeps what it held."""
    copied_rows = block_copies.copied_rows

    def careless(parts: Parts, operation: volume_pb2.Operation) -> Any:
        rows = copied_rows(parts, operation)
        written = rows[rows["checksum"] != 0]
        return written if len(written) else rows

    writer.copied_rows = careless  # type: ignore[attr-defined]
