"""A witness for scenarios: what its daemon does, in memory, in the words of its wire."""

from __future__ import annotations

from cstor_core.errors import (
    CorruptError,
    FencedError,
    ForeignReplicaError,
    NoSpaceError,
    RefusedError,
    UnavailableError,
)
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from replica.leases import LeaseGiven
from tests.scenario.volume.disks import Disk
from tests.scenario.volume.virtual_time import VirtualClock


class Witness:
    """One daemon with the witness of the volume."""

    def __init__(self, address: str, disk: Disk) -> None:
        """`disk` has its UUID, the configuration and the promise; nothing else of it is used."""
        self.address = address
        self.disk = disk
        self.up = True
        self.stalled = False
        self.failed = False
        self.full = False
        """Its daemon was started while its disk was full, and could not open what it has."""
        self.given = LeaseGiven(VirtualClock(), may_be_given=False)
        self.position = (0, 0)
        self.mark = (0, 0, "")
        """Epoch, number, who is out of date."""
        self.words: list[tuple[int, int, str]] = []
        """All that it was told."""
        self.missed = 0
        """So often somebody has asked while it was down."""

    @classmethod
    def moved(cls, other: Witness, address: str) -> Witness:
        """One with the disk of another."""
        moved = cls(address, other.disk)
        moved.position, moved.mark = other.position, other.mark
        return moved

    def kill(self) -> None:
        """End the process; what it holds stays."""
        self.up = False

    def restart(self) -> None:
        """Start the process again."""
        self.up = True
        self.stalled = False

    def fail(self) -> None:
        """Its disk has failed: it says so until its machine is booted anew."""
        self.failed = True

    def boot(self) -> None:
        """Its machine is booted anew: what it answered is there."""
        self.failed = False

    def check_usable(self) -> None:
        """Raise CorruptError where its disk has failed, UnavailableError where nothing runs."""
        self.check_reachable()
        if self.failed:
            raise CorruptError("it could not be written")

    def check_reachable(self) -> None:
        """Raise UnavailableError where the process does not run, NoSpaceError where it is full."""
        if not self.up:
            self.missed += 1
            raise UnavailableError(f"no daemon answers at {self.address}")
        if self.full:
            raise NoSpaceError("its file system is full: free some space")

    def report(self) -> replica_pb2.ReplicaReport:
        """What it says of itself."""
        disk = self.disk
        founded = bool(disk.configuration.members)
        epoch, number, out_of_date = self.mark
        report = replica_pb2.ReplicaReport(
            identity=disk.identity,
            replica_uuid=disk.replica_uuid,
            state=self._state(),
            reason="it could not be written" if self.failed else "",
            configuration=disk.configuration if founded else None,
            promised_epoch=disk.promised_epoch,
            promised_instance=disk.promised_instance,
            durable_seq=self.position[1],
            size_bytes=disk.identity.size_bytes,
            witness=True,
            out_of_date_mark=replica_pb2.OutOfDateMark(
                epoch=epoch, number=number, replica_uuid=out_of_date
            ),
        )
        if self.position[0]:
            report.history.reigns.add(epoch=self.position[0], last_seq=self.position[1])
        return report

    def _state(self) -> replica_pb2.ReplicaState.ValueType:
        if self.failed:
            return replica_pb2.REPLICA_STATE_FAILED
        if self.disk.configuration.members:
            return replica_pb2.REPLICA_STATE_COMPLETE
        return replica_pb2.REPLICA_STATE_UNFOUNDED

    def delete(self, request: replica_pb2.DeleteReplicaRequest) -> None:
        """Forget the volume; the next one that is asked for is another witness."""
        self.check_reachable()
        self.disk = Disk(
            f"{request.replica_uuid}-again", self.disk.identity, volume_pb2.Configuration()
        )
        self.position, self.mark = (0, 0), (0, 0, "")
        self.failed = False

    def promise(self, request: replica_pb2.PromiseRequest) -> replica_pb2.PromiseResponse:
        """Promise only a higher epoch than ever before."""
        disk = self.disk
        self.check_usable()
        asked = (request.epoch, request.target_instance)
        if request.replica_uuid != disk.replica_uuid:
            raise ForeignReplicaError("another witness is here")
        if asked != (disk.promised_epoch, disk.promised_instance):
            if request.epoch <= disk.promised_epoch:
                return replica_pb2.PromiseResponse(promised=False, replica=self.report())
            disk.promised_epoch, disk.promised_instance = asked
        return replica_pb2.PromiseResponse(promised=True, replica=self.report())

    def lease(self, request: replica_pb2.LeaseRequest) -> replica_pb2.LeaseResponse:
        """Given to whom it has promised itself to; an opening is not told how long it runs."""
        self.check_usable()
        orders, disk = request.orders, self.disk
        promised = (disk.promised_epoch, disk.promised_instance)
        granted = (orders.epoch, orders.target_instance) == promised
        if granted:
            self.given.renew(orders.target_instance, request.duration_ms / 1000, request.successor)
        return replica_pb2.LeaseResponse(
            granted=granted,
            standbys=self.given.standbys,
            promised_epoch=disk.promised_epoch,
        )

    def stand_by(self, request: replica_pb2.StandByRequest) -> replica_pb2.StandByResponse:
        """Remember who stands by, and tell it how things are."""
        self.check_usable()
        return self.given.stand_by(request, self.report())

    def attest(self, request: replica_pb2.AttestRequest) -> replica_pb2.ReplicaReport:
        """Hold what the target says, unless it has said something later."""
        self.check_usable()
        orders, disk = request.orders, self.disk
        if orders.replica_uuid != disk.replica_uuid:
            raise ForeignReplicaError("another witness is here")
        if (orders.epoch, orders.target_instance) != (disk.promised_epoch, disk.promised_instance):
            raise FencedError(f"epoch {orders.epoch} is refused")
        word = (orders.epoch, request.number, request.out_of_date_replica_uuid)
        if word[:2] <= self.mark[:2] and word != self.mark:
            raise RefusedError(f"word {word} came behind {self.mark}")
        self.mark, self.position = word, (orders.epoch, request.record_seq)
        self.words.append(word)
        disk.configuration = volume_pb2.Configuration.FromString(
            request.configuration.SerializeToString()
        )
        return self.report()
