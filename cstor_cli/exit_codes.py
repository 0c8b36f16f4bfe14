"""What the exit codes of `cstor` mean; scripts may rely on them."""

from __future__ import annotations

from enum import IntEnum

from cstor_core.errors import CstorError, InputError


class ExitCode(IntEnum):
    """The codes that `cstor` exits with; `--help` says the same."""

    OK = 0
    FAILED = 1
    """It did not work, or copies differ."""
    INPUT = 2
    """A flag, a file or the place asked for is wrong; nothing was touched."""
    UNREAD = 3
    """Something that had to be read could not be read."""


def exit_code_of(error: CstorError) -> ExitCode:
    """The exit code for an error that ended the command."""
    return ExitCode.INPUT if isinstance(error, InputError) else ExitCode.FAILED
