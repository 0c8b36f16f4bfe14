"""`cstor volume recover` on directories that are not what is wanted: refused, and nothing done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.scenario.replica.test_tools import make_pool
from tests.scenario.target.test_forced import cstor
from tests.unit.store.volumes import IDENTITY


def refused(home: Path, *words: str) -> str:
    """What the command says; it does nothing."""
    said = cstor("volume", "recover", *words, f"--dir={home}", "--yes", code=2)
    assert not home.exists()
    return said


async def test_wrong_directories_are_refused_with_a_sentence(tmp_path: Path) -> None:
    path, home, empty = tmp_path / "pool", tmp_path / "home", tmp_path / "empty"
    empty.mkdir()
    pool = await make_pool(path)
    assert "pool is in use: stop its daemon first" in refused(home, str(path))
    await pool.close()
    assert "empty is not a cStor pool" in refused(home, str(empty))
    assert list(empty.iterdir()) == []
    gone = str(tmp_path / "gone")
    assert "there is no such directory" in refused(home, str(path), gone)
    assert "none of these directories holds volume other" in refused(
        home, str(path), "--volume=other"
    )
    shutil.copytree(path, tmp_path / "copy")
    said = refused(home, str(path), str(tmp_path / "copy"))
    assert "are the same replica" in said
    assert "it is no member of the volume any more" in refused(home, str(path))


async def test_damage_is_shown_and_what_cannot_be_read_is_not_used(tmp_path: Path) -> None:
    path, home = tmp_path / "pool", tmp_path / "home"
    pool = await make_pool(path)
    await pool.close()
    data = path / "volumes" / IDENTITY.volume_uuid / "data"
    content = bytearray(data.read_bytes())
    content[:4096] = bytes(4096)
    data.write_bytes(content)
    said = refused(home, str(path))
    assert "DAMAGE: " in said
    assert "no directory holds a replica that can be opened" in said
    shown = cstor("volume", "recover", str(path), "--output=json", code=2)
    document = json.loads(shown[: shown.rindex("}") + 1])
    assert document["plan"] is None
    assert document["directories"][0]["pool"]["damaged"] is True
