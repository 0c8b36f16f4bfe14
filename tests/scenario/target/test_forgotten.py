"""What a process keeps of a volume that was deleted: nothing, in however long a life."""

from __future__ import annotations

import gc
import weakref

from cstor_target.event_log import EventLog
from cstor_target.iscsi.directory import Portal
from cstor_target.served_volume import ServedVolume
from cstor_target.volumes import Volumes
from tests.scenario.volume.cluster import Cluster, SimulatedLink, until
from tests.scenario.volume.virtual_time import VirtualClock, play

PORTALS = (Portal("127.0.0.1:3260"),)


def test_volume_is_known_by_its_name_while_it_is_open() -> None:
    """So that no clone is made of that name."""

    async def scenario() -> None:
        cluster, clock = Cluster(), VirtualClock()
        volumes = Volumes(cluster.settings, EventLog(clock), clock, "0", several=True)
        volumes.begin(lambda address: SimulatedLink(address, cluster, "one"), PORTALS)
        uuid = cluster.replicas[0].disk.identity.volume_uuid
        volume = volumes.add(uuid, [member.address for member in cluster.members], uuid)
        assert volumes.uuid_of("vol") == ""
        volumes.start(volume)
        await until(lambda: volume.engine.serving)
        assert volumes.uuid_of("vol") == uuid
        assert volumes.uuid_of("other") == ""
        await volume.engine.deletion.delete()
        assert volumes.uuid_of("vol") == ""
        await volumes.close()

    play(scenario())


def test_nothing_stays_of_a_volume_that_was_deleted() -> None:
    async def scenario() -> None:
        cluster, clock = Cluster(), VirtualClock()
        volumes = Volumes(cluster.settings, EventLog(clock), clock, "0", several=True)
        volumes.begin(lambda address: SimulatedLink(address, cluster, "one"), PORTALS)

        def served() -> weakref.ref[ServedVolume]:
            volume = volumes.add("vol", [member.address for member in cluster.members])
            volumes.start(volume)
            volume.engine.deletion.on_done()
            return weakref.ref(volume)

        volume = served()
        await until(lambda: not volumes.served)
        await volumes.close()
        gc.collect()
        assert volume() is None

    play(scenario())
