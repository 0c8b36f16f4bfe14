"""The file `state`: what a replica must know that is not in its order of entries.

The highest epoch promised, and to which target instance; whether the replica was closed after an
error of its disk; under which boot of the machine it last ran, and whether it was stopped
cleanly; whether a power loss may have taken what it had acknowledged.  It is replaced as a whole
at each change, so a promise waits for no data.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from construct import ConstructError, Flag, Int16ul, Int64ul, PascalString, Struct

from cstor_core.errors import CorruptError
from cstor_core.files import Filesystem
from replica.store.envelope import read_file, replace_file, sealed, unsealed
from replica.store.records import STATE_MAGIC

STATE = Struct(
    "boot_id" / PascalString(Int16ul, "utf8"),
    "clean" / Flag,
    "promised_epoch" / Int64ul,
    "promised_instance" / PascalString(Int16ul, "utf8"),
    "failed_reason" / PascalString(Int16ul, "utf8"),
    "short" / Flag,
)
TEXT_BYTES_MAX = 1024


@dataclass(frozen=True, slots=True)
class State:
    """The content of the file."""

    boot_id: str
    clean: bool = True
    promised_epoch: int = 0
    promised_instance: str = ""
    failed_reason: str = ""
    short: bool = False
    """What it acknowledged and had not flushed may be gone."""


def state_bytes(state: State) -> bytes:
    """The content of the file, sealed."""
    return sealed(
        STATE_MAGIC,
        STATE.build(
            {
                "boot_id": state.boot_id,
                "clean": state.clean,
                "promised_epoch": state.promised_epoch,
                "promised_instance": state.promised_instance,
                "failed_reason": state.failed_reason[: TEXT_BYTES_MAX // 4],
                "short": state.short,
            }
        ),
    )


class StateFile:
    """The state of one replica and its file; changes come one after another."""

    def __init__(self, filesystem: Filesystem, path: Path) -> None:
        """Read it.  Raises CorruptError, InputError (format), OSError."""
        self._filesystem = filesystem
        self._path = path
        self._changing = asyncio.Lock()
        payload, _ = unsealed(read_file(filesystem, path), STATE_MAGIC, str(path))
        try:
            found = STATE.parse(payload)
        except (ConstructError, UnicodeDecodeError) as error:
            raise CorruptError(f"{path} is damaged: {error}") from error
        self.state = State(
            found.boot_id,
            found.clean,
            found.promised_epoch,
            found.promised_instance,
            found.failed_reason,
            found.short,
        )

    @property
    def changing(self) -> asyncio.Lock:
        """Held by one who must look before it changes something."""
        return self._changing

    async def change(self, **fields: Any) -> None:
        """Change fields of the state, durably, and only then here; `changing` is held.

        Raises OSError; the state is then the old one.
        """
        changed = replace(self.state, **fields)
        if changed != self.state:
            await replace_file(self._filesystem, self._path, state_bytes(changed))
            self.state = changed
