"""The archive of the earlier release is the commit that first had the simulator, and no other."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from pathlib import Path

from tests.archives import unpack
from tests.upgrade.earlier import ARCHIVE, COMMIT

ROOT = Path(__file__).parents[2]
TREES = {
    "cstor_cli": "073d84b2362992be47072d7d487d26e52d60da4f",
    "cstor_core": "df69afaed552f3fe34f7dc9b37b37363224584ff",
    "cstor_target": "1bc27bc00ab7eae489f9c48d2b3f3ac39a1a963e",
    "replica": "a6f0cf32eac2e0f338edba3c85e5b6f9bb516f26",
}
"""What `git ls-tree` says of that commit."""


def object_id(kind: str, content: bytes) -> str:
    """As git names an object."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


def tree_id(directory: Path) -> str:
    """As git names a directory of plain files and directories."""
    entries = []
    for path in directory.iterdir():
        if path.is_dir():
            entries.append((f"{path.name}/", f"40000 {path.name}", tree_id(path)))
        else:
            content = object_id("blob", path.read_bytes())
            entries.append((path.name, f"100644 {path.name}", content))
    table = [head.encode() + b"\0" + bytes.fromhex(name) for _, head, name in sorted(entries)]
    return object_id("tree", b"".join(table))


def test_archive_has_the_packages_of_the_commit(tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        unpack(archive, tmp_path)
    assert {path.name: tree_id(path) for path in tmp_path.iterdir()} == TREES


def test_commit_has_these_packages_where_the_history_is_there() -> None:
    said = subprocess.run(
        ["git", "ls-tree", COMMIT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if said.returncode == 0:  # else the tree was fetched without its history, or is no repository
        found = {line.split("\t")[1]: line.split()[2] for line in said.stdout.splitlines()}
        assert found.items() >= TREES.items()
