"""Runtimes under test. Each test runs once for every driver: add a name to DRIVERS and the whole suite is its."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mayfly.containers.choose import choose_runtime
from mayfly.containers.host import prepare_host
from mayfly.containers.oci import OciRuntime
from tests.support.containers import BUSYBOX, World, make_rootfs
from tests.support.need import need

DRIVERS = ("crun", "runc")


@pytest.fixture(scope="session")
def prepared_host() -> None:
    """This process in a mount namespace of its own, fit for containers."""
    need(os.geteuid() == 0, "root")
    prepare_host()


@pytest.fixture(scope="session")
def rootfs(prepared_host: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of all container tests."""
    need(BUSYBOX.exists(), "busybox-static")
    need(shutil.which("cc"), "a C compiler")
    return make_rootfs(tmp_path_factory.mktemp("image") / "rootfs")


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """The runtime's name."""
    name = str(request.param)
    need(shutil.which(name), name)
    return name


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A place for a worker's state that everybody may search, unlike `tmp_path`."""
    directory = Path(tempfile.mkdtemp(prefix="mayfly-test-"))
    directory.chmod(0o711)
    yield directory
    (directory / "containers.lock").unlink(missing_ok=True)
    directory.rmdir()


@pytest.fixture
async def world(driver: str, rootfs: Path, state_dir: Path) -> AsyncIterator[World]:
    """A runtime in a place of its own. When the test is over nothing of it may be left."""
    runtime = choose_runtime(driver, state_dir=state_dir)
    assert isinstance(runtime, OciRuntime)
    world = World(runtime, rootfs)
    try:
        yield world
        assert not world.left()
    finally:
        await runtime.close()
