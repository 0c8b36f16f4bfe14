"""Small files of a target's directory that only their owner can read, written in one step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cstor_core.errors import InputError
from cstor_core.files import OsFilesystem


class Kept(BaseModel):
    """What is in such a file, or a part of it; nothing of it is told in an error."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


KeptT = TypeVar("KeptT", bound=Kept)


def read(path: Path, model: type[KeptT], remedy: str) -> KeptT:
    """What is in the file; where there is none, what the model begins with.

    Raises InputError where it cannot be read or believed, which `remedy` helps with, or where
    others can read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            kept = model.model_validate_json(file.read())
    except FileNotFoundError:
        return model()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise InputError(f"{path} is damaged: {remedy}") from error
    if mode & 0o077:
        raise InputError(f"others can read what is in {path}: chmod 600 it")
    return kept


def write(path: Path, kept: Kept) -> None:
    """Replace the file; raises InputError where that cannot be, and the old one is there still."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(kept.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        OsFilesystem().sync_directory_blocking(path.parent)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
