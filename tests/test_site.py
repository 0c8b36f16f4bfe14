"""The documentation builds without a warning, fetches nothing, and has what the code declares."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2, stream_pb2, volume_pb2
from cstor_target.events import KINDS
from cstor_target.settings import TargetSettings
from replica.settings import ReplicaSettings

ROOT = Path(__file__).parent.parent
FETCHED = re.compile(
    r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["'](?:https?:)?//[^"']*"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make site` builds it: warnings are errors, and links are followed."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return out


def page(site: Path, name: str) -> str:
    """A page of the reference."""
    return (site / "reference" / name / "index.html").read_text()


def test_every_page_is_there_and_asks_nobody_for_anything(site: Path) -> None:
    for source in (ROOT / "docs").rglob("*.md"):
        name = source.relative_to(ROOT / "docs").with_suffix("")
        assert (site / name / "index.html").exists() or name.name == "index"
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    fetched = {found for path in pages for found in FETCHED.findall(path.read_text())}
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert not fetched
    assert not any(re.search(r"url\(['\"]?(https?:)?//", style) for style in styles)


def test_reference_has_all_that_the_code_declares(site: Path) -> None:
    assert not [name for name in KINDS if f"<code>{name}</code>" not in page(site, "events")]
    settings = page(site, "settings")
    for model, prefix in ((TargetSettings, "CSTOR_TARGET_"), (ReplicaSettings, "CSTOR_REPLICA_")):
        assert not [name for name in model.model_fields if prefix + name.upper() not in settings]
    calls = page(site, "calls")
    for module in (control_pb2, replica_pb2, stream_pb2, volume_pb2):
        declared = module.DESCRIPTOR
        assert not [name for name in declared.message_types_by_name if f">{name}<" not in calls]
        for service in declared.services_by_name.values():
            assert not [
                one.name for one in service.methods if f"<code>{one.name}</code>" not in calls
            ]
    commands = page(site, "commands")
    for command in ("cstor up", "cstor volume create", "cstor-target", "cstor-replica check"):
        assert f'">{command}<' in commands
