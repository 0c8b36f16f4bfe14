"""Ordered operations of an open volume: snapshots, reverts, a larger size, properties, its end.

Each is an entry of the one order, so no write has to wait for it, and every replica has it at the
same place among the writes.  Members refuse what cannot be, which would throw them out; so it is
checked here first, against what all entries that have been ordered leave.  An operation that was
ordered rolls forward, whatever becomes of who asked for it: asked for again, it is found done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from cstor_core.clock import Clock
from cstor_core.errors import InputError, UnavailableError, UnknownSnapshotError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.limits import SIZE_BYTES_MAX, SNAPSHOT_NAME_BYTES_MAX, SNAPSHOTS_MAX
from cstor_core.properties import has_write_cache, is_thin, set_property
from cstor_core.units import BLOCK_BYTES, format_size
from cstor_target.volume.backing import ChangeReservations, Done, Failure
from cstor_target.volume.events import EventSink
from cstor_target.volume.order import Order
from cstor_target.volume.tenure import Tenure

_WEAKER = {
    "delete_protection": False,
    "write_cache": True,
    "read_only": False,
    "removable": True,
    "thin": True,
}
"""The value of each property that promises less."""
WhenPossible = Callable[[Callable[[], None], Done], None]
"""Calls the first when a quorum is there, or the second with a failure."""
WhenUnlocked = Callable[[Callable[[], None]], bool]
"""Whether a part of a block is being merged; then it calls back when that is over."""


class Operations:
    """Of one volume."""

    def __init__(
        self,
        order: Order,
        clock: Clock,
        events: EventSink,
        when_possible: WhenPossible,
        when_unlocked: WhenUnlocked,
        when_leased: Callable[[Done], None],
    ) -> None:
        """`when_leased` calls back when no other target can have ordered anything yet."""
        self._order = order
        self._clock = clock
        self._events = events
        self._when_possible = when_possible
        self._when_unlocked = when_unlocked
        self._when_leased = when_leased
        self._tenure: Tenure | None = None
        self._snapshots: dict[str, volume_pb2.Snapshot] = {}
        self._ordered_bytes = 0
        """The size when all that has been ordered is done."""
        self.size_bytes = 0
        self.reverted_seq = 0
        """Where the last revert of this opening is in the order; 0 before one."""
        self.is_deleted = False
        """The deletion of the volume has been ordered, and nothing takes that back."""
        self.deleted_seq = 0
        """Where that is in the order, if this target has ordered it."""
        self.reservations = volume_pb2.Reservations()
        """When all that has been ordered is done."""
        self.sanitization = volume_pb2.Sanitization()
        """The same."""
        self.on_used: Callable[[volume_pb2.VolumeProperties], None] = lambda properties: None
        """Told which properties hold for commands from now on."""
        self.on_properties: Callable[[], None] = lambda: None
        """Told when other properties are used than before."""
        self._used, self._set = volume_pb2.VolumeProperties(), volume_pb2.VolumeProperties()
        """What holds now, and when all that has been ordered is done."""
        self.on_resized: Callable[[], None] = lambda: None
        self.on_reverted: Callable[[], None] = lambda: None

    def begin(self, tenure: Tenure, report: replica_pb2.ReplicaReport) -> None:
        """The volume is open; a member that holds its history has said this."""
        self._tenure = tenure
        self.size_bytes = self._ordered_bytes = report.size_bytes
        self._snapshots = {snapshot.name: snapshot for snapshot in report.snapshots}
        self.reservations = report.reservations
        self.sanitization = report.sanitization
        self._set.CopyFrom(report.properties)
        self._set.write_cache = has_write_cache(report.identity, report.properties)
        self._set.thin = is_thin(report.properties)
        self._use(self._set)

    @property
    def properties(self) -> volume_pb2.VolumeProperties:
        """As they are used now."""
        return self._used

    @property
    def snapshots(self) -> Sequence[volume_pb2.Snapshot]:
        """In the order of their entries."""
        return list(self._snapshots.values())

    def snapshot(self, name: str) -> volume_pb2.Snapshot:
        """The one of that name.  Raises UnknownSnapshotError, which says which there are."""
        if name not in self._snapshots:
            raise UnknownSnapshotError(f"there is no snapshot {name!r}; there are {self._names()}")
        return self._snapshots[name]

    async def create_snapshot(self, name: str) -> volume_pb2.Snapshot:
        """Take a snapshot, or find the one that was taken.

        Raises InputError for a name that none can have, UnavailableError where no quorum answers.
        """
        _check_name(name)
        if name not in self._snapshots and len(self._snapshots) >= SNAPSHOTS_MAX:
            raise InputError(
                f"there are {SNAPSHOTS_MAX} snapshots, and no more may be: delete some"
            )

        def ordered(operation: volume_pb2.Operation) -> bool:
            if name in self._snapshots or self.sanitization.state:
                return False
            created_unix_s = int(self._clock.wall())
            operation.create_snapshot.name = name
            operation.create_snapshot.created_unix_s = created_unix_s
            self._snapshots[name] = volume_pb2.Snapshot(
                name=name,
                seq=operation.seq,
                created_unix_s=created_unix_s,
                size_bytes=self._ordered_bytes,
            )
            return True

        if await self._order_operation(ordered):
            self._events("snapshot_created", {"snapshot": name})
        if name not in self._snapshots:
            raise UnavailableError(
                "the volume is being sanitized, or that has failed: 'cstor volume show' says which"
            )
        return self._snapshots[name]

    async def delete_snapshot(self, name: str) -> None:
        """Delete a snapshot; nothing happens where there is none.

        Raises UnavailableError where no quorum answers.
        """
        _check_name(name)

        def ordered(operation: volume_pb2.Operation) -> bool:
            operation.delete_snapshot.name = name
            return self._snapshots.pop(name, None) is not None

        if await self._order_operation(ordered):
            self._events("snapshot_deleted", {"snapshot": name})

    async def revert(self, name: str) -> None:
        """Have the volume hold again what a snapshot holds.

        Raises UnknownSnapshotError where there is none of the name, UnavailableError.
        """
        self.snapshot(name)

        def ordered(operation: volume_pb2.Operation) -> bool:
            operation.revert.name = name
            if name not in self._snapshots:
                return False
            self.reverted_seq = operation.seq
            return True

        if not await self._order_operation(ordered, changes_all=True):
            raise UnknownSnapshotError(f"snapshot {name!r} has been deleted meanwhile")
        self._events("reverted", {"snapshot": name})
        self.on_reverted()

    async def resize(self, size_bytes: int) -> None:
        """Let the volume be so large; nothing happens where it is.

        Raises InputError where it is larger, or the size is none; UnavailableError.
        """
        if size_bytes % BLOCK_BYTES or not 0 < size_bytes <= SIZE_BYTES_MAX:
            raise InputError(
                f"a volume of {size_bytes} bytes cannot be: write a multiple of {BLOCK_BYTES}, up "
                f"to {format_size(SIZE_BYTES_MAX)}"
            )
        if size_bytes < self.size_bytes:
            raise InputError(
                f"the volume has {format_size(self.size_bytes)}, and it only grows: what is behind "
                f"{format_size(size_bytes)} would be lost"
            )

        def ordered(operation: volume_pb2.Operation) -> bool:
            operation.resize.size_bytes = size_bytes
            if size_bytes <= self._ordered_bytes:
                return False
            self._ordered_bytes = size_bytes
            return True

        await self._order_operation(ordered)
        if size_bytes > self.size_bytes:
            self.size_bytes = size_bytes
            self._events("resized", {"size": format_size(size_bytes)})
            self.on_resized()

    async def set_property(self, setting: volume_pb2.PropertySetting) -> None:
        """Give a property a value; nothing happens where it has it.

        One that promises initiators or operators more is used from its place in the order on, one
        that promises less when W members have it on stable storage.  Raises InputError where the
        property is none, UnavailableError.
        """
        name = setting.WhichOneof("property")
        if name is None:
            raise InputError("say which property is to be set, and to what")
        if self.is_deleted:
            raise InputError("the volume is being deleted, and nothing of it is set any more")
        value = bool(getattr(setting, name))

        def ordered(operation: volume_pb2.Operation) -> bool:
            if getattr(self._set, name) == value:
                return False
            operation.set_property.CopyFrom(setting)
            set_property(self._set, setting)
            if value is not _WEAKER[name]:
                self._use_one(setting)
            return True

        is_ordered = await self._order_operation(ordered)
        if getattr(self._set, name) == value:
            self._use_one(setting)
        if is_ordered:
            self._events(
                "property_set",
                {"property": name.replace("_", "-"), "value": "on" if value else "off"},
            )

    def reserve(self, change: ChangeReservations, done: Done) -> None:
        """As `Volume.reserve`: commands that came before have their places, locks aside."""

        def ordered(operation: volume_pb2.Operation) -> bool:
            reservations = change()
            if reservations is None:
                return False
            self.reservations = reservations
            operation.set_reservations.CopyFrom(reservations)
            return True

        self._order_behind_all(ordered, done)

    def set_sanitization(
        self, change: Callable[[], volume_pb2.Sanitization | None], done: Done
    ) -> None:
        """Keep what becomes of a SANITIZE, which `change` gives at its place in the order; None
        where that stays as it is.
        """

        def ordered(operation: volume_pb2.Operation) -> bool:
            sanitization = change()
            if sanitization is None:
                return False
            self.sanitization = sanitization
            operation.set_sanitization.CopyFrom(sanitization)
            return True

        self._order_behind_all(ordered, done)

    def tell_loss(self, ordered: Callable[[], None]) -> None:
        """Have an entry say that initiators have been told what may be gone; `ordered` is called
        when it has its place.
        """
        tenure = self._tenure
        assert tenure is not None, "initiators are told by a volume that is open"

        def message_of(seq: int, completed_seq: int) -> bytes:
            told = volume_pb2.Operation(seq=seq, loss_told=volume_pb2.LossTold())
            return tenure.entry(volume_pb2.Entry(operation=told), completed_seq)

        def done(failure: Failure | None) -> None:
            if failure is None:
                self._events("loss_told", {})

        def go() -> None:
            ordered()
            self._order.operate(message_of, done)

        self._when_possible(go, done)

    async def delete_volume(self) -> None:
        """Order the end of the volume; nothing more happens where that was done.

        On return W members have it on stable storage, so that no opening will serve the volume.
        Raises InputError where it is protected, UnavailableError.
        """

        def ordered(operation: volume_pb2.Operation) -> bool:
            if self.is_deleted or self._set.delete_protection:
                return False
            operation.delete_volume.SetInParent()
            self.is_deleted, self.deleted_seq = True, operation.seq
            return True

        self.check_deletable()
        await self._order_operation(ordered)
        self.check_deletable()

    def check_deletable(self) -> None:
        """Raise InputError where the volume is protected against its deletion."""
        if self._set.delete_protection:
            raise InputError(
                "the volume is protected against its deletion: take that away first, with "
                "'cstor volume set delete-protection off'"
            )

    def _use_one(self, setting: volume_pb2.PropertySetting) -> None:
        used = volume_pb2.VolumeProperties()
        used.CopyFrom(self._used)
        set_property(used, setting)
        if used != self._used:
            self._use(used)
            self.on_properties()

    def _use(self, properties: volume_pb2.VolumeProperties) -> None:
        self._used = volume_pb2.VolumeProperties()
        self._used.CopyFrom(properties)
        self.on_used(properties)

    def _names(self) -> str:
        return ", ".join(self._snapshots) or "none"

    async def _order_operation(
        self, ordered: Callable[[volume_pb2.Operation], bool], *, changes_all: bool = False
    ) -> bool:
        """Give an operation its place, which `ordered` fills in, and wait until W members have it
        on stable storage; False where `ordered` says that nothing is to be done.

        Even then all that was ordered before is on stable storage: it may have been just that; and
        this target has its lease: a later one may have undone what this one remembers.
        """
        tenure = self._tenure
        if tenure is None:
            raise UnavailableError("the volume is not open yet")
        done: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
        is_ordered = False

        def finished(failure: Failure | None) -> None:
            if not done.done():
                done.set_result(failure)

        def go() -> None:
            nonlocal is_ordered
            if changes_all and self._when_unlocked(go):
                return
            operation = volume_pb2.Operation(seq=self._order.last_seq + 1)
            is_ordered = ordered(operation)
            if is_ordered:
                self._operate(tenure, operation, finished, changes_all=changes_all)
            else:
                self._when_so(finished)

        self._when_possible(go, finished)
        if await done is not None:
            raise UnavailableError(
                "too few replicas have answered in time; once they do it is carried out, if it was "
                "ordered: ask again"
            )
        return is_ordered

    def _order_behind_all(
        self, ordered: Callable[[volume_pb2.Operation], bool], done: Done
    ) -> None:
        """As `_order_operation`, behind all commands that came before, locks aside."""

        def go() -> None:
            if self._when_unlocked(go):
                return
            tenure = self._tenure
            assert tenure is not None, "there is a quorum only where the volume is open"
            operation = volume_pb2.Operation(seq=self._order.last_seq + 1)
            if ordered(operation):
                self._operate(tenure, operation, done)
            else:
                self._when_so(done)

        self._when_possible(go, done)

    def _operate(
        self,
        tenure: Tenure,
        operation: volume_pb2.Operation,
        done: Done,
        *,
        changes_all: bool = False,
    ) -> None:
        entry = volume_pb2.Entry(operation=operation)
        tenure.operations_seq = operation.seq
        self._order.operate(
            lambda _, completed_seq: tenure.entry(entry, completed_seq),
            done,
            blocks=self._ordered_bytes // BLOCK_BYTES if changes_all else 0,
        )

    def _when_so(self, done: Done) -> None:
        """Hear when all that was ordered is on stable storage, and this target has its lease."""
        if self._order.all_durable:
            self._when_leased(done)
        else:
            self._order.flush(done)
            self._order.kick()


def _check_name(name: str) -> None:
    """Raise InputError where no snapshot can be called so."""
    if (
        not 0 < len(name.encode()) <= SNAPSHOT_NAME_BYTES_MAX
        or not name.isprintable()
        or "/" in name
    ):
        raise InputError(
            f"a snapshot cannot be called {name!r}: write up to {SNAPSHOT_NAME_BYTES_MAX} bytes of "
            "printable text without a slash"
        )
