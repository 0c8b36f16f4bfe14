"""Telling a target that runs where replica daemons are that have started on another port.

A target that is started is given all addresses.  One that runs finds a daemon of this machine only
where it was, so it is told of each that has something of its volumes elsewhere: of the directory's
volume, and of clones, which lie in the same pools.
"""

from __future__ import annotations

from collections.abc import Iterable

from cstor_cli.cluster_file import replica_name
from cstor_cli.control_client import ControlClient, control
from cstor_cli.replica_client import Dial
from cstor_cli.status import Look, control_address
from cstor_core.errors import CstorError
from cstor_core.generated.cstor.v1 import control_pb2


def tell_target(look: Look, dial: Dial) -> list[str]:
    """Have the target look for each replica where its daemon is now.

    Told already, it is found told.  Returns what could not be done, as sentences.
    """
    try:
        with control(control_address(look)) as client:
            return _tell(look, client, dial)
    except CstorError as error:
        return [f"the target could not be asked where it looks for replicas: {error}"]


def _tell(look: Look, client: ControlClient, dial: Dial) -> list[str]:
    reports, problems = client.list_volumes(), []
    for index, place in enumerate(look.cluster.replicas):
        if replica_name(index) not in look.running or _is_known(place.address, reports):
            continue
        try:
            for volume_uuid, replica_uuid in _held(place.address, dial).items():
                if _looks_elsewhere(reports, volume_uuid, replica_uuid):
                    client.move_replica(volume_uuid, replica_uuid, place.address)
        except CstorError as error:
            problems.append(
                f"{replica_name(index)} is at {place.address}, and the target could not be told: "
                f"{error}"
            )
    return problems


def _is_known(address: str, reports: Iterable[control_pb2.VolumeReport]) -> bool:
    """Whether all volumes have a member there."""
    return all(
        any(member.member.address == address for member in report.members) for report in reports
    )


def _held(address: str, dial: Dial) -> dict[str, str]:
    """The UUIDs of the replicas that a daemon has, by those of their volumes."""
    client = dial(address)
    try:
        found = client.describe_pool().replicas
    finally:
        client.close()
    return {one.identity.volume_uuid: one.replica_uuid for one in found if one.replica_uuid}


def _looks_elsewhere(
    reports: Iterable[control_pb2.VolumeReport], volume_uuid: str, replica_uuid: str
) -> bool:
    """Whether a replica is a member of a volume that the target serves."""
    return any(
        member.member.replica_uuid == replica_uuid
        for report in reports
        if report.identity.volume_uuid == volume_uuid
        for member in report.members
    )
