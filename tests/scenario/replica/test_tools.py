"""`cstor-replica check` and `show` on a real pool directory."""

from __future__ import annotations

import json
import subprocess
import uuid
from dataclasses import replace
from itertools import count
from pathlib import Path

from cstor_core.files import OsFilesystem
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from replica.daemon import boot_id
from replica.store.limits import StoreLimits
from replica.store.pool import Pool
from tests.scenario.replica.test_daemon import COMMAND
from tests.unit.store.volumes import (
    FOUNDING,
    IDENTITY,
    SMALL,
    VOLUME,
    block_of,
    epoch_record,
    stage_on,
    writes,
)


async def make_pool(path: Path, limits: StoreLimits = SMALL) -> Pool:
    filesystem = OsFilesystem(threads=1)
    names = (str(uuid.UUID(int=number)) for number in count(7))
    pool = await Pool.open(
        filesystem, path, lambda: next(names), boot_id(), limits, path.with_name("marks")
    )
    store = await pool.create(IDENTITY)
    await store.found(FOUNDING)
    store.append_epoch_record(epoch_record(1, 1))
    store.append(writes(2, 1, *((block, block_of(block)) for block in range(150))))
    return pool


def run(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


async def test_a_stopped_pool_is_checked_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    pool = await make_pool(path)
    code, _, said = run("check", str(path))
    assert (code, "in use" in said) == (2, True)
    await pool.close()
    code, said, _ = run("check", str(path))
    assert (code, "600KiB of data verified: ok" in said) == (0, True)
    code, said, _ = run("show", str(path), "--output", "json")
    (replica,) = json.loads(said)["replicas"]
    assert code == 0
    assert (replica["volume"], replica["epoch"], replica["seq"]) == ("vol", 1, 151)
    assert replica["configuration"]["members"][0]["address"] == "h:1"
    code, said, _ = run("show", str(path))
    assert (code, "position       1:151" in said) == (0, True)
    data = path / "volumes" / IDENTITY.volume_uuid / "data"
    content = bytearray(data.read_bytes())
    content[content.index(block_of(77)) + 5] ^= 1
    data.write_bytes(content)
    code, said, _ = run("check", str(path), "--output", "json")
    document = json.loads(said)
    assert (code, document["damaged"]) == (1, True)
    assert document["replicas"][0]["bad_blocks"] == [77]


async def test_what_is_kept_of_a_step_is_checked_shown_and_put_in_order(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    pool = await make_pool(path, replace(SMALL, kept_rows=16))
    identity = volume_pb2.VolumeIdentity()
    identity.CopyFrom(IDENTITY)
    identity.volume_uuid, identity.name = f"{VOLUME[:-1]}2", "learner"
    learner = await pool.create(identity)
    await stage_on(pool.replicas[VOLUME], learner, 100)
    await pool.close()
    code, said, _ = run("check", str(path))
    assert (code, f"{(150 + 96) * 4}KiB of data verified: ok" in said) == (0, True)
    code, said, _ = run("show", str(path))
    assert (
        "one broke off: 384KiB are kept, of the blocks below 96, as a peer had them at 1:151"
        in (said)
    )
    staged = path / "volumes" / identity.volume_uuid / "staged"
    content = bytearray(staged.read_bytes())
    content[700] ^= 1
    staged.write_bytes(content)
    code, said, _ = run("check", str(path), "--output", "json")
    (finding,) = json.loads(said)["findings"]
    assert (code, finding["severity"], finding["repairable"]) == (1, "damage", True)
    code, said, _ = run("check", str(path), "--repair")
    assert (code, f"repaired  {staged} was cut off behind byte 609" in said) == (0, True)
    code, said, _ = run("show", str(path), "--output", "json")
    steps = [replica["step"] for replica in json.loads(said)["replicas"]]
    assert [step and step["held_bytes"] for step in steps] == [None, 16 * BLOCK_BYTES]


def test_a_directory_that_is_no_pool_is_not_touched(tmp_path: Path) -> None:
    code, _, said = run("check", str(tmp_path))
    assert (code, "not a cStor pool" in said) == (2, True)
    assert not list(tmp_path.iterdir())
