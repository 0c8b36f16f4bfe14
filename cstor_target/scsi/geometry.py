"""How the bytes of a volume look as logical blocks (SBC-3, clause 4).

The volume speaks of bytes; initiators speak of logical blocks.  Here the one becomes the other,
and here are the limits of one command, which VPD page B0h tells initiators.  They bound what a
single command can make the target hold in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cstor_core.errors import InputError
from cstor_core.units import MIB

TRANSFER_BYTES_MAX = 8 * MIB
TRANSFER_BYTES_OPTIMAL = 1 * MIB
UNMAP_BYTES_MAX = 512 * MIB
UNMAP_DESCRIPTORS_MAX = 256
WRITE_SAME_BYTES_MAX = 16 * MIB
ATOMIC_BYTES_MAX = 1 * MIB
COMPARE_AND_WRITE_BLOCKS_MAX = 255
"""Its CDB has no room for more."""
# What one step of a command of several steps asks of the volume.
PIECE_BYTES = 1 * MIB

_LOGICAL_BLOCK_SIZES = (512, 4096)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Size and block lengths of a logical unit.

    `size_bytes` is asked again whenever the capacity has changed.  Raises InputError for block
    lengths that no initiator could use.
    """

    size_bytes: Callable[[], int]
    logical_block_bytes: int = 512
    physical_block_bytes: int = 4096

    def __post_init__(self) -> None:
        if self.logical_block_bytes not in _LOGICAL_BLOCK_SIZES:
            raise InputError(
                f"a logical block of {self.logical_block_bytes} bytes is not possible: "
                "choose 512 or 4096"
            )
        ratio, rest = divmod(self.physical_block_bytes, self.logical_block_bytes)
        if rest or ratio < 1 or ratio & (ratio - 1):
            raise InputError(
                f"a physical block of {self.physical_block_bytes} bytes is not a power-of-two "
                f"multiple of the logical block of {self.logical_block_bytes} bytes"
            )

    @property
    def block_shift(self) -> int:
        """Logical block address << block_shift is a byte offset."""
        return self.logical_block_bytes.bit_length() - 1

    @property
    def blocks_per_physical_block_exponent(self) -> int:
        """LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT (SBC-3, 5.16)."""
        return (self.physical_block_bytes // self.logical_block_bytes).bit_length() - 1

    def blocks(self, length_bytes: int) -> int:
        """A number of bytes in whole logical blocks."""
        return length_bytes // self.logical_block_bytes
