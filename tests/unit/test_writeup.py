"""The write-up and the architecture point at what is there, and their calculations are right."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from pathlib import Path

import pytest

from mayfly.__main__ import compose
from mayfly.cli.reference import commands
from mayfly.domain.limits import Limits
from mayfly.settings import ROLES

ROOT = Path(__file__).resolve().parent.parent.parent
WRITEUP = (ROOT / "docs/writeup.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8")
OPENAPI = json.loads((ROOT / "docs/reference/openapi.json").read_text(encoding="utf-8"))

ROWS = [
    *(f"F{n}" for n in range(1, 14)),
    *(f"A{n}" for n in range(1, 6)),
    *(f"D{n}" for n in range(1, 8)),
    *(f"D6.{n}" for n in range(1, 8)),
]
SYSTEMS = ("OpenFaaS", "Fn", "OpenWhisk", "Knative", "Fission", "Nuclio", "NEX", "AWS Lambda")
OURS_S = 0.01  # of a slot's time, beside the function's own
UNITS = {"": 1, "MiB": 1 << 20, "GiB": 1 << 30, "GB": 10**9, "million": 10**6}


def section(number: int) -> str:
    """Return one numbered section of the write-up."""
    found = re.search(rf"^## {number}\. .*?(?=^## )", WRITEUP, re.MULTILINE | re.DOTALL)
    assert found, f"section {number} is missing"
    return found[0]


def table(text: str, heading: str) -> list[list[str]]:
    """Return the rows of the table whose first column is called *heading*, cell by cell."""
    lines = text.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def numbers(cell: str) -> list[float]:
    """Return the numbers in a cell: `8.6 million`, `0.09 GB`, `86,400`."""
    found = re.findall(r"(\d[\d,]*(?:\.\d+)?)\s*(MiB|GiB|GB|million)?", cell)
    return [float(number.replace(",", "")) * UNITS[unit] for number, unit in found]


REQUIREMENTS = table(WRITEUP, "id")


@pytest.mark.D6
def test_every_requirement_is_in_the_table() -> None:
    """F1 to F13, A1 to A5, D1 to D7 and D6.1 to D6.7 each have a row with all of its cells."""
    assert sorted(row[0] for row in REQUIREMENTS) == sorted(ROWS)
    for row in REQUIREMENTS:
        assert len(row) == 4, row
        assert all(row), row


@pytest.mark.D6
@pytest.mark.parametrize("row", REQUIREMENTS, ids=lambda row: str(row[0]))
def test_a_requirements_test_and_command_exist(row: list[str]) -> None:
    """The test that a row names is defined where it says, and the command can be typed."""
    _, _, test, command = row
    pointed = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", test)
    assert pointed, test
    source = (ROOT / pointed[1]).read_text(encoding="utf-8")
    assert re.search(rf"^(?:async )?def {pointed[2]}\(", source, re.MULTILINE), test
    check_command(re.fullmatch(r"`(.+)`", command)[1])  # type: ignore[index]


def check_command(line: str) -> None:
    """Fail unless the program of a command line exists, with its sub-command, or path of the API."""
    words = shlex.split(line)
    match words:
        case ["mayfly", *_]:
            assert any(f"{line} ".startswith(f"{name} ") for name, _ in commands(compose())), line
        case ["curl", *_, url]:
            path = re.sub(r"^https?://[^/]+", "", url)
            assert path in {*OPENAPI["paths"], "/openapi.json", "/docs"}, line
        case [program, "-m", module, *_] if program.endswith("python"):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), line
        case [program, *rest]:
            assert os.access(ROOT / program, os.X_OK), line
            places = [word for word in rest if word.startswith(("tests/", "deploy/"))]
            assert [place for place in places if not (ROOT / place.partition("::")[0]).exists()] == [], line


@pytest.mark.D6
def test_every_test_and_command_in_the_text_exists() -> None:
    """Scripts and tests that the write-up and the architecture name are there."""
    for text in (WRITEUP, ARCHITECTURE):
        for name in re.findall(r"`((?:scripts|tests|deploy|docs|src|bench)/[\w./-]+)", text):
            assert (ROOT / name).exists(), name


@pytest.mark.D6
@pytest.mark.parametrize("command", ["mayfly nothing", "mayfly functions", "scripts/nothing", "curl https://h:1/v9/x"])
def test_a_command_that_is_not_there_is_noticed(command: str) -> None:
    """The check above fails for what does not exist."""
    with pytest.raises(AssertionError):
        check_command(command)


@pytest.mark.D1
@pytest.mark.D6
def test_every_service_is_described() -> None:
    """Each microservice has its place in the table of the architecture and a section with job, state and numbers."""
    named = [row[0] for row in table(ARCHITECTURE, "service")]
    for service in ("gateway", "api", "nats", "worker", "secrets", "bootstrap", "janitor", "registry", "monitoring"):
        assert any(service in name for name in named), service
        assert re.search(rf"^### .*\b{service}\b", ARCHITECTURE, re.MULTILINE), service
    for service in ("gateway", "api", "nats", "worker"):
        part = re.search(rf"^### {service}\n.*?(?=^##)", ARCHITECTURE, re.MULTILINE | re.DOTALL)
        assert part
        assert all(f"**{word}.**" in part[0] for word in ("Job", "State", "Replication", "Elasticity")), service


@pytest.mark.D1
def test_the_numbers_of_instances_are_those_of_the_files() -> None:
    """How many there are on each platform is what the page made from the platforms' files says."""
    said = {row[0]: row for row in table(ARCHITECTURE, "service | signal")}
    compose, kumori, kubernetes = (column_of(said, index) for index in (2, 3, 4))

    services = {row[0]: row[1] for row in table(CONFIGURATION, "service | instances")}
    assert compose["worker"].split(",")[0] == services["worker"]
    for name in ("gateway", "api", "nats"):
        instances = [service for service in services if re.fullmatch(rf"{name}(-\d)?", service)]
        assert compose[name].split(",")[0] == str(len(instances)), name

    for name in ("gateway", "api"):
        assert f"| autoscaled (`meta: hpa`) | {name} | {kumori[name].split(',')[0]}, " in CONFIGURATION
    assert f"| instances | worker | {kumori['worker'].split(',')[0]} |" in CONFIGURATION
    assert (
        len(re.findall(r"^\| instances \| nats\d \| 1 \|", CONFIGURATION, re.MULTILINE)) == numbers(kumori["nats"])[0]
    )

    assert f"| Deployment gateway | {kubernetes['gateway'].split(',')[0]} |" in CONFIGURATION
    assert f"| StatefulSet nats | {kubernetes['nats']} |" in CONFIGURATION
    for name, (least, most) in {
        "api": ("HorizontalPodAutoscaler api | `minReplicas", "HorizontalPodAutoscaler api | `maxReplicas"),
        "worker": ("ScaledObject worker | `minReplicaCount", "ScaledObject worker | `maxReplicaCount"),
    }.items():
        low, high = numbers(kubernetes[name])[:2]
        assert f"| {least}` | `{low:g}` |" in CONFIGURATION
        assert f"| {most}` | `{high:g}` |" in CONFIGURATION


def column_of(rows: dict[str, list[str]], index: int) -> dict[str, str]:
    """Return one column of a table, by the first cell of each row."""
    return {name: row[index] for name, row in rows.items()}


@pytest.mark.D6
def test_the_table_of_slots_is_right() -> None:
    """Section 3: who waits, how long, and who is refused, by Erlang's formulas for 50 calls/s of 0.31 s."""
    held_s = 0.3 + OURS_S
    load = 50 * held_s
    rows = table(section(3), "slots")

    assert f"= {load:.1f} slots" in section(3)
    assert len(rows) == 4
    for slots, waiting, wait, refused in rows:
        count = int(slots)
        blocked = erlang_b(count, load)
        waits = blocked / (1 - (1 - blocked) * load / count)
        assert numbers(waiting)[0] == pytest.approx(waits * 100, abs=0.5 if waits > 0.01 else 0.05)
        assert numbers(wait)[0] == pytest.approx(waits * held_s / (count - load) * 1000, abs=0.5, rel=0.01)
        assert numbers(refused)[0] == pytest.approx(blocked * 100, abs=0.5)


def erlang_b(slots: int, load: float) -> float:
    """Return the share of calls that find every slot taken when none may wait."""
    return (load**slots / math.factorial(slots)) / sum(load**k / math.factorial(k) for k in range(slots + 1))


@pytest.mark.D6
def test_the_sizes_of_the_database_are_right() -> None:
    """Section 4: records, disk and memory follow from the rate, the time kept, and the bytes that were measured."""
    text = section(4)
    disk_bytes, memory_bytes = 1010, 530
    prose = " ".join(text.split())
    assert f"{disk_bytes:,} on disk" in prose
    assert f"{memory_bytes} in memory" in prose
    for rate, kept, records, disk, memory in table(text, "calls/s"):
        count = numbers(rate)[0] * numbers(kept)[0] * 3600
        assert numbers(records)[0] == pytest.approx(count, rel=0.01)
        assert numbers(disk)[0] == pytest.approx(count * disk_bytes, rel=0.05)
        assert numbers(memory)[0] == pytest.approx(count * memory_bytes, rel=0.1)


@pytest.mark.D6
def test_every_knob_is_a_setting_with_that_default() -> None:
    """Section 5: each variable in the table of knobs is a setting, and the default beside it is the code's."""
    defaults = {
        f"MAYFLY_{name.upper()}": field.default for role in ROLES.values() for name, field in role.model_fields.items()
    }
    knobs = 0
    for knob, shown, *_ in table(section(5), "knob"):
        for name in re.findall(r"`(MAYFLY_\w+)`", knob):
            knobs += 1
            words = {"MAYFLY_SLOTS": "4 a core", "MAYFLY_LOGIN_CONCURRENCY": "half the cores"}.get(name)
            assert words == shown if words else defaults[name] in numbers(shown), (name, shown)
    assert knobs >= 12

    limits = Limits()
    by_function = {
        knob: numbers(shown) for knob, shown, *_ in table(section(5), "knob") if knob.startswith("a function's")
    }
    assert by_function["a function's `timeout_s`"][0] == limits.timeout_s
    assert by_function["a function's `memory_mib`, `cpus`, `pids`"] == [limits.memory_mib, limits.cpus, limits.pids]


@pytest.mark.D6
def test_the_worked_strings_are_json() -> None:
    """Section 6: parameter and result are JSON, each with its version, and the result says what may be repeated."""
    parameter, result = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", section(6), re.DOTALL))

    assert {"v", "data", "idempotency_key", "deadline", "traceparent", "services"} <= parameter.keys()
    assert {"v", "error", "effects", "expires_at"} <= result.keys()
    assert result["error"]["retryable"] is True


@pytest.mark.parametrize("page", ["README.md", "docs/writeup.md"])
def test_how_fast_it_is_said_to_be_is_what_was_measured(page: str) -> None:
    """By the committed run of the bench."""
    words = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    measured = json.loads((ROOT / "bench/figures.json").read_text(encoding="utf-8"))["summary"]
    p50_ms = measured["hot_p50_ms"]

    assert f"{p50_ms:.1f} ms at the median" in words
    assert f"{measured['docker_run_p50_ms'] / p50_ms:.0f} times faster than `docker run`" in words


def test_what_is_said_of_many_calls_is_what_was_measured() -> None:
    """By the committed run, too: in the write-up and on the page on the architecture."""
    words, architecture = (" ".join(text.split()) for text in (WRITEUP, ARCHITECTURE))
    found = json.loads((ROOT / "bench/figures.json").read_text(encoding="utf-8"))
    measured, by_number = found["summary"], found["contenders"]["mayfly-native"]
    per_s = measured["saturation_per_s"]

    assert f"and {measured['hot_p99_ms']:.1f} at the 99th percentile" in words
    assert f"{per_s:.0f} calls/s, {per_s / measured['crun_run_per_s']:.2f} of what bare `crun run`" in words
    assert f"A call takes {measured['hot_p50_ms']:.1f} ms at the median" in words
    assert f"2 cores / {per_s:.0f} per second = {2000 / per_s:.1f} ms of a core" in words
    assert f"2,000 x {2000 / per_s:.1f} ms = {2 * 2000 / per_s:.0f} cores" in words
    assert f"of a trivial one {by_number['8']['per_s']:.0f}, 8 at once (*measured*)" in words
    assert f"on 2 cores do {per_s:.0f} calls/s" in architecture


@pytest.mark.D6
def test_each_other_system_has_its_source() -> None:
    """Section 7: eight systems, each with what is better about it and where that was read."""
    rows = table(section(7), "system")

    assert len(rows) == len(SYSTEMS)
    for system, row in zip(SYSTEMS, rows, strict=True):
        assert row[0].startswith(system)
        assert len(row) == 5
        assert all(row)
        assert len(re.split(r"[,;:] ", row[4])) >= 2, row[0]
