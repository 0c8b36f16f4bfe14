"""`cstor volume scrub` over daemons, one of which has bytes in its data file that are not right."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from cstor_core.units import BLOCK_BYTES
from tests.scenario.target.daemon import Target, get, local_ports, until
from tests.scenario.target.test_forced import cstor, is_ready
from tests.scenario.target.test_replicas import daemon_at
from tests.scenario.target.test_snapshot_diff import write


def places_of(pool: Path, block: int) -> tuple[Path, list[int]]:
    """The data file of a pool's only replica, and where in it the contents of a block are that
    `write` has written.
    """
    (path,) = (pool / "volumes").glob("*/data")
    data, content = path.read_bytes(), bytes([block % 256]) * BLOCK_BYTES
    starts = range(0, len(data), BLOCK_BYTES)
    found = [at for at in starts if data[at : at + BLOCK_BYTES] == content]
    assert found
    return path, found


def spoil(pool: Path, block: int) -> None:
    """Flip a bit of a block, wherever it is in a pool."""
    path, places = places_of(pool, block)
    with path.open("r+b") as file:
        for place in places:
            file.seek(place + 100)
            file.write(bytes([block ^ 1]))


async def test_bytes_that_have_rotted_are_found_and_put_right(tmp_path: Path) -> None:
    with ExitStack() as stack:
        pools = [tmp_path / f"pool-{at}" for at in range(3)]
        addresses = [(await daemon_at(pool, stack))[1] for pool in pools]
        replicas = [word for address in addresses for word in ("--replica", address)]
        cstor("volume", "create", "vol1", "--size", "64MiB", *replicas)
        with Target(tmp_path, *replicas, *local_ports()) as target:
            until(lambda: is_ready(target))
            facts = target.ready()
            at = ("--target", facts["control"])
            scrub = ("volume", "scrub", *at)
            assert "no scrub has begun" in cstor(*scrub, "--cancel")
            assert json.loads(cstor(*scrub, "--cancel", "-o", "json")) is None
            write(facts["portal"], *range(1, 100))
            said = cstor(*scrub, "--watch")
            assert "0 copies of blocks were wrong, 0 were put right" in said
            spoil(pools[1], 77)
            spoil(pools[2], 78)
            lines = cstor(*scrub, "--watch", "--rate", "1GiB/s", "-o", "json").splitlines()
            last = json.loads(lines[-1])
            assert (last["state"], last["mismatches"], last["repaired"]) == ("finished", 2, 2)
            wrong = {each["address"]: each["bad_checksums"] for each in last["replicas"]}
            assert wrong == dict(zip(addresses, (0, 1, 1), strict=True))
            compared = ("volume", "compare", "--volume", "vol1", *replicas)
            cstor(*compared)
            for pool in pools:
                spoil(pool, 79)
            said = cstor(*scrub, "--watch", code=1)
            assert "3 could not be put right" in said
            events = cstor("events", *at)
            assert "no replica in sync has a copy that is known to be right" in events
            metrics = get(facts["metrics"], "/metrics")[1]
            assert 'cstor_volume_scrub_mismatches_total{volume="vol1"} 5.0' in metrics
            assert 'cstor_volume_scrub_running{volume="vol1"} 0.0' in metrics
            assert target.stop() == 0


async def test_a_scrub_goes_on_alone_is_found_again_and_is_stopped(tmp_path: Path) -> None:
    with ExitStack() as stack:
        _, address = await daemon_at(tmp_path / "pool", stack)
        cstor("volume", "create", "vol1", "--size", "64MiB", "--replica", address)
        with Target(tmp_path, "--replica", address, *local_ports()) as target:
            until(lambda: is_ready(target))
            facts = target.ready()
            scrub = ("volume", "scrub", "--target", facts["control"])
            write(facts["portal"], *range(1, 2000))  # two minutes of reading
            assert "has begun, at up to 64KiB/s" in cstor(*scrub, "--rate", "64KiB/s")
            again = cstor(*scrub, "--rate", "1MiB")
            assert "is under way already, at up to 64KiB/s" in again
            metrics = get(facts["metrics"], "/metrics")[1]
            assert 'cstor_volume_scrub_running{volume="vol1"} 1.0' in metrics
            status = json.loads(get(facts["http"], "/status")[1])
            assert status["volumes"][0]["scrub"]["rate_bytes_per_s"] == 64 << 10
            shown = ("volume", "show", "vol1", "--target", facts["control"])
            assert "a scrub is under way: " in cstor(*shown)
            assert "the scrub was stopped" in cstor(*scrub, "--cancel")
            assert "the scrub was stopped" in cstor(*scrub, "--cancel")
            assert "the last scrub has stopped at " in cstor(*shown)
            assert "too slow" in cstor(*scrub, "--rate", "1KiB", code=2)
            assert "never ends" in cstor(*scrub, "--rate", "0", code=2)
            assert "not a size" in cstor(*scrub, "--rate", "fast", code=2)
            assert "neither --watch" in cstor(*scrub, "--watch", "--cancel", code=2)
            assert "does not serve" in cstor(*scrub, "--volume", "other", code=1)
            assert target.stop() == 0
