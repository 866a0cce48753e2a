"""
The internal certificate authority, the certificates it issues, and the ES256 token keys.

Private keys are written with mode 0600 or less, whole or not at all. A certificate that is about to end, lacks a name,
is of another authority or does not belong to its key is made anew; what is good is kept, so whoever trusts the
authority goes on trusting it. Rows: F1, D7.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mayfly.settings import SettingsError

CA_DAYS = 3650
SERVER_DAYS = 397  # more, and clients refuse it
RENEW_DAYS = 30
CA_NAME = "Mayfly CA"

UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""What reading a certificate or a key may raise that somebody has put there."""

HOST_MAX_CHARACTERS = 253
LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


class AuthorityUnusable(SettingsError):
    """The certificate authority cannot issue: its key is missing, or is not the certificate's."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its private key, in PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """The internal certificate authority: `ca.crt` and `ca.key` in one directory, which is its owner's alone."""

    def __init__(self, directory: Path) -> None:
        """Nothing is read yet."""
        self._directory = directory
        self._key_file = directory / "ca.key"
        self._certificate_file = directory / "ca.crt"

    def ensure(self) -> bool:
        """
        Make the authority if there is none; return whether it was made. It lives for ten years.

        Raises: AuthorityUnusable when half of it is missing: clients trust the other half, so it is never replaced.
        """
        if self._certificate_file.exists():
            return False
        if self._key_file.exists():
            raise AuthorityUnusable(
                f"{self._key_file} is there but its certificate is not. Bring back {self._certificate_file}, or remove "
                "the key to begin with a new authority, which everybody must then be told to trust."
            )
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CA_NAME)])
        certificate = (
            _builder(name, name, key.public_key(), CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(cert_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        # The key first: of a crash in between the next run says what to do. Of a key that is missing it cannot tell
        # whether it was lost, or is kept elsewhere.
        write_secret(self._key_file, private_pem(key))
        write_secret(self._certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
        return True

    def check(self) -> None:
        """
        See that the authority can be used, its key only if it is there.

        Raises: AuthorityUnusable.
        """
        ca, now = self._loaded(), datetime.datetime.now(datetime.UTC)
        if self._key_file.exists():
            self._signing_key()
        if not ca.not_valid_before_utc <= now <= ca.not_valid_after_utc:
            raise AuthorityUnusable(
                f"{self._certificate_file} is good from {ca.not_valid_before_utc:%Y-%m-%d} to "
                f"{ca.not_valid_after_utc:%Y-%m-%d}, and now is {now:%Y-%m-%d}. Set the clock, or, if it has ended, "
                "begin with a new directory, whose authority everybody must then be told to trust."
            )

    def ends_within_a_certificate(self) -> bool:
        """Whether the authority ends before a certificate that is made now."""
        return (self._loaded().not_valid_after_utc - datetime.datetime.now(datetime.UTC)).days < SERVER_DAYS

    @property
    def certificate(self) -> bytes:
        """What clients trust, in PEM."""
        return self._certificate_file.read_bytes()

    def issue(self, names: tuple[str, ...], *, peer: bool = False) -> Issued:
        """
        Make a server's certificate for *names* (host names or addresses); a *peer* also connects to others with it.

        Raises: AuthorityUnusable.
        """
        ca, ca_key = self._loaded(), self._signing_key()
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if peer else [])]
        certificate = (
            _builder(subject, ca.subject, key.public_key(), SERVER_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(cert_sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        return Issued(certificate.public_bytes(serialization.Encoding.PEM), private_pem(key))

    def fault(self, pair: Issued, names: tuple[str, ...]) -> str | None:
        """Say why a certificate must be made anew; None if it is good for *names* for a while yet."""
        if not key_belongs(pair):
            return "cannot be read, or does not belong to its key"
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        if not self._issued(certificate):
            return "is of another authority"
        if certificate.not_valid_before_utc > datetime.datetime.now(datetime.UTC):
            return f"begins on {certificate.not_valid_before_utc:%Y-%m-%d} only: was the clock wrong?"
        if ends_soon(certificate):
            return f"ends on {certificate.not_valid_after_utc:%Y-%m-%d}"
        present = names_of(certificate)
        lacking = [name for name in names if _general_name(name) not in present]
        return f"lacks the name {lacking[0]}" if lacking else None

    def vouches_for(self, pair: Issued) -> bool:
        """Whether it issued a certificate, at whatever time, and the key is the certificate's."""
        return key_belongs(pair) and self._issued(x509.load_pem_x509_certificate(pair.certificate))

    def _issued(self, certificate: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(self._loaded())
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def _signing_key(self) -> ec.EllipticCurvePrivateKey:
        if not self._key_file.exists():
            raise AuthorityUnusable(f"{self._key_file} is missing: without it no certificate can be made or renewed.")
        try:
            key = serialization.load_pem_private_key(self._key_file.read_bytes(), password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self._loaded().public_key():
            raise AuthorityUnusable(
                f"{self._key_file} is not the key, in PEM and without a passphrase, of {self._certificate_file}. Bring "
                "it back."
            )
        return key

    def _loaded(self) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self.certificate)
        except ValueError:
            raise AuthorityUnusable(f"{self._certificate_file} is no certificate in PEM. Bring it back.") from None


def ensure_certificates(directory: Path, *, hosts: tuple[str, ...]) -> None:
    """
    See to `ca.crt`, `ca.key`, `server.crt` and `server.key` in *directory*, valid for *hosts* (names or addresses).

    Raises: AuthorityUnusable.
    """
    authority = Authority(directory)
    authority.ensure()
    present = read_pair(directory / "server.crt", directory / "server.key")
    if present is None or authority.fault(present, hosts):
        issued = authority.issue(hosts)
        write_secret(directory / "server.key", issued.key)
        write_secret(directory / "server.crt", issued.certificate)


def ensure_token_key(directory: Path) -> None:
    """See to one ES256 signing key in *directory*, `<kid>.pem`; keys that are there stay."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(directory.glob("*.pem")):
        return
    kid = datetime.datetime.now(datetime.UTC).strftime("k%Y%m%d%H%M%S")
    write_secret(directory / f"{kid}.pem", new_token_key())


def new_token_key() -> bytes:
    """Make an ES256 private key, in PEM."""
    return private_pem(ec.generate_private_key(ec.SECP256R1()))


def public_pem(private: bytes) -> bytes:
    """Return the public half of a private key, both in PEM."""
    public: PublicKeyTypes = serialization.load_pem_private_key(private, password=None).public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key in PEM, unencrypted."""
    no_passphrase = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_passphrase)


def read_pair(certificate: Path, key: Path) -> Issued | None:
    """Read a certificate and its key; None if one of them is not there."""
    if not (certificate.exists() and key.exists()):
        return None
    return Issued(certificate.read_bytes(), key.read_bytes())


def issuer_of(certificate: bytes) -> str | None:
    """Name the authority that a certificate says it is of; None if it cannot be read."""
    try:
        issuer = x509.load_pem_x509_certificate(certificate).issuer
    except UNREADABLE:
        return None
    found = issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else None


def key_belongs(pair: Issued) -> bool:
    """Whether certificate and key can be read and are of one another, of whatever kind they are."""
    try:
        key = serialization.load_pem_private_key(pair.key, password=None)
        return key.public_key() == x509.load_pem_x509_certificate(pair.certificate).public_key()
    except UNREADABLE:
        return False


def names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """List the names that a certificate is good for."""
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def names_in(certificate: bytes) -> tuple[str, ...]:
    """List the names of a certificate in PEM, as they are given to `Authority.issue`; none if it cannot be read."""
    try:
        return tuple(str(name.value) for name in names_of(x509.load_pem_x509_certificate(certificate)))
    except UNREADABLE:
        return ()


def ends_soon(certificate: x509.Certificate) -> bool:
    """Whether a certificate is over within `RENEW_DAYS`."""
    return (certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).days < RENEW_DAYS


def is_host(name: str) -> bool:
    """Whether something can be in a certificate, and match: an address, or a host name in ASCII; `*.` may be first."""
    if is_address(name):
        return "%" not in name  # a zone is one machine's own
    first, _, rest = name.partition(".")
    labels = (rest if first == "*" else name).split(".")
    return (
        len(name) <= HOST_MAX_CHARACTERS
        and all(LABEL.fullmatch(label) for label in labels)
        and not labels[-1].isdecimal()  # a mistyped address
    )


def is_address(name: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def token_key_fault(private: bytes) -> str | None:
    """Say why tokens cannot be signed with a key in PEM; None if they can."""
    try:
        key = serialization.load_pem_private_key(private, password=None)
    except (ValueError, TypeError):
        return "is no private key in PEM without a passphrase"
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        return "is a key of another kind than ES256's, which is on the curve P-256"
    return None


def write_secret(path: Path, content: bytes, *, mode: int = 0o600, owner: int | None = None) -> None:
    """
    Write a file, whole or not at all, that nobody ever sees with a wider mode or another owner.

    Raises: OSError, with the file's name.
    """
    partial = path.with_name(f".{path.name}.new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if owner is not None:
                os.fchown(descriptor, owner, owner)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)  # a full disk, or an impatient person
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=cert_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
