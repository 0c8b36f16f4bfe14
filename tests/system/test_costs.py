"""What a write and a read cost in system calls, messages, wake-ups and bytes (docs/performance.md).

`COSTS` is what they cost today and how far from that a run may be.  A change that adds one of these
per operation or per message fails here and is told what grew; one that saves some fails as well, so
that the table stays true: it is then that the table is changed, and the one in the docs.

What is added to each message shows at depth 1, where every operation is a message; what is added to
each operation of a message shows at depth 32.  The bounds at depth 32 are wide since the number of
operations in a message depends on how processes take turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.conftest import volume_that_is_up
from tests.system.costs import FIGURES, MESSAGES, REPLICAS, ROLES, TARGET, CostMeter, Costs
from tests.system.qemu import Bench, bench
from tests.system.system_calls import (
    BYTES,
    FILE_READS,
    FILE_WRITES,
    OTHER,
    POLLS,
    RECEIVES,
    SENDS,
    WAKE_UPS,
    Calls,
    traced,
)
from tests.system.tools import HarnessError

BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Cost:
    """A figure of one operation today, and how far below and above it may be seen."""

    today: float
    less: float
    more: float

    def complaint(self, seen: float) -> str | None:
        """What has changed, or None where nothing has."""
        if self.today - self.less <= seen <= self.today + self.more:
            return None
        if seen > self.today:
            return f"grown from {self.today:g} to {seen:.3f} (at most {self.today + self.more:.3g})"
        return (
            f"shrunk from {self.today:g} to {seen:.3f} (at least {self.today - self.less:.3g}): "
            "if that is meant, tighten COSTS"
        )


def exactly(today: float) -> Cost:
    """What the code alone decides: a quarter of a call is more than logins and timers add."""
    return Cost(today, 0.25, 0.25)


def joined(today: float, least: float) -> Cost:
    """What is never more, and less where a replica that is behind takes several at once."""
    return Cost(today, today - least, 0.25)


def batched(today: float) -> Cost:
    """What depends on how many operations are in a message: seen a third higher and lower."""
    return Cost(today, today * 0.6, today)


def size(today: float) -> Cost:
    """Bytes, as a multiple of the initiator's: 200 bytes of 4096 more or less."""
    return Cost(today, 0.05, 0.05)


NONE = exactly(0)
READ_BY_ANOTHER = 0.1
"""So many reads may be asked of a second replica, as the first was slow: one in a hundred was."""


@dataclass(frozen=True, slots=True)
class Load:
    """Commands of one block at a depth, one block behind the other."""

    kind: str
    depth: int

    def bench(self) -> Bench:
        """For `qemu-img bench`."""
        count = OPERATIONS[self.depth]
        return Bench(self.kind == WRITE, BLOCK_BYTES, self.depth, count, step_bytes=BLOCK_BYTES)


WRITE, READ, CACHED = "write", "read", "cached read"
OPERATIONS = {1: 2000, 32: 4000}
COSTS: Mapping[Load, Mapping[str, Mapping[str, Cost]]] = {
    Load(WRITE, 1): {
        TARGET: {
            WAKE_UPS: Cost(3, 1.1, 1.1),  # a command and three answers, two of them at once or not
            RECEIVES: joined(4, least=2.8),
            SENDS: exactly(4),
            MESSAGES: exactly(3),
            BYTES: size(4.09),
        },
        REPLICAS: {
            WAKE_UPS: joined(3, least=1.9),
            RECEIVES: joined(3, least=1.9),
            SENDS: joined(3, least=1.9),
            FILE_WRITES: exactly(6),
            MESSAGES: joined(3, least=1.9),
            BYTES: size(6.18),
        },
    },
    Load(WRITE, 32): {
        TARGET: {
            WAKE_UPS: Cost(0.13, 0.08, 0.2),  # as above: up to one for each receive
            RECEIVES: batched(0.18),
            SENDS: batched(0.16),
            MESSAGES: batched(0.12),
            BYTES: size(4.05),
        },
        REPLICAS: {
            WAKE_UPS: batched(0.11),
            RECEIVES: batched(0.11),
            SENDS: batched(0.11),
            FILE_WRITES: batched(0.23),
            MESSAGES: batched(0.11),
            BYTES: size(6.07),
        },
    },
    Load(READ, 1): {
        TARGET: {
            WAKE_UPS: exactly(2),
            RECEIVES: exactly(2),
            SENDS: exactly(2),
            MESSAGES: exactly(1),
            BYTES: Cost(2.06, 0.05, READ_BY_ANOTHER),
        },
        REPLICAS: {
            WAKE_UPS: exactly(1),
            RECEIVES: exactly(1),
            SENDS: exactly(1),
            FILE_READS: exactly(1),
            MESSAGES: exactly(1),
            BYTES: Cost(2.04, 0.05, 2 * READ_BY_ANOTHER),
        },
    },
    Load(READ, 32): {
        TARGET: {
            WAKE_UPS: batched(0.1),
            RECEIVES: batched(0.11),
            SENDS: batched(0.11),
            MESSAGES: batched(0.06),
            BYTES: Cost(2.05, 0.05, READ_BY_ANOTHER),
        },
        REPLICAS: {
            WAKE_UPS: batched(0.06),
            RECEIVES: batched(0.06),
            SENDS: batched(0.06),
            FILE_READS: exactly(1),
            MESSAGES: batched(0.06),
            BYTES: Cost(2.03, 0.05, 2 * READ_BY_ANOTHER),
        },
    },
    Load(CACHED, 1): {
        TARGET: {
            WAKE_UPS: exactly(1),
            RECEIVES: exactly(1),
            SENDS: exactly(1),
            BYTES: size(1.02),
        },
        REPLICAS: {},
    },
    Load(CACHED, 32): {
        TARGET: {
            WAKE_UPS: batched(0.05),
            RECEIVES: batched(0.05),
            SENDS: batched(0.05),
            BYTES: size(1.02),
        },
        REPLICAS: {},
    },
}
"""By load, role (replicas are counted together) and figure; NONE where a figure is not there."""


def complaints(load: Load, role: str, costs: Costs) -> list[str]:
    """A sentence for each figure that is not what the table says."""
    what = f"{load.kind} at depth {load.depth}"
    said = []
    for figure in FIGURES:
        complaint = COSTS[load][role].get(figure, NONE).complaint(costs.figures[role, figure])
        if complaint is not None:
            said.append(f"{figure} of the {role} for a {what} have {complaint}")
    return said


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Load, Costs]:
    """All loads: those of the cache on a volume with one, which has them, the others on another."""
    found = {}
    for has_cache in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CSTOR_TARGET_READ_CACHE", "64MiB" if has_cache else "0")
            with volume_that_is_up() as cluster:
                meter = CostMeter(cluster, tmp_path_factory.mktemp("traces"))
                for load in COSTS:
                    if (load.kind == CACHED) == has_cache:
                        if has_cache:
                            bench(cluster.url, Load(WRITE, 32).bench())
                            bench(cluster.url, Load(READ, 32).bench())
                        found[load] = meter.measure(load.bench())
    return found


@pytest.mark.system
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("load", COSTS, ids=lambda load: f"{load.kind}-{load.depth}")
def test_an_operation_costs_what_the_table_says(
    measured: Mapping[Load, Costs], load: Load, role: str
) -> None:
    costs = measured[load]
    print({figure: round(costs.figures[role, figure], 3) for figure in FIGURES})
    said = complaints(load, role, costs)
    if said:
        pytest.fail("\n".join((*said, f"calls: {costs.calls_of(role)}")), pytrace=False)


def test_what_has_grown_and_what_has_shrunk_is_told() -> None:
    assert exactly(6).complaint(6.2) is None
    assert exactly(6).complaint(7) == "grown from 6 to 7.000 (at most 6.25)"
    assert exactly(6).complaint(3) == (
        "shrunk from 6 to 3.000 (at least 5.75): if that is meant, tighten COSTS"
    )
    assert joined(3, least=1.9).complaint(2) is None
    assert NONE.complaint(1) == "grown from 0 to 1.000 (at most 0.25)"


def test_a_line_of_a_trace_counts_as_what_it_did() -> None:
    calls = Calls()
    for line in (
        "restart_syscall(<... resuming interrupted epoll_pwait ...>) = 0",
        "epoll_pwait(0x4, 0x7ffe99ffa610, 0x400, 0x94, 0, 0x8) = 0x2",
        "epoll_pwait(0x4, 0x7ffe99ffa610, 0x400, 0, 0, 0x8) = 0",
        "epoll_pwait(0x4, 0x7ffe99ffa610, 0x400, 0x94, 0, 0x8) = 0",
        "read(0x1c, 0x561d38028cf0, 0x11730)     = 0x1030",
        "writev(0x1c, 0x561d354574f0, 0x17)      = 0x450",
        "write(0x1c, 0x561d354574f0, 0x17)       = -1 EAGAIN (Resource temporarily unavailable)",
        "pwrite64(0x1b, 0x7fa2e01e6154, 0x9000, 0x5417000) = 0x9000",
        "preadv2(0x1b, 0x7fa2e01e6154, 0x1, 0x5417000, 0, 0x8) = 0x1000",
        "getpid()                                = 0x30ef",
        "fstat(0x1b, 0x7fa2e01e6154)             = 0",
        "epoll_pwait(0x4, 0x7ffe99ffa610, 0x400, 0x94, 0, 0x8 <detached ...>",
    ):
        calls.add(line)
    assert calls.by_kind == {
        WAKE_UPS: 1,
        POLLS: 1,
        RECEIVES: 1,
        SENDS: 2,
        FILE_READS: 1,
        FILE_WRITES: 1,
        OTHER: 2,
        BYTES: 0x1030 + 0x450 + 0x9000 + 0x1000,
    }
    assert calls.by_name["fstat"] == 1


@pytest.mark.system
def test_what_cannot_be_traced_is_an_error(tmp_path: Path) -> None:
    ended = 2**22 + 1
    with pytest.raises(HarnessError, match="strace"), traced([ended], tmp_path):
        pass
