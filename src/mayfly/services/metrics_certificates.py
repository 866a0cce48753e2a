"""
When the certificates end that a role works with, read where they take effect: files at its start, as it reads them
again only when it is restarted, and a nats-server's from the connection. Rows: D4, D7.

Nothing is renewed or refused here; `ops.certificates` makes certificates, and TLS itself ends with them.
"""

from __future__ import annotations

from pathlib import Path

import structlog
from cryptography import x509

from mayfly.bus.connection import Bus

log = structlog.get_logger()


def ends_of(**files: Path | None) -> dict[str, float]:
    """
    Read when the certificates in files of PEM end, as Unix times; of several in one file the first that ends.

    No file is no end, and neither is one that cannot be read: whether it is good enough is for TLS to say.
    """
    ends = {}
    for name, path in files.items():
        if path is None:
            continue
        try:
            found = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError) as error:
            log.warning("metrics.certificate-unreadable", certificate=name, path=str(path), reason=str(error))
        else:
            ends[name] = min(map(_end, found))
    return ends


def end_of_server(bus: Bus | None) -> float | None:
    """Say when the certificate ends that the connected nats-server has shown; None while there is no TLS connection."""
    shown = bus.server_certificate if bus else None
    try:
        return _end(x509.load_der_x509_certificate(shown)) if shown else None
    except ValueError:
        return None


def _end(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()
