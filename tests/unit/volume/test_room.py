"""Room in the pools: when a write may have its place, and when people are told."""

from __future__ import annotations

import pytest

from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.order import Order
from cstor_target.volume.room import Room
from tests.unit.volume.hand_clock import HandClock
from tests.unit.volume.standins import SALT, HeldLink, in_sync_member

BLOCK = bytes(BLOCK_BYTES)
TIGHT = 100_000


class Pools:
    """Three members in sync, two of which are needed, and what is heard of their room."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.order = Order(HandClock(), self.sent.append, 1 << 20, 1 << 20)
        self.order.start(1, 10, SALT)
        self.heard: list[str] = []
        self.facts: list[dict[str, object]] = []
        self.room = Room(self.order, self._hear, TIGHT)
        self.members = [in_sync_member(HeldLink(), name) for name in "abc"]
        for member in self.members:
            member.applied_seq = 10

    def _hear(self, name: str, facts: dict[str, object]) -> None:
        self.heard.append(name)
        self.facts.append(facts)

    def grant(self, *granted: int) -> None:
        for member, granted_bytes in zip(self.members, granted, strict=True):
            member.granted_bytes = granted_bytes
        self.room.look(self.members, 2)


@pytest.fixture
def pools() -> Pools:
    return Pools()


def test_nothing_is_weighed_while_a_quorum_grants_plenty(pools: Pools) -> None:
    pools.grant(TIGHT, TIGHT, 0)
    assert not pools.room.is_tight
    assert pools.room.has(1 << 40)
    pools.grant(TIGHT, TIGHT - 1, 0)
    assert pools.room.is_tight
    assert not pools.room.has(1 << 40)


def test_write_needs_room_at_a_quorum(pools: Pools) -> None:
    pools.grant(50_000, 8192, 0)
    assert pools.room.has(8192)
    assert not pools.room.has(8193)
    pools.grant(0, 50_000, 0)
    assert not pools.room.has(1)


def test_what_is_on_its_way_to_a_member_counts_whether_it_was_sent_or_not(pools: Pools) -> None:
    pools.grant(50_000, 20_000, 0)
    pools.order.write(0, 1, [BLOCK], False, None)
    pools.order.kick()
    sent = pools.order.bytes_behind(10)
    assert sent > BLOCK_BYTES
    pools.order.write(1, 1, [BLOCK], False, None)  # waits for the first one
    assert pools.order.bytes_behind(10) > sent + BLOCK_BYTES
    left = 20_000 - pools.order.bytes_behind(10)
    assert pools.room.has(left)
    assert not pools.room.has(left + 1)
    pools.members[0].applied_seq = pools.members[1].applied_seq = 11
    assert pools.room.has(left + sent)
    assert not pools.room.has(left + sent + 1)


def test_fullness_and_its_end_are_said_once(pools: Pools) -> None:
    pools.grant(0, 4095, 0)
    assert [pools.room.has(BLOCK_BYTES) for _ in range(3)] == [False] * 3
    assert pools.room.is_full
    assert pools.heard == ["volume_full"]
    pools.grant(0, 0, 4095)
    assert pools.room.is_full
    pools.grant(0, 4096, 4096)
    assert not pools.room.is_full
    assert pools.heard == ["volume_full", "volume_has_space"]
    assert pools.room.has(BLOCK_BYTES)


def test_filling_pools_are_said_once_a_step(pools: Pools) -> None:
    member = pools.members[0]

    def told(used: float) -> list[str]:
        answer = replica_pb2.LeaseResponse(
            pool_bytes=1000, pool_available_bytes=round(1000 * (1 - used))
        )
        pools.heard.clear()
        pools.room.told(member, answer)
        return list(pools.heard)

    assert [told(used) for used in (0.5, 0.79, 0.8, 0.85)] == [[], [], ["pool_filling"], []]
    assert [told(used) for used in (0.9, 0.95)] == [["pool_nearly_full"], []]
    assert [told(used) for used in (0.85, 0.91)] == [[], []]
    assert [told(used) for used in (0.79, 0.7)] == [[], []]
    assert told(0.8) == ["pool_filling"]
    assert pools.facts[-1] == member.facts(used_percent=80)
    assert member.pool_used == pytest.approx(0.8)


def test_member_that_grants_little_of_late_is_asked_where_it_stands(pools: Pools) -> None:
    pools.grant(TIGHT, TIGHT, TIGHT)
    pools.room.told(pools.members[0], replica_pb2.LeaseResponse(granted_bytes=TIGHT))
    assert pools.sent == []
    pools.room.told(pools.members[0], replica_pb2.LeaseResponse(granted_bytes=TIGHT - 1))
    assert len(pools.sent) == 1
    assert not pools.room.is_tight


def test_member_says_what_it_uses(pools: Pools) -> None:
    member = pools.members[0]
    pools.room.told(member, replica_pb2.LeaseResponse(used_bytes=12288, logical_bytes=8192))
    said = member.describe(0.0)
    assert (said.used_bytes, said.logical_bytes) == (12288, 8192)


def test_member_that_says_nothing_of_its_pool_warns_of_nothing(pools: Pools) -> None:
    pools.room.told(pools.members[0], replica_pb2.LeaseResponse())
    assert pools.heard == []
