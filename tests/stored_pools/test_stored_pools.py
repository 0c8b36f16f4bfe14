"""Every pool that a release has written is opened, and holds what it held."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cstor_core.files import OsFilesystem
from replica.store.look import look_at_pool
from tests.archives import unpack
from tests.stored_pools.__main__ import BOOT, HERE, MAKERS, PEER, open_pool
from tests.stored_pools.contents import document_of
from tests.unit.store.volumes import VOLUME, block_of, run_of, stage_on

ARCHIVES = sorted(HERE.glob("*.tar.gz"))


KINDS = {
    "format-1": {"family", "rebuilding", "staged"},
    "format-1-step": {"broken-off"},
    "format-3": {"copied"},
}


def test_pools_of_each_format_are_there() -> None:
    assert {path.name for path in ARCHIVES} == {f"{name}.tar.gz" for name in KINDS}
    assert set.union(*KINDS.values()) == MAKERS.keys()
    for name, kinds in KINDS.items():
        documents = json.loads((HERE / f"{name}.json").read_text())
        assert documents.keys() == {*kinds, *(f"{kind}-stopped" for kind in kinds)}


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
async def test_a_stored_pool_opens_and_holds_what_it_held(archive: Path, tmp_path: Path) -> None:
    documents = json.loads(archive.with_name(archive.name.replace(".tar.gz", ".json")).read_text())
    with tarfile.open(archive) as tar:
        unpack(tar, tmp_path)
    for name, document in documents.items():
        path = tmp_path / name
        look = look_at_pool(OsFilesystem(1), path, BOOT, is_verifying=True)
        assert not look.is_damaged, list(look.all_findings())
        for _ in range(2):
            pool = await open_pool(path)
            assert not pool.failed
            assert await document_of(pool) == document
            await pool.close()
        await _goes_on(path, document)


@pytest.mark.parametrize("name", ["broken-off", "broken-off-stopped"])
async def test_a_stored_step_is_gone_on_with(name: str, tmp_path: Path) -> None:
    with tarfile.open(HERE / "format-1-step.tar.gz") as tar:
        unpack(tar, tmp_path)
    pool = await open_pool(tmp_path / name)
    assert await stage_on(pool.replicas[PEER], pool.replicas[VOLUME])
    volumes = (await document_of(pool))["volumes"]
    for key in ("history", "blocks", "snapshots", "applied_seq"):
        assert volumes[VOLUME][key] == volumes[PEER][key]
    assert "step" not in volumes[VOLUME]
    await pool.close()


async def _goes_on(path: Path, document: dict[str, Any]) -> None:
    pool = await open_pool(path)
    for uuid, store in pool.replicas.items():
        if store.rebuilding:
            continue
        seq = store.applied_seq + 1
        store.append(run_of(seq, store.history.end.epoch, [[(1, block_of(99))]]))
        await store.checkpoint()
        document["volumes"][uuid]["blocks"].pop("1", None)
    await pool.close()
    pool = await open_pool(path)
    after = await document_of(pool)
    for uuid, store in pool.replicas.items():
        assert "step" not in after["volumes"][uuid]
        blocks = after["volumes"][uuid]["blocks"]
        if not store.rebuilding:
            blocks.pop("1")
        assert blocks == document["volumes"][uuid]["blocks"]
    await pool.close()
