"""Archives of files that the tests keep or make."""

from __future__ import annotations

import tarfile
from pathlib import Path


def unpack(archive: tarfile.TarFile, directory: Path) -> None:
    """Extract all of it below a directory, and nothing beside it where Python can see to that.

    The first versions of Python 3.11, such as Debian 12's, know no filters.
    """
    if hasattr(tarfile, "data_filter"):
        archive.extractall(directory, filter="data")
    else:
        archive.extractall(directory)
