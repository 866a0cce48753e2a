"""What a test asks of the machine: on a laptop that lacks it the test is skipped, in CI it fails."""

from __future__ import annotations

import os

import pytest


def need(condition: object, what: str) -> None:
    """Skip the test unless *condition*; with CI=true fail it, for there everything must run."""
    if condition:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"this machine needs {what}", pytrace=False)
    pytest.skip(f"needs {what}")
