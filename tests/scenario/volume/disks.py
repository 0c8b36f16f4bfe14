"""What a replica of a scenario keeps over the end of its process."""

from __future__ import annotations

from dataclasses import dataclass, field

from cstor_core.frames import FrameEntry
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History

Version = tuple[int, int]
"""(epoch, seq)"""


@dataclass(slots=True)
class Held:
    """One block of a map: its version and its data, None of a discarded one."""

    version: Version
    data: bytes | None


@dataclass(slots=True)
class Disk:
    """What survives the kill of a replica's process."""

    replica_uuid: str
    identity: volume_pb2.VolumeIdentity
    configuration: volume_pb2.Configuration
    history: History = field(default_factory=History)
    applied_seq: int = 0
    rebuilding: bool = False
    promised_epoch: int = 0
    promised_instance: str = ""
    loss_possible: bool = False
    operations_seq: int = 0
    blocks: dict[int, Held] = field(default_factory=dict)
    tail: dict[int, FrameEntry] = field(default_factory=dict)
    """Recent entries by the seq that they begin with."""
