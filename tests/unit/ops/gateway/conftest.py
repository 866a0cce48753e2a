"""A gateway's directory of secrets, for the tests of what is made from it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mayfly.ops.secrets import Owners, Wanted, create

ME = Owners(api=os.geteuid(), nats=os.geteuid(), gateway=os.geteuid(), worker=os.geteuid(), admin=os.geteuid())


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Secrets of a deployment, which nobody changes."""
    root = tmp_path_factory.mktemp("made") / "secrets"
    create(root, Wanted(owners=ME))
    return root


@pytest.fixture
def secrets(made: Path, tmp_path: Path) -> Path:
    """The directory of all roles, a copy of the test's own."""
    return shutil.copytree(made, tmp_path / "secrets")
