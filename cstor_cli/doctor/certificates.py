"""Certificates: whose they are, and from when to when they are valid.

Those of daemons are taken as they are shown, and not verified: whoever speaks TLS with them does
that, and says so where it fails.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509

from cstor_cli.addresses import parse_address
from cstor_cli.doctor.picture import CertificateSeen
from cstor_core.errors import InputError

SUFFIXES = (".crt", ".pem")
CONNECT_S_MAX = 3.0


def certificate_files(path: Path) -> list[Path]:
    """The files that a directory has certificates in, as a Kubernetes secret does; or the file.

    Raises InputError where there is none.
    """
    if path.is_file():
        return [path]
    files = sorted(each for each in path.glob("*") if each.suffix in SUFFIXES)
    if not files:
        raise InputError(
            f"{path} has no certificates: name a PEM file, or a directory with tls.crt and ca.crt"
        )
    return files


def certificates_in(file: Path) -> Sequence[CertificateSeen]:
    """All certificates of a PEM file."""
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        return [CertificateSeen(str(file), reason=error.strerror or str(error))]
    except ValueError as error:
        return [CertificateSeen(str(file), reason=str(error))]
    return [_seen(str(file), each) for each in found]


def certificate_shown_at(address: str) -> list[CertificateSeen]:
    """What whoever listens at HOST:PORT shows; none where nobody speaks TLS there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    place = parse_address(address)
    try:
        with (
            socket.create_connection((place.host, place.port), CONNECT_S_MAX) as connection,
            context.wrap_socket(connection) as secured,
        ):
            shown = secured.getpeercert(binary_form=True)
    except OSError:
        return []  # that nobody answers there is found by asking it
    return [] if shown is None else [_seen(address, x509.load_der_x509_certificate(shown))]


def _seen(where: str, certificate: x509.Certificate) -> CertificateSeen:
    return CertificateSeen(
        where,
        certificate.subject.rfc4514_string() or f"serial number {certificate.serial_number:x}",
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )
