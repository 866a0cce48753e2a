"""The client where only the client is wanted: docs/howto/call-from-python.md."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.nats import free_port
from tests.support.page import ROOT

PAGE = ROOT / "docs/howto/call-from-python.md"
PROGRAM = """
import asyncio, sys
from mayfly.client import Client, FixedToken, Unreachable

async def main():
    async with Client(sys.argv[1], tokens=FixedToken("a-token")) as client:
        try:
            await client.invoke("upper", "hello")
        except Unreachable as error:
            print(error.code, error.ran)

asyncio.run(main())
"""


def with_what_they_need(names: list[str]) -> set[str]:
    """Those distributions and all that pip installs along with them."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            needs = map(Requirement, distribution(name).requires or ())
            left += [each.name for each in needs if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


def test_the_client_needs_three_packages(tmp_path: Path) -> None:
    """With the packages that the page names, and our sources, a program calls; nothing else is there to import."""
    named = re.search(r"^pip install (\w+ .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert named
    for name in with_what_they_need(named[1].split()):
        for file in distribution(name).files or ():
            top = Path(file.parts[0])
            if top.name not in {"..", "__pycache__"} and not (tmp_path / top).exists():
                (tmp_path / top).symlink_to(Path(str(distribution(name).locate_file(str(top)))))
    ended = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, f"https://127.0.0.1:{free_port()}"],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.stdout, ended.stderr) == ("unreachable no\n", "")
