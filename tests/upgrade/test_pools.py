"""Today's pools in the hands of an earlier release: it opens them, or says why it does not.

The other direction, pools of earlier releases in today's hands, is held by tests/stored_pools.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cstor_core.generated.cstor.v1 import volume_pb2
from replica.store.pool import Pool
from replica.store.replica_store import ReplicaStore
from tests.stored_pools.__main__ import MAKERS, _operate, _save, _volume, _write, open_pool
from tests.unit.store.volumes import FOUNDING, VOLUME

BLOCKS = 40
TODAY = Path(sys.executable).parent


async def written(pool: Pool) -> ReplicaStore:
    """A volume with some data, and nothing that came later."""
    store = await _volume(pool)
    _write(store, 0, BLOCKS, 1000)
    return store


def with_operation(**what: object) -> Callable[[Pool], Awaitable[None]]:
    """The same behind an ordered operation."""

    async def make(pool: Pool) -> None:
        _operate(await written(pool), **what)

    return make


async def with_another_member(pool: Pool) -> None:
    """The same behind a change of its members."""
    store = await written(pool)
    configuration = volume_pb2.Configuration()
    configuration.CopyFrom(FOUNDING)
    configuration.number += 1
    configuration.members[-1].out_of_date = True
    change = volume_pb2.ConfigurationChange(seq=store.applied_seq + 1, configuration=configuration)
    store.append_configuration(change)


LATER = {
    "snapshots": MAKERS["family"],
    "a property": with_operation(set_property=volume_pb2.PropertySetting(write_cache=False)),
    "reservations": with_operation(set_reservations=volume_pb2.Reservations(generation=1)),
    "a deletion": with_operation(delete_volume=volume_pb2.VolumeDeletion()),
    "another member": with_another_member,
}


def looked_at(commands: Path, pool: Path) -> tuple[int, dict[str, Any]]:
    """What a release finds when it reads and verifies all of a pool."""
    command = [str(commands / "cstor-replica"), "check", str(pool), "--output=json"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return said.returncode, json.loads(said.stdout)


async def test_earlier_release_reads_a_pool_in_which_nothing_later_was_used(
    earlier: Path, tmp_path: Path
) -> None:
    """As a kill leaves it, with entries in the journal, and as a clean stop does."""
    pool = await open_pool(tmp_path / "pool")
    store = await written(pool)
    await store.checkpoint()
    _write(store, 10, BLOCKS, 2000)
    _save(tmp_path / "pool", tmp_path / "killed")
    await pool.close()
    for name in ("killed", "pool"):
        found, ours = looked_at(earlier, tmp_path / name), looked_at(TODAY, tmp_path / name)
        assert (found[0], ours[0]) == (0, 0)
        (theirs,), (expected,) = found[1]["replicas"], ours[1]["replicas"]
        assert (theirs["seq"], theirs["verified_blocks"]) == (store.applied_seq, 10 + BLOCKS)
        for fact in ("history", "snapshots", "used_bytes", "bad_blocks", "short", "rebuilding"):
            assert theirs[fact] == expected[fact]


@pytest.mark.parametrize("what", LATER)
async def test_earlier_release_refuses_a_pool_of_which_it_would_lose_something(
    earlier: Path, tmp_path: Path, what: str
) -> None:
    pool = await open_pool(tmp_path / "pool")
    await LATER[what](pool)
    await pool.close()
    code, found = looked_at(earlier, tmp_path / "pool")
    assert code == 1
    said = json.dumps(found)
    assert f"{VOLUME}/map is of format 2 and this release reads format 1" in said
    pool = await open_pool(tmp_path / "pool")
    assert not pool.failed
    await pool.close()
