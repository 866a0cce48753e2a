"""What the operators' pages name, by which one searches logs and metrics, is what the code calls it; figures add up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mayfly.api.errors import MEANINGS
from tests.unit.capacity.test_theory import erlang_b, erlang_c

ROOT = Path(__file__).resolve().parents[2]
HOWTO = ROOT / "docs/howto"
CODE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src/mayfly").rglob("*.py")))
EVENTS = set(re.findall(r"log\.(?:debug|info|warning|error|exception)\(\s*\"([a-z-]+\.[a-z.-]+)\"", CODE))
FILES = (".yaml", ".cue", ".crt", ".key", ".pem", ".io")
PARTS = ("_bucket", "_sum", "_count")
LOGS = [
    "allow-registries",
    "let-functions-reach-the-network",
    "log-in-under-attack",
    "run-without-privileges",
    "troubleshoot",
    "upgrade",
    "when-the-store-is-full",
]
PAGES = sorted(HOWTO.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_metric_of_a_page_exists(page: Path) -> None:
    """Each `mayfly_...` that a page names is on the page of all metrics, which is made from the code."""
    known = set(re.findall(r"^\| `(mayfly_\w+)`", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE))
    found = re.findall(r"\bmayfly_\w+[a-z]\b(?!\*)", re.sub(r"`mayfly_(api|gateway)(_\d)?`", "", page.read_text()))
    for name in {one for one in found if not any(each.startswith(f"{one}_") for each in known)}:
        family = next((name.removesuffix(part) for part in PARTS if name.endswith(part)), name)
        assert known & {name, family}, name


@pytest.mark.parametrize("page", LOGS)
def test_every_line_of_the_log_that_a_page_names_is_written(page: str) -> None:
    """Each `noun.happened` that a page names is an event that the code logs."""
    named = set(re.findall(r"`([a-z]+\.[a-z-]+)`", (HOWTO / f"{page}.md").read_text(encoding="utf-8")))
    named = {name for name in named if not name.endswith(FILES)}
    assert named
    assert named <= EVENTS


def test_the_events_of_the_code_are_found() -> None:
    """Else the test above would have nothing to compare with; and one that is not there is noticed."""
    assert len(EVENTS) > 100
    assert "worker.ready" in EVENTS
    assert "worker.happy" not in EVENTS


@pytest.mark.parametrize("page", ["troubleshoot", "upgrade", "scale"])
def test_every_alert_and_code_of_a_page_exists(page: str) -> None:
    """Each alert that is named is in alerts.yml; each code after an HTTP status is one of the API's errors."""
    text = (HOWTO / f"{page}.md").read_text(encoding="utf-8")
    rules = yaml.safe_load((ROOT / "deploy/compose/monitoring/alerts.yml").read_text(encoding="utf-8"))
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    codes = {str(error.code) for error in MEANINGS}
    assert set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", text)) <= alerts
    assert set(re.findall(r"\b[45]\d\d `([a-z-]+)`", text)) <= codes


def test_remarks_are_in_the_words_of_mayfly_status() -> None:
    """What the page has an operator look for as `remark` is said so by the code."""
    text = (HOWTO / "troubleshoot.md").read_text(encoding="utf-8")
    remarks = re.findall(r"`remark`: `([^`]+)`", text)
    assert len(remarks) > 3
    assert [words for words in remarks if words not in CODE] == []


def test_the_example_of_littles_law() -> None:
    """Slots in use on average are rate times time, and the table beside it is what Erlang's formulas give for them."""
    text = (HOWTO / "scale.md").read_text(encoding="utf-8")
    rate, seconds, load = map(float, re.findall(r"^(\d+)/s x ([\d.]+) s = (\d+) slots in use", text, re.MULTILINE)[0])
    assert rate * seconds == load
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) % \| ([\d.]+) ms \| ([\d.]+) % \|$", text, re.MULTILINE)
    assert len(rows) == 3
    for slots, waits, wait_ms, refused in rows:
        waiting = erlang_c(int(slots), load)
        mean_ms = 1000 * waiting * seconds / (int(slots) - load)
        for said, right in ((waits, 100 * waiting), (wait_ms, mean_ms), (refused, 100 * erlang_b(int(slots), load))):
            assert float(said) == float(f"{right:.2g}"), (slots, said, right)
