"""What can be wrong with the process of a daemon, made for real."""

from __future__ import annotations

from pathlib import Path

from tests.scenario.doctor.deployment import REPLICA

PREFIX_OF_FEW_FILES = ("sh", "-c", 'ulimit -n 512; exec "$@"', "sh")


def on_its_own_disk(directory: Path, size: str) -> tuple[str, ...]:
    """Words that have a daemon find a file system of that size at a directory."""
    directory.mkdir()
    mount = f"mount -t tmpfs -o size={size} tmpfs {directory}"
    return ("unshare", "-rm", "sh", "-c", f'{mount}; exec "$@"', "sh")


def another_version(directory: Path, version: str) -> dict[str, str]:
    """An environment in which another version of the product is installed."""
    found = directory / "site" / f"cstor-{version}.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text(f"Metadata-Version: 2.1\nName: cstor\nVersion: {version}\n")
    return {"PYTHONPATH": str(found.parent)}


def set_by(file: Path) -> str:
    """Code of a replica daemon whose machine's clock is ahead by what the file says, in seconds."""
    file.write_text("0")
    return (
        "import pathlib, time; real = time.time; "
        f"time.time = lambda: real() + float(pathlib.Path({str(file)!r}).read_text()); {REPLICA}"
    )


def booted_anew(directory: Path) -> str:
    """Code of a replica daemon whose machine was booted anew."""
    boot = directory / "boot_id"
    boot.write_text("another boot\n")
    patch = f"daemon.BOOT_ID = pathlib.Path({str(boot)!r})"
    return f"import pathlib; from replica import daemon; {patch}; {REPLICA}"


OLDER = (
    f"from cstor_core.daemon_facts import DaemonFacts as D; D.add_to = lambda *_: None; {REPLICA}"
)
"""Code of a replica daemon of before it could say what it is."""
