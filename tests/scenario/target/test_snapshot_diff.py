"""`cstor snapshot diff` over daemons and an initiator that writes."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path

import yaml

from cstor_core.settings import parse_address
from tests.scenario.target.daemon import Target, local_ports, until
from tests.scenario.target.test_forced import cstor, is_ready
from tests.scenario.target.test_replicas import daemon_at
from tests.system.plain_initiator import PlainInitiator

IQN = "iqn.2016-09.com.openebs.cstor:vol1"


def write(portal: str, *blocks: int) -> None:
    """Log in and write these blocks of 4 KiB."""
    address = parse_address(portal)
    assert address.port is not None
    with PlainInitiator((address.host, address.port)) as initiator:
        initiator.ask_for_login(IQN)
        assert initiator.login_status() == 0
        initiator.write_until_good()  # block 0: unit attentions are over
        for block in blocks:
            assert initiator.write(block * 4096, bytes([block % 256]) * 4096) == 0


async def test_what_differs_is_told_while_a_replica_is_away(tmp_path: Path) -> None:
    with ExitStack() as stack:
        found = [await daemon_at(tmp_path / f"pool-{at}", stack) for at in range(3)]
        replicas = [word for _, address in found for word in ("--replica", address)]
        cstor("volume", "create", "vol1", "--size", "64MiB", *replicas)
        with Target(tmp_path, *replicas, *local_ports()) as target:
            until(lambda: is_ready(target))
            facts = target.ready()
            at = ("--target", facts["control"])
            diff = ("snapshot", "diff")
            assert "there are none" in cstor(*diff, "a", *at, code=1)
            cstor("snapshot", "create", "a", *at)
            assert cstor(*diff, "a", *at) == "0 parts differ: 0B changed, 0B of holes\n"
            write(facts["portal"], 1, 2, 9)
            cstor("snapshot", "create", "b", *at)
            write(facts["portal"], 9)
            told = [
                {"offset_bytes": 0, "length_bytes": 3 * 4096, "kind": "changed"},
                {"offset_bytes": 9 * 4096, "length_bytes": 4096, "kind": "changed"},
            ]
            assert json.loads(cstor(*diff, "a", "b", "-o", "json", *at)) == told
            assert yaml.safe_load(cstor(*diff, "a", "b", "-o", "yaml", *at)) == told
            assert json.loads(cstor(*diff, "b", "-o", "json", *at)) == [
                {"offset_bytes": 0, "length_bytes": 4096, "kind": "changed"},
                told[1],
            ]
            assert found[0][0].end(signal.SIGKILL) == -signal.SIGKILL
            said = cstor(*diff, "b", "a", "--volume", "vol1", *at)
            assert [line.split() for line in said.splitlines() if "hole" in line][:2] == [
                ["0", "12KiB", "hole"],
                ["36864", "4KiB", "hole"],
            ]
            assert said.endswith("2 parts differ: 0B changed, 16KiB of holes\n")
            assert "there is no snapshot 'c'; there are a, b" in cstor(*diff, "a", "c", *at, code=1)
            assert "leave it out" in cstor(*diff, "a", "", *at, code=2)
            assert "does not serve" in cstor(*diff, "a", "--volume", "other", *at, code=1)
            assert target.stop() == 0
