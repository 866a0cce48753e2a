"""What is typed, what is printed, and that the page shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.capacity import page
from bench.capacity.command import parser, simulated
from bench.capacity.costs import Costs
from bench.capacity.plan import BadInput

ROOT = Path(__file__).resolve().parents[3]
SHORT = ["--seconds", "2", "--warm-up-s", "0"]
CPU_MS = {"client": 0.25, "api": 2.0, "nats": 1.5, "worker": 3.0, "containers": 4.0}
BENCH = {
    "runtimes": {"native": "1", "crun": "2"},
    "contenders": {
        "mayfly-native": {
            "1": {"p50_ms": 10.0, "per_s": 90.0, "cpu_ms": dict.fromkeys(CPU_MS, 99.0)},
            "8": {"p50_ms": 70.0, "per_s": 180.0, "cpu_ms": CPU_MS},
            "32": {"p50_ms": 200.0, "per_s": 170.0, "cpu_ms": dict.fromkeys(CPU_MS, 99.0)},
        },
        "mayfly-crun": {"1": {"p50_ms": 1.0, "per_s": 500.0, "cpu_ms": dict.fromkeys(CPU_MS, 99.0)}},
    },
}


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A file as the bench writes it."""
    file = tmp_path / "figures.json"
    file.write_text(json.dumps(BENCH), encoding="utf-8")
    return file


def prints(*arguments: str) -> str:
    """What a command line prints."""
    return simulated(parser().parse_args([*SHORT, *arguments]))


def test_costs_are_those_of_the_best_rate_of_the_runtime_that_is_quoted(bench: Path) -> None:
    """Processor time is that at saturation; what it has beyond the time of a call alone comes behind the answer."""
    costs = Costs.of_bench(bench)

    assert (costs.client_s, costs.api_s, costs.nats_s, costs.worker_s) == (0.00025, 0.002, 0.0015, 0.003)
    assert (costs.container_s, costs.behind_s, costs.idle_s) == pytest.approx((0.00325, 0.00075, 0))
    assert costs.cpu_s == pytest.approx(0.01075)


def test_a_call_that_waits_for_something_else() -> None:
    """What a call alone takes beyond its processor time is time in which nobody computes."""
    costs = Costs.measured(CPU_MS, alone_ms=12.0)

    assert (costs.container_s, costs.behind_s, costs.idle_s) == pytest.approx((0.004, 0, 0.00125))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "FileNotFoundError"),
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'contenders'"),
        ('{"runtimes": {}, "contenders": {}}', "StopIteration"),
        ('{"runtimes": {"crun": ""}, "contenders": {"mayfly-crun": {}}}', "ValueError"),
    ],
)
def test_a_file_that_the_bench_did_not_write(tmp_path: Path, text: str | None, says: str) -> None:
    """It is named, with what is wrong with it and the remedy."""
    file = tmp_path / "figures.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")

    with pytest.raises(BadInput) as caught:
        Costs.of_bench(file)

    assert str(caught.value).startswith(f"costs, {file}, does not say what a call costs ({says}")
    assert str(caught.value).endswith("must be a file that `scripts/bench --json FILE` wrote: run that")


def test_each_value_that_is_varied_has_a_row(bench: Path) -> None:
    """Two lists go on together; the table has what was varied in front."""
    table = prints("--costs", str(bench), "--vary", "slots=4,8", "--vary", "max-activations=4,none").splitlines()

    assert [line.split(" | ")[:2] for line in table] == [
        ["| slots", "max_activations"],
        ["|---|---|---|---|---|---|---|---|---|---|"],
        ["| 4", "4"],
        ["| 8", "none"],
    ]


def test_json_has_all_that_the_table_has(bench: Path) -> None:
    """Each row says what was varied and what came of it, with its numbers as they are."""
    [row] = json.loads(prints("--costs", str(bench), "--vary", "rate-per-s=50", "--json"))

    assert row["varied"] == {"rate_per_s": 50}
    outcome = row["outcome"]
    assert outcome["arrived"] == sum(outcome["refused"].values()) + outcome["finished"] + outcome["in_flight"] > 50
    assert set(outcome["latency_ms"]) == {"mean", "p50", "p95", "p99"}
    assert outcome["used"]["slots"] > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--vary", "slots"], "vary is 'slots' and must be FIELD=VALUE,VALUE with a field of a plan: see --help"),
        (["--vary", "slot=1"], "vary is 'slot=1' and must be FIELD=VALUE,VALUE with a field of a plan: see --help"),
        (["--vary", "slots=0"], "slots is 0 and must be from 1 to 4,096: raise it"),
        (
            ["--vary", "slots=1,2", "--vary", "workers=1"],
            "vary has lists of different lengths and must have a value in each for each row: complete them",
        ),
        (["--slot", "x", "--nothing"], "unrecognized arguments: --nothing: see --help"),
    ],
)
def test_a_command_line_that_cannot_be(bench: Path, arguments: list[str], says: str) -> None:
    """It is refused in one sentence with a remedy."""
    with pytest.raises(BadInput) as caught:
        prints("--costs", str(bench), *arguments)

    assert str(caught.value) == says


def test_the_program_says_what_is_wrong_in_one_line() -> None:
    """And no stack: status 1, nothing on stdout."""
    result = subprocess.run(
        [sys.executable, "-m", "bench.capacity", "--slots", "0"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "simulate: slots is 0 and must be from 1 to 4,096: raise it\n"


@pytest.mark.D6
def test_the_page_has_a_table_for_each_of_its_commands() -> None:
    """Every command on the page has its table below it; scripts/docs --check compares them to the last digit."""
    there = page.PAGE.read_text(encoding="utf-8")
    shown = list(page.SHOWN.finditer(there))

    assert len(shown) == there.count("```sh\nscripts/simulate") > 5


def test_the_curves_are_those_of_the_table() -> None:
    """Another figure in the table is another picture; a page without the table has none."""
    there = page.PAGE.read_text(encoding="utf-8")
    row = "| 100 | 24 | 23 % |"

    assert there.count(row) == 1
    assert page.curves(there.replace(row, "| 100 | 24 | 11 % |")) != page.curves(there)
    with pytest.raises(ValueError, match="no table"):
        page.curves("A page.\n")


def test_a_table_that_is_not_what_is_printed_is_noticed() -> None:
    """A page with another number in it is mended, and nothing else of it is touched."""
    text = "Before.\n\n```sh\nscripts/simulate --show-costs\n```\n\n| 1 |\n|---|\n\nAfter.\n"

    mended = page.refreshed(text)

    assert mended != text
    assert page.refreshed(mended) == mended
    assert mended.startswith("Before.\n\n```sh\nscripts/simulate --show-costs\n```\n\n| client")
    assert mended.endswith("|\n\nAfter.\n")
