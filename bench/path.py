"""
Where the time of a call goes: each hop from the client's first byte out to the last byte in, in microseconds.

    sudo .venv/bin/python -m bench.path [--calls N] [--pause MS] [--runtime native|crun] [--beside CHECKOUT]

One call at a time over HTTPS, on a whole `mayfly up` of its own. Nothing is traced: the hops lie between the moments
that each activation's record has (`GET /v1/activations/{id}`), by NATS's clock, which on one machine is everybody's,
and the client's own. `--beside` measures another checkout, with its `.venv`, in turns of 20 calls: compare its column
with this one, and neither with that of another run. The container of `cat` is real; CPU is what the kernel counted for
each process, of which the container's is not a part.

Beside the medians stand the means of the slowest twentieth of the calls: the hop that grows is where the tail comes
from. With `--pause` the machine has nothing to do before each call, as is usual outside of a bench: what costs more
when nobody has done it just before shows only then.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import platform
import ssl
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.cpu import of_processes
from bench.roles import COMMANDS, processes
from mayfly import __version__
from tests.support.images import build_and_push
from tests.support.registry import Registry
from tests.support.up import Up, running_up_by

TURN, WARM = 20, 30
SLOTS = 8

HOPS = {
    "admit": "API server: the request's head, session and function read at once, the record created",
    "submit": "the message to NATS, and stored",
    "queue": "NATS: handed to the worker that has asked for it",
    "prepare": "worker: image looked up, container made; meanwhile the registration read",
    "fence": "start fence: the record to `running`",
    "run": "the command and the parameter into the container, until no process of it lives",
    "respond": "response to NATS, and stored",
    "answer": "result fence: the record final, the news of it, the answer",
    "client": "client and API server: TLS and HTTP both ways, as far as the API server does not see it",
}
ROLES = ("client", *COMMANDS)


@dataclass
class Installation:
    """One `mayfly up` that is called, and what was found."""

    up: Up
    token: str = ""
    path: str = ""
    connection: http.client.HTTPSConnection | None = None
    totals_us: list[float] = field(default_factory=list)
    hops_us: dict[str, list[float]] = field(default_factory=lambda: {hop: [] for hop in HOPS})
    cpu_us: dict[str, list[float]] = field(default_factory=lambda: {role: [] for role in ROLES})

    def connect(self, token: str, path: str) -> None:
        """Open the one connection, which is kept, as a busy client keeps it."""
        self.token, self.path = token, path
        trusted = ssl.create_default_context(cafile=self.up.ca_file)
        self.connection = http.client.HTTPSConnection(urlsplit(self.up.url).netloc, context=trusted)

    def call(self) -> tuple[float, str, dict[str, float]]:
        """Invoke once; return how long it took, in seconds, the activation's id, and what Server-Timing says."""
        began = time.perf_counter()
        answer, body = self._ask("POST", self.path, b"hello")
        took_s = time.perf_counter() - began
        if answer.status != 200 or body != b"hello":
            raise RuntimeError(f"{answer.status}: {body[:200]!r}")
        return took_s, answer.getheader("Mayfly-Activation-Id") or "", timing(answer.getheader("Server-Timing") or "")

    def turn(self, calls: int, *, pause_s: float) -> None:
        """Invoke so many times, and look at the records afterwards, when they are out of the way."""
        pids = {"client": [os.getpid()], **processes(self.up)}
        before = {role: of_processes(each) for role, each in pids.items()}
        made = []
        for _ in range(calls):
            time.sleep(pause_s)
            made.append(self.call())
        for role, each in pids.items():
            self.cpu_us[role].append((of_processes(each) - before[role]) / calls * 1e6)
        for took_s, activation_id, told in made:
            self.totals_us.append(took_s * 1e6)
            for hop, took_us in self._hops(took_s, activation_id, told).items():
                self.hops_us[hop].append(took_us)

    def slowest(self) -> list[int]:
        """Which calls took longest: one in twenty."""
        ordered = sorted(range(len(self.totals_us)), key=self.totals_us.__getitem__)
        return ordered[-max(1, len(ordered) // 20) :]

    def _hops(self, took_s: float, activation_id: str, told: dict[str, float]) -> dict[str, float]:
        """Take the call apart. A checkout that tells no `total` has the client's part within `answer`."""
        _, body = self._ask("GET", f"/v1/activations/{activation_id}", None)
        record = json.loads(body)
        at = {name: moment(value) for name, value in record.items() if name.endswith("_at") and value}
        published = at["created_at"] + told["admit"] * 1e3
        answered = at["created_at"] + told.get("total", took_s * 1e3) * 1e3
        return {
            "admit": told["admit"] * 1e3,
            "submit": at["admitted_at"] - published,
            "queue": at["claimed_at"] - at["admitted_at"],
            "prepare": at["ready_at"] - at["claimed_at"],
            "fence": at["started_at"] - at["ready_at"],
            "run": at["exited_at"] - at["started_at"],
            "respond": at["ended_at"] - at["exited_at"],
            "answer": answered - at["ended_at"],
            "client": took_s * 1e6 - (answered - at["created_at"]),
        }

    def _ask(self, method: str, path: str, body: bytes | None) -> tuple[http.client.HTTPResponse, bytes]:
        if self.connection is None:
            raise RuntimeError("not connected yet")
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "text/plain"}
        self.connection.request(method, path, body=body, headers=headers)
        answer = self.connection.getresponse()
        return answer, answer.read()


def timing(header: str) -> dict[str, float]:
    """Read a Server-Timing header, in milliseconds."""
    entries = (entry.strip().partition(";dur=") for entry in header.split(","))
    return {name: float(milliseconds) for name, _, milliseconds in entries if milliseconds}


def moment(text: str) -> float:
    """A record's moment in microseconds."""
    return datetime.fromisoformat(text).timestamp() * 1e6


@contextmanager
def installations(registry: str, runtime: str, pythons: list[str]) -> Iterator[list[Installation]]:
    """Start one `mayfly up` with each of these Pythons."""
    with ExitStack() as stack:
        options: dict[str, Any] = {"slots": SLOTS, "log_level": "warning", "runtime": runtime}
        yield [Installation(stack.enter_context(running_up_by(python, registry, **options))) for python in pythons]


def measure(runtime: str, pythons: list[str], calls: int, *, pause_s: float) -> list[Installation]:
    """Call all in turns."""
    with asyncio.Runner() as runner:
        registry = runner.run(Registry().__aenter__())
        try:
            reference = runner.run(build_and_push(registry.url, "cat", cmd=["/bin/cat"]))
            with installations(registry.url, runtime, pythons) as found:
                for each in found:
                    each.connect(*runner.run(prepare(each.up, reference)))
                    for _ in range(WARM):
                        each.call()
                for number in range(calls // TURN):
                    for each in found if number % 2 else reversed(found):
                        each.turn(TURN, pause_s=pause_s)
                return found
        finally:
            runner.run(registry.__aexit__(None, None, None))


async def prepare(up: Up, reference: str) -> tuple[str, str]:
    """Register a user and the function; return the token and the path of its calls."""
    async with await up.user() as client:
        made = await client.post("/v1/functions", json={"name": "cat", "image": reference})
        made.raise_for_status()
        return client.headers["Authorization"].removeprefix("Bearer "), "/v1/functions/cat/activations"


def table(found: list[Installation]) -> str:
    """The hops, those of the slowest calls beside them, and the processor time of each role; for each checkout."""
    names = ["this"] if len(found) == 1 else ["the other", "this"]
    columns = [column for name in names for column in (f"{name}, us", "slowest twentieth, us")]
    lines = ["| hop | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for hop, words in HOPS.items():
        lines.append(row(f"*{hop}*: {words}", [figure for each in found for figure in both(each, each.hops_us[hop])]))
    sums = [sum(map(statistics.median, each.hops_us.values())) for each in found]
    lines.append(row("**sum of these medians**", beside_nothing(sums)))
    lines.append(row("**the whole call**", [figure for each in found for figure in both(each, each.totals_us)]))
    for percent in (95, 99):
        ends = [statistics.quantiles(each.totals_us, n=100, method="inclusive")[percent - 1] for each in found]
        lines.append(row(f"**the whole call, p{percent}**", beside_nothing(ends)))
    for role in ROLES:
        used = [statistics.median(each.cpu_us[role]) for each in found]
        lines.append(row(f"processor time: {role}", beside_nothing(used)))
    return "\n".join(lines)


def both(found: Installation, figures: list[float]) -> tuple[float, float]:
    """The median of a figure of each call, and its mean in the slowest calls."""
    return statistics.median(figures), statistics.fmean(figures[number] for number in found.slowest())


def beside_nothing(figures: list[float]) -> list[float | None]:
    """Figures that are not of single calls: the column of the slowest stays empty."""
    return [column for figure in figures for column in (figure, None)]


def row(words: str, figures: Sequence[float | None]) -> str:
    """One line of the table."""
    return f"| {words} | " + " | ".join("" if figure is None else f"{figure:.0f}" for figure in figures) + " |"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.path")
    parser.add_argument("--calls", type=int, default=300, help=f"of each checkout, in turns of {TURN}")
    parser.add_argument("--pause", type=float, default=0, metavar="MS", help="before each call")
    parser.add_argument("--runtime", default="native")
    parser.add_argument("--beside", type=Path, help="another checkout, with its .venv")
    options = parser.parse_args()
    pythons = [sys.executable]
    if options.beside:
        pythons.insert(0, str(options.beside.resolve() / ".venv" / "bin" / "python"))
    found = measure(options.runtime, pythons, options.calls, pause_s=options.pause / 1e3)
    print(table(found))
    print(
        f"\n{options.calls} calls each, {options.pause:g} ms apart; Mayfly {__version__}, {options.runtime}, "
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}."
    )


if __name__ == "__main__":
    main()
