"""`cstor clone` over daemons and an initiator: made, served, written, and found again."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from cstor_core.settings import parse_address
from tests.scenario.replica.test_daemon import Daemon
from tests.scenario.target.daemon import ANY_PORT, Target, local_ports, until
from tests.scenario.target.test_forced import cstor, is_ready
from tests.scenario.target.test_replicas import daemon_at
from tests.system.plain_initiator import PlainInitiator

IQN = "iqn.2016-09.com.openebs.cstor:"


def write(portal: str, volume: str, *blocks: int) -> None:
    """Log in to a volume and write these blocks of 4 KiB."""
    address = parse_address(portal)
    assert address.port is not None
    with PlainInitiator((address.host, address.port)) as initiator:
        initiator.ask_for_login(IQN + volume)
        assert initiator.login_status() == 0
        initiator.write_until_good()  # block 0: unit attentions are over
        for block in blocks:
            assert initiator.write(block * 4096, bytes([block % 256]) * 4096) == 0


def is_healthy(at: tuple[str, str], volume: str) -> bool:
    """Whether all replicas of a volume are in sync."""
    document = json.loads(cstor("volume", "show", volume, "-o", "json", *at))
    return document["status"] == "healthy" and len(document["members"]) == 3


async def started_again(pool: Path, address: str, stack: ExitStack) -> None:
    """Start the daemon of a pool where it was."""
    daemon = Daemon(pool, "--listen", address, "--metrics", ANY_PORT)
    stack.callback(daemon.process.wait)
    stack.callback(daemon.process.kill)
    await daemon.ready()


async def founded(tmp_path: Path, stack: ExitStack) -> list[str]:
    """Three replica daemons with a volume vol1 on them, as flags."""
    found = [await daemon_at(tmp_path / f"pool-{at}", stack) for at in range(3)]
    replicas = [word for _, address in found for word in ("--replica", address)]
    cstor("volume", "create", "vol1", "--size", "64MiB", *replicas)
    return replicas


async def test_a_clone_is_served_by_the_same_process_and_found_by_the_next(tmp_path: Path) -> None:
    with ExitStack() as stack:
        replicas = await founded(tmp_path, stack)
        flags = (*replicas, *local_ports(), "--all-volumes")
        with Target(tmp_path, *flags) as target:
            until(lambda: is_ready(target))
            at = ("--target", target.ready()["control"])
            portal = target.ready()["portal"]
            write(portal, "vol1", 1, 2, 9)
            cstor("snapshot", "create", "a", *at)
            assert "there is no snapshot 'b'" in cstor("clone", "b", "copy", *at, code=1)
            said = cstor("clone", "a", "copy", *at)
            assert f"it is served as {IQN}copy on {portal}" in said
            first = json.loads(cstor("clone", "a", "copy", "--from", "vol1", "-o", "json", *at))
            assert first["left_out"] == []
            assert len(first["members"]) == 3
            refused = cstor("clone", "a", "vol1", "--from", "copy", *at, code=1)
            assert "there is no snapshot 'a'" in refused
            write(portal, "copy", 5)
            write(portal, "vol1", 7)
            cstor("snapshot", "create", "b", "--volume", "copy", *at)
            again = cstor("clone", "b", "copy2", "--from", "copy", *at)
            assert f"{IQN}copy2" in again
            taken = cstor("clone", "b", "copy", "--from", "vol1", *at, code=1)
            assert "there is no snapshot 'b'" in taken
            cstor("snapshot", "create", "b", "--volume", "vol1", *at)
            taken = cstor("clone", "b", "copy", "--from", "vol1", *at, code=1)
            assert "is called copy already" in taken
            assert target.stop() == 0
        with Target(tmp_path, *flags) as target:
            at = ("--target", target.ready()["control"])

            def served() -> dict[str, str]:
                documents = json.loads(cstor("volume", "list", "-o", "json", *at))
                return {one["name"]: one["status"] for one in documents}

            until(lambda: served() == dict.fromkeys(("vol1", "copy", "copy2"), "healthy"))
            write(target.ready()["portal"], "copy2", 6)
            assert target.stop() == 0
        for volume in ("vol1", "copy", "copy2"):
            cstor("volume", "compare", "--volume", volume, *replicas)


async def test_another_target_is_started_for_a_clone_that_began_without_a_replica(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        found = [await daemon_at(tmp_path / f"pool-{at}", stack) for at in range(3)]
        addresses = [address for _, address in found]
        replicas = [word for address in addresses for word in ("--replica", address)]
        cstor("volume", "create", "vol1", "--size", "64MiB", *replicas)
        target = stack.enter_context(Target(tmp_path, *replicas, *local_ports()))
        until(lambda: is_ready(target))
        at = ("--target", target.ready()["control"])
        write(target.ready()["portal"], "vol1", *range(1, 40))
        cstor("snapshot", "create", "a", *at)
        assert found[2][0].end(signal.SIGKILL) == -signal.SIGKILL
        said = cstor("clone", "a", "copy", *at)
        members = " ".join(f"--replica {address}" for address in addresses[:2])
        assert f"cstor-target STATE_DIR --volume copy {members} --portal HOST:3260" in said
        assert f"cstor replica add {addresses[2]} --volume copy" in said
        assert [one["name"] for one in json.loads(cstor("volume", "list", "-o", "json", *at))] == [
            "vol1"
        ]
        flags = (*replicas[:4], "--volume", "copy", *local_ports())
        other = stack.enter_context(Target(tmp_path, *flags, name="other"))
        until(lambda: is_ready(other))
        write(other.ready()["portal"], "copy", 3)
        await started_again(tmp_path / "pool-2", addresses[2], stack)
        there = ("--target", other.ready()["control"])
        said = cstor("replica", "add", addresses[2], "--same-host", *there)
        assert f"at {addresses[2]} is a member" in said
        for volume, where in (("vol1", at), ("copy", there)):
            until(partial(is_healthy, where, volume))
            cstor("volume", "compare", "--volume", volume, *replicas)
        assert other.stop() == 0
        assert target.stop() == 0
