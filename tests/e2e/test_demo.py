"""The README's first command, and what the README says that it prints."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.docs.reader import prints
from tests.support.page import ROOT, blocks_of


@pytest.mark.A3
@pytest.mark.A4
async def test_the_demo_shows_what_it_promises() -> None:
    """scripts/demo checks every answer itself, ends with status 0, and leaves nothing."""
    process = await asyncio.create_subprocess_exec(
        "scripts/demo", cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:  # it has taken too long, and stops what it has started
            process.terminate()
            await process.wait()

    assert process.returncode == 0, said.decode()[-4000:]
    assert said.decode().rstrip().endswith("answers were right, and nothing is left.")
    told = next(block for block in blocks_of(ROOT / "README.md") if block.language == "output")
    assert prints(told.text, said.decode())
    lines = re.search(r"prints ([\d,]+) lines", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert lines is not None
    assert said.count(b"\n") == pytest.approx(int(lines[1].replace(",", "")), rel=0.1)  # logs differ from run to run
