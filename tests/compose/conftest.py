"""
The composed system, which `scripts/test-compose` brings up before these tests and takes down after them.

They call it from outside, as `tests/e2e` does, and ask its Docker daemon what is published, granted and alive.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.compose.terminal import Terminal
from tests.e2e.conftest import Shell, image, registry, shell
from tests.support.compose import settled
from tests.support.need import need
from tests.support.up import Up

__all__ = ["image", "registry", "shell"]  # the same fixtures, for the same callers


@pytest.fixture(scope="session")
def up() -> Up:
    """The system as callers see it."""
    wanted = ("COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "COMPOSE_ENV_FILE", "MAYFLY_E2E_URL", "MAYFLY_E2E_CA")
    need(all(name in os.environ for name in wanted), "the composed system that scripts/test-compose brings up")
    return Up(os.environ["MAYFLY_E2E_URL"], Path(os.environ["MAYFLY_E2E_CA"]), Path("/nonexistent"))


@pytest.fixture
async def whole(up: Up, shell: Shell) -> AsyncIterator[Shell]:
    """Functions of a fresh user of a system of which every part is healthy, before the test and after it."""
    assert up.url
    await settled()
    yield shell
    await settled()


@pytest.fixture
def terminal(tmp_path: Path, up: Up) -> Terminal:
    """Where the commands are typed."""
    return Terminal(tmp_path, up)
