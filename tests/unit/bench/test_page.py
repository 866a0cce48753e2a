"""The reference page, its plots and the summary: of figures that nobody measured, and of those that are committed."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import also, page
from bench.compare import RATIOS, comparison
from bench.goals import goals
from bench.run import read
from tests.support.bench import found

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/reference/performance.md"
NAMES = (
    "hot_p50_ms",
    "hot_p99_ms",
    "cold_p50_ms",
    "docker_run_p50_ms",
    "engine_api_p50_ms",
    "crun_run_p50_ms",
    "saturation_per_s",
    "docker_run_per_s",
    "crun_run_per_s",
    "unshare_per_s",
)


def row(text: str, first: str) -> list[str]:
    """The cells of the first row of a table that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_committed_page_is_what_the_committed_figures_make() -> None:
    """Nobody writes into the page or its plots by hand, and no figures are committed without them."""
    for name, content in page.files(read(ROOT / "bench/figures.json"), PAGE.name).items():
        assert (PAGE.parent / name).read_text(encoding="utf-8") == content, f"{name}: scripts/bench --from --page"


def test_the_committed_figures_are_complete() -> None:
    """With Docker, and with each figure that is quoted."""
    committed = read(ROOT / "bench/figures.json")

    assert committed["plan"]["docker"]
    assert all(committed["summary"][name] > 0 for name in NAMES)


def test_the_summary_is_flat_and_of_the_first_runtime() -> None:
    """Rates are the best of any number at once; others' figures have the runtime's name."""
    summary = found("crun", "native")["summary"]

    assert set(NAMES) <= summary.keys()
    assert summary["hot_p50_ms"] == 10
    assert summary["cold_p50_ms"] == 15
    assert summary["saturation_per_s"] == pytest.approx(400)
    assert summary["docker_run_per_s"] == pytest.approx(20)
    assert summary["crun_run_per_s"] == pytest.approx(500)
    assert summary["unshare_per_s"] == pytest.approx(4000)
    assert (summary["hot_p50_ms_native"], summary["saturation_per_s_native"]) == (5, pytest.approx(800))
    assert summary["hot_cpu_ms"] == pytest.approx(10.75)


def test_without_docker_its_figures_are_none_and_its_rows_are_left_out() -> None:
    """None is not nought."""
    without = found("crun", docker=False)

    assert [name for name in NAMES if without["summary"][name] is None] == [
        "docker_run_p50_ms",
        "engine_api_p50_ms",
        "docker_run_per_s",
    ]
    text = page.page(without)
    assert "| Docker Engine API | 1" not in text
    assert "not measured" in text


def test_a_busy_machine_is_told_of() -> None:
    """What was measured beside other work is not to be taken for more than it is."""
    busy = found("crun")
    busy["machine"]["load_before"] = 3.0

    assert "Others were busy" in page.page(busy)
    assert "Others were busy" not in page.page(found("crun"))


def test_the_page_says_how_much_faster_mayfly_is() -> None:
    """Each contender has its row, with ratios to the floor and to Mayfly."""
    text = page.page(found("crun", "native"))

    assert row(text, "**Mayfly (crun)**")[1:8] == ["10.0 ms"] * 3 + ["10.0", "1.00", "10.8 ms", "1.00"]
    assert row(text, "`docker run --rm --network none`")[1:6] == ["200.0 ms"] * 3 + ["200.0", "20.00"]
    assert row(text, "Docker Engine API")[4:6] == ["150.0", "15.00"]
    many = text[text.index("## Many calls at once") :]
    assert row(many, "**Mayfly (native)**")[1:] == ["200", "400", "800", "800", "800", "800", "0.20", "0.50"]
    assert row(many, "bare `crun run`")[1:] == ["125", "250", "500", "", "", "", "0.12", "0.80"]
    assert row(text, "together")[2:] == ["10.00 ms", "5.00 ms"]
    assert "{" not in text


def test_the_command_makes_the_page_again_without_measuring(tmp_path: Path) -> None:
    """`--from` and `--page` write what is committed; tables are printed, and with `--against` ratios, here all 1."""
    committed = str(ROOT / "bench/figures.json")
    command = [sys.executable, "-m", "bench.run", "--from", committed, "--page", str(tmp_path / PAGE.name)]
    said = subprocess.run(
        [*command, "--against", committed], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout

    assert all((tmp_path / path.name).read_bytes() == path.read_bytes() for path in PAGE.parent.glob("performance*"))
    assert "\n| **Mayfly (" in said
    assert said.count("| 1.00 |\n") >= len(RATIOS)


def test_a_further_measurement_has_its_part_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its name, with what its docstring says first, and what it makes of its figures as read from a file."""
    module = ModuleType("bench.patience", "How patient callers are.\n\nNobody measured it.")
    module.measure = lambda: {"seconds": {1: 2.5}}  # type: ignore[attr-defined]
    module.markdown = lambda found: f"They wait {found['seconds']['1']} s."  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bench.patience", module)
    measured = {**found("crun"), "also": json.loads(json.dumps(also.measure([also.measurement("patience")])))}

    section = "\n## Patience\n\nHow patient callers are.\n\nThey wait 2.5 s.\n\n## What the rows are"
    assert section in page.page(measured)
    assert "They wait 2.5 s." in page.markdown(measured)
    assert "Patience" not in page.page(found("crun"))


@pytest.mark.parametrize("name", ["nothing", "plot"])
def test_what_is_no_measurement_is_refused(name: str) -> None:
    """Before anything is measured, and by its name."""
    with pytest.raises(argparse.ArgumentTypeError, match=name):
        also.measurement(name)


def test_goals_are_reached_or_not() -> None:
    """What is held against a goal is what was measured with that runtime, and where nothing was, that is said."""
    of = {
        name: {goal.words: goal.reached for goal in goals(found("crun", "native"), name)} for name in ("crun", "native")
    }

    assert (of["crun"]["one at a time, p50"], of["native"]["one at a time, p50"]) == (False, True)
    assert of["native"]["one at a time, times as fast as `docker run`"] is True
    assert of["crun"]["one at a time, times as fast as `docker run`"] is False
    assert of["crun"]["many at once, times the rate of bare `crun run`"] is False
    assert of["native"]["many at once, times the rate of bare `crun run`"] is True
    unknown = {goal.words: goal.reached for goal in goals(found("crun", docker=False), "crun")}
    assert unknown["one at a time, times as fast as the Engine API"] is None


def test_plots_have_axes_with_words_and_nothing_outside() -> None:
    """Each is an image of its own with a title, and every text begins within it, in at least 14 pixels."""
    made = page.files(found("crun", "native"), "performance.md")
    for name in (page.LATENCY, page.RATE):
        picture = ElementTree.fromstring(made[name])  # noqa: S314 - our own
        texts = list(picture.iter("{http://www.w3.org/2000/svg}text"))
        width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
        assert picture.attrib["aria-label"]
        assert int(picture.attrib["font-size"]) >= 14
        assert all(0 < float(each.attrib["x"]) < width and 0 < float(each.attrib["y"]) < height for each in texts)
        words = [each.text for each in texts]
        assert {"Mayfly (crun)", "Mayfly (native)", "docker run", "bare unshare + exec"} <= set(words)
        assert any("logarithmic" in str(each) for each in words)
    assert "5 (p99 5)" in made[page.LATENCY]


def test_names_at_the_ends_of_lines_do_not_cover_each_other() -> None:
    """Also where two rates are the same."""
    same = found("crun", "native")
    same["contenders"]["mayfly-native"] = same["contenders"]["mayfly-crun"]
    picture = ElementTree.fromstring(page.rate_plot(same))  # noqa: S314 - our own
    labels = {"Mayfly (crun)", "Mayfly (native)", "docker run", "Docker Engine API", "bare crun run"}
    texts = picture.iter("{http://www.w3.org/2000/svg}text")
    heights = sorted(float(each.attrib["y"]) for each in texts if each.text in labels)

    assert len(heights) == len(labels)
    assert all(later - earlier >= 20 for earlier, later in pairwise(heights))


def test_a_run_is_compared_by_ratios_to_its_own_floor() -> None:
    """On a machine half as fast nothing has changed; a Mayfly half as fast is seen."""
    before = found("crun")
    slow_machine = json.loads(json.dumps(before))
    for name in slow_machine["summary"]:
        slow_machine["summary"][name] *= 0.5 if name.endswith("per_s") else 2
    slow_mayfly = json.loads(json.dumps(before))
    slow_mayfly["summary"]["hot_p50_ms"] *= 2

    def changed(now: dict[str, Any]) -> dict[str, float]:
        rows = re.findall(r"^\| (.+?) \| [\d.]+ \| [\d.]+ \| ([\d.]+) \|$", comparison(now, before), re.MULTILINE)
        return {words: float(ratio) for words, ratio in rows}

    assert len(changed(slow_machine)) == len(RATIOS)
    assert set(changed(slow_machine).values()) == {1.0}
    assert {words: ratio for words, ratio in changed(slow_mayfly).items() if ratio != 1} == {
        "one at a time, p50 / floor's": 2.0,
        "`docker run`, p50 / Mayfly's": 0.5,
        "Docker Engine API, p50 / Mayfly's": 0.5,
    }


def test_a_run_without_docker_is_compared_all_the_same() -> None:
    """By what both have."""
    assert "docker run" not in comparison(found("crun", docker=False), found("crun"))
