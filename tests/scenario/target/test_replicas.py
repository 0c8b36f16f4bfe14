"""`cstor replica`: replicas of a volume that is served are added, replaced and removed."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path

from tests.scenario.replica.test_daemon import Daemon
from tests.scenario.target.daemon import ANY_PORT, Target, local_ports, until
from tests.scenario.target.test_forced import cstor, is_ready


async def daemon_at(pool: Path, stack: ExitStack) -> tuple[Daemon, str]:
    """A replica daemon with an empty pool, and its address."""
    daemon = Daemon(pool, "--listen", ANY_PORT, "--metrics", ANY_PORT)
    stack.callback(daemon.process.wait)
    stack.callback(daemon.process.kill)
    return daemon, (await daemon.ready())["grpc"]


async def test_a_lost_replica_is_replaced_and_the_number_goes_up_and_down(tmp_path: Path) -> None:
    with ExitStack() as stack:
        found = [await daemon_at(tmp_path / f"pool-{at}", stack) for at in range(5)]
        addresses = [address for _, address in found]
        founders = [word for address in addresses[:3] for word in ("--replica", address)]
        cstor("volume", "create", "vol1", "--size", "64MiB", *founders)
        with Target(tmp_path, *founders, *local_ports()) as target:
            until(lambda: is_ready(target))
            at = ("--target", target.ready()["control"])

            def listed() -> dict[str, str]:
                """Status of each replica by its address."""
                documents = json.loads(cstor("replica", "list", "-o", "json", *at))
                return {found["address"]: found["status"] for found in documents}

            refused = cstor("replica", "add", addresses[3], *at, code=2)
            assert "is on the same host" in refused
            assert "is a member" in cstor("replica", "add", addresses[3], "--same-host", *at)
            until(lambda: set(listed().values()) == {"in-sync"})
            assert list(listed()) == addresses[:4]
            assert found[1][0].end(signal.SIGKILL) == -signal.SIGKILL
            said = cstor(
                *("replica", "replace", addresses[1], addresses[4]),
                *("--same-host", "--yes", *at),
            )
            assert f"at {addresses[4]} has taken the place of {addresses[1]}" in said
            assert listed().keys() == {*addresses} - {addresses[1]}
            for gone in (addresses[0], addresses[2]):
                until(lambda: set(listed().values()) == {"in-sync"})
                assert "it has" in cstor("replica", "remove", gone, "--yes", *at)
            assert listed().keys() == {addresses[3], addresses[4]}
            names = [
                json.loads(line)["name"] for line in cstor("events", "-o", "json", *at).splitlines()
            ]
            assert names.count("member_added") == 2
            assert names.count("member_removed") == 3
            assert target.stop() == 0
        with Target(tmp_path, *founders, "--replica", addresses[4], *local_ports()) as target:
            until(lambda: is_ready(target))  # it finds the other one by what this one says
            at = ("--target", target.ready()["control"])
            until(lambda: set(listed().values()) == {"in-sync"})
            assert listed().keys() == {addresses[3], addresses[4]}
            assert target.stop() == 0


async def test_another_daemon_at_the_address_of_a_replica_is_named_and_the_target_is_not_blamed(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        _, address = await daemon_at(tmp_path / "pool", stack)
        cstor("volume", "create", "vol1", "--size", "64MiB", "--replica", address)
        with Target(tmp_path, "--replica", address, *local_ports()) as target:
            until(lambda: is_ready(target))
            control = target.ready()["control"]
            said = cstor("replica", "delete", control, "--yes", "--target", control, code=1)
            assert f"what listens at {control} is another daemon" in said
            assert "does not answer" not in said
            assert target.stop() == 0
