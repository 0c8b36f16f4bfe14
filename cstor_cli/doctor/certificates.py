"""Certificates in files: whose they are, and from when to when they are valid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509

from cstor_cli.doctor.picture import CertificateSeen
from cstor_core.errors import InputError

SUFFIXES = (".crt", ".pem")


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
    return [
        CertificateSeen(
            str(file),
            each.subject.rfc4514_string() or f"serial number {each.serial_number:x}",
            each.not_valid_before_utc.timestamp(),
            each.not_valid_after_utc.timestamp(),
        )
        for each in found
    ]
