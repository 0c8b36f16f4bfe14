"""PERSISTENT RESERVE IN and OUT (SPC-4, 6.15 and 6.16), and RESERVE and RELEASE (SPC-2).

What PERSISTENT RESERVE OUT changes is an entry of the volume's order, so it outlives sessions,
targets and power losses, and no command that came before passes it.  What it changes is worked out
at its place in the order, on top of all that was changed before.  RESERVE and RELEASE are of this
target alone, and end with the session.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.scsi import cdb_reservations as layouts
from cstor_target.scsi import data_out as buffers
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.command import Handler
from cstor_target.scsi.completion import failed_write
from cstor_target.scsi.device_commands import data_in
from cstor_target.scsi.requests import Confirm, Outcome, Reserve, Status, Step
from cstor_target.scsi.reservations import (
    NOTHING,
    Change,
    Registrant,
    ReservationConflictError,
    Reservations,
    ReservationType,
    conflict,
)
from cstor_target.scsi.sense import FieldPointer, ScsiError, Sense
from cstor_target.scsi.transport_id import ports_of, transport_id
from cstor_target.volume.backing import Buffer, Failure

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit

_LIST_HEADER = struct.Struct(">II")
"""PRGENERATION, ADDITIONAL LENGTH."""
_KEY = struct.Struct(">Q")
_RESERVATION = struct.Struct(">Q5xBxx")
"""RESERVATION KEY, SCOPE and TYPE."""
_FULL_STATUS = struct.Struct(">Q4xBB4xHI")
"""RESERVATION KEY, flags, SCOPE and TYPE, RELATIVE TARGET PORT IDENTIFIER, ADDITIONAL LENGTH."""
_R_HOLDER = 0x01
_PARAMETERS = struct.Struct(">QQ4xB3x")
"""RESERVATION KEY, SERVICE ACTION RESERVATION KEY, flags (SPC-4, 6.16.3)."""
_MOVE_PARAMETERS = struct.Struct(">QQxBHI")
"""The same, RELATIVE TARGET PORT IDENTIFIER, TRANSPORTID LENGTH (SPC-4, 6.16.4)."""
_TRANSPORT_IDS_LENGTH = struct.Struct(">I")
_SPEC_I_PT, _ALL_TG_PT, _APTPL = 0x08, 0x04, 0x01
_UNREG = 0x02
_LOGICAL_UNIT_SCOPE = 0

_CAPABILITIES = struct.Struct(">HBBBBxx")
"""LENGTH, capabilities, TMV, ALLOW COMMANDS and PTPL_A, and the mask of types."""
_CRH, _SIP_C, _ATP_C, _PTPL_C = 0x10, 0x08, 0x04, 0x01
_TMV, _PTPL_A = 0x80, 0x01
_ALL_TYPES = (0xEA, 0x01)

Compute = Callable[[Reservations, Registrant], Change]


def _state_reader(layout: Cdb, told: Callable[[LogicalUnit], bytes]) -> Handler:
    """A command that answers with what is known, if no other target can have changed it."""

    def read(unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]) -> Step:
        allocation_length = layout.parse(cdb).allocation_length

        def confirmed(failure: Failure | None) -> Step:
            if failure is not None:
                return failed_write(failure)
            return data_in(told(unit), allocation_length)

        return Confirm(confirmed)

    return read


def _keys(unit: LogicalUnit) -> bytes:
    held = unit.reservations
    keys = b"".join(map(_KEY.pack, held.keys.values()))
    return _LIST_HEADER.pack(held.generation, len(keys)) + keys


def _reservation(unit: LogicalUnit) -> bytes:
    held = unit.reservations
    if held.reserved is None:
        return _LIST_HEADER.pack(held.generation, 0)
    key = 0 if held.holder is None else held.keys[held.holder]
    told = _RESERVATION.pack(key, held.reserved)
    return _LIST_HEADER.pack(held.generation, len(told)) + told


def _full_status(unit: LogicalUnit) -> bytes:
    held = unit.reservations
    descriptors = []
    for registrant, key in held.keys.items():
        port = transport_id(registrant.initiator_port)
        is_holder = held.holds(registrant)
        head = _FULL_STATUS.pack(
            key,
            _R_HOLDER if is_holder else 0,
            held.reserved or 0 if is_holder else 0,
            registrant.target_port,
            len(port),
        )
        descriptors.append(head + port)
    told = b"".join(descriptors)
    return _LIST_HEADER.pack(held.generation, len(told)) + told


def report_capabilities(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """REPORT CAPABILITIES: everything but the replacement of lost reservations, which never are."""
    told = _CAPABILITIES.pack(
        _CAPABILITIES.size,
        _CRH | _SIP_C | _ATP_C | _PTPL_C,
        _TMV | (_PTPL_A if unit.reservations.is_persistent else 0),
        *_ALL_TYPES,
    )
    return data_in(told, layouts.REPORT_CAPABILITIES.parse(cdb).allocation_length)


def _changed(unit: LogicalUnit, nexus: Hashable, compute: Compute) -> Step:
    """Have the volume keep what is worked out at the place in the order."""
    registrant = unit.registrant(nexus)
    ended = Outcome(Status.GOOD)

    def change() -> volume_pb2.Reservations | None:
        nonlocal ended
        try:
            made = compute(unit.reservations, registrant)
        except (ScsiError, ReservationConflictError) as error:
            ended = error.outcome()
            return None
        if not made.is_change:
            return None
        unit.reservations_changed(made)
        return unit.reservations.message()

    def finish(failure: Failure | None) -> Step:
        return ended if failure is None else failed_write(failure)

    return Reserve(change, finish)


def _register(layout: Cdb, *, ignores_existing: bool) -> Handler:
    def register(
        unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
    ) -> Step:
        parameters = _whole_list(layout, cdb, data_out, _PARAMETERS.size)
        key, action_key, flags = _PARAMETERS.unpack_from(parameters)
        ids = _transport_ids(parameters, flags)
        if flags & _SPEC_I_PT and ignores_existing:
            raise _invalid_parameter(20)
        named = ports_of(ids)
        target_ports = unit.target_ports if flags & _ALL_TG_PT else ()
        is_persistent = flags & _APTPL != 0

        def compute(held: Reservations, registrant: Registrant) -> Change:
            is_known = registrant in held.keys
            if not ignores_existing and held.keys.get(registrant, 0) != key:
                raise conflict()
            if is_known and flags & _SPEC_I_PT:
                raise _invalid_parameter(20)
            if not action_key:
                if not is_known:
                    return NOTHING
                return held.unregister(registrant, is_persistent=is_persistent)
            ports = [registrant.initiator_port, *named]
            wanted = [
                Registrant(port, target_port)
                for port in ports
                for target_port in target_ports or (registrant.target_port,)
            ]
            # Others that have registered keep their keys.
            new = [
                one
                for one in wanted
                if one.initiator_port == registrant.initiator_port or one not in held.keys
            ]
            return held.register(new, action_key, is_persistent=is_persistent)

        return _changed(unit, nexus, compute)

    return register


def _of_registrant(
    layout: Cdb, compute: Callable[[Reservations, Registrant, int, ReservationType], Change]
) -> Handler:
    """A service action of whoever has registered the key that comes with it.

    `compute` gets the service action reservation key and the type, too.
    """
    has_type = layout is not layouts.CLEAR

    def act(unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]) -> Step:
        fields = layout.parse(cdb)
        wanted = ReservationType.WRITE_EXCLUSIVE
        if has_type:
            if fields.scope != _LOGICAL_UNIT_SCOPE:
                raise layout.invalid_field("scope")
            try:
                wanted = ReservationType(fields.type)
            except ValueError:
                raise layout.invalid_field("type") from None
        parameters = _whole_list(layout, cdb, data_out, _PARAMETERS.size)
        key, action_key, flags = _PARAMETERS.unpack_from(parameters)
        if len(parameters) != _PARAMETERS.size:
            raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
        if flags & _SPEC_I_PT:
            raise _invalid_parameter(20)

        def computed(held: Reservations, registrant: Registrant) -> Change:
            held.check_key(registrant, key)
            return compute(held, registrant, action_key, wanted)

        return _changed(unit, nexus, computed)

    return act


def register_and_move(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """REGISTER AND MOVE: another initiator port becomes the holder, and need not know of it."""
    layout = layouts.REGISTER_AND_MOVE
    parameters = _whole_list(layout, cdb, data_out, _MOVE_PARAMETERS.size)
    key, action_key, flags, target_port, length = _MOVE_PARAMETERS.unpack_from(parameters)
    ids = parameters[_MOVE_PARAMETERS.size :]
    if len(ids) != length:
        raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
    ports = ports_of(ids)
    if len(ports) != 1:
        raise _invalid_parameter(24)
    if target_port not in unit.target_ports:
        raise _invalid_parameter(18)
    if not action_key:
        raise _invalid_parameter(8)
    to = Registrant(ports[0], target_port)

    def compute(held: Reservations, registrant: Registrant) -> Change:
        held.check_key(registrant, key)
        return held.move(
            registrant,
            to,
            action_key,
            is_unregistering=flags & _UNREG != 0,
            is_persistent=flags & _APTPL != 0,
        )

    return _changed(unit, nexus, compute)


def _whole_list(layout: Cdb, cdb: Buffer, data_out: Sequence[Buffer], least: int) -> bytes:
    """The parameter list, which is as long as the CDB says and not too short."""
    length = layout.parse(cdb).parameter_list_length
    parameters = buffers.joined(data_out, length)
    if len(parameters) < length or length < least:
        raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
    return parameters


def _transport_ids(parameters: bytes, flags: int) -> bytes:
    """What stands behind the parameters of a registration: TransportIDs, if SPEC_I_PT says so."""
    rest = parameters[_PARAMETERS.size :]
    if not flags & _SPEC_I_PT:
        if rest:
            raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
        return b""
    if len(rest) < _TRANSPORT_IDS_LENGTH.size:
        raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
    (length,) = _TRANSPORT_IDS_LENGTH.unpack_from(rest)
    ids = rest[_TRANSPORT_IDS_LENGTH.size :]
    if len(ids) != length:
        raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
    return ids


def _invalid_parameter(byte: int) -> ScsiError:
    return ScsiError(Sense.INVALID_FIELD_IN_PARAMETER_LIST, field=FieldPointer(False, byte))


def reserve(unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]) -> Step:
    """RESERVE (6) and (10): of the whole unit, for this nexus.

    Who has a persistent reservation, or shares in one, need not reserve (SPC-4 r36f, 5.13.3).
    """
    held = unit.reservations
    if held.keys:
        if held.conflicts_with_reserve(unit.registrant(nexus)):
            raise conflict()
    elif unit.reserved_by in (None, nexus):
        unit.reserved_by = nexus
    else:
        raise conflict()
    return Outcome(Status.GOOD)


def release(unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]) -> Step:
    """RELEASE (6) and (10): nothing happens where the nexus has not reserved."""
    held = unit.reservations
    if held.keys and held.conflicts_with_reserve(unit.registrant(nexus)):
        raise conflict()
    if unit.reserved_by == nexus:
        unit.reserved_by = None
    return Outcome(Status.GOOD)


read_keys = _state_reader(layouts.READ_KEYS, _keys)
read_reservation = _state_reader(layouts.READ_RESERVATION, _reservation)
read_full_status = _state_reader(layouts.READ_FULL_STATUS, _full_status)
register = _register(layouts.REGISTER, ignores_existing=False)
register_and_ignore_existing_key = _register(
    layouts.REGISTER_AND_IGNORE_EXISTING_KEY, ignores_existing=True
)
persistent_reserve = _of_registrant(
    layouts.RESERVE, lambda held, registrant, _key, wanted: held.reserve(registrant, wanted)
)
persistent_release = _of_registrant(
    layouts.RELEASE, lambda held, registrant, _key, named: held.release(registrant, named)
)
clear = _of_registrant(layouts.CLEAR, lambda held, registrant, _key, _type: held.clear(registrant))
preempt = _of_registrant(
    layouts.PREEMPT,
    lambda held, registrant, key, wanted: held.preempt(registrant, key, wanted, is_aborting=False),
)
preempt_and_abort = _of_registrant(
    layouts.PREEMPT_AND_ABORT,
    lambda held, registrant, key, wanted: held.preempt(registrant, key, wanted, is_aborting=True),
)
