"""Why a connection or a call was refused: few words, counted, and said in the log."""

from __future__ import annotations

import ssl
from collections import Counter
from enum import StrEnum

import structlog

from cstor_core.clock import Clock

LOG_EVERY_S = 1.0
"""A line a reason at most: whoever is refused may come again as often as he likes."""

_NOT_YET_VALID = 9  # X509_V_ERR_CERT_NOT_YET_VALID
_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_WRONG_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH

log = structlog.get_logger()


class Reason(StrEnum):
    """The label of the counter."""

    NO_CERTIFICATE = "no_certificate"
    WRONG_AUTHORITY = "wrong_authority"
    EXPIRED = "expired"
    WRONG_ADDRESS = "wrong_address"
    WRONG_ROLE = "wrong_role"
    WRONG_VOLUME = "wrong_volume"
    PLAIN_TEXT = "plain_text"
    HANDSHAKE = "handshake"
    """Anything else, and a peer that went away or took too long."""


_BY_SSL_REASON = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Reason.NO_CERTIFICATE,
    "HTTP_REQUEST": Reason.PLAIN_TEXT,
    "HTTPS_PROXY_REQUEST": Reason.PLAIN_TEXT,
    "WRONG_VERSION_NUMBER": Reason.PLAIN_TEXT,
    "PACKET_LENGTH_TOO_LONG": Reason.PLAIN_TEXT,
    "RECORD_LAYER_FAILURE": Reason.PLAIN_TEXT,
}


def reason_of(error: BaseException) -> Reason:
    """Why a handshake has failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
            return Reason.EXPIRED
        return Reason.WRONG_ADDRESS if error.verify_code in _WRONG_NAME else Reason.WRONG_AUTHORITY
    if isinstance(error, ssl.SSLError):
        return _BY_SSL_REASON.get(getattr(error, "reason", ""), Reason.HANDSHAKE)
    return Reason.HANDSHAKE


class Refusals:
    """Counts them."""

    def __init__(self, clock: Clock) -> None:
        self.counts: Counter[Reason] = Counter()
        self._clock = clock
        self._quiet_until_s: dict[Reason, float] = {}

    def add(self, reason: Reason, peer: str, sentence: str) -> None:
        """A peer was refused, or one that was dialled is not who was meant."""
        self.counts[reason] += 1
        now_s = self._clock.monotonic()
        if now_s >= self._quiet_until_s.get(reason, 0.0):
            self._quiet_until_s[reason] = now_s + LOG_EVERY_S
            log.warning("peer_refused", why=str(reason), peer=peer, reason=sentence)
