"""Whether the command speaks TLS, and its connections where it does.

It does with daemons that are named by their addresses, where `--tls` or CSTOR_TLS has said which
certificate to show.  What `cstor up` runs is on this machine alone, and speaks plain text.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

from cstor_core.clock import SystemClock
from cstor_core.secure.connections import TlsConnector
from cstor_core.secure.opening import open_tls
from cstor_core.secure.roles import Role
from cstor_core.secure.tunnels import Tunnels


class _Choice:
    """What was said, for the one command that a process carries out."""

    directory: Path | None = None


@dataclass(frozen=True, slots=True)
class _Links:
    """The tunnels, which live in a thread of their own: the command itself has no event loop."""

    loop: asyncio.AbstractEventLoop
    tunnels: dict[Role, Tunnels]


_links: list[_Links] = []


def use(directory: Path | None) -> None:
    """Show the certificate in this directory from now on; None for no TLS."""
    _Choice.directory = directory


def shown() -> Path | None:
    """The directory of the certificate that is shown; None where the command speaks no TLS."""
    return _Choice.directory


def stay_local() -> None:
    """What is asked from now on runs on this machine, and speaks plain text."""
    use(None)


def reached_at(address: str, role: Role) -> str:
    """What gRPC is to be given to reach a daemon of this role at HOST:PORT.

    Raises InputError where the certificate cannot be used.
    """
    if _Choice.directory is None:
        return address
    if not _links:
        _links.append(_open(_Choice.directory))
    links = _links[0]

    async def tunnel() -> str:
        return links.tunnels[role].to(address)

    return asyncio.run_coroutine_threadsafe(tunnel(), links.loop).result()


def _open(directory: Path) -> _Links:
    # What is wrong is said by the command itself.
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet)
    clock = SystemClock()
    tls = open_tls(directory, clock, Role.OPERATOR)
    assert tls is not None
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    tunnels = {role: Tunnels(TlsConnector(tls, role), clock) for role in Role}
    return _Links(loop, tunnels)
