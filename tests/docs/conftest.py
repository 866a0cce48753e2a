"""What the pages take for granted: images in a registry that the installation can reach, and a shell's programs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.docs.images import Shelf
from tests.support.dockerd_bare import PROGRAM, dockerd
from tests.support.need import need
from tests.support.registry import HTPASSWD, Registry

SUDO = '#!/bin/sh\nexec env "$@"\n'
"""The tests are root already, and their machine need not have it."""


@pytest.fixture(scope="session")
def shelf() -> Iterator[Shelf]:
    """A real registry, for the images that pages name."""
    with _running(Registry()) as registry:
        yield Shelf(registry)


@pytest.fixture(scope="session")
def registry(shelf: Shelf) -> str:
    """The same, with the image that most commands name, as host:port."""
    shelf.bring("busybox")
    return shelf.registry


@pytest.fixture(scope="session")
def locked() -> Iterator[str]:
    """Another one, which knows ann and asks for her password, as host:port."""
    with _running(Registry(HTPASSWD)) as registry:
        yield registry


@contextmanager
def _running(server: Registry) -> Iterator[str]:
    with asyncio.Runner() as runner:
        runner.run(server.start())
        try:
            yield server.url
        finally:
            runner.run(server.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def docker() -> Iterator[Callable[[], str]]:
    """Start a real Docker daemon when it is first asked for, and say where it listens, as DOCKER_HOST does."""
    with ExitStack() as running:
        found: list[str] = []

        def docker() -> str:
            need(PROGRAM, "dockerd")
            if not found:
                found.append(running.enter_context(dockerd()).unix.host)
            return found[0]

        yield docker


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that goes before the machine's own programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sudo").write_text(SUDO)
    (folder / "sudo").chmod(0o755)
    return folder
