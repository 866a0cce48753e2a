"""What the pages take for granted: images in a registry that the installation can reach, and a shell's programs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import build_and_push
from tests.support.registry import Registry

SUDO = '#!/bin/sh\nexec env "$@"\n'
"""The tests are root already, and their machine need not have it."""


@pytest.fixture(scope="session")
def registry() -> Iterator[str]:
    """A real registry with the images that pages name, as host:port."""
    server = Registry()
    with asyncio.Runner() as runner:
        runner.run(server.start())
        try:
            runner.run(build_and_push(server.url, "busybox", "latest", cmd=["/bin/sh"]))
            yield server.url
        finally:
            runner.run(server.__aexit__(None, None, None))


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that goes before the machine's own programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sudo").write_text(SUDO)
    (folder / "sudo").chmod(0o755)
    return folder
