"""Keeps of the corpus what finds a way of its own: `python -m tests.fuzz.minimise [DIR]`.

The inputs of each harness are tried from the shortest on, with those below DIR (a directory for
each harness, as `--keep` fills it).  One stays if it goes from one line of the target to another
as no shorter one does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.fuzz.__main__ import CORPUS
from tests.fuzz.harnesses import HARNESSES

Arc = tuple[CodeType, int, int]
TARGET_FILES = str(Path(__file__).parents[2] / "cstor_target")


def arcs_of(harness: Callable[[bytes], None], data: bytes) -> set[Arc]:
    """From which line of the target to which the harness goes with that input."""
    found: set[Arc] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        code, before = frame.f_code, 0
        if not code.co_filename.startswith(TARGET_FILES):
            return None

        def local(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal before
            if event == "line":
                found.add((code, before, frame.f_lineno))
                before = frame.f_lineno
            return local

        return local

    sys.settrace(trace)
    try:
        harness(data)
    finally:
        sys.settrace(None)
    return found


def main() -> None:
    """Rewrite the corpus."""
    others = [Path(name) for name in sys.argv[1:]]
    for name, harness in HARNESSES.items():
        folders = [CORPUS / name, *(other / name for other in others)]
        paths = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
        seen: set[Arc] = set()
        kept: dict[str, bytes] = {}
        for path in sorted(paths, key=lambda path: (path.stat().st_size, path.name)):
            data = path.read_bytes()
            arcs = arcs_of(harness, data)
            if not arcs <= seen:
                seen |= arcs
                kept[path.name[:16]] = data
        for path in (CORPUS / name).iterdir():
            path.unlink()
        for title, data in kept.items():
            (CORPUS / name / title).write_bytes(data)
        print(f"{name}: {len(kept)} of {len(paths)} inputs, {sum(map(len, kept.values()))} bytes")


if __name__ == "__main__":
    main()
