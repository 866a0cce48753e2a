"""Runtimes under test. Each test runs once for every driver of `exceptions.DRIVERS`: the whole suite is each one's."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mayfly.containers.confined.requirements import LANDLOCK_MIN, landlock_version
from mayfly.containers.host import prepare_host
from tests.contract.exceptions import DRIVERS, cannot
from tests.support import dockerd_bare
from tests.support.containers import (
    BUSYBOX,
    DOCKER_HOST,
    World,
    copy_rootfs,
    images_of,
    make_rootfs,
    open_runtime,
)
from tests.support.need import need

UNPREPARED = "TEST_UNPREPARED_HOST"
"""The variable by which tests of confined calls are run where no other driver could be."""


@pytest.fixture(scope="session")
def prepared_host() -> None:
    """This process in a mount namespace of its own, fit for containers; or as it is, where there can be none."""
    need(os.geteuid() == 0, "root")
    if UNPREPARED not in os.environ:
        prepare_host()


@pytest.fixture(scope="session")
def rootfs(prepared_host: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of all container tests."""
    need(BUSYBOX.exists(), "busybox-static")
    need(shutil.which("cc"), "a C compiler")
    return make_rootfs(tmp_path_factory.mktemp("image") / "rootfs")


@pytest.fixture(scope="session")
def furnished_rootfs(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another of the same, for confined calls, which have their files in an image's own /dev."""
    return copy_rootfs(rootfs, tmp_path_factory.mktemp("furnished") / "rootfs")


@pytest.fixture
def image(driver: str, request: pytest.FixtureRequest) -> Path:
    """The image that a driver's tests use."""
    directory: Path = request.getfixturevalue("furnished_rootfs" if driver == "confined" else "rootfs")
    return directory


@pytest.fixture(scope="session")
def docker_daemon(prepared_host: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dockerd_bare.Daemon]:
    """
    One daemon for the whole run, where the drivers of this process and of those it starts look for it. When all is over
    it has no container, volume, network or mount more than at the start, and no layer but those of images.
    """
    need(dockerd_bare.PROGRAM, "dockerd")
    with pytest.MonkeyPatch.context() as patch, dockerd_bare.dockerd() as daemon:
        patch.setenv(DOCKER_HOST, daemon.unix.host)
        before = daemon.everything()
        yield daemon
        after = daemon.everything()
        for kind in ("containers", "volumes", "networks", "mounts"):
            assert after[kind] == before[kind]
        assert len(after["layers"]) - len(before["layers"]) <= len(after["images"])


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """The runtime's name."""
    name = str(request.param)
    if name == "docker":
        request.getfixturevalue("docker_daemon")
    elif name == "confined":
        need(landlock_version() >= LANDLOCK_MIN, "Landlock, version 6")
    elif name != "native":
        need(shutil.which(name), name)
    mark = cannot(name, request.node.originalname)
    if mark is not None:
        request.applymarker(mark)
    return name


@pytest.fixture
def state_dir(request: pytest.FixtureRequest) -> Iterator[Path]:
    """
    A place for a worker's state that everybody may search, unlike `tmp_path`. With docker one for the whole run, as a
    daemon's images are a place's own, and bringing one takes half a second.
    """
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and callspec.params.get("driver") == "docker":
        directory: Path = request.getfixturevalue("docker_state_dir")
        yield directory
        (directory / "containers.lock").unlink(missing_ok=True)
        assert not list(directory.iterdir())
        return
    with _searchable_directory() as directory:
        yield directory


@pytest.fixture
def other_state_dir() -> Iterator[Path]:
    """The place of another worker on this machine."""
    with _searchable_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def docker_state_dir() -> Iterator[Path]:
    """The place of docker's workers."""
    with _searchable_directory() as directory:
        yield directory


@contextmanager
def _searchable_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="mayfly-test-"))
    directory.chmod(0o711)
    yield directory
    (directory / "containers.lock").unlink(missing_ok=True)
    directory.rmdir()


@pytest.fixture
async def world(driver: str, image: Path, state_dir: Path) -> AsyncIterator[World]:
    """A runtime in a place of its own. When the test is over nothing of it may be left."""
    world = World(open_runtime(driver, state_dir=state_dir, images=images_of(image)), image)
    try:
        yield world
        assert not world.left()
    finally:
        await world.runtime.close()
