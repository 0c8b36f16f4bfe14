"""The certificate that a process shows and the authorities that it believes, while files change.

What is in use was judged before: a set of files that cannot be used is an error at start, and later
is said, counted and left alone, while what was in use before stays.  A set is taken once nothing
has changed for a look at it, since three files are seldom replaced at one moment.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from cstor_core.clock import Clock
from cstor_core.errors import InputError
from cstor_core.secure.certificates import (
    AUTHORITIES,
    CERTIFICATE,
    KEY,
    Files,
    Holder,
    holder_of,
    problems_of,
    read_files,
)
from cstor_core.secure.handshakes import TellingObject
from cstor_core.secure.refusals import Refusals
from cstor_core.secure.roles import Role

LOOK_EVERY_S = 1.0
WARN_DAYS = 14
ALPN = "h2"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Credentials:
    """One set of files, ready for connections."""

    holder: Holder
    server: ssl.SSLContext
    client: ssl.SSLContext


def load(directory: Path, roles: Sequence[Role], now: datetime) -> Credentials:
    """The credentials in a directory, for whoever is to have these roles.

    Raises InputError where they cannot be used.
    """
    try:
        files = read_files(directory)
        holder = holder_of(files)
        problems = problems_of(files, now)
        said = str(holder.identity) or "nobody"
        problems += [
            f"the certificate in {CERTIFICATE} is for {said}, and the role {role} is needed"
            for role in roles
            if not holder.identity.has((role,))
        ]
    except InputError as error:
        raise InputError(f"the certificates in {directory} cannot be used: {error}") from error
    if problems:
        raise InputError(
            f"the certificates in {directory} cannot be used: {'; '.join(problems)}"
            " (cstor certs show says more)"
        )
    server = _context(ssl.PROTOCOL_TLS_SERVER, files)
    # Who resumes a session shows no certificate again.
    server.num_tickets = 0
    server.options |= ssl.OP_NO_TICKET
    return Credentials(holder, server, _context(ssl.PROTOCOL_TLS_CLIENT, files))


def _context(side: int, files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.sslobject_class = TellingObject
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols([ALPN])
    try:
        context.load_verify_locations(cadata=files.authorities.decode("ascii"))
        # OpenSSL takes these from a file alone; this one has the very bytes that were judged.
        file = os.memfd_create("tls")
        try:
            with os.fdopen(os.dup(file), "wb") as written:
                written.write(files.certificate + b"\n" + files.key)
            context.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)
    except (ssl.SSLError, ValueError) as error:
        raise InputError(f"the certificates are of a kind that OpenSSL refuses: {error}") from error
    return context


class Tls:
    """What a process uses of a directory, now; and what came of looking at it."""

    def __init__(self, directory: Path, roles: Sequence[Role], clock: Clock) -> None:
        """Load it.  Raises InputError where it cannot be used."""
        self.refusals = Refusals(clock)
        self.reloads = 0
        self.failed_reloads = 0
        self._warned_days: int | None = None
        self._directory = directory
        self._roles = roles
        self._clock = clock
        self._seen = self._tried = _signature(directory)
        self.current = load(directory, roles, self._now())

    async def watch(self) -> None:
        """Look at the files again and again, until cancelled."""
        log.info("certificate_in_use", **self._facts())
        while True:
            self._warn()
            await self._clock.sleep(LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Take the files if they have changed and have then been the same for two looks."""
        seen, self._seen = self._seen, _signature(self._directory)
        if self._seen == self._tried or self._seen != seen:
            return
        self._tried = self._seen
        try:
            self.current = load(self._directory, self._roles, self._now())
        except InputError as error:
            self.failed_reloads += 1
            log.error("certificate_not_taken", reason=f"{error}; the one before stays in use")
            return
        self.reloads += 1
        log.info("certificate_in_use", **self._facts())

    def _warn(self) -> None:
        """Say it once a day when the certificate has not long to go."""
        days_left = (self.current.holder.not_after - self._now()).days
        if days_left < WARN_DAYS and days_left != self._warned_days:
            self._warned_days = days_left
            what = "certificate_has_expired" if days_left < 0 else "certificate_ends_soon"
            log.warning(what, days_left=max(days_left, 0), **self._facts())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.wall(), UTC)

    def _facts(self) -> dict[str, str]:
        holder = self.current.holder
        return {
            "directory": str(self._directory),
            "roles": str(holder.identity),
            "not_after": holder.not_after.isoformat(),
            "serial": holder.serial,
        }


def _signature(directory: Path) -> tuple[tuple[int, ...], ...]:
    """What differs when one of the files, or what a link to it means, has changed."""
    return tuple(_stamp(directory / name) for name in (CERTIFICATE, KEY, AUTHORITIES))


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()  # `load` says what is wrong
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
