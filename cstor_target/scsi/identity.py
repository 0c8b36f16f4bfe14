"""Who a logical unit is: names that come from the volume's UUID and never change.

A host recognises a disk by these names (multipath, udev, clustering), so they must be the same
after a failover to another target process, and different for every volume there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

VENDOR_IDENTIFICATION = "OPENEBS"
PRODUCT_IDENTIFICATION = "cStor"

FIRST_TARGET_PORT = 1
_NAA_IEEE_REGISTERED_EXTENDED = 0x6
# The project owns no IEEE company id.  This one has the bit of locally administered identifiers
# set (the second lowest of its first byte), so that it can never be that of a manufacturer.
_LOCAL_COMPANY_ID = 0x02C570
_UUID_BITS_KEPT = 100


@dataclass(frozen=True, slots=True)
class Identity:
    """The names of one logical unit and of the target that it is reached through.

    `revision` is the product's version; its first four characters are shown.
    """

    volume_uuid: UUID
    target_name: str
    revision: str = "0"
    target_ports: tuple[int, ...] = (FIRST_TARGET_PORT,)
    """The relative identifiers of its target ports, each of which is a target port group, too: the
    portal group tags.
    """

    @property
    def serial_number(self) -> str:
        """PRODUCT SERIAL NUMBER of VPD page 80h: the volume's UUID."""
        return str(self.volume_uuid)

    @property
    def naa(self) -> bytes:
        """NAA IEEE Registered Extended designator (SPC-4, 7.8), 16 bytes.

        Its last 25 hexadecimal digits are the last 25 of the volume's UUID.
        """
        kept = self.volume_uuid.int & ((1 << _UUID_BITS_KEPT) - 1)
        number = _NAA_IEEE_REGISTERED_EXTENDED << 24 | _LOCAL_COMPANY_ID
        return (number << _UUID_BITS_KEPT | kept).to_bytes(16, "big")

    @property
    def product_revision_level(self) -> str:
        """PRODUCT REVISION LEVEL: four characters at most, without a dot at its end."""
        return self.revision[:4].rstrip(".")
