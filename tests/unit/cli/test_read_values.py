"""Reading passwords and secrets: nothing of them is lost, and no more is read than there can be."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from mayfly.cli import passwords, secrets
from mayfly.cli.exits import Refused
from mayfly.domain.registry import PASSWORD_MAX_BYTES
from mayfly.domain.secret import VALUE_MAX_BYTES

pytestmark = pytest.mark.F4


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Have it on stdin."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_password_is_read_whole_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest that the API takes comes whole, with the line break behind it; what is longer is not cut."""
    longest = "x" * PASSWORD_MAX_BYTES
    piped(monkeypatch, longest.encode() + b"\r\n")
    assert passwords.from_stdin() == [longest]

    piped(monkeypatch, b"x" * (passwords.STDIN_MAX_BYTES + 1))
    with pytest.raises(Refused, match="65,536 bytes"):
        passwords.from_stdin()


def test_of_a_file_no_more_is_read_than_fits(tmp_path: Path) -> None:
    """A file without end is refused like any that is too large."""
    fits = tmp_path / "fits"
    fits.write_bytes(b"x" * VALUE_MAX_BYTES)

    assert secrets._value("A", fits) == b"x" * VALUE_MAX_BYTES
    with pytest.raises(Refused, match="65,536 bytes"):
        secrets._value("A", Path("/dev/zero"))
