"""The tables that people read, in Markdown, each made of nothing but the figures of one run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bench.docker import PROGRAM
from bench.goals import Goal, goals
from bench.labels import OURS, labels
from bench.plan import AT_ONCE
from bench.steps import REST, WITHIN
from bench.summary import best_per_s

Found = Mapping[str, Any]
CODED = {"bare crun run": "bare `crun run`", "docker run": "`docker run --rm --network none`"}
CODED |= {"bare unshare + exec": "bare `unshare` + exec"}
ROLES = {"client": "client", "api": "API server", "nats": "nats-server", "worker": "worker", "containers": "containers"}
STEPS = {
    "admit": "at the API server, until the message is in the queue",
    "queue": "in the queue, until a worker has it",
    "image": "image made ready, container created",
    "start": "from the parameter to the first byte of output, a part of `run`",
    "run": "from the parameter until no process of the container is left",
    "answer": "result and fences, and the answer on its way through the API server",
    REST: "what no step counts: the client, TLS, HTTP; without `answer`, result and fences too",
}


BUSY_LOAD = 0.5
TWO_DIGITS_BELOW = 2
BUSY = """

**Others were busy on this machine. Of these figures only processor times, and their ratios, are worth anything.**"""


def where(found: Found) -> str:
    """Say in one paragraph where and how all this was measured."""
    at, plan = found["machine"], found["plan"]
    programs = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    runtimes = ", ".join(f"{name} ({version})" for name, version in found["runtimes"].items())
    memory_gib = at["memory_mib"] / 1024
    return (
        f"{at['cores']} cores ({at['processor']}), {memory_gib:.0f} GiB, Linux {at['kernel']};\n{programs}.\n"
        f"What starts Mayfly's containers: {runtimes}.\n"
        f"{plan['rounds']} rounds of {plan['seconds']:g} s for each row and number at once, seed {plan['seed']},\n"
        f"{found['took_s'] / 60:.1f} minutes in all. Load of the machine before: {at['load_before']:g}."
        + (BUSY if at["load_before"] > BUSY_LOAD else "")
    )


def alone(found: Found) -> str:
    """One call at a time: each contender, with how much faster Mayfly is."""
    rows, hot, floor = [], _first(found)["1"], found["contenders"]["unshare"]["1"]
    for name, label in labels(found).items():
        each = found["contenders"][name]["1"]
        rows.append(
            [
                _bold(CODED.get(label, label), name),
                *(_ms(each[key]) for key in ("p50_ms", "p95_ms", "p99_ms")),
                f"{each['p50_ms'] / floor['p50_ms']:.1f}",
                f"{each['p50_ms'] / hot['p50_ms']:.2f}",
                _ms(sum(each["cpu_ms"].values())),
                f"{sum(each['cpu_ms'].values()) / sum(hot['cpu_ms'].values()):.2f}",
                f"{each['calls']:,}",
            ]
        )
    heads = ["one at a time", "p50", "p95", "p99", "p50 / floor's", "p50 / Mayfly's"]
    return _table([*heads, "processor time", "the same / Mayfly's", "calls"], rows)


def engine_known(found: Found) -> str:
    """When a caller of the Engine API knows the result."""
    known = found["engine_known_p50_ms"]
    return "The Engine API was not measured." if known is None else f"The result is known after {_ms(known)} (p50)."


def docker_program(found: Found) -> str:
    """What the program `docker` itself computes in each run."""
    if "docker" not in found["contenders"]:
        return "not measured"
    return f"{_ms(found['contenders']['docker']['1']['cpu_ms'][PROGRAM])} of processor time"


def many(found: Found) -> str:
    """Calls a second by how many there are at once."""
    rows = []
    best, floor = _best(found, f"{OURS}{next(iter(found['runtimes']))}"), _best(found, "unshare")
    for name, label in labels(found).items():
        each = found["contenders"][name]
        rates = [f"{each[str(n)]['per_s']:.0f}" if str(n) in each else "" for n in AT_ONCE]
        own = _best(found, name)
        rows.append([_bold(CODED.get(label, label), name), *rates, f"{own / floor:.2f}", f"{best / own:.2f}"])
    return _table(["calls a second, at once:", *map(str, AT_ONCE), "best / floor's", "Mayfly's best / its"], rows)


def waiting(found: Found) -> str:
    """How long calls take when there are many."""
    rows = []
    for name in ours(found):
        for at_once in AT_ONCE:
            each = found["contenders"][name][str(at_once)]
            times = (_ms(each[key]) for key in ("p50_ms", "p95_ms", "p99_ms"))
            rows.append([labels(found)[name], str(at_once), f"{each['per_s']:.0f}", *times])
    return _table(["", "at once", "calls/s", "p50", "p95", "p99"], rows)


def kinds(found: Found) -> str:
    """Calls of other kinds, beside the hot one of the same rounds."""
    rows = []
    for name in ours(found):
        hot = found["contenders"][name]["1"]
        rows.append([labels(found)[name], "5 bytes in and out (as above)", *_kind(hot, hot)])
        for kind, each in found["kinds"][name].items():
            words = KINDS.get(kind, f"{kind} in and out").format(slots=found["slots"])
            rows.append([labels(found)[name], words, *_kind(each, hot)])
        cold = found["cold"][name.removeprefix(OURS)]
        rows.append([labels(found)[name], "a function's first call", *_kind(cold, hot)])
    return _table(["", "call", "p50", "p95", "p99", "p50 / hot's", "processor time"], rows)


KINDS = {
    "Python": "a Python program (`examples/json-python`)",
    "1 s": "a function that takes 1 s, {slots} at once",
    "egress": "5 bytes, with `network: egress`",
}


def steps(found: Found) -> str:
    """Where the time of a call goes, by `Server-Timing`."""
    names = {name: None for each in found["steps"].values() for name in each}
    rows = []
    for name in names:
        times = [_ms(each[name], digits=2) if name in each else "" for each in found["steps"].values()]
        whole = f"*{name}*" if name in WITHIN else f"`{name}`" if name != REST else name
        rows.append([whole, STEPS.get(name, ""), *times])
    sums = [sum(v for name, v in each.items() if name not in WITHIN) for each in found["steps"].values()]
    rows.append(["together", "what the client waits", *(_ms(each, digits=2) for each in sums)])
    return _table(["step", "", *(labels(found)[name] for name in ours(found))], rows)


def processor(found: Found) -> str:
    """Processor time of one call by role, one at a time and at the best rate."""
    rows = []
    for name in ours(found):
        for at_once, each in found["contenders"][name].items():
            if at_once in {"1", "32"}:
                used = each["cpu_ms"]
                times = [_ms(used[role], digits=2) for role in ROLES]
                rows.append([labels(found)[name], at_once, *times, _ms(sum(used.values()), digits=2)])
    return _table(["", "at once", *ROLES.values(), "together"], rows)


def memory(found: Found) -> str:
    """Memory of each role at rest and after all calls, and what it computes at rest."""
    rows = []
    for name in ours(found):
        runtime = name.removeprefix(OURS)
        rest, after = found["at_rest"][runtime], found["memory_after"][runtime]
        for role, has in rest["memory"].items():
            sizes = (has["rss_mib"], has["pss_mib"], after[role]["rss_mib"], after[role]["pss_mib"])
            cells = [f"{each:.0f} MiB" for each in sizes]
            rows.append([labels(found)[name], ROLES[role], *cells, f"{rest['cpu_ms_per_s'][role]:.1f} ms/s"])
    return _table(["", "", "RSS at rest", "PSS at rest", "RSS after", "PSS after", "processor at rest"], rows)


def aims(found: Found) -> str:
    """The goals, with what was measured."""
    each = [goals(found, runtime) for runtime in found["runtimes"]]
    rows = [
        [one[0].words, f"{'>=' if one[0].at_least else '<='} {one[0].bound:g} {one[0].unit}", *map(_aim, one)]
        for one in zip(*each, strict=True)
    ]
    return _table(["goal", "", *(labels(found)[name] for name in ours(found))], rows)


def ours(found: Found) -> list[str]:
    """The contenders that are Mayfly."""
    return [name for name in labels(found) if name.startswith(OURS)]


def _aim(goal: Goal) -> str:
    if goal.measured is None:
        return "not measured"
    digits = 2 if goal.measured < TWO_DIGITS_BELOW else 1  # 0.96 is not 1.0
    return f"{goal.measured:.{digits}f}, {'reached' if goal.reached else 'not reached'}"


def _kind(each: Mapping[str, Any], hot: Mapping[str, Any]) -> Iterator[str]:
    yield from (_ms(each[key]) for key in ("p50_ms", "p95_ms", "p99_ms"))
    yield f"{each['p50_ms'] / hot['p50_ms']:.2f}"
    yield _ms(sum(each["cpu_ms"].values())) if each["cpu_ms"] else ""


def _first(found: Found) -> Any:
    return found["contenders"][f"{OURS}{next(iter(found['runtimes']))}"]


def _best(found: Found, name: str) -> float:
    best = best_per_s(found["contenders"], name)
    assert best is not None
    return best


def _bold(label: str, name: str) -> str:
    return f"**{label}**" if name.startswith(OURS) else label


def _ms(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f} ms"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
