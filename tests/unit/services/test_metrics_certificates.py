"""When certificates end, as a scrape shows it: those of the project's own authority, read from their files."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import pytest
from cryptography import x509
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from mayfly.api.metrics import ApiMetrics
from mayfly.ops.certificates import CA_DAYS, SERVER_DAYS, Authority
from mayfly.services.metrics import Metrics
from mayfly.services.metrics_certificates import ends_of
from mayfly.worker.metrics import WorkerMetrics
from tests.support.scrape import Scrape

pytestmark = [pytest.mark.D4, pytest.mark.D7]

ENDS = "mayfly_certificate_not_after_timestamp_seconds"
DAY_S = 86_400


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """One that was made just now; its certificate is `ca.crt`."""
    made = Authority(tmp_path)
    made.ensure()
    return made


@pytest.fixture
def issued(authority: Authority, tmp_path: Path) -> Path:
    """A server's certificate of it, in a file."""
    path = tmp_path / "api.crt"
    path.write_bytes(authority.issue(("api", "127.0.0.1")).certificate)
    return path


def now(metrics: Metrics) -> Scrape:
    """What a scrape would read."""
    return Scrape(generate_latest(metrics.registry).decode())


def test_the_ends_are_those_of_the_certificates(issued: Path, tmp_path: Path) -> None:
    """A scrape has a server's end 397 days from now and its authority's in ten years, in seconds and by name."""
    metrics = ApiMetrics()
    metrics.certificates = ends_of(own=issued, authority=tmp_path / "ca.crt")

    found = now(metrics)
    assert found.value(ENDS, certificate="own") == pytest.approx(time.time() + SERVER_DAYS * DAY_S, abs=60)
    assert found.value(ENDS, certificate="authority") == pytest.approx(time.time() + CA_DAYS * DAY_S, abs=60)
    exactly = x509.load_pem_x509_certificate(issued.read_bytes()).not_valid_after_utc
    assert datetime.datetime.fromtimestamp(found.value(ENDS, certificate="own"), datetime.UTC) == exactly


@pytest.mark.parametrize("metrics", [ApiMetrics(), WorkerMetrics()], ids=["api", "worker"])
def test_no_certificate_is_no_sample(metrics: Metrics) -> None:
    """Without files and without a connection there is no end, rather than one that is made up."""
    metrics.certificates = ends_of(own=None, authority=None)

    assert now(metrics).labels(ENDS) == []


@pytest.mark.parametrize("reverse", [False, True])
def test_of_a_chain_the_first_end_counts(
    authority: Authority, issued: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, reverse: bool
) -> None:
    """Of several certificates in one file it is the one that ends first, wherever it stands, as TLS fails with it."""
    monkeypatch.setattr("mayfly.ops.certificates.SERVER_DAYS", 5)
    parts = [issued.read_bytes(), authority.issue(("short",)).certificate, authority.certificate]
    chain = tmp_path / "chain.crt"
    chain.write_bytes(b"".join(reversed(parts) if reverse else parts))

    assert ends_of(own=chain) == {"own": pytest.approx(time.time() + 5 * DAY_S, abs=60)}


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_what_cannot_be_read_is_no_sample_and_is_logged(issued: Path, tmp_path: Path, content: bytes | None) -> None:
    """A role does not end for a file that only its metrics cannot read: the log names it, and the others are shown."""
    bad = tmp_path / "bad.crt"
    if content is not None:
        bad.write_bytes(content)

    with capture_logs() as logs:
        assert set(ends_of(own=issued, authority=bad)) == {"own"}
    [line] = logs
    assert (line["event"], line["certificate"], line["path"]) == (
        "metrics.certificate-unreadable",
        "authority",
        str(bad),
    )
