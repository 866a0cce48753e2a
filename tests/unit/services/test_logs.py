"""What the log shows of an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from mayfly.services.logs import configure_logs
from mayfly.settings import LogSettings

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.reset_defaults()
    structlog.configure(**before)
    structlog.contextvars.clear_contextvars()


def log_in(password: str) -> None:
    """Fail, as nobody has foreseen."""
    raise RuntimeError(f"{len(password)} characters")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_stack_shows_no_values(form: Literal["json", "console"], capsys: pytest.CaptureFixture[str]) -> None:
    """The log says where an unforeseen error came from, but not what the variables there held, in either form."""
    configure_logs(LogSettings(log_format=form, log_level="debug"), role="api")
    password = PASSWORD
    try:
        log_in(password)
    except RuntimeError:
        structlog.get_logger().exception("request.failed")

    logged = capsys.readouterr().err
    assert "log_in" in logged
    assert "21 characters" in logged
    assert PASSWORD not in logged
    if form == "json":
        assert json.loads(logged)["event"] == "request.failed"
