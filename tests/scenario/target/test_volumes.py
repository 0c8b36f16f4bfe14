"""`cstor volume set` and `delete`, and snapshots served read-only, over daemons."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path

from cstor_core.settings import parse_address
from tests.scenario.target.daemon import Target, get, local_ports, until
from tests.scenario.target.test_clones import IQN, started_again, write
from tests.scenario.target.test_forced import cstor, is_ready
from tests.scenario.target.test_replicas import daemon_at
from tests.system.plain_initiator import PlainInitiator

CHECK_CONDITION = 2
LOGIN_S = 12.0


def shown(at: tuple[str, str], volume: str = "vol1") -> dict[str, object]:
    document: dict[str, object] = json.loads(cstor("volume", "show", volume, "-o", "json", *at))
    return document


def names(at: tuple[str, str]) -> list[str]:
    return [one["name"] for one in json.loads(cstor("volume", "list", "-o", "json", *at))]


async def test_properties_are_set_and_a_snapshot_is_served_read_only(tmp_path: Path) -> None:
    with ExitStack() as stack:
        found = [await daemon_at(tmp_path / f"pool-{at}", stack) for at in range(3)]
        replicas = [word for _, address in found for word in ("--replica", address)]
        cstor("volume", "create", "vol1", "--size", "64MiB", *replicas)
        with Target(tmp_path, *replicas, *local_ports(), "--all-volumes") as target:
            until(lambda: is_ready(target))
            facts = target.ready()
            at = ("--target", facts["control"])
            said = cstor("volume", "set", "write-cache", "off", *at)
            assert said == "vol1: write-cache is off\n"
            assert shown(at)["write_cache"] is False
            metrics = get(facts["metrics"], "/metrics")[1]
            assert 'cstor_volume_write_cache{volume="vol1"} 0.0' in metrics
            write(facts["portal"], "vol1", 1, 2)
            cstor("snapshot", "create", "a", *at)
            assert f"{IQN}a-as-it-was" in cstor("clone", "a", "a-as-it-was", "--read-only", *at)
            assert shown(at, "a-as-it-was")["read_only"] is True
            assert shown(at, "a-as-it-was")["write_cache"] is False
            address = parse_address(facts["portal"])
            assert address.port is not None
            with PlainInitiator((address.host, address.port)) as initiator:
                initiator.ask_for_login(IQN + "a-as-it-was")
                assert initiator.login_status() == 0
                statuses = [initiator.write(0, bytes(4096)) for _ in range(4)]
                assert statuses == [CHECK_CONDITION] * 4
            cstor("volume", "set", "read-only", "off", "--volume", "a-as-it-was", *at)
            write(facts["portal"], "a-as-it-was", 3)
            assert "Invalid value" in cstor("volume", "set", "colour", "on", *at, code=2)
            assert target.stop() == 0


def give_up_leftover(target: Target, address: str) -> None:
    """A target of a volume of which one replica is left waits, and says what to do about it."""
    at = ("--target", target.ready()["control"])
    until(lambda: names(at) == ["vol1", "copy"])
    until(lambda: shown(at, "copy")["status"] == "healthy")
    until(lambda: "if it was deleted while" in str(shown(at)["reason"]))
    assert not is_ready(target)
    leftover = ("--replica", address)
    assert "is not gone" in cstor("volume", "delete", "copy", "--yes", *leftover, code=2)
    said = cstor("volume", "delete", "vol1", "--yes", *leftover)
    assert f"the replica of vol1 at {address} is deleted" in said
    until(lambda: names(at) == ["copy"])
    until(lambda: is_ready(target))
    pools = json.loads(cstor("pool", "list", "--volume", "copy", "-o", "json", *at))
    assert {one["name"] for pool in pools for one in pool["volumes"]} == {"copy"}


async def test_a_volume_is_deleted_its_clone_stays_and_what_was_away_is_named(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        found = [await daemon_at(tmp_path / f"pool-{at}", stack) for at in range(3)]
        addresses = [address for _, address in found]
        replicas = [word for address in addresses for word in ("--replica", address)]
        cstor("volume", "create", "vol1", "--size", "64MiB", *replicas)
        flags = (*replicas, *local_ports(), "--all-volumes")
        with Target(tmp_path, *flags) as target:
            until(lambda: is_ready(target))
            facts = target.ready()
            at = ("--target", facts["control"])
            write(facts["portal"], "vol1", *range(1, 200))
            cstor("snapshot", "create", "a", *at)
            cstor("clone", "a", "copy", *at)
            cstor("volume", "set", "delete-protection", "on", "--volume", "vol1", *at)
            refused = cstor("volume", "delete", "vol1", "--yes", *at, code=2)
            assert "is protected against its deletion" in refused
            cstor("volume", "set", "delete-protection", "off", "--volume", "vol1", *at)
            address = parse_address(facts["portal"])
            assert address.port is not None
            with PlainInitiator((address.host, address.port)) as initiator:
                initiator.ask_for_login(f"{IQN}vol1")
                assert initiator.login_status() == 0
                refused = cstor("volume", "delete", "vol1", "--yes", *at, code=2)
                assert "is logged in" in refused
                assert "nothing was done" in cstor(
                    *("volume", "delete", "vol1", "--force", *at), code=2, answer="n\n"
                )
                assert names(at) == ["vol1", "copy"]
                assert found[2][0].end(signal.SIGKILL) == -signal.SIGKILL
                said = cstor("volume", "delete", "vol1", "--force", "--yes", *at)
            assert "is destroyed for ever, with its 1 snapshots" in said
            assert f"cstor volume delete vol1 --replica {addresses[2]}" in said
            until(lambda: names(at) == ["copy"])
            write(facts["portal"], "copy", 3)
            assert "does not serve" in cstor("volume", "delete", "vol1", "--yes", *at, code=1)
            assert target.stop() == 0
        await started_again(tmp_path / "pool-2", addresses[2], stack)
        with Target(tmp_path, *flags) as target:
            give_up_leftover(target, addresses[2])
            assert target.stop() == 0
        cstor("volume", "compare", "--volume", "copy", *replicas)
