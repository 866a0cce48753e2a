"""A gateway's directory of secrets, for the tests of what is made from it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mayfly.ops.secrets import Owners, Wanted, create

ME = Owners(api=os.geteuid(), nats=os.geteuid(), gateway=os.geteuid(), worker=os.geteuid(), admin=os.geteuid())


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The directory of all roles."""
    create(tmp_path / "secrets", Wanted(owners=ME))
    return tmp_path / "secrets"
