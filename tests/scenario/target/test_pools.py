"""`cstor pool`: the pools of a volume's replicas, which hold other volumes as well."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from tests.scenario.target.daemon import Target, local_ports, until
from tests.scenario.target.test_forced import cstor, is_ready
from tests.scenario.target.test_one_process import found as found_at
from tests.scenario.target.test_one_process import with_pool
from tests.scenario.target.test_replicas import daemon_at
from tests.scenario.target.test_snapshot_diff import write


async def test_pools_are_listed_with_all_that_they_hold_and_with_those_that_are_lost(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        found = [await daemon_at(tmp_path / f"pool-{at}", stack) for at in range(3)]
        addresses = [address for _, address in found]
        replicas = [word for address in addresses for word in ("--replica", address)]
        cstor("volume", "create", "vol1", "--size", "64MiB", *replicas)
        cstor("volume", "create", "vol2", "--size", "32MiB", *replicas[:2])
        with Target(tmp_path, *replicas, *local_ports()) as target:
            until(lambda: is_ready(target))
            facts = target.ready()
            at = ("--target", facts["control"])

            def listed() -> list[dict[str, Any]]:
                """The pools, as scripts have them."""
                pools: list[dict[str, Any]] = json.loads(cstor("pool", "list", "-o", "json", *at))
                return pools

            write(facts["portal"], 1, 2, 3)
            cstor("snapshot", "create", "a", *at)
            until(lambda: all(pool["snapshot_count"] for pool in listed()))
            pools = listed()
            assert [pool["address"] for pool in pools] == addresses
            for number, pool in enumerate(pools):
                assert pool["path"] == str(tmp_path / f"pool-{number}")
                assert pool["size_bytes"] > pool["free_bytes"] > pool["reserve_bytes"] > 0
                assert pool["used_bytes"] >= 4 * 4096
                assert pool["snapshot_count"] == 1
                held = {each["name"]: each for each in pool["volumes"]}
                assert held.keys() == ({"vol1", "vol2"} if number == 0 else {"vol1"})
                assert held["vol1"]["replica"] == pool["replica"]
                assert held["vol1"]["size_bytes"] == 64 << 20
                assert held["vol1"]["state"] == "complete"
                assert held["vol1"]["snapshot_count"] == 1
            shown = cstor("pool", "show", pools[0]["replica"], "-o", "yaml", *at)
            assert yaml.safe_load(shown)["pool"] == pools[0]["pool"]
            said = cstor("pool", "show", addresses[0], *at)
            assert said.startswith(f"{addresses[0]} {tmp_path / 'pool-0'}\n")
            assert "  vol2 complete, 32MiB, 0B used, snapshots 0, replica " in said
            said = cstor("pool", "show", "node-d:7778", *at, code=2)
            assert f"vol1 has no replica node-d:7778: they are at {', '.join(addresses)}" in said
            assert "does not serve" in cstor("pool", "list", "--volume", "other", *at, code=1)

            assert found[1][0].end(signal.SIGKILL) == -signal.SIGKILL
            lost = listed()[1]
            assert (lost["address"], lost["volumes"]) == (addresses[1], [])
            assert "failed" in lost["reason"]
            said = cstor("pool", "list", *at)
            assert said.count("volumes 1, snapshots 1\n") == 1
            assert f"\n{addresses[1]} NOT KNOWN: " in said
            assert "is not known" in cstor("pool", "show", addresses[1], *at, code=1)
            assert target.stop() == 0


def test_pool_of_the_target_s_own_process_is_listed(tmp_path: Path) -> None:
    with with_pool(tmp_path) as target:
        facts = target.ready()
        at = ("--target", facts["control"])
        assert "has not been opened yet" in cstor("pool", "list", *at, code=1)
        found_at(facts["replica_grpc"])
        until(lambda: is_ready(target))
        (pool,) = json.loads(cstor("pool", "list", "-o", "json", *at))
        assert pool["path"] == str(tmp_path / "pool")
        assert [held["name"] for held in pool["volumes"]] == ["vol1"]
        assert target.stop() == 0
