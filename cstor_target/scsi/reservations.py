"""Who has registered with a logical unit and who has reserved it (SPC-4 r36f, 5.13).

The state and its changes, and nothing else: which command asks for a change, and how the volume
keeps it, is not known here.  A change that is not allowed changes nothing.  Whoever is to be told
of one by a unit attention is told by `attentions` of what the change returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from cstor_core.errors import CstorError
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.limits import REGISTRATIONS_MAX
from cstor_target.scsi.identity import FIRST_TARGET_PORT
from cstor_target.scsi.requests import Outcome, Status
from cstor_target.scsi.sense import ScsiError, Sense

_GENERATION_MASK = 0xFFFF_FFFF
_TARGET_PORT = ",t,0x"


class Registrant(NamedTuple):
    """An I_T nexus that outlives its sessions: the initiator port by name, the target port by its
    relative identifier.
    """

    initiator_port: str
    """As `Session.initiator_port`: iSCSI name, `,i,0x` and the ISID in hexadecimal digits."""
    target_port: int

    @property
    def nexus(self) -> str:
        """By which a logical unit knows it: the initiator port, and the target port unless that is
        the first one.
        """
        if self.target_port == FIRST_TARGET_PORT:
            return self.initiator_port
        return f"{self.initiator_port}{_TARGET_PORT}{self.target_port:04x}"

    @classmethod
    def of(cls, nexus: str) -> Registrant:
        """The one of that name."""
        initiator_port, found, target_port = nexus.rpartition(_TARGET_PORT)
        if not found:
            return cls(nexus, FIRST_TARGET_PORT)
        return cls(initiator_port, int(target_port, 16))


class ReservationType(IntEnum):
    """The TYPE field (SPC-4, 6.15.3.4)."""

    WRITE_EXCLUSIVE = 0x1
    EXCLUSIVE_ACCESS = 0x3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 0x5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 0x6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 0x7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 0x8

    @property
    def is_of_all_registrants(self) -> bool:
        """Whether everyone who has registered is a holder."""
        return self in _ALL_REGISTRANTS

    @property
    def admits_registrants(self) -> bool:
        """Whether whoever has registered may do what a holder may."""
        return self in _ALL_REGISTRANTS or self in _REGISTRANTS_ONLY

    @property
    def admits_reading(self) -> bool:
        """Whether anybody may read."""
        return self in _WRITE_EXCLUSIVE


_ALL_REGISTRANTS = frozenset((0x7, 0x8))
_REGISTRANTS_ONLY = frozenset((0x5, 0x6))
_WRITE_EXCLUSIVE = frozenset((0x1, 0x5, 0x7))


class Access(IntEnum):
    """What a command does, for a reservation that somebody else holds (SPC-4 r36f, table 65;
    SBC-3, table 13).
    """

    ANY = 0
    """It is allowed whatever is reserved."""
    READ = 1
    """It conflicts with exclusive access."""
    WRITE = 2
    """It conflicts with every reservation."""


class ReservationConflictError(CstorError):
    """A command that somebody else's reservation forbids, or that names another key."""

    def outcome(self) -> Outcome:
        """RESERVATION CONFLICT, which has no sense data (SAM-5, 5.3)."""
        return Outcome(Status.RESERVATION_CONFLICT)


def conflict() -> ReservationConflictError:
    """The error, with the words of the standard."""
    return ReservationConflictError("RESERVATION CONFLICT")


@dataclass(slots=True)
class Change:
    """What others notice of a change: a unit attention each, and the end of their commands."""

    attentions: list[tuple[Registrant, Sense]] = field(default_factory=list)
    aborted: list[Registrant] = field(default_factory=list)
    is_change: bool = True
    """Whether anything is another thing now."""

    def tell(self, registrants: Iterable[Registrant], sense: Sense) -> None:
        """All of these are to be told."""
        self.attentions.extend((registrant, sense) for registrant in registrants)


NOTHING = Change(is_change=False)
"""To be looked at only."""


class Reservations:
    """Of one logical unit."""

    __slots__ = ("generation", "holder", "is_persistent", "keys", "reserved")

    def __init__(self) -> None:
        self.generation = 0
        """PRGENERATION."""
        self.keys: dict[Registrant, int] = {}
        self.reserved: ReservationType | None = None
        self.holder: Registrant | None = None
        """None also where all registrants hold the reservation."""
        self.is_persistent = False
        """APTPL, as it was said last: whatever it is, all this outlives every power loss."""

    def holds(self, registrant: Registrant) -> bool:
        """Whether it is a holder of the reservation."""
        if self.reserved is None:
            return False
        if self.reserved.is_of_all_registrants:
            return registrant in self.keys
        return registrant == self.holder

    def conflicts(self, registrant: Registrant, access: Access) -> bool:
        """Whether a command of an I_T nexus ends with RESERVATION CONFLICT."""
        reserved = self.reserved
        if reserved is None or access is Access.ANY or self.holds(registrant):
            return False
        if reserved.admits_registrants and registrant in self.keys:
            return False
        return not (access is Access.READ and reserved.admits_reading)

    def conflicts_with_reserve(self, registrant: Registrant) -> bool:
        """Whether RESERVE and RELEASE end with RESERVATION CONFLICT, where anybody has registered.

        They do nothing for whoever has or shares in a reservation (SPC-4 r36f, 5.13.3).
        """
        if self.holds(registrant):
            return False
        reserved = self.reserved
        return not (reserved and reserved.admits_registrants and registrant in self.keys)

    def check_key(self, registrant: Registrant, key: int) -> None:
        """Raise ReservationConflictError where it has not registered this key."""
        if self.keys.get(registrant) != key:
            raise conflict()

    def register(
        self, registrants: Iterable[Registrant], service_action_key: int, *, is_persistent: bool
    ) -> Change:
        """Register these with a key, or with another one than before.

        Raises ScsiError where there are too many.
        """
        wanted = dict.fromkeys(registrants, service_action_key)
        if len(self.keys | wanted) > REGISTRATIONS_MAX:
            raise ScsiError(Sense.INSUFFICIENT_REGISTRATION_RESOURCES)
        self.keys |= wanted
        self.is_persistent = is_persistent
        self._count()
        return Change()

    def unregister(self, registrant: Registrant, *, is_persistent: bool) -> Change:
        """Take a registration away, and the reservation where nobody else holds it."""
        change = Change()
        was_holder = self.holds(registrant)
        del self.keys[registrant]
        self.is_persistent = is_persistent
        self._count()
        if was_holder and not (self.keys and _is_of_all(self.reserved)):
            reserved = self._drop_reservation()
            if reserved.admits_registrants:
                change.tell(self.keys, Sense.RESERVATIONS_RELEASED)
        return change

    def reserve(self, registrant: Registrant, wanted: ReservationType) -> Change:
        """Make a reservation.  Raises ReservationConflictError where there is another one."""
        if self.reserved is None:
            self._reserve(registrant, wanted)
            return Change()
        if self.reserved is wanted and self.holds(registrant):
            return NOTHING
        raise conflict()

    def release(self, registrant: Registrant, named: ReservationType) -> Change:
        """Give up a reservation; nothing happens where it is no holder.

        Raises ScsiError where it is of another type.
        """
        if not self.holds(registrant):
            return NOTHING
        if self.reserved is not named:
            raise ScsiError(Sense.INVALID_RELEASE_OF_PERSISTENT_RESERVATION)
        change = Change()
        if self._drop_reservation().admits_registrants:
            others = [other for other in self.keys if other != registrant]
            change.tell(others, Sense.RESERVATIONS_RELEASED)
        return change

    def clear(self, registrant: Registrant | None) -> Change:
        """Take all registrations and the reservation away; None where an operator does."""
        change = Change()
        others = [other for other in self.keys if other != registrant]
        change.tell(others, Sense.RESERVATIONS_PREEMPTED)
        self.keys = {}
        self._drop_reservation()
        self._count()
        return change

    def preempt(
        self, registrant: Registrant, key: int, wanted: ReservationType, *, is_aborting: bool
    ) -> Change:
        """Take away the registrations with a key, and the reservation of whoever has it.

        Where all registrants hold the reservation, key 0 stands for all others.  Raises
        ReservationConflictError where nobody has the key, ScsiError for a key of 0.
        """
        is_of_all = _is_of_all(self.reserved)
        takes_over = self.reserved is not None and (
            not key if is_of_all else self.holder is not None and self.keys[self.holder] == key
        )
        if not key and not takes_over:
            raise ScsiError(Sense.INVALID_FIELD_IN_PARAMETER_LIST)
        removed = [
            other
            for other, other_key in self.keys.items()
            if (other_key == key or (takes_over and is_of_all))
            and not (takes_over and other == registrant)
        ]
        if not removed and not takes_over:
            raise conflict()
        change = Change()
        others = [other for other in removed if other != registrant]
        change.tell(others, Sense.REGISTRATIONS_PREEMPTED)
        if is_aborting:
            change.aborted = others
        for one in removed:
            del self.keys[one]
        self._count()
        if takes_over:
            is_other = self.reserved is not wanted
            self._reserve(registrant, wanted)
            if is_other:
                rest = [other for other in self.keys if other != registrant]
                change.tell(rest, Sense.RESERVATIONS_RELEASED)
        elif is_of_all and not self.keys:
            self._drop_reservation()
        return change

    def move(
        self,
        registrant: Registrant,
        to: Registrant,
        key: int,
        *,
        is_unregistering: bool,
        is_persistent: bool,
    ) -> Change:
        """Register another one with a key, and make it the holder.

        Raises ReservationConflictError where the reservation is not this one's to give away,
        ScsiError where there are too many registrations or it would go to where it is.
        """
        if self.reserved is None or _is_of_all(self.reserved) or not self.holds(registrant):
            raise conflict()
        if to == registrant:
            raise ScsiError(Sense.INVALID_FIELD_IN_PARAMETER_LIST)
        self.register((to,), key, is_persistent=is_persistent)
        self.holder = to
        if is_unregistering:
            del self.keys[registrant]
        return Change()

    def message(self) -> volume_pb2.Reservations:
        """For the volume to keep."""
        message = volume_pb2.Reservations(
            generation=self.generation,
            type=volume_pb2.ReservationType.ValueType(self.reserved or 0),
            is_persistent=self.is_persistent,
        )
        for registrant, key in self.keys.items():
            message.registrations.add(
                initiator_port=registrant.initiator_port,
                target_port=registrant.target_port,
                key=key,
                is_holder=registrant == self.holder,
            )
        return message

    @classmethod
    def of(cls, message: volume_pb2.Reservations) -> Reservations:
        """From what `message` gave."""
        found = cls()
        found.generation = message.generation
        found.is_persistent = message.is_persistent
        found.reserved = ReservationType(message.type) if message.type else None
        for one in message.registrations:
            registrant = Registrant(one.initiator_port, one.target_port)
            found.keys[registrant] = one.key
            if one.is_holder:
                found.holder = registrant
        return found

    def _reserve(self, registrant: Registrant, wanted: ReservationType) -> None:
        self.reserved = wanted
        self.holder = None if wanted.is_of_all_registrants else registrant

    def _drop_reservation(self) -> ReservationType:
        reserved = self.reserved or ReservationType.WRITE_EXCLUSIVE
        self.reserved = self.holder = None
        return reserved

    def _count(self) -> None:
        self.generation = self.generation + 1 & _GENERATION_MASK


def _is_of_all(reserved: ReservationType | None) -> bool:
    return reserved is not None and reserved.is_of_all_registrants
