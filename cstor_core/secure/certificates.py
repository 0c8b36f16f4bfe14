"""A directory with a certificate, its key and the authorities that it trusts: read and judged.

The three files are those of a TLS secret of Kubernetes: `tls.crt` (the certificate, and those
between it and the authority), `tls.key`, `ca.crt` (one authority or more, PEM).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from cstor_core.errors import InputError
from cstor_core.secure.roles import Identity, Role, identity_of

CERTIFICATE = "tls.crt"
KEY = "tls.key"
AUTHORITIES = "ca.crt"
_FILE_BYTES_MAX = 1 << 20

E = TypeVar("E", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class Files:
    """The bytes of the three files, read together."""

    certificate: bytes
    key: bytes
    authorities: bytes


@dataclass(frozen=True, slots=True)
class Holder:
    """What a certificate says of whoever holds its key."""

    identity: Identity
    addresses: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    issuer: str
    serial: str
    """Hexadecimal."""


def read_files(directory: Path) -> Files:
    """The files of a directory.  Raises InputError where one of them cannot be read."""
    return Files(*(_read(directory / name) for name in (CERTIFICATE, KEY, AUTHORITIES)))


def holder_of(files: Files) -> Holder:
    """Who the certificate is for.  Raises InputError where it is none."""
    leaf = _certificates(files.certificate, CERTIFICATE)[0]
    names = _extension(leaf, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    hosts = names.get_values_for_type(x509.DNSName) if names else []
    numbers = names.get_values_for_type(x509.IPAddress) if names else []
    return Holder(
        identity_of(uris),
        (*hosts, *(str(number) for number in numbers)),
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
        leaf.issuer.rfc4514_string(),
        f"{leaf.serial_number:x}",
    )


def problems_of(files: Files, now: datetime) -> list[str]:
    """Why the files cannot be used, in sentences; empty where they can.

    Raises InputError where one of them is not what it should be at all.
    """
    leaf, *between = _certificates(files.certificate, CERTIFICATE)
    authorities = _certificates(files.authorities, AUTHORITIES)
    found = list(_out_of_date(leaf, CERTIFICATE, now))
    if not _is_key_of(files.key, leaf):
        found.append(f"{KEY} is not the key of {CERTIFICATE}: take both from the same issue")
    found += _not_issued(leaf, between, authorities, now)
    found += _useless(leaf, holder_of(files))
    return found


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            read = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if len(read) > _FILE_BYTES_MAX:
        raise InputError(f"{path} is too long for what should be in it")
    return read


def _certificates(pem: bytes, name: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise InputError(f"{name} has no certificate in PEM that can be read: {error}") from error


def _is_key_of(key: bytes, leaf: x509.Certificate) -> bool:
    try:
        public = load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{KEY} has no private key in PEM that can be read without a passphrase"
        ) from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public.public_bytes(*form) == leaf.public_key().public_bytes(*form)


def _out_of_date(certificate: x509.Certificate, name: str, now: datetime) -> Iterator[str]:
    if now > certificate.not_valid_after_utc:
        end = certificate.not_valid_after_utc.isoformat()
        yield f"the certificate in {name} has expired ({end}): issue a new one"
    if now < certificate.not_valid_before_utc:
        begin = certificate.not_valid_before_utc.isoformat()
        yield f"the certificate in {name} is not valid before {begin}: is the clock right?"


def _not_issued(
    leaf: x509.Certificate,
    between: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    now: datetime,
) -> Iterator[str]:
    current, left = leaf, list(between)
    while not (roots := [root for root in authorities if _is_issued_by(current, root)]):
        issuer = next((one for one in left if _is_issued_by(current, one)), None)
        if issuer is None:
            yield f"no authority in {AUTHORITIES} has issued the certificate in {CERTIFICATE}"
            return
        left.remove(issuer)
        current = issuer
    yield from _out_of_date(max(roots, key=lambda one: one.not_valid_after_utc), AUTHORITIES, now)


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _useless(leaf: x509.Certificate, holder: Holder) -> Iterator[str]:
    if not holder.identity.names:
        yield (
            f"the certificate in {CERTIFICATE} has no role: it needs a URI like cstor:target/VOLUME"
            ", cstor:replica/NAME or cstor:operator/NAME among its alternative names"
        )
    usage = _extension(leaf, x509.ExtendedKeyUsage)
    if usage is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        yield f"the certificate in {CERTIFICATE} is not for clients (extended key usage)"
    if holder.identity.has((Role.TARGET, Role.REPLICA)):
        if usage is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usage:
            yield f"the certificate in {CERTIFICATE} is not for servers (extended key usage)"
        if not holder.addresses:
            yield f"the certificate in {CERTIFICATE} names no address: nobody can connect to it"


def _extension(leaf: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return leaf.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
