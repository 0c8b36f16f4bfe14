"""How many series a replica daemon has, and what it tells of a replica, under cStor's names too."""

from __future__ import annotations

import urllib.request
import uuid
from asyncio import to_thread
from collections import Counter
from itertools import pairwise
from pathlib import Path

from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from replica.metrics import ReplicaCollector
from tests.scenario.replica.clients import IDENTITY, Client, found, hosted

SERIES_OF_A_REPLICA_MAX = 120
Labels = dict[str, str]


async def test_each_replica_adds_as_many_series_and_streams_add_none(tmp_path: Path) -> None:
    async with hosted(tmp_path / "a") as (host, ports):

        def series() -> Counter[str]:
            families = ReplicaCollector(host).collect()
            return Counter(sample.name for family in families for sample in family.samples)

        counts = [series()]
        for number in range(3):
            identity = volume_pb2.VolumeIdentity()
            identity.CopyFrom(IDENTITY)
            identity.volume_uuid, identity.name = str(uuid.uuid4()), f"vol{number}"
            await host.create_replica(replica_pb2.CreateReplicaRequest(identity=identity))
            counts.append(series())
        added = counts[1] - counts[0]
        assert all(after - before == added for before, after in pairwise(counts))
        assert sum(added.values()) < SERIES_OF_A_REPLICA_MAX
        assert all(name.startswith(("cstor_replica_", "openebs_")) for name in added)
        client = Client(ports.grpc)
        await found([client])
        stream = await client.append_stream(1)
        await stream.record(1, 1)
        before = series()
        for seq in range(2, 50):
            await stream.write(1, seq, seq)
        assert series() == before
        await client.close()


async def test_what_a_replica_does_is_told_in_cstors_units_too(tmp_path: Path) -> None:
    async with hosted(tmp_path / "a") as (host, ports):
        client = Client(ports.grpc)
        await found([client])

        def told() -> dict[str, float]:
            families = list(ReplicaCollector(host).collect())
            return {sample.name: sample.value for one in families for sample in one.samples}

        assert (told()["openebs_replica_status"], told()["openebs_rebuild_status"]) == (0, 1)
        stream = await client.append_stream(1)
        await stream.record(1, 1)
        await stream.write(1, 2, 5, 6)
        numbers = told()
        assert numbers["openebs_replica_status"] == numbers["cstor_replica_connected"] == 1
        flushes = numbers["cstor_replica_flush_seconds_count"]
        assert numbers["openebs_sync_count"] == flushes > 0
        assert numbers["openebs_sync_latency"] == 1e9 * numbers["cstor_replica_flush_seconds_sum"]
        writing_s = numbers["cstor_replica_append_seconds_sum"]
        assert numbers["openebs_write_latency"] == 1e9 * writing_s > 0
        done = numbers["cstor_replica_entries_total"] + numbers["cstor_replica_reads_total"]
        assert numbers["openebs_dispatched_io_count"] == done + flushes
        assert numbers["openebs_pool_status"] == 1
        parts = numbers["openebs_used_pool_capacity"], numbers["openebs_free_pool_capacity"]
        assert sum(parts) == numbers["openebs_pool_size"]
        percent = 100 * parts[0] / sum(parts)
        assert abs(numbers["openebs_used_pool_capacity_percent"] - percent) < 0.01
        page = await to_thread(urllib.request.urlopen, f"http://{ports.metrics}/metrics")
        pool = f'openebs_pool_size{{pool="{host.pool_uuid}"}}'
        assert pool in page.read().decode()
        await client.close()
