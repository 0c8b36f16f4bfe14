"""`cstor-replica check` and `show` on a real pool directory."""

from __future__ import annotations

import json
import subprocess
import uuid
from itertools import repeat
from pathlib import Path

from cstor_core.files import OsFilesystem
from replica.daemon import boot_id
from replica.store.pool import Pool
from tests.scenario.replica.test_daemon import COMMAND
from tests.unit.store.volumes import FOUNDING, IDENTITY, SMALL, block_of, epoch_record, writes


async def make_pool(path: Path) -> Pool:
    filesystem = OsFilesystem(threads=1)
    names = (str(uuid.UUID(int=number)) for number in repeat(7))
    pool = await Pool.open(
        filesystem, path, lambda: next(names), boot_id(), SMALL, path.with_name("marks")
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


def test_a_directory_that_is_no_pool_is_not_touched(tmp_path: Path) -> None:
    code, _, said = run("check", str(tmp_path))
    assert (code, "not a cStor pool" in said) == (2, True)
    assert not list(tmp_path.iterdir())
