"""An iSCSI disk as an NBD export: `qemu-nbd` with QEMU's own initiator inside.

That initiator (libiscsi) keeps its requests when the connection breaks, logs in again (after a
refused attempt n it waits n seconds, and never less than 3 seconds since it last logged in) and
sends what was not answered once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

from tests.system.nbd import NbdClient
from tests.system.tools import HarnessError, qemu

START_S_MAX = 20.0
REQUESTS_IN_FLIGHT_MAX = 16
"""How many requests of one client qemu-nbd works on at once."""


def socket_in(directory: Path) -> Path:
    """Where a disk that is exported in a directory is served."""
    return directory / "nbd.sock"


@contextlib.asynccontextmanager
async def exported(
    url: str, directory: Path, *, read_only: bool = False, others: int = 0
) -> AsyncIterator[NbdClient]:
    """Serve the disk at `url` through qemu-nbd and give a connection to it.

    A disk that is write protected is served only `read_only`.  So many `others` may connect to the
    same socket (see `socket_in`) meanwhile.  It and the log lie in `directory`.  Raises
    HarnessError when QEMU cannot log in.
    """
    socket = socket_in(directory)
    log = directory / "qemu-nbd.log"
    socket.unlink(missing_ok=True)
    with log.open("wb") as out:
        # The page cache of this host must not stand between the disk and what is read back.
        process = subprocess.Popen(
            [
                *(qemu("qemu-nbd"), "-t", "-f", "raw", "--cache=none", "-k", str(socket)),
                *(["--read-only"] if read_only else []),
                f"--shared={1 + others}",
                url,
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        client = await _connect(process, socket, log)
        try:
            yield client
        finally:
            await client.close()
    finally:
        # A qemu-nbd that is asked to end first waits for its requests, for ever if the target has
        # gone; nothing of it is needed any more.
        process.kill()
        process.wait()


async def _connect(process: subprocess.Popen[bytes], socket: Path, log: Path) -> NbdClient:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_S_MAX
    while True:
        try:
            return await NbdClient.connect(socket)
        except (FileNotFoundError, ConnectionRefusedError):
            if process.poll() is not None or loop.time() > deadline:
                said = log.read_text(errors="replace")[-2000:]
                raise HarnessError(f"qemu-nbd does not serve the disk:\n{said}") from None
        await asyncio.sleep(0.05)
