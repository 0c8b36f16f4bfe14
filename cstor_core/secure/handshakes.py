"""A handshake that fails out loud (RFC 8446, 6.2).

The event loops drop what OpenSSL wants to send when a handshake fails, so that a peer would never
learn why.  Here the failure waits until that is on its way: until the peer hangs up, or the time
for a handshake is over.
"""

from __future__ import annotations

import ssl
from typing import Any, Self

from cstor_core.secure.refusals import Reason, reason_of


class TellingObject(ssl.SSLObject):
    """OpenSSL's end of one connection."""

    failure: ssl.SSLError | None = None
    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        """As of `ssl.SSLObject`; a failure that the peer is told of is raised when this is called
        again.
        """
        if self.failure is not None:
            raise self.failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.failure = error
            # Who speaks no TLS does not understand it either.
            if self.outgoing.pending and reason_of(error) is not Reason.PLAIN_TEXT:
                raise ssl.SSLWantReadError from error
            raise


class Handshake(ssl.SSLContext):
    """One use of a context, in whose place a loop is given this; it knows why it has failed."""

    _used: ssl.SSLContext
    _made: TellingObject | None = None

    def __new__(cls, context: ssl.SSLContext) -> Self:
        """For one connection that is to use this context."""
        made = super().__new__(cls, context.protocol)
        made._used = context
        return made

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *arguments: Any, **named: Any
    ) -> ssl.SSLObject:
        """As of `ssl.SSLContext`."""
        made = self._used.wrap_bio(incoming, outgoing, *arguments, **named)
        assert isinstance(made, TellingObject)
        made.outgoing = outgoing
        self._made = made
        return made

    @property
    def failure(self) -> ssl.SSLError | None:
        """What OpenSSL has said, where the loop only knows that the connection has ended."""
        return self._made.failure if self._made is not None else None
