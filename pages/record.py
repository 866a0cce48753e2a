"""Recording what the examples of docs/reference/api.md are answered with, by an installation started for it."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from pages.examples import EXAMPLES
from pages.played import Played, keep, play
from tests.support.images import build_and_push
from tests.support.registry import Registry
from tests.support.up import Up, running_up

SLOTS = 4


def on(up: Up, image: str, home: Path) -> list[Played]:
    """Run the examples on an installation of this machine that nobody has used."""
    environment = {
        "URL": up.url,
        "CURL_CA_BUNDLE": str(up.ca_file),
        "MAYFLY_DATA_DIR": str(up.data_dir),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return play(EXAMPLES, environment, home=home, image=image)


def record() -> None:
    """Start a registry and an installation, run the examples, and keep what was answered. Needs root."""
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as home:
        registry = Registry()
        runner.run(registry.start())
        try:
            image = runner.run(build_and_push(registry.url, "busybox", "1", cmd=["/bin/sh"]))
            with running_up(registry.url, slots=SLOTS) as up:
                keep(on(up, image, Path(home)))
        finally:
            runner.run(registry.stop())
