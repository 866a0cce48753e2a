"""
The API is called with whatever its committed OpenAPI allows, and with what it does not, by schemathesis: without a
token, with one that is none, with a genuine one, and with an operator's. The installation behind it is whole, down to
the worker.

What is counted has arrived at the server, by its own log.
In the ordinary run the cases are the same each time. With --long there are more, of a seed that is printed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mayfly.api.auth import ADMIN
from mayfly.api.errors import MEANINGS, MethodNotAllowed
from mayfly.bus.connection import connect
from mayfly.bus.requests import answering_operator
from mayfly.bus.stores import Stores
from mayfly.domain.errors import NotFound
from mayfly.domain.ids import WorkerId, new_id
from mayfly.domain.worker import WorkerBeat
from mayfly.services.users import give_role
from mayfly.settings import NatsSettings
from tests.integration.fuzz.conftest import OPENAPI
from tests.support.api import PASSWORD
from tests.support.whole import Whole

pytestmark = pytest.mark.asyncio(loop_scope="session")

HERE = Path(__file__).parent
CASES_AT_LEAST = 2000
ENDS_THE_LOGIN = ("delete_me", "change_password", "log_out")
OF_WHAT_IS_NOT_THERE = (("DELETE", "/v1/admin/users/{name}/activations/{activation_id}"),)
NONE = "Bearer eyJhbGciOiJFUzI1NiJ9.e30.c2lnbmF0dXJl"


@dataclass(frozen=True, kw_only=True)
class As:
    """Who calls, which operations, and how often each at the most."""

    name: str
    most: int
    options: tuple[str, ...] = ()
    hooks: str = ""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """His token, and what there is for him to name, by the parameter of a path."""

    token: str
    there: dict[str, list[str]]


CALLERS = (
    As(name="somebody", most=20, options=tuple(f"--exclude-operation-id={each}" for each in ENDS_THE_LOGIN)),
    As(
        name="those who leave",
        most=4,
        options=("--phases=fuzzing", *(f"--include-operation-id={each}" for each in ENDS_THE_LOGIN)),
        hooks="tests.integration.fuzz.hooks",
    ),
    As(
        name="an operator",
        most=10,
        # not what follows from what he was shown: he would suspend and delete those who call beside him
        options=("--phases=examples,coverage,fuzzing", "--include-tag=Operators"),
        hooks="tests.integration.fuzz.hooks_of_operators",
    ),
    As(name="nobody", most=6),
    As(name="a liar", most=4, options=("--phases=fuzzing", "--header", f"Authorization: {NONE}")),
)


@asynccontextmanager
async def what_operators_act_on(whole: Whole) -> AsyncIterator[Operator]:
    """Make an operator, and users, invitations and a worker that nobody else needs."""
    settings = NatsSettings(**whole.nats.access("admin"))
    tokens = await whole.api.registered()
    names, worker_id = [f"u-{new_id()}" for _ in range(12)], WorkerId(new_id())
    now = whole.worker_bus.clock.now()
    beat = WorkerBeat(
        id=worker_id, host="h", version="1", runtime="fake", slots=0, running=0, images=0, started_at=now, beat_at=now
    )

    async def drain(_drained: bool) -> None:
        """Claim nothing, as ever."""

    async with (
        connect(settings, role="admin") as bus,
        whole.api.client(tokens["access_token"]) as client,
        answering_operator(whole.worker_bus, worker_id, drain),
    ):
        stores = Stores.on(bus)
        await give_role(stores, tokens["username"], "operator")
        for name in names:
            (await client.post("/v1/users", json={"username": name, "password": PASSWORD})).raise_for_status()
        invitations = [(await client.post("/v1/admin/invitations", json={})).json()["id"] for _ in range(12)]
        revision = await stores.workers.put(worker_id, beat, ttl_s=3600)
        there = {"name": names, "invitation_id": invitations, "worker_id": [worker_id]}
        yield Operator(token=tokens["access_token"], there=there)
        await stores.workers.delete(worker_id, revision=revision)


async def test_the_api_does_what_its_description_says(
    installation: Whole, openapi: dict[str, Any], tmp_path: Path
) -> None:
    """
    At least 2,000 requests, right and wrong: no status that is not documented for its operation, no server error that
    is a mistake of ours, bodies true to their schema, content types right, nothing done without a token.
    """
    cases = await called_by_all(installation, openapi, tmp_path, "--generation-deterministic", times=1)

    assert cases >= CASES_AT_LEAST


@pytest.mark.long
async def test_the_api_does_what_its_description_says_for_long(
    installation: Whole, openapi: dict[str, Any], tmp_path: Path
) -> None:
    """Likewise, with ten times as many requests, which are others each time."""
    seed = random.SystemRandom().randrange(2**31)

    assert await called_by_all(installation, openapi, tmp_path, f"--seed={seed}", times=10) >= 10 * CASES_AT_LEAST


async def called_by_all(whole: Whole, openapi: dict[str, Any], directory: Path, *options: str, times: int) -> int:
    """Call the API as everybody at once; return how many requests have arrived."""
    arrived = len(requests_of(whole))
    async with what_operators_act_on(whole) as operator, asyncio.TaskGroup() as group:
        runs = [
            group.create_task(called_by(whole, caller, operator, directory, *options, times=times))
            for caller in CALLERS
        ]
    wrong = [said for status, said in (run.result() for run in runs) if status != 0]
    requests = requests_of(whole)[arrived:]
    print(f"{len(requests)} requests ({' '.join(options)}): {dict(Counter(each['status'] for each in requests))}")

    assert not wrong, "\n".join(wrong)
    assert [each for each in whole.api.log if each["event"] in ("request.failed", "unreadable", "api.lost")] == []
    assert {undocumented for each in requests if (undocumented := not_in(openapi, each))} == set()
    done = {(each["method"], each["route"]) for each in requests if each["status"] < 300}
    assert set(operators_routes(openapi)) - done == set(OF_WHAT_IS_NOT_THERE)
    return len(requests)


def operators_routes(openapi: dict[str, Any]) -> list[tuple[str, str]]:
    """All that is below /v1/admin."""
    return [
        (method.upper(), path)
        for path, methods in openapi["paths"].items()
        for method in methods
        if path.startswith(ADMIN)
    ]


async def called_by(
    whole: Whole, caller: As, operator: Operator, directory: Path, *options: str, times: int
) -> tuple[int, str]:
    """Have schemathesis call as one of them; return its status and what it said."""
    place = directory / re.sub(r"\W", "-", caller.name)
    place.mkdir()
    certificate = str(whole.api.certificates.ca_file)
    environment = {**os.environ, "FUZZ_URL": whole.api.url, "FUZZ_CA": certificate, "PYTHONPATH": str(Path.cwd())}
    if caller.hooks:
        environment |= {"SCHEMATHESIS_HOOKS": caller.hooks, "FUZZ_THERE": json.dumps(operator.there)}
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(HERE / "schemathesis.toml")),
        *("run", str(OPENAPI), "--url", whole.api.url, "--tls-verify", certificate, "--no-color"),
        *("--mode=all", f"--max-examples={times * caller.most}", "--request-timeout=60"),
        *("--continue-on-failure", "--suppress-health-check=all", "--warnings=off", *options, *caller.options),
    ]
    if caller.name == "somebody":
        command += ["--header", f"Authorization: {whole.client.headers['Authorization']}"]
    if caller.name == "an operator":
        command += ["--header", f"Authorization: Bearer {operator.token}"]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=place, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, f"As {caller.name}, {' '.join(options)}:\n{said.decode()}"


def requests_of(whole: Whole) -> list[dict[str, Any]]:
    """What has arrived at the server, as it has logged it."""
    return [each for each in whole.api.log if each["event"] == "request.done"]


def not_in(openapi: dict[str, Any], request: dict[str, Any]) -> str:
    """Say which answer is not documented for its operation; empty when it is."""
    method, path, status = request["method"].lower(), request["route"], request["status"]
    operation = openapi["paths"].get(path, {}).get(method)
    if operation is None:  # no such path, or not with this method; or /docs
        known = {MEANINGS[NotFound].status, MEANINGS[MethodNotAllowed].status, 200}
        return "" if status in known else f"{status} where there is nothing"
    return "" if str(status) in operation["responses"] else f"{status} of {method} {path}"
