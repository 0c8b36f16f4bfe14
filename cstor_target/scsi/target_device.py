"""A SCSI target device (SAM-5): LUN 0 and nothing else.

Commands to a LUN without a logical unit are answered here, as SPC-4 says (6.6, 6.33, 6.39): REPORT
LUNS, INQUIRY and REQUEST SENSE succeed, all others end with LOGICAL UNIT NOT SUPPORTED.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from cstor_target.scsi.asymmetric_access import AccessState
from cstor_target.scsi.cdb import INQUIRY, REPORT_LUNS, REQUEST_SENSE
from cstor_target.scsi.device_commands import data_in
from cstor_target.scsi.geometry import Geometry
from cstor_target.scsi.identity import Identity
from cstor_target.scsi.inquiry import inquiry_of_absent_unit
from cstor_target.scsi.logical_unit import LogicalUnit
from cstor_target.scsi.parameters import DEFAULTS, Parameters
from cstor_target.scsi.reports import lun_inventory
from cstor_target.scsi.requests import Step
from cstor_target.scsi.sense import ScsiError, Sense, descriptor_format, fixed_format
from cstor_target.volume.backing import Buffer

# LUN 0 in the flat space addressing method, should `lun` be the whole eight byte field (SAM-5,
# 4.7); in the peripheral device addressing method it is 0.
_LUN_0_FLAT_SPACE = 0x4000_0000_0000_0000


class TargetDevice:
    """The logical units that are reached through one iSCSI target node."""

    __slots__ = ("_units", "unit")

    def __init__(
        self,
        identity: Identity,
        geometry: Geometry,
        parameters: Parameters = DEFAULTS,
    ) -> None:
        self.unit = LogicalUnit(identity, geometry, parameters)
        self._units = {0: self.unit, _LUN_0_FLAT_SPACE: self.unit}

    def start(
        self,
        nexus: Hashable,
        lun: int,
        cdb: Buffer,
        data_out: Sequence[Buffer] = (),
        expected_in: int = 0,
    ) -> Step:
        """Start a command to a LUN; see `LogicalUnit.start`."""
        unit = self._units.get(lun)
        if unit is not None:
            return unit.start(nexus, cdb, data_out, expected_in)
        try:
            return self._start_absent(cdb)
        except ScsiError as error:
            return error.outcome()

    def nexus_established(self, nexus: Hashable) -> None:
        """An initiator has logged in to the target."""
        self.unit.nexus_established(nexus)

    def nexus_lost(self, nexus: Hashable) -> None:
        """The session of an initiator has ended."""
        self.unit.nexus_lost(nexus)

    def reset(self, nexus: Hashable | None = None) -> None:
        """A logical unit or target reset, asked for by `nexus` or by nobody.

        Every nexus is told of it by a unit attention, the one that asked as well (SAM-5).
        """
        self.unit.reset()

    def task_set_cleared(self, nexus: Hashable) -> None:
        """`nexus` has cleared the task set; the others are told (SAM-5)."""
        self.unit.task_set_cleared(nexus)

    def tasks_ended(self, nexus: Hashable) -> None:
        """Tasks of `nexus` were ended with the connection that they came on (RFC 7143, 7.6)."""
        self.unit.tasks_ended(nexus)

    def doubted(self, on_told: Callable[[], None]) -> None:
        """Writes of before may be gone.  See `Doubt`."""
        self.unit.doubted(on_told)

    def capacity_changed(self) -> None:
        """The volume has grown."""
        self.unit.capacity_changed()

    def parameters_changed(self, parameters: Parameters) -> None:
        """Properties of the volume that initiators are told of have been set."""
        self.unit.parameters_changed(parameters)

    def access_changed(self, state: AccessState) -> None:
        """Its ports serve the medium from now on, or do not."""
        self.unit.access_changed(state)

    def contents_changed(self) -> None:
        """The volume holds something else as a whole."""
        self.unit.contents_changed()

    def _start_absent(self, cdb: Buffer) -> Step:
        operation_code = cdb[0]
        if operation_code == REPORT_LUNS.operation_code:
            return lun_inventory(cdb)
        if operation_code == INQUIRY.operation_code:
            return inquiry_of_absent_unit(self.unit.identity, cdb)
        if operation_code == REQUEST_SENSE.operation_code:
            REQUEST_SENSE.check(cdb)
            fields = REQUEST_SENSE.parse(cdb)
            encode = descriptor_format if fields.desc else fixed_format
            sense = encode(Sense.LOGICAL_UNIT_NOT_SUPPORTED)
            return data_in(sense, fields.allocation_length)
        raise ScsiError(Sense.LOGICAL_UNIT_NOT_SUPPORTED)
