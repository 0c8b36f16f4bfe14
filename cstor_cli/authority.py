"""A private authority in a directory, for those who have none: its key issues certificates.

Keys are elliptic, P-256; a certificate carries its roles and addresses as alternative names.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cstor_core.errors import InputError
from cstor_core.secure.certificates import AUTHORITIES, CERTIFICATE, KEY
from cstor_core.secure.roles import Role, role_uri

AUTHORITY_KEY = "ca.key"
SLOW_CLOCK = timedelta(minutes=5)
"""A certificate is valid so long before it was made, for machines whose clocks are behind."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a certificate is to say of its holder."""

    called: str
    """The common name, for people alone."""
    names: tuple[tuple[Role, str], ...]
    addresses: tuple[str, ...]
    days: int


@dataclass(frozen=True, slots=True)
class Authority:
    """What issues."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_authority(directory: Path, name: str, days: int, now: datetime) -> Authority:
    """Make an authority in a directory.  Raises InputError where there is one, or a file of that
    name, already.
    """
    for file in (AUTHORITIES, AUTHORITY_KEY):
        if (directory / file).exists():
            raise InputError(f"there is a {file} in {directory} already: name another directory")
    key = ec.generate_private_key(ec.SECP256R1())
    called = _name(name)
    builder = _begun(called, called, key, now, now + timedelta(days=days)).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    _write(directory, AUTHORITY_KEY, _pem_of_key(key), private=True)
    _write(directory, AUTHORITIES, certificate.public_bytes(Encoding.PEM))
    return Authority(certificate, key)


def read_authority(directory: Path) -> Authority:
    """The authority in a directory.  Raises InputError where there is none that can be read."""
    try:
        certificate = x509.load_pem_x509_certificate((directory / AUTHORITIES).read_bytes())
        key = load_pem_private_key((directory / AUTHORITY_KEY).read_bytes(), None)
    except OSError as error:
        raise InputError(
            f"there is no authority in {directory} that can be read ({error.filename}: "
            f"{error.strerror}): make one with cstor certs init"
        ) from error
    except (ValueError, TypeError) as error:
        raise InputError(f"the authority in {directory} is damaged: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"the key in {directory / AUTHORITY_KEY} is not an elliptic one")
    return Authority(certificate, key)


def issue(authority: Authority, wanted: Wanted, out: Path, now: datetime) -> None:
    """Write a new key and its certificate, and the authority's, into a directory; what was there
    under these names is replaced.  Raises InputError where a name, an address or a time is none.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    end = now + timedelta(days=wanted.days)
    if end > authority.certificate.not_valid_after_utc:
        raise InputError(
            "the authority itself is valid until "
            f"{authority.certificate.not_valid_after_utc.isoformat()}: issue for fewer --days, or "
            "make a new authority"
        )
    issuer = authority.certificate.subject
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if wanted.addresses:
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    builder = (
        _begun(_name(wanted.called), issuer, key, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(_alternative_names(wanted), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    certificate = builder.sign(authority.key, hashes.SHA256())
    _write(out, KEY, _pem_of_key(key), private=True)
    _write(out, CERTIFICATE, certificate.public_bytes(Encoding.PEM))
    _write(out, AUTHORITIES, authority.certificate.public_bytes(Encoding.PEM))


def _alternative_names(wanted: Wanted) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(role_uri(role, name)) for role, name in wanted.names
    ]
    names += _addresses(wanted.addresses)
    return x509.SubjectAlternativeName(names)


def _addresses(addresses: Sequence[str]) -> Iterable[x509.GeneralName]:
    for address in addresses:
        try:
            yield x509.IPAddress(ipaddress.ip_address(address.strip("[]")))
            continue
        except ValueError:
            pass  # it is a name then
        if not address or not address.isascii() or any(one in address for one in " :/@"):
            raise InputError(f"{address!r} is no host: write a name or an IP address, and no port")
        yield x509.DNSName(address)


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SLOW_CLOCK)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(directory: Path, name: str, content: bytes, *, private: bool = False) -> None:
    """Replace a file in one step; one that is private nobody else can ever read."""
    temporary = directory / f".{name}.new"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        mode = 0o600 if private else 0o644
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / name)
    except OSError as error:
        raise InputError(f"{directory / name} cannot be written: {error.strerror}") from error
