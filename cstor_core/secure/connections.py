"""TLS connections of both directions: a protocol that speaks only when its peer is known.

The handshake is OpenSSL's, by the event loop; what is added is that the peer's role is looked at in
the turn in which the handshake ends, before a byte of either side is handed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from cstor_core.clock import Clock
from cstor_core.dialling import connect_tcp
from cstor_core.errors import ForbiddenError
from cstor_core.secure.handshakes import Handshake
from cstor_core.secure.refusals import Reason, reason_of
from cstor_core.secure.roles import Identity, Role, identity_in

if TYPE_CHECKING:  # the reading of certificates is for those who have some
    from cstor_core.secure.credentials import Tls

HANDSHAKE_S_MAX = 5.0
ACCEPT_AGAIN_S = 0.1

Admit = Callable[[Identity], asyncio.BaseProtocol]
"""Who serves a peer.  Raises ForbiddenError."""


class _Admission(asyncio.Protocol):
    """Stands for the protocol that is chosen when the peer is known."""

    def __init__(self, admit: Admit) -> None:
        self._admit = admit
        self.refused: ForbiddenError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is over."""
        found = cast(asyncio.Transport, transport)
        certificate = found.get_extra_info("ssl_object").getpeercert()
        try:
            protocol = self._admit(identity_in(certificate))
        except ForbiddenError as error:
            self.refused = error
            found.abort()
            return
        found.set_protocol(protocol)
        protocol.connection_made(found)


class TlsListener:
    """Accepts connections, and hands on those whose peers have shown who they are."""

    def __init__(
        self, listener: socket.socket, tls: Tls, admit: Admit, clock: Clock, pending_max: int
    ) -> None:
        """Begin to accept, with so many handshakes at one time."""
        self._listener = listener
        self._tls = tls
        self._admit = admit
        self._clock = clock
        self._pending_max = pending_max
        self._pending: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.ensure_future(self._accept())

    def close(self) -> None:
        """Accept nothing more."""
        self._accepting.cancel()
        for task in self._pending:
            task.cancel()
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError:  # no file can be opened now, or it went away at once
                await self._clock.sleep(ACCEPT_AGAIN_S)
                continue
            if len(self._pending) >= self._pending_max:
                self._tls.refusals.add(Reason.HANDSHAKE, "many", "too many handshakes at one time")
                connection.close()
                continue
            task = asyncio.ensure_future(self._shake_hands(connection))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def _shake_hands(self, connection: socket.socket) -> None:
        peer = _peer_of(connection)
        admission = _Admission(self._admit)
        handshake = Handshake(self._tls.current.server)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: admission,
                connection,
                ssl=handshake,
                ssl_handshake_timeout=HANDSHAKE_S_MAX,
            )
        except (OSError, TimeoutError) as ended:
            error = handshake.failure or ended
            self._tls.refusals.add(reason_of(error), peer, words_of(error))
        if admission.refused is not None:
            self._tls.refusals.add(Reason.WRONG_ROLE, peer, str(admission.refused))


class TlsConnector:
    """Connects to daemons that have shown their address and their role."""

    def __init__(self, tls: Tls, role: Role) -> None:
        self._tls = tls
        self._role = role

    async def connect(self, address: str, protocol: asyncio.BaseProtocol) -> None:
        """As `Connector.connect`; also raises OSError where another answers than is meant."""

        def admit(peer: Identity) -> asyncio.BaseProtocol:
            if not peer.has((self._role,)):
                raise ForbiddenError(
                    f"there is {str(peer) or 'nobody we know'}, and no {self._role}"
                )
            return protocol

        admission = _Admission(admit)
        handshake = Handshake(self._tls.current.client)
        try:
            await connect_tcp(address, lambda: admission, handshake)
        except OSError as ended:
            error = handshake.failure
            if error is None:
                raise
            self._tls.refusals.add(reason_of(error), address, words_of(error))
            raise OSError(words_of(error)) from ended
        if admission.refused is not None:
            sentence = f"the certificate at {address} is not the right one: {admission.refused}"
            self._tls.refusals.add(Reason.WRONG_ROLE, address, sentence)
            raise OSError(sentence)


_SENTENCES = {
    Reason.NO_CERTIFICATE: "it has shown no certificate",
    Reason.WRONG_AUTHORITY: "its certificate is not from an authority that we believe",
    Reason.EXPIRED: "its certificate has expired, or is not valid yet",
    Reason.WRONG_ADDRESS: "its certificate is for other addresses",
    Reason.PLAIN_TEXT: "it does not speak TLS",
}


_ALERTS = {
    "TLSV1_ALERT_UNKNOWN_CA": "it does not believe the authority of our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired, or is not valid yet there",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not take our certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate, and we have shown none",
}
"""What a peer has told us (RFC 8446, 6.2), by OpenSSL's names."""


def words_of(error: BaseException) -> str:
    """Why there is no TLS with a peer, for a person."""
    told = _ALERTS.get(getattr(error, "reason", None) or "")
    sentence = told or _SENTENCES.get(reason_of(error))
    if sentence is not None:
        return f"{sentence} ({error})"
    if isinstance(error, ssl.SSLError):
        return f"TLS has failed: {error}"
    return str(error) or "it did not shake hands in time"


def _peer_of(connection: socket.socket) -> str:
    with contextlib.suppress(OSError):
        host, port, *_ = connection.getpeername()
        return f"{host}:{port}"
    return "somebody who has gone"
