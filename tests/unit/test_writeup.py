"""The write-up and the pages beside it point at what is there, and their figures and calculations are right."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.capacity.command import parser
from bench.capacity.plot import read
from mayfly.__main__ import compose
from mayfly.cli.reference import commands
from mayfly.domain.limits import Limits
from mayfly.settings import ROLES

ROOT = Path(__file__).resolve().parent.parent.parent
WRITEUP = (ROOT / "docs/writeup.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8")
OPENAPI = json.loads((ROOT / "docs/reference/openapi.json").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FIGURES = json.loads((ROOT / "bench/figures.json").read_text(encoding="utf-8"))
COSTS = FIGURES["contenders"]["mayfly-native"]["16"]["cpu_ms"]
EXPLANATION = ROOT / "docs/explanation"

ROWS = [
    *(f"F{n}" for n in range(1, 14)),
    *(f"A{n}" for n in range(1, 6)),
    *(f"D{n}" for n in range(1, 8)),
    *(f"D6.{n}" for n in range(1, 8)),
]
SYSTEMS = ("OpenFaaS", "Fn", "OpenWhisk", "Knative", "Fission", "Nuclio", "NEX", "AWS Lambda")
WHOSE = {
    "OpenFaaS": ("openfaas/", "www.openfaas.com/"),
    "Fn": ("fnproject/", "iron-io/functions/"),
    "OpenWhisk": ("apache/openwhisk/",),
    "Knative": ("knative/",),
    "Fission": ("fission/",),
    "Nuclio": ("nuclio/",),
    "NEX": ("synadia-io/nex/",),
    "AWS Lambda": ("firecracker-microvm/", "docs.aws.amazon.com/", "arxiv.org/"),
}
"""Where what is said of a system may have been read: what it publishes itself, and papers by its makers."""

PAGES = sorted([ROOT / "docs/writeup.md", *EXPLANATION.glob("*.md"), *(ROOT / "docs/adr").glob("*.md")])
OURS_S = 0.01  # of a slot's time, beside the function's own
DISK_BYTES, MEMORY_BYTES, CLUSTERED_BYTES = 1010, 530, 730  # of a record, by bench.records
UNITS = {"": 1, "MiB": 1 << 20, "GiB": 1 << 30, "GB": 10**9, "million": 10**6}


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


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
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))])
    return rows


def numbers(cell: str) -> list[float]:
    """Return the numbers in a cell: `8.6 million`, `0.09 GB`, `86,400`."""
    found = re.findall(r"(\d[\d,]*(?:\.\d+)?)\s*(MiB|GiB|GB|million)?", cell)
    return [float(number.replace(",", "")) * UNITS[unit] for number, unit in found]


REQUIREMENTS = table(WRITEUP, "id")


@pytest.mark.D6
def test_every_requirement_is_in_the_table() -> None:
    """F1 to F13, A1 to A5, D1 to D7 and D6.1 to D6.7 each have a row with all of its cells, called as everywhere."""
    names = dict(line.split(": ", 1) for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"])

    assert sorted(row[0] for row in REQUIREMENTS) == sorted(ROWS)
    for row in REQUIREMENTS:
        assert len(row) == 5, row
        assert all(row), row
        assert "." in row[0] or row[1] == names[row[0]]


@pytest.mark.D6
@pytest.mark.parametrize("row", REQUIREMENTS, ids=lambda row: str(row[0]))
def test_a_requirements_test_and_command_exist(row: list[str]) -> None:
    """The test that a row names is defined where it says and carries the row's mark; the command can be typed."""
    name, _, where, test, command = row
    pointed = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", test)
    assert pointed, test
    assert name.partition(".")[0] in marks(ROOT / pointed[1], pointed[2]), test
    assert re.search(r"\]\(", where) or where == "this page"
    line = re.match(r"`([^`]+)`(?:: \S|$)", command)
    assert line, command
    check_command(line[1])


def marks(path: Path, test: str) -> set[str]:
    """Return the marks of a test, those of its whole module among them. Fails when there is no such test."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    found = [each for each in module.body if isinstance(each, FUNCTIONS) and each.name == test]
    assert found, f"{path.name} has no {test}"
    of_module = [
        each.value
        for each in module.body
        if isinstance(each, ast.Assign) and [ast.unparse(target) for target in each.targets] == ["pytestmark"]
    ]
    words = [ast.unparse(each) for each in (*found[0].decorator_list, *of_module)]
    return {name for word in words for name in re.findall(r"pytest\.mark\.(\w+)", word)}


@pytest.mark.D6
def test_the_mark_of_a_test_is_seen_on_it_and_on_its_module(tmp_path: Path) -> None:
    """And not on its neighbour; a test that is not there is noticed."""
    path = tmp_path / "test_some.py"
    path.write_text(
        "pytestmark = [pytest.mark.A1, pytest.mark.root]\n\n@pytest.mark.F1\ndef test_one(): ...\n\n"
        "@pytest.mark.F2\nasync def test_two(): ...\n"
    )

    assert marks(path, "test_one") == {"A1", "root", "F1"}
    assert marks(path, "test_two") == {"A1", "root", "F2"}
    with pytest.raises(AssertionError):
        marks(path, "test_three")


def check_command(line: str) -> None:
    """Fail unless the program of a command line exists, with its sub-command, options or path of the API."""
    words = shlex.split(line.replace("\\|", "|"))
    if "xargs" in words:
        words = words[words.index("mayfly", words.index("xargs")) :]
    match words[words[0] == "sudo" :]:
        case ["mayfly", *_]:
            known = [name.split() for name, _ in commands(compose())]
            assert any(words[: len(name)] == name for name in known), line
        case ["curl", *_, url]:
            path = re.sub(r"^https?://[^/]+", "", url)
            assert path in {*OPENAPI["paths"], "/openapi.json", "/docs"}, line
        case [program, "-m", "pytest", *places] if program.endswith("python"):
            assert [place for place in places if not (ROOT / place).exists()] == [], line
        case [program, "-m", module, *_] if program.endswith("python"):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), line
        case ["scripts/simulate", *options]:
            parser().parse_args(options)
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
@pytest.mark.parametrize(
    "command",
    [
        "mayfly nothing",
        "mayfly functions",
        "sudo scripts/nothing",
        "curl https://h:1/v9/x",
        "seq 2 | xargs -I{} mayfly nothing {}",
        ".venv/bin/python -m pytest tests/nothing.py",
        ".venv/bin/python -m bench.nothing",
    ],
)
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
    prose = " ".join(text.split())
    assert f"{DISK_BYTES:,} on disk" in prose
    assert f"{MEMORY_BYTES} in memory ({CLUSTERED_BYTES} in a cluster)" in prose
    for rate, kept, records, disk, alone, clustered in table(text, "calls/s"):
        count = numbers(rate)[0] * numbers(kept)[0] * 3600
        assert numbers(records)[0] == pytest.approx(count, rel=0.01)
        assert numbers(disk)[0] == pytest.approx(count * DISK_BYTES, rel=0.05)
        assert numbers(alone)[0] == pytest.approx(count * MEMORY_BYTES, rel=0.1)
        assert numbers(clustered)[0] == pytest.approx(count * CLUSTERED_BYTES, rel=0.06)


@pytest.mark.D6
def test_the_worked_configurations_are_calculated() -> None:
    """Section 5: slots, records, disk and memory of the three follow from their load, by the figures of section 4."""
    text = section(5)
    prose = " ".join(text.split())
    rows = {row[0]: row[1:] for row in table(text, "| laptop")}
    per_s = (8 / 0.21, 100, 2000)
    for rate, busy in zip(per_s, rows["slots in use (calls/s x 0.21 s)"], strict=True):
        assert numbers(busy)[0] == pytest.approx(rate * (0.2 + OURS_S), abs=0.5)
    for rate, kept in zip(per_s[1:], rows["`MAYFLY_RECORD_KEEP_S`"][1:], strict=True):
        seconds, records, disk = numbers(kept)
        assert records == pytest.approx(rate * seconds, rel=0.02)
        assert disk == pytest.approx(records * DISK_BYTES, rel=0.02)
    for rate, kept, memory in zip(
        per_s[1:],
        rows["`MAYFLY_RECORD_KEEP_S`"][1:],
        rows["`--nats-store-gib`; memory of a nats-server"][1:],
        strict=True,
    ):
        records = rate * numbers(kept)[0]
        store_gib, room, used = numbers(memory)
        assert used == pytest.approx(records * CLUSTERED_BYTES, rel=0.02)
        assert used < room
        held = records * DISK_BYTES + UNITS["GiB"]  # with the results; old states in the files do not count
        assert 1.1 * held < store_gib * UNITS["GiB"] < 2 * held
        assert re.search(rf"\b{math.ceil(records / 50_000)}\b", prose)
    workers, slots_each, all_slots = numbers(rows["workers x slots"][2])[:3]
    assert workers * slots_each == all_slots
    assert f"2,000 x {COSTS['api']:.2f} ms = {2 * COSTS['api']:.1f} cores" in prose
    assert f"nats-servers {2 * COSTS['nats']:.1f} cores" in prose


def deployed(pattern: str, file: str) -> list[float]:
    """What a file below deploy/ sets, as the pattern's first group has it."""
    return [float(value) for value in re.findall(pattern, (ROOT / "deploy" / file).read_text(encoding="utf-8"))]


@pytest.mark.D6
def test_every_knob_is_a_setting_with_that_default() -> None:
    """Section 5: each variable in the table of knobs is a setting, and the default beside it is the code's."""
    defaults = {
        f"MAYFLY_{name.upper()}": field.default for role in ROLES.values() for name, field in role.model_fields.items()
    }
    knobs = 0
    rows = {knob: shown for knob, shown, *_ in table(section(5), "knob")}
    for knob, shown in rows.items():
        for name in re.findall(r"`(MAYFLY_\w+)`", knob):
            knobs += 1
            words = {"MAYFLY_SLOTS": "4 a core", "MAYFLY_LOGIN_CONCURRENCY": "half the cores"}.get(name)
            assert words == shown.partition(";")[0] if words else defaults[name] in numbers(shown), (name, shown)
    assert knobs >= 12

    slots, cache = rows["`MAYFLY_SLOTS`"].partition(";")[2], rows["`MAYFLY_IMAGE_CACHE_BYTES`"].partition(";")[2]
    assert deployed(r"MAYFLY_SLOTS: \$\{MAYFLY_SLOTS:-(\d+)", "compose/compose.yaml") == numbers(slots)
    assert deployed(r'MAYFLY_SLOTS, value: "(\d+)"', "kubernetes/base/worker.yaml") == numbers(slots)
    assert deployed(r'slots: +\*"(\d+)"', "kumori/service/service.cue") == numbers(slots)
    assert deployed(r'MAYFLY_IMAGE_CACHE_BYTES, value: "(\d+)"', "kubernetes/base/worker.yaml") == numbers(cache)
    assert deployed(r'MAYFLY_IMAGE_CACHE_BYTES: value: +"(\d+)"', "kumori/worker/component.cue") == numbers(cache)

    limits = Limits()
    by_function = {knob: numbers(shown) for knob, shown in rows.items() if knob.startswith("a function's")}
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
    measured = FIGURES["summary"]
    p50_ms = measured["hot_p50_ms"]

    assert f"{p50_ms:.1f} ms at the median" in words
    assert f"{measured['docker_run_p50_ms'] / p50_ms:.0f} times faster than `docker run`" in words


def test_what_is_said_of_many_calls_is_what_was_measured() -> None:
    """By the committed run, too: in the write-up and on the page on the architecture."""
    words, architecture = (" ".join(text.split()) for text in (WRITEUP, ARCHITECTURE))
    measured, by_number = FIGURES["summary"], FIGURES["contenders"]["mayfly-native"]
    per_s = measured["saturation_per_s"]

    assert f"and {measured['hot_p99_ms']:.1f} at the 99th percentile" in words
    assert f"{per_s:.0f} calls/s, {per_s / measured['crun_run_per_s']:.2f} of what bare `crun run`" in words
    assert f"A call takes {measured['hot_p50_ms']:.1f} ms at the median" in words
    assert f"2 cores / {per_s:.0f} per second = {2000 / per_s:.1f} ms of a core" in words
    assert f"2,000 x {2000 / per_s:.1f} ms = {2 * 2000 / per_s:.0f} cores" in words
    assert f"of a trivial one {by_number['8']['per_s']:.0f}, 8 at once (*measured*)" in words
    assert f"on 2 cores do {per_s:.0f} calls/s" in architecture


@pytest.mark.D6
def test_what_else_is_said_of_speed_is_what_was_measured() -> None:
    """By the committed run: growth, large calls, Python, egress, processor time, and the goals that were missed."""
    words = " ".join(WRITEUP.split())
    summary, growth = FIGURES["summary"], FIGURES["also"]["growth"]
    alone, many = (sum([FIGURES["contenders"]["mayfly-native"][n]["cpu_ms"]["nats"]]) for n in ("1", "16"))
    goals = table((ROOT / "docs/reference/performance.md").read_text(encoding="utf-8"), "goal")

    assert f"{growth['full']['p50_ms']:.2f} ms at the median against {growth['empty']['p50_ms']:.2f}" in words
    assert f"{growth['full']['list_p50_ms']:.0f} ms instead of {growth['empty']['list_p50_ms']:.0f}" in words
    assert f"a Python program takes {summary['python_p50_ms']:.1f} ms" in words
    assert words.count(f"{summary['egress_p50_ms']:.1f} ms at the median instead of {summary['hot_p50_ms']:.1f}") == 2
    assert f"{many:.1f} ms of a core when many come, {alone:.1f} when it is alone" in words
    assert (len(goals), sum("not reached" in row[2] for row in goals)) == (10, 5)
    assert "of the ten goals of the bench five are missed" in words


@pytest.mark.D6
def test_what_a_mebibyte_costs_is_what_was_measured() -> None:
    """On the page about what a call holds: the processor time of 1 MiB in and out, less that of one byte, by role."""
    words = " ".join((EXPLANATION / "what-a-call-holds.md").read_text(encoding="utf-8").split())
    large, small = (FIGURES["kinds"]["mayfly-native"][kind]["cpu_ms"] for kind in ("1 MiB", "1 B"))
    more = {role: large[role] - small[role] for role in large}

    assert (
        f"{sum(more.values()):.1f} ms of processor time more than 1 byte: {more['nats']:.1f} in nats-server, "
        f"{more['worker']:.1f} in the worker, {more['api']:.1f} in the API server, "
        f"{more['client']:.1f} in the client and {more['containers']:.1f} in the container"
    ) in words


@pytest.mark.D6
def test_each_other_system_has_its_source() -> None:
    """Section 7: eight systems; each cell about one names sources, each of them that system's own, and dated."""
    text = section(7)
    rows = table(text, "system")
    sources = {row[0]: row[1:] for row in table(text, "n | system")}

    assert len(rows) == len(SYSTEMS)
    for system, row in zip(SYSTEMS, rows, strict=True):
        assert row[0].startswith(system)
        assert len(row) == 4
        for cell in row[1:]:
            named = re.findall(r"\[(\d+)\]", cell)
            assert named or cell == "none found in what we read", (system, cell)
            for number in named:
                owner, source, _ = sources[number]
                assert owner == system, (system, number)
                address = re.search(r"\]\(https://(?:github\.com/)?(\S+)\)$", source)
                assert address, source
                assert address[1].startswith(WHOSE[system]), (system, source)
    assert list(sources) == [str(number) for number in range(1, len(sources) + 1)]
    for number, (_, source, as_of) in sources.items():
        assert len(re.findall(rf"\[{number}\]", text)) >= 1, f"source {number} is used nowhere"
        assert re.fullmatch(r"(?:read )?20\d\d-\d\d-\d\d", as_of), as_of
        in_repository = re.search(r"github\.com/[\w.-]+/[\w.-]+/blob/(\w+)/\S+\)", source)
        assert as_of.startswith("read ") != bool(in_repository), source
        assert not in_repository or re.fullmatch(r"[0-9a-f]{40}", in_repository[1]), source


@pytest.mark.D6
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lines_fit_on_a_screen(page: Path) -> None:
    """No line of prose is longer than 120 columns; tables may be, and what was made by a program."""
    long = [line for line in prose(page.read_text(encoding="utf-8")) if len(line) > 120]

    assert long == []


def prose(text: str) -> Iterator[str]:
    """Go through the lines of a page that somebody typed as text."""
    fenced = made = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if re.match(r"<!-- (Measured|Written|Drawn) by ", line):
            made = True
        if re.match(r"<!-- (Measured|Written|Drawn) until here", line):
            made = False
        is_address = re.fullmatch(r"\[[\w-]+\]: \S+", line)  # of a link; cannot be broken
        if not (fenced or made or is_address or line.startswith("|")):
            yield line


@pytest.mark.D6
def test_pictures_have_a_text_and_are_drawn_on_white() -> None:
    """Each picture of a page is an SVG beside it, says in words what it shows, and can be read on any background."""
    shown = 0
    for page in PAGES:
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            shown += 1
            drawing = ElementTree.fromstring((page.parent / target).read_text(encoding="utf-8"))  # noqa: S314 - ours
            assert len(words.split()) >= 20, (page.name, target)
            assert drawing.get("role") == "img"
            first = next(each for each in drawing.iter() if each.tag.endswith("}rect"))
            assert first.get("fill") in {"#fff", "#ffffff"}, target
    assert shown >= 6


@pytest.mark.D6
def test_what_the_curves_are_said_to_show_is_in_their_table() -> None:
    """The words beside the picture of an overload, in both pages that have it, are those of the simulated table."""
    lines = read((EXPLANATION / "capacity.md").read_text(encoding="utf-8"))
    at = {most: {point.rate_per_s: point for point in points} for most, points in lines.items()}
    for path in (ROOT / "docs/writeup.md", EXPLANATION / "capacity.md"):
        words = " ".join(path.read_text(encoding="utf-8").split())
        assert (
            f"{at['24'][75].refused_percent:.0f} % at 75 a second and {at['24'][100].refused_percent:.0f} % at 100"
            in words
        )
        assert f"are {at['48'][100].refused_percent:.0f} % at 100" in words
        most_s = max(point.wait_p95_ms for point in lines["48"]) / 1000
        assert f"at most {most_s:.1f} s with M = 48" in words
        assert (
            f"with M = none {at['none'][85].wait_p95_ms / 1000:.0f} s at 85 a second and "
            f"{at['none'][100].wait_p95_ms / 1000:.0f} s at 100" in words
        )
