"""The house's rules that a machine can hold: sizes, who imports whom, and who may touch the world.

`docs/architecture.md` says why the rooms lie as they do; the table `MAY_IMPORT` is its short form.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = ("cstor_core", "cstor_target", "replica", "cstor_cli")
OTHERS = ("proto", "reference", "benchmarks", "tests")
GENERATED = ROOT / "cstor_core" / "generated"

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
"""Of the body: the flags of a command line are its signature, and are a list to be read."""
LINE_COLUMNS_MAX = 100

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "cstor_core": (),
    "cstor_target.volume": ("cstor_core",),
    "cstor_target.scsi": ("cstor_core", "cstor_target.volume.backing"),
    "cstor_target.iscsi": ("cstor_core", "cstor_target.scsi", "cstor_target.volume.backing"),
    "cstor_target": ("cstor_core", "replica"),
    "replica.store": ("cstor_core",),
    "replica": ("cstor_core",),
    "cstor_cli": ("cstor_core",),
}
"""For each room the other rooms that it knows; a room within another is first looked up itself.
Every room knows itself, and what lies within it."""

PURE_ROOMS = ("cstor_core/http2", "cstor_target/iscsi", "cstor_target/scsi")
"""Bytes and events in, bytes and events out."""
WORLD = {
    *("asyncio", "concurrent", "ctypes", "fcntl", "grpc", "io", "mmap", "multiprocessing", "os"),
    *("pathlib", "queue", "random", "secrets", "select", "selectors", "shutil", "signal", "socket"),
    *("ssl", "subprocess", "tempfile", "threading", "time", "uvloop"),
}

HANDED_IN_ROOMS = ("cstor_target/volume", "replica")
"""Time, randomness, network and files are handed in, so that a simulator can run them."""
SHELLS = ("replica/main.py", "replica/daemon.py", "replica/settings.py", "replica/tools.py")
"""What hands them in."""
NOT_HANDED_IN = WORLD - {"asyncio", "grpc", "io", "pathlib"}
CALLS_OF_THE_WORLD = {
    *("asyncio.sleep", "asyncio.to_thread", "asyncio.open_connection", "asyncio.start_server"),
    *("uuid.uuid1", "uuid.uuid4", "datetime.now", "datetime.datetime.now", "io.open", "open"),
    *("grpc.aio.insecure_channel", "grpc.insecure_channel", "asyncio.run"),
}
METHODS_OF_THE_WORLD = {
    *("read_bytes", "read_text", "write_bytes", "write_text", "iterdir", "mkdir", "unlink"),
    *("run_in_executor", "touch", "glob", "rglob", "is_file", "is_dir"),
}


def python_files(*folders: str) -> list[Path]:
    """The hand-written modules below these folders."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if GENERATED not in path.parents)


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(path.read_text(), str(path))


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a module imports, wherever in it."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports name the whole path"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def within(name: str, room: str) -> bool:
    """Whether a module, or a name in it, lies in a room."""
    return name == room or name.startswith(room + ".")


def calls(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name as it is written) of everything that a module calls."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield node.lineno, ast.unparse(node.func)


def strangers(path: Path) -> Iterator[str]:
    """The imports of a module that its room may not have, as lines for a person."""
    module = name_of(path)
    room = max((room for room in MAY_IMPORT if within(module, room)), key=len)
    for line, imported in imports(path):
        if not any(within(imported, package) for package in PRODUCT):
            continue
        if not any(within(imported, known) for known in (room, *MAY_IMPORT[room])):
            yield f"{path.relative_to(ROOT)}:{line}: {room} may not know {imported}"


def touches_of_the_world(path: Path, modules: set[str], names: set[str]) -> Iterator[str]:
    """Imports of these modules and calls of these names, as lines for a person."""
    where = path.relative_to(ROOT)
    for line, imported in imports(path):
        if imported.split(".")[0] in modules:
            yield f"{where}:{line}: imports {imported}"
    for line, called in calls(path):
        method = called.rpartition(".")[2] if "." in called else ""
        if called in names or (names and method in METHODS_OF_THE_WORLD):
            yield f"{where}:{line}: calls {called}"


def test_modules_are_small_rooms() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in python_files(*PRODUCT, *OTHERS)
        if (lines := path.read_text().count("\n")) >= MODULE_LINES_MAX
    }
    assert not long, f"modules of {MODULE_LINES_MAX} lines and more have two subjects"


def test_functions_fit_a_screen() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines"
        for path in python_files(*PRODUCT, *OTHERS)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.body[0].lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_lines_have_at_most_100_columns() -> None:
    paths = [*python_files(*PRODUCT, *OTHERS), *(ROOT / "proto").rglob("*.proto")]
    wide = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > LINE_COLUMNS_MAX
    ]
    assert not wide, "\n".join(wide)


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files(*PRODUCT, *OTHERS)
        if not ast.get_docstring(tree(path))
    ]
    assert not silent


def test_nothing_is_left_for_later() -> None:
    later = re.compile(
        "#.*\\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + ")"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in python_files(*PRODUCT, *OTHERS)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if later.search(line)
    ]
    assert not found, "an unfinished thing is not there: " + ", ".join(found)


def test_imports_go_one_way() -> None:
    found = [line for path in python_files(*PRODUCT) for line in strangers(path)]
    assert not found, "\n".join(found)


def test_protocol_rooms_are_pure() -> None:
    found = [
        line
        for path in python_files(*PURE_ROOMS)
        for line in touches_of_the_world(path, WORLD, {"open"})
    ]
    assert not found, "\n".join(found)


def test_engine_and_replica_are_handed_their_world() -> None:
    shells = {ROOT / shell for shell in SHELLS}
    found = [
        line
        for path in python_files(*HANDED_IN_ROOMS)
        if path not in shells
        for line in touches_of_the_world(path, NOT_HANDED_IN, CALLS_OF_THE_WORLD)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_locks_pin_every_package_and_name_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    pinned = [line for line in text.splitlines() if line and line[0] not in " #"]
    assert pinned
    assert all("==" in line for line in pinned)
    assert text.count("--hash=sha256:") >= len(pinned)


def test_rules_see_what_they_forbid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules above pass on an empty tree; here they must not."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    room = tmp_path / "cstor_target" / "scsi"
    room.mkdir(parents=True)
    module = room / "impure.py"
    module.write_text("import time\nfrom cstor_target.iscsi import login\nopen('x')\n")
    assert list(strangers(module)) == [
        "cstor_target/scsi/impure.py:2: cstor_target.scsi may not know cstor_target.iscsi.login"
    ]
    assert list(touches_of_the_world(module, WORLD, CALLS_OF_THE_WORLD)) == [
        "cstor_target/scsi/impure.py:1: imports time",
        "cstor_target/scsi/impure.py:3: calls open",
    ]
