"""
A short run of the bench, as continuous integration makes it, with a table of ratios beside the committed figures.

Nothing is asserted about how fast anything is: that is for people to judge, from the table. Docker is left out here, as
`tests/integration/bench` runs what is measured of it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.compare import RATIOS
from bench.page import page
from bench.plan import AT_ONCE, SHORT
from bench.run import read
from tests.support.need import need

pytestmark = pytest.mark.root
ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "bench/figures.json"


def test_a_short_run_measures_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every call is answered with its result, each part of the page has its figures, and ratios are printed."""
    need(os.geteuid() == 0, "root")
    for program in ("crun", "docker-registry", "nft", "unshare"):
        need(shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin"), program)
    command = [
        sys.executable,
        "-m",
        "bench.run",
        "--short",
        "--without-docker",
        "--json",
        str(tmp_path / "figures.json"),
    ]
    ended = subprocess.run(
        [*command, "--against", str(COMMITTED)], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=600, check=False
    )
    assert ended.returncode == 0
    tables, _, ratios = ended.stdout.partition(f"As ratios, beside {COMMITTED}:")
    with capsys.disabled():
        print(ratios)

    found = read(tmp_path / "figures.json")
    first = next(iter(found["runtimes"]))
    ours = found["contenders"][f"mayfly-{first}"]
    assert set(ours) == {str(number) for number in AT_ONCE}
    assert all(each["calls"] >= SHORT.rounds * int(at_once) for at_once, each in ours.items())
    assert all(used > 0 for each in ours.values() for used in each["cpu_ms"].values())
    assert set(found["kinds"][f"mayfly-{first}"]) == {"1 B", "64 KiB", "1 MiB", "Python", "1 s", "egress"}
    assert found["kinds"][f"mayfly-{first}"]["1 s"]["p50_ms"] >= 1000
    assert found["cold"][first]["calls"] == SHORT.cold
    assert {"admit", "queue", "image", "run", "the rest"} <= found["steps"][first].keys()
    assert all(found["summary"][name] for name in found["summary"] if not name.startswith(("docker", "engine")))
    assert tables.count("\n| **Mayfly (") == 2
    assert "Mayfly" in page(found)
    without_docker = [words for words in RATIOS if "ocker" not in words]
    assert re.findall(r"^\| (.+?) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", ratios, re.MULTILINE) == without_docker
