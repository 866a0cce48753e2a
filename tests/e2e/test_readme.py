"""The commands that the docs tell a reader to type, typed."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from mayfly.domain.ids import new_id
from tests.support.up import Up

ROOT = Path(__file__).parent.parent.parent
PASSWORD = "correct horse battery"


def blocks(page: str, heading: str) -> list[str]:
    """The fenced blocks below a heading of a page."""
    text = (ROOT / page).read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.F2
@pytest.mark.F9
@pytest.mark.parametrize(
    ("page", "heading", "block"),
    [
        ("README.md", "Try it by hand", 1),
        ("docs/tutorial/first-function.md", "2. Register, and call an image that exists already", 0),
    ],
)
async def test_what_a_reader_types_works(
    up: Up, image: str, tmp_path: Path, page: str, heading: str, block: int
) -> None:
    """
    The block runs as it stands, but for where this installation is, for a registry that can be reached from here,
    and for the password, which comes from a pipe.
    """
    script = blocks(page, heading)[block]
    name = f"ann-{new_id()[:12]}"  # the page's own may be taken
    replaced = (
        script.replace("https://127.0.0.1:8443", up.url)
        .replace("/var/lib/mayfly/ca.crt", str(up.ca_file))
        .replace("register ann", f"register {name} --password-stdin <<<'{PASSWORD}'")
        .replace(" busybox ", f" {image} ")
    )
    assert replaced.count(str(image)) == 1
    environment = {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        replaced,
        cwd=ROOT,
        env={**environment, "MAYFLY_CONFIG_DIR": str(tmp_path / "config")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate()

    assert process.returncode == 0, complained.decode()
    assert "HELLO, MAYFLY" in said.decode()
