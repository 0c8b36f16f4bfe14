"""One logical unit: a direct access block device over one volume (SBC-3).

It holds what the commands look at: capacity, limits, names, the write cache bit, unit attentions.
It starts commands and never waits; the requests that `start` gives are carried out by whoever
called it.  Between commands it holds nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.scsi import asymmetric_access, sanitize
from cstor_target.scsi import geometry as limits
from cstor_target.scsi.asymmetric_access import AccessState
from cstor_target.scsi.cdb import (
    COMPARE_AND_WRITE,
    INQUIRY,
    ORWRITE_16,
    PRE_FETCH_10,
    PRE_FETCH_16,
    READ_6,
    READ_10,
    READ_12,
    READ_16,
    READ_CAPACITY_10,
    READ_CAPACITY_16,
    READ_DEFECT_DATA_10,
    READ_DEFECT_DATA_12,
    REPORT_LUNS,
    REQUEST_SENSE,
    SANITIZE_BLOCK_ERASE,
    SYNCHRONIZE_CACHE_10,
    SYNCHRONIZE_CACHE_16,
    TEST_UNIT_READY,
    UNMAP,
    VERIFY_10,
    VERIFY_12,
    VERIFY_16,
    WRITE_6,
    WRITE_10,
    WRITE_12,
    WRITE_16,
    WRITE_AND_VERIFY_10,
    WRITE_AND_VERIFY_12,
    WRITE_AND_VERIFY_16,
    WRITE_ATOMIC_16,
    WRITE_SAME_10,
    WRITE_SAME_16,
)
from cstor_target.scsi.cdb_reservations import RELEASE_6, RELEASE_10, RESERVE_6, RESERVE_10
from cstor_target.scsi.command import Command
from cstor_target.scsi.commands import COMMANDS, DISPATCH, access_of
from cstor_target.scsi.completion import failed_write
from cstor_target.scsi.doubt import Doubt
from cstor_target.scsi.extended_copy import Copies, FindPeer
from cstor_target.scsi.geometry import Geometry
from cstor_target.scsi.identity import Identity
from cstor_target.scsi.log_commands import Statistics
from cstor_target.scsi.medium import Medium
from cstor_target.scsi.parameters import DEFAULTS, Parameters
from cstor_target.scsi.requests import Confirm, Outcome, Status, Step
from cstor_target.scsi.reservations import (
    Access,
    Change,
    Registrant,
    ReservationConflictError,
    Reservations,
)
from cstor_target.scsi.sense import ScsiError, Sense, check_condition
from cstor_target.scsi.task_order import TaskOrder
from cstor_target.scsi.unit_attention import UnitAttentions
from cstor_target.volume.backing import Buffer

# These are carried out although a unit attention is pending (SAM-5): REQUEST SENSE reports
# it, the other two leave it pending.
_DESPITE_UNIT_ATTENTION = frozenset(
    layout.operation_code for layout in (INQUIRY, REPORT_LUNS, REQUEST_SENSE)
)
# SPC-2, table 9; RESERVE and RELEASE see for themselves.
_DESPITE_RESERVE = _DESPITE_UNIT_ATTENTION | frozenset(
    layout.operation_code for layout in (RESERVE_6, RELEASE_6, RESERVE_10, RELEASE_10)
)
_CONFLICT = Outcome(Status.RESERVATION_CONFLICT)
_LOSSES = frozenset((Sense.REGISTRATIONS_PREEMPTED, Sense.RESERVATIONS_PREEMPTED))
_WRITING = frozenset(
    layout.operation_code
    for layout in (
        *(WRITE_6, WRITE_10, WRITE_12, WRITE_16, WRITE_SAME_10, WRITE_SAME_16, UNMAP),
        *(WRITE_AND_VERIFY_10, WRITE_AND_VERIFY_12, WRITE_AND_VERIFY_16),
        *(ORWRITE_16, COMPARE_AND_WRITE, WRITE_ATOMIC_16, SANITIZE_BLOCK_ERASE),
    )
)
_OF_THE_MEDIUM = _WRITING | frozenset(
    layout.operation_code
    for layout in (
        *(TEST_UNIT_READY, READ_6, READ_10, READ_12, READ_16, READ_CAPACITY_10, READ_CAPACITY_16),
        *(VERIFY_10, VERIFY_12, VERIFY_16, PRE_FETCH_10, PRE_FETCH_16),
        *(SYNCHRONIZE_CACHE_10, SYNCHRONIZE_CACHE_16, READ_DEFECT_DATA_10, READ_DEFECT_DATA_12),
    )
)
_CHANGED_BY_ITSELF = 0x02  # STATUS CODE: by implicit asymmetric access behaviour (SPC-4, 6.37)
_WITHOUT_UNMAP = tuple(one for one in COMMANDS if one.layout is not UNMAP)


class LogicalUnit:
    """A block device server."""

    __slots__ = (
        "_is_hindered",
        "_is_reserved",
        "_reserved_by",
        "access_state",
        "access_status",
        "atomic_blocks_max",
        "attentions",
        "block_bytes",
        "block_count",
        "block_shift",
        "copies",
        "doubt",
        "find_peer",
        "geometry",
        "identity",
        "is_thin",
        "medium",
        "on_access_wanted",
        "on_lost",
        "on_preempted",
        "physical_blocks",
        "read_only",
        "reservations",
        "sanitization",
        "sanitize_progress",
        "software_write_protect",
        "statistics",
        "task_order",
        "transfer_blocks_max",
        "unmap_blocks_max",
        "write_cache",
        "write_same_blocks_max",
    )

    def __init__(
        self,
        identity: Identity,
        geometry: Geometry,
        parameters: Parameters = DEFAULTS,
    ) -> None:
        self.geometry = geometry
        self.identity = identity
        self.write_cache = parameters.write_cache
        self.read_only = parameters.read_only
        self.is_thin = parameters.is_thin
        self.medium = Medium(is_removable=parameters.is_removable)
        self.sanitization = volume_pb2.Sanitization()
        """What SANITIZE has begun and not ended, or that it has failed."""
        self.sanitize_progress: Callable[[], float] = lambda: 0.0
        self.access_state = AccessState.ACTIVE_OPTIMIZED
        """Of all ports that the unit is reached through."""
        self.access_status = 0
        """STATUS CODE of its target port groups (SPC-4, 6.37)."""
        self.on_access_wanted: Callable[[], None] = lambda: None
        """Told that an initiator wants the ports to serve the medium, where they do not."""
        self._is_hindered = False
        """The ports do not serve the medium, or SANITIZE is under way or has failed."""
        self.software_write_protect = False
        """SWP of the control mode page, which initiators select (SPC-4, 7.5.8)."""
        self.attentions = UnitAttentions()
        self.doubt: Doubt | None = None
        """Where writes of before may be gone."""
        self.reservations = Reservations()
        """Of all that has its place in the order."""
        self._reserved_by: Hashable | None = None
        self._is_reserved = False
        self.statistics: Callable[[], Statistics] = Statistics
        self.task_order = TaskOrder()
        self.copies = Copies()
        self.find_peer: FindPeer = lambda nexus, designator: None
        """Set where other units are served, too."""
        self.on_preempted: Callable[[Registrant], None] = lambda registrant: None
        """Told whose commands are to end without an answer."""
        self.on_lost: Callable[[str], None] = lambda initiator_port: None
        """Told whose registration somebody else has taken away."""
        self.block_bytes = geometry.logical_block_bytes
        self.block_shift = geometry.block_shift
        self.block_count = geometry.blocks(geometry.size_bytes())
        self.transfer_blocks_max = geometry.blocks(limits.TRANSFER_BYTES_MAX)
        self.unmap_blocks_max = geometry.blocks(limits.UNMAP_BYTES_MAX)
        self.physical_blocks = geometry.blocks(geometry.physical_block_bytes)
        self.atomic_blocks_max = geometry.blocks(limits.ATOMIC_BYTES_MAX)
        self.write_same_blocks_max = geometry.blocks(limits.WRITE_SAME_BYTES_MAX)

    def start(
        self, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer] = (), expected_in: int = 0
    ) -> Step:
        """Start a command: the answer, or the first request to the volume.

        `cdb` is at least 16 bytes long, as iSCSI carries it.  `expected_in` is not looked at: data
        beyond what the initiator expects are a residual, which is iSCSI's to count.
        """
        operation_code = cdb[0]
        if self.attentions.pending and operation_code not in _DESPITE_UNIT_ATTENTION:
            condition = self.attentions.take(nexus)
            if condition is not None:
                return check_condition(condition)
        if self._is_reserved:
            step = self._conflict(nexus, cdb)
            if step is not None:
                return step
        if self._is_hindered and operation_code not in _DESPITE_UNIT_ATTENTION:
            step = self._hindrance(cdb)
            if step is not None:
                return step
        if self.medium.is_ejected and operation_code in _OF_THE_MEDIUM:
            return check_condition(Sense.MEDIUM_NOT_PRESENT)
        if operation_code in _WRITING and self.is_write_protected:
            return check_condition(Sense.WRITE_PROTECTED)
        try:
            return DISPATCH[operation_code](self, nexus, cdb, data_out)
        except (ScsiError, ReservationConflictError) as error:
            return error.outcome()

    def is_usable(self, nexus: Hashable, access: Access) -> bool:
        """Whether a copy of a nexus may read or write here."""
        if self.medium.is_ejected or self._is_hindered:
            return False
        if not self._is_reserved:
            return True
        is_theirs = self._reserved_by not in (None, nexus)
        return not (is_theirs or self.reservations.conflicts(self.registrant(nexus), access))

    @property
    def commands(self) -> Sequence[Command]:
        """All that are carried out."""
        return COMMANDS if self.is_thin else _WITHOUT_UNMAP

    def _conflict(self, nexus: Hashable, cdb: Buffer) -> Step | None:
        """The end of a command that somebody else's reservation forbids."""
        if self._reserved_by not in (None, nexus):
            return None if cdb[0] in _DESPITE_RESERVE else _CONFLICT
        if self.reservations.conflicts(self.registrant(nexus), access_of(cdb)):
            # What this target knows may be out of date where another one serves the volume.
            return Confirm(lambda failure: failed_write(failure) if failure else _CONFLICT)
        return None

    @property
    def is_write_protected(self) -> bool:
        """Whether commands that write end with WRITE PROTECTED."""
        return self.read_only or self.software_write_protect

    def protect(self, is_protected: bool, nexus: Hashable) -> None:
        """A nexus has selected the software write protection; the others are told of a change."""
        if is_protected is not self.software_write_protect:
            self.software_write_protect = is_protected
            self.attentions.establish(Sense.MODE_PARAMETERS_CHANGED, nexus)

    @property
    def target_ports(self) -> tuple[int, ...]:
        """The relative identifiers of all ports that the unit is reached through."""
        return self.identity.target_ports

    def registrant(self, nexus: Hashable) -> Registrant:
        """A nexus as reservations know it."""
        return Registrant.of(str(nexus))

    @property
    def reserved_by(self) -> Hashable | None:
        """Who has the unit by RESERVE (6) or (10)."""
        return self._reserved_by

    @reserved_by.setter
    def reserved_by(self, nexus: Hashable | None) -> None:
        self._reserved_by = nexus
        self._look_at_reservations()

    def keep(self, reservations: Reservations) -> None:
        """These are there when the volume opens."""
        self.reservations = reservations
        self._look_at_reservations()

    def reservations_changed(self, change: Change) -> None:
        """The reservations are others now: whom that concerns is told."""
        self._look_at_reservations()
        for registrant, sense in change.attentions:
            self.attentions.tell(registrant.nexus, sense)
            if sense in _LOSSES:
                self.on_lost(registrant.initiator_port)
        for registrant in change.aborted:
            self.on_preempted(registrant)

    def _look_at_reservations(self) -> None:
        self._is_reserved = self._reserved_by is not None or self.reservations.reserved is not None

    def nexus_established(self, nexus: Hashable) -> None:
        """An initiator has logged in; the first command that can fail tells it of a reset."""
        if self.doubt is None:
            self.attentions.nexus_established(nexus)
        else:
            self.attentions.nexus_established(nexus, Sense.POWER_ON_OCCURRED)
            self.doubt.nexus_established(nexus)

    def doubted(self, on_told: Callable[[], None]) -> None:
        """Writes of before may be gone; see `Doubt`.  Called before any is served."""
        self.doubt = Doubt(on_told)
        self.attentions.establish(Sense.POWER_ON_OCCURRED)
        for nexus in self.attentions.nexuses:
            self.doubt.nexus_established(nexus)

    def nexus_lost(self, nexus: Hashable) -> None:
        """The session of an initiator has ended."""
        self.attentions.nexus_lost(nexus)
        self.medium.prevent(nexus, False)
        self.copies.nexus_lost(nexus)
        if self._reserved_by == nexus:
            self.reserved_by = None
        if self.doubt is not None:
            self.doubt.nexus_lost(nexus)

    def reset(self) -> None:
        """LOGICAL UNIT RESET or a reset of the target; aborting the tasks is the caller's part."""
        self.attentions.reset()
        self.reserved_by = None
        self.software_write_protect = False
        self.medium.allow_all()

    def task_set_cleared(self, nexus: Hashable) -> None:
        """CLEAR TASK SET of `nexus`: the others are told why their commands never ended."""
        self.attentions.establish(Sense.COMMANDS_CLEARED_BY_ANOTHER_INITIATOR, nexus)

    def tasks_ended(self, nexus: Hashable) -> None:
        """Commands of `nexus` were ended below SCSI, and it goes on (RFC 7143, 7.6)."""
        self.attentions.tell(nexus, Sense.SOME_COMMANDS_CLEARED_BY_ISCSI_PROTOCOL_EVENT)

    def capacity_changed(self) -> None:
        """The volume has grown: commands may use the new blocks, and every nexus is told."""
        self.block_count = self.geometry.blocks(self.geometry.size_bytes())
        self.attentions.establish(Sense.CAPACITY_DATA_HAS_CHANGED)

    def parameters_changed(self, now: Parameters) -> None:
        """What mode parameters and INQUIRY data say is another thing now: every nexus is told."""
        if (now.write_cache, now.read_only) != (self.write_cache, self.read_only):
            self.attentions.establish(Sense.MODE_PARAMETERS_CHANGED)
        if (now.is_removable, now.is_thin) != (self.medium.is_removable, self.is_thin):
            self.attentions.establish(Sense.INQUIRY_DATA_HAS_CHANGED)
        if now.is_removable is not self.medium.is_removable:
            self.medium.become(is_removable=now.is_removable)
        self.write_cache, self.read_only, self.is_thin = (
            now.write_cache,
            now.read_only,
            now.is_thin,
        )

    def sanitization_changed(self, now: volume_pb2.Sanitization) -> None:
        """A SANITIZE has begun, has ended or has failed."""
        self.sanitization = now
        self._look_at_hindrances()

    def access_changed(self, state: AccessState) -> None:
        """The ports serve the medium from now on, or do not: every nexus is told of the end of a
        transition (SPC-4, 5.15.2.3).
        """
        self.access_state, self.access_status = state, _CHANGED_BY_ITSELF
        self._look_at_hindrances()
        if state is not AccessState.TRANSITIONING:
            self.attentions.establish(Sense.ASYMMETRIC_ACCESS_STATE_CHANGED)

    @property
    def _is_sanitizing(self) -> bool:
        return self.sanitization.state != volume_pb2.SANITIZATION_STATE_UNSPECIFIED

    def _look_at_hindrances(self) -> None:
        is_served = self.access_state is AccessState.ACTIVE_OPTIMIZED
        self._is_hindered = self._is_sanitizing or not is_served

    def _hindrance(self, cdb: Buffer) -> Step | None:
        """The end of a command that cannot be carried out now."""
        step = asymmetric_access.in_the_way(self.access_state, cdb)
        if step is None and self._is_sanitizing:
            return sanitize.in_the_way(self, cdb)
        return step

    def load(self, nexus: Hashable) -> None:
        """The medium is there again, which the other nexuses are told."""
        if self.medium.is_ejected:
            self.medium.is_ejected = False
            self.attentions.establish(
                Sense.NOT_READY_TO_READY_CHANGE_MEDIUM_MAY_HAVE_CHANGED, nexus
            )

    def contents_changed(self) -> None:
        """The volume holds something else as a whole, as if the medium had been changed."""
        self.attentions.establish(Sense.NOT_READY_TO_READY_CHANGE_MEDIUM_MAY_HAVE_CHANGED)
