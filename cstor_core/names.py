"""Names of volumes: the last part of an iSCSI name (RFC 7143, 4.2.7), which few characters may be
in.
"""

from __future__ import annotations

import re

from cstor_core.errors import InputError

VOLUME_NAME_LENGTH_MAX = 128
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def check_volume_name(name: str) -> None:
    """Raise InputError where no volume can be called so."""
    if not _NAME.fullmatch(name) or len(name) > VOLUME_NAME_LENGTH_MAX:
        raise InputError(
            f"{name!r} cannot be a volume's name, which is the last part of its iSCSI name: "
            f"write up to {VOLUME_NAME_LENGTH_MAX} of a-z, 0-9, '.' and '-', a letter or digit at "
            "each end"
        )
