"""A call that makes or deletes a replica may end at any moment: half of it is not left."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cstor_core.generated.cstor.v1 import replica_pb2
from tests.scenario.replica.clients import IDENTITY, hosted


async def test_replica_that_has_its_name_already_is_opened_though_nobody_waits(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "pool" / "volumes" / IDENTITY.volume_uuid
    async with hosted(tmp_path / "pool") as (host, _):
        request = replica_pb2.CreateReplicaRequest(identity=IDENTITY)
        asking = asyncio.ensure_future(host.create_replica(request))
        for _ in iter(directory.exists, True):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        made = await host.create_replica(request)
        assert [*host.nodes] == [IDENTITY.volume_uuid]
        deleting = asyncio.ensure_future(
            host.delete_replica(
                replica_pb2.DeleteReplicaRequest(
                    volume_uuid=IDENTITY.volume_uuid, replica_uuid=made.replica.replica_uuid
                )
            )
        )
        for _ in iter(lambda: bool(host.nodes), False):
            await asyncio.sleep(0)
        deleting.cancel()
        await asyncio.gather(deleting, return_exceptions=True)
        again = await host.create_replica(request)
        assert again.replica.replica_uuid != made.replica.replica_uuid
