"""The layout of a command descriptor block (SPC-4, 4.2), declared field by field.

One declaration serves four uses: `construct` parses by it, CDB usage data of REPORT SUPPORTED
OPERATION CODES are computed from it, bits that must be zero are checked by it, and a refused field
is pointed at by it.  A field is one of

* `used`: the device server looks at it;
* `ignored`: obsolete, or a hint that this device server need not follow; any value is accepted;
* `zero`: reserved, or a feature that is not implemented; anything but zero is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from construct import BitsInteger, BitStruct, Const

from cstor_target.scsi.sense import FieldPointer, ScsiError, Sense
from cstor_target.volume.backing import Buffer


class Use(Enum):
    """What the device server does with a field."""

    USED = "looked at"
    IGNORED = "any value accepted"
    ZERO = "anything but zero refused"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a CDB, `bits` long; `constant` is the value of the fields that name it."""

    name: str
    bits: int
    use: Use
    constant: int | None = None

    def construct(self) -> Any:
        """The declaration for `construct`."""
        integer = BitsInteger(self.bits)
        return self.name / (integer if self.constant is None else Const(self.constant, integer))


def used(name: str, bits: int) -> Field:
    """A field that the device server looks at."""
    return Field(name, bits, Use.USED)


def ignored(name: str, bits: int) -> Field:
    """A field whose value makes no difference."""
    return Field(name, bits, Use.IGNORED)


def zero(name: str, bits: int) -> Field:
    """A field that must be zero."""
    return Field(name, bits, Use.ZERO)


def reserved(bits: int) -> Field:
    """Reserved bits."""
    return Field("reserved", bits, Use.ZERO)


def service_action(code: int, bits: int = 5) -> Field:
    """The SERVICE ACTION field of an operation code that has several commands."""
    return Field("service_action", bits, Use.USED, code)


# NACA may not be set because NormACA is not (SAM-5); the rest is vendor specific or obsolete.
CONTROL = zero("control", 8)


class Cdb:
    """The declared layout of one command's CDB."""

    __slots__ = (
        "_format",
        "_must_be_zero",
        "_pointers",
        "_variable",
        "length",
        "name",
        "operation_code",
        "service_action",
        "usage_data",
    )

    def __init__(self, name: str, operation_code: int, *fields: Field) -> None:
        fields = (Field("operation_code", 8, Use.USED, operation_code), *fields)
        bits = sum(field.bits for field in fields)
        assert bits % 8 == 0, f"{name} is {bits} bits long"
        self.name = name
        self.operation_code = operation_code
        self.service_action: int | None = None
        self.length = bits // 8
        self._format = BitStruct(*(field.construct() for field in fields))
        self._variable = [field.name for field in fields if field.constant is None]
        self._pointers: dict[str, FieldPointer] = {}
        usage = must_be_zero = position = 0
        for field in fields:
            ones = (1 << field.bits) - 1
            shift = bits - position - field.bits
            if field.use is Use.USED:
                usage |= (ones if field.constant is None else field.constant) << shift
            elif field.use is Use.ZERO:
                must_be_zero |= ones << shift
            if field.name == "service_action":
                self.service_action = field.constant
            self._pointers[field.name] = FieldPointer(True, position // 8, 7 - position % 8)
            position += field.bits
        self.usage_data = usage.to_bytes(self.length, "big")
        self._must_be_zero = must_be_zero

    @property
    def field_names(self) -> frozenset[str]:
        """The names of all fields."""
        return frozenset(self._pointers)

    def parse(self, cdb: Buffer) -> Any:
        """The fields by name.  Slow (tens of microseconds): not for READ and WRITE."""
        return self._format.parse(bytes(cdb[: self.length]))

    def build(self, **fields: int) -> bytes:
        """A CDB with the given fields and zeros elsewhere, padded to the 16 bytes of iSCSI."""
        built: bytes = self._format.build(dict.fromkeys(self._variable, 0) | fields)
        return built.ljust(16, b"\0")

    def must_be_zero(self, byte: int) -> int:
        """The bits of one byte that are refused unless zero."""
        return self._must_be_zero.to_bytes(self.length, "big")[byte]

    def check(self, cdb: Buffer) -> None:
        """Refuse a CDB in which a bit is set that must be zero (SPC-4, 4.2)."""
        wrong = int.from_bytes(cdb[: self.length], "big") & self._must_be_zero
        if wrong:
            position = self.length * 8 - wrong.bit_length()
            pointer = FieldPointer(True, position // 8, 7 - position % 8)
            raise ScsiError(Sense.INVALID_FIELD_IN_CDB, field=pointer)

    def invalid_field(self, name: str) -> ScsiError:
        """INVALID FIELD IN CDB, pointing at the field `name`."""
        return ScsiError(Sense.INVALID_FIELD_IN_CDB, field=self._pointers[name])
