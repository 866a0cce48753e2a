"""
The API is called with whatever its committed OpenAPI allows, and with what it does not, by schemathesis: without a
token, with one that is none, and with a genuine one. The installation behind it is whole, down to the worker.

What is counted has arrived at the server, by its own log.
In the ordinary run the cases are the same each time. With --long there are more, of a seed that is printed.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mayfly.api.errors import MEANINGS, MethodNotAllowed
from mayfly.domain.errors import NotFound
from tests.integration.fuzz.conftest import OPENAPI
from tests.support.whole import Whole

pytestmark = pytest.mark.asyncio(loop_scope="session")

HERE = Path(__file__).parent
CASES_AT_LEAST = 2000
ENDS_THE_LOGIN = ("delete_me", "change_password", "log_out")
NONE = "Bearer eyJhbGciOiJFUzI1NiJ9.e30.c2lnbmF0dXJl"


@dataclass(frozen=True, kw_only=True)
class As:
    """Who calls, which operations, and how often each at the most."""

    name: str
    most: int
    options: tuple[str, ...] = ()
    hooks: bool = False


CALLERS = (
    As(name="somebody", most=30, options=tuple(f"--exclude-operation-id={each}" for each in ENDS_THE_LOGIN)),
    As(
        name="those who leave",
        most=4,
        options=("--phases=fuzzing", *(f"--include-operation-id={each}" for each in ENDS_THE_LOGIN)),
        hooks=True,
    ),
    As(name="nobody", most=10),
    As(name="a liar", most=8, options=("--phases=fuzzing", "--header", f"Authorization: {NONE}")),
)


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
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(called_by(whole, caller, directory, *options, times=times)) for caller in CALLERS]
    wrong = [said for status, said in (run.result() for run in runs) if status != 0]
    requests = requests_of(whole)[arrived:]
    print(f"{len(requests)} requests ({' '.join(options)}): {dict(Counter(each['status'] for each in requests))}")

    assert not wrong, "\n".join(wrong)
    assert [each for each in whole.api.log if each["event"] in ("request.failed", "unreadable", "api.lost")] == []
    assert {undocumented for each in requests if (undocumented := not_in(openapi, each))} == set()
    return len(requests)


async def called_by(whole: Whole, caller: As, directory: Path, *options: str, times: int) -> tuple[int, str]:
    """Have schemathesis call as one of them; return its status and what it said."""
    place = directory / re.sub(r"\W", "-", caller.name)
    place.mkdir()
    certificate = str(whole.api.certificates.ca_file)
    environment = {**os.environ, "FUZZ_URL": whole.api.url, "FUZZ_CA": certificate, "PYTHONPATH": str(Path.cwd())}
    if caller.hooks:
        environment["SCHEMATHESIS_HOOKS"] = "tests.integration.fuzz.hooks"
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(HERE / "schemathesis.toml")),
        *("run", str(OPENAPI), "--url", whole.api.url, "--tls-verify", certificate, "--no-color"),
        *("--mode=all", f"--max-examples={times * caller.most}", "--request-timeout=60"),
        *("--continue-on-failure", "--suppress-health-check=all", "--warnings=off", *options, *caller.options),
    ]
    if caller.name == "somebody":
        command += ["--header", f"Authorization: {whole.client.headers['Authorization']}"]
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
