"""Certificates as `docker --tlsverify` takes them, on both sides."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SOON = datetime.timedelta(hours=1)


def make_certificates(directory: Path) -> Path:
    """Make ca.pem, cert.pem and key.pem of a client, server-cert.pem and server-key.pem of a daemon at 127.0.0.1."""
    authority = Authority(directory)
    authority.make("client", CLIENT)
    authority.make("server", ExtendedKeyUsageOID.SERVER_AUTH, prefix="server-")
    return directory


CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


class Authority:
    """A certificate authority that makes what `docker --tlsverify` takes."""

    def __init__(self, directory: Path) -> None:
        """Make its own certificate."""
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        basic = x509.BasicConstraints(ca=True, path_length=0)
        self.certificate = self._builder(self.name, self.key).add_extension(basic, critical=True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        signed = self.certificate.add_extension(usage, critical=True).sign(self.key, hashes.SHA256())
        (directory / "ca.pem").write_bytes(signed.public_bytes(Encoding.PEM))

    def make(self, stem: str, usage: x509.ObjectIdentifier, *, prefix: str = "") -> None:
        """Make a certificate for 127.0.0.1 and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, stem)])
        where = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = self._builder(subject, key).add_extension(where, critical=False)
        signed = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False).sign(self.key, hashes.SHA256())
        (self.directory / f"{prefix}cert.pem").write_bytes(signed.public_bytes(Encoding.PEM))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.directory / f"{prefix}key.pem").write_bytes(private)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - SOON).not_valid_after(now + SOON)
