"""The hook of mkdocs (`hooks` in mkdocs.yml): pages written from the code, and the whole menu.

A page that the menu of mkdocs.yml does not name stands at its end, so that none is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from reference.calls import calls_page
from reference.commands import commands_page
from reference.events import events_page
from reference.settings import settings_page

PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands_page,
    "reference/settings.md": settings_page,
    "reference/calls.md": calls_page,
    "reference/events.md": events_page,
}
ELSEWHERE = "More"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Called by mkdocs when it has read mkdocs.yml."""
    home = Path(config.docs_dir)
    named = set(_named(config.nav))
    pages = sorted(str(path.relative_to(home)) for path in home.rglob("*.md"))
    others = [page for page in pages if page not in named]
    if others:
        config.nav = [*(config.nav or []), {ELSEWHERE: others}]
    return config


def on_files(files: Files, /, *, config: MkDocsConfig) -> Files:
    """Called by mkdocs when it knows the files of the tree."""
    for path, write in PAGES.items():
        files.append(File.generated(config, path, content=write()))
    return files


def _named(menu: Any) -> Iterator[str]:
    """The pages of a menu, or of a part of one."""
    if isinstance(menu, str):
        yield menu
    elif menu is not None:
        for part in menu.values() if isinstance(menu, dict) else menu:
            yield from _named(part)
