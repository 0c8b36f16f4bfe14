"""EXTENDED COPY between two volumes over daemons and an initiator: nothing is kept twice."""

from __future__ import annotations

import json
import re
import struct
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from random import Random
from uuid import UUID

from cstor_core.settings import parse_address
from cstor_target.scsi.cdb_copy import EXTENDED_COPY
from cstor_target.scsi.extended_copy import BLOCK_TO_BLOCK_CODE, IDENTIFICATION_CODE
from cstor_target.scsi.identity import Identity
from tests.scenario.target.daemon import Target, local_ports, until
from tests.scenario.target.test_clones import IQN
from tests.scenario.target.test_forced import cstor
from tests.scenario.target.test_replicas import daemon_at
from tests.system.plain_initiator import GOOD, SECTOR_BYTES, PlainInitiator

KIB = 1024
MIB = 1024 * KIB
VOLUMES = ("vol1", "vol2")


def copy(designators: list[bytes], source: int, to: int, sectors: int) -> tuple[bytes, bytes]:
    """The CDB and parameters that copy sectors from the first unit to the second."""
    targets = b"".join(
        struct.pack(">BB2xBBxB20s4x", IDENTIFICATION_CODE, 0, 1, 3, len(one), one.ljust(20, b"\0"))
        for one in designators
    )
    segment = struct.pack(">BBHHH2xHQQ", BLOCK_TO_BLOCK_CODE, 0, 24, 0, 1, sectors, source, to)
    parameters = struct.pack(">BBH4xII", 1, 0, len(targets), len(segment), 0) + targets + segment
    return EXTENDED_COPY.build(parameter_list_length=len(parameters)), parameters


def number(metrics: str, name: str) -> int:
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5.0) as answer:
        text = answer.read().decode()
    (found,) = re.findall(rf'^{name}{{.*volume="vol2".*}} (\S+)$', text, re.MULTILINE)
    return int(float(found))


async def test_a_copy_to_another_volume_shares_the_data_in_every_pool(tmp_path: Path) -> None:
    with ExitStack() as stack:
        daemons = [await daemon_at(tmp_path / f"pool-{at}", stack) for at in range(3)]
        metrics = [(await daemon.ready())["metrics"] for daemon, _ in daemons]
        replicas = [word for _, address in daemons for word in ("--replica", address)]
        for name in VOLUMES:
            cstor("volume", "create", name, "--size", "64MiB", *replicas)
        flags = (*replicas, *local_ports(), "--all-volumes")
        target = stack.enter_context(Target(tmp_path, *flags))
        at = ("--target", target.ready()["control"])

        def volumes() -> list[dict[str, str]]:
            found: list[dict[str, str]] = json.loads(cstor("volume", "list", "-o", "json", *at))
            return found

        until(lambda: [one["status"] for one in volumes()] == ["healthy"] * 2)
        uuids = {one["name"]: one["uuid"] for one in volumes()}
        designators = [Identity(UUID(uuids[name]), IQN + name).naa for name in VOLUMES]
        address = parse_address(target.ready()["portal"])
        assert address.port is not None
        one, other = (
            stack.enter_context(PlainInitiator((address.host, address.port))) for _ in VOLUMES
        )
        for initiator, name in ((one, "vol1"), (other, "vol2")):
            initiator.ask_for_login(IQN + name)
            assert initiator.login_status() == 0
            initiator.write_until_good()
        data = Random(4).randbytes(3 * MIB)
        for start in range(0, len(data), 4 * KIB):
            assert one.write(MIB + start, data[start : start + 4 * KIB]) == GOOD
        cdb, parameters = copy(designators, MIB // SECTOR_BYTES, 0, len(data) // SECTOR_BYTES)
        assert one.send(cdb, parameters) == GOOD, one.sense.hex()
        pieces = (other.read(start, 64 * KIB) for start in range(0, len(data), 64 * KIB))
        assert b"".join(pieces) == data
        blocks = len(data) // (4 * KIB)
        for each in metrics:
            assert number(each, "cstor_replica_borrowed_blocks_total") == blocks
            assert number(each, "cstor_replica_used_bytes") < MIB
        # Neither is changed by what happens to the other one.
        assert one.write(MIB, bytes(4 * KIB)) == GOOD
        assert other.write(4 * KIB, bytes(4 * KIB)) == GOOD
        assert other.read(0, 8 * KIB) == data[: 4 * KIB] + bytes(4 * KIB)
        assert one.read(MIB, 8 * KIB) == bytes(4 * KIB) + data[4 * KIB : 8 * KIB]
        assert target.stop() == 0
        for name in VOLUMES:
            cstor("volume", "compare", "--volume", name, *replicas)
