"""Calls that outlive their connection, with real containers: not waited for, asked for again, cancelled, limited."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from mayfly.domain.ids import new_id
from tests.e2e.conftest import Shell
from tests.support.leftovers import function_processes, leftovers, seconds_until_nothing_is_left
from tests.support.page import ROOT
from tests.support.rounds import in_one_round
from tests.support.through_gateway import stand_in_before
from tests.support.up import Up

pytestmark = pytest.mark.F12

ASYNC = {"Prefer": "respond-async"}
ANOTHER_EACH_RUN = "cat /proc/sys/kernel/random/uuid"
TIMES = ("created", "admitted", "claimed", "ready", "started", "first_byte", "exited", "ended")


async def record_of(client: httpx.AsyncClient, location: str, *, until: str) -> dict[str, Any]:
    """The record of an activation, as soon as its field *until* says something, or says it is in that state."""
    async with asyncio.timeout(20):
        while True:
            record: dict[str, Any] = (await client.get(location)).json()
            if record["state"] == until or record.get(until):
                return record
            await asyncio.sleep(0.02)


@pytest.mark.F10
async def test_a_call_that_nobody_waits_for(shell: Shell) -> None:
    """
    It is accepted before it has ended; its result, its logs and the times of all its steps, in their order, are there
    when it has.
    """
    name = await shell.make("cat; echo logged >&2; sleep 6")

    accepted = await shell.call(name, "later", headers=ASYNC)
    location = accepted.headers["location"]
    early = await shell.client.get(f"{location}/result")
    result = await shell.client.get(f"{location}/result", params={"wait": 30})
    record = await record_of(shell.client, location, until="removed_at")

    assert (accepted.status_code, accepted.headers["preference-applied"]) == (202, "respond-async")
    assert location == f"/v1/activations/{accepted.headers['mayfly-activation-id']}"
    assert accepted.json()["state"] == "queued"
    assert early.status_code == 202
    assert (result.status_code, result.text) == (200, "later")
    assert (await shell.client.get(f"{location}/logs")).text == "logged\n"
    assert (record["state"], record["ran"]) == ("succeeded", "yes")
    times = [datetime.fromisoformat(record[f"{step}_at"]) for step in TIMES]
    assert times == sorted(times)
    assert datetime.fromisoformat(record["exited_at"]) <= datetime.fromisoformat(record["removed_at"])


async def test_a_failure_is_told_as_to_one_who_waited(shell: Shell) -> None:
    """The result of a call that failed is the very problem that a call which waits is answered with."""
    name = await shell.make("echo no luck >&2; exit 3")

    waited = (await shell.call(name)).json()
    location = (await shell.call(name, headers=ASYNC)).headers["location"]
    asked = (await shell.client.get(f"{location}/result", params={"wait": 30})).json()

    assert (asked["code"], asked["exit_code"], asked["stderr"]) == ("function-failed", 3, "no luck\n")
    assert set(asked) == set(waited)


async def test_a_call_with_a_key_runs_once(shell: Shell) -> None:
    """
    Of ten at once with one key, and of one afterwards, all get the output of one run; without the key there is another.
    """
    name = await shell.make(f"{ANOTHER_EACH_RUN}; sleep 0.3")
    key = {"Idempotency-Key": new_id()}

    at_once = await asyncio.gather(*(shell.call(name, "pay", headers=key) for _ in range(10)))
    afterwards = await shell.call(name, "pay", headers=key)
    not_waiting = await shell.call(name, "pay", headers=key | ASYNC)
    without = await shell.call(name, "pay")

    assert [answer.status_code for answer in at_once] == [200] * 10, [answer.text for answer in at_once]
    assert {answer.text for answer in (*at_once, afterwards)} == {afterwards.text}
    ids = {answer.headers["mayfly-activation-id"] for answer in (*at_once, afterwards, not_waiting)}
    assert len(ids) == 1
    assert without.text != afterwards.text


async def test_a_key_is_for_one_call(shell: Shell) -> None:
    """The same key with another parameter, or another function, is 409, and nothing is run."""
    name, other = await shell.make("cat"), await shell.make("cat")
    key = {"Idempotency-Key": "k"}
    await shell.call(name, "one", headers=key)

    refused = [await shell.call(name, "two", headers=key), await shell.call(other, "one", headers=key)]

    assert [(one.status_code, one.json()["code"], one.json()["ran"]) for one in refused] == [
        (409, "idempotency-conflict", "no")
    ] * 2


@pytest.mark.F11
async def test_a_cancelled_call_leaves_nothing(own_up: Up, own_shell: Shell) -> None:
    """
    When the cancel is answered no process of the container lives; one second later nothing of it is left. The caller,
    who waits, gets 499 and that it ran.
    """
    name = await own_shell.make("trap '' TERM INT HUP; sleep 60 & sleep 60")
    async with asyncio.timeout(10):
        while leftovers(own_up):  # of another call, answered before its container is removed
            await asyncio.sleep(0.05)

    async def cancel_one() -> float:
        waiting = asyncio.create_task(own_shell.call(name))
        location = await running_call(own_shell)
        async with asyncio.timeout(10):
            while not any("sleep" in process for process in function_processes(own_up)):  # the record is a moment ahead
                await asyncio.sleep(0.02)

        cancelled = await own_shell.client.delete(location)
        alive = function_processes(own_up)
        told = await waiting
        left_s = await seconds_until_nothing_is_left(own_up)
        again = await own_shell.client.delete(location)

        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
        assert alive == []
        assert (told.status_code, told.json()["code"], told.json()["ran"]) == (499, "cancelled", "yes")
        assert (again.status_code, again.json()["state"]) == (200, "cancelled")
        result = await own_shell.client.get(f"{location}/result")
        assert (result.status_code, result.json()["code"]) == (499, "cancelled")
        return left_s

    await in_one_round(cancel_one, below_s=1)


async def running_call(shell: Shell) -> str:
    """Where the record of the one call is, once it runs."""
    async with asyncio.timeout(20):
        while True:
            listed = (await shell.client.get("/v1/activations", params={"state": "running"})).json()["activations"]
            if listed:
                return f"/v1/activations/{listed[0]['id']}"
            await asyncio.sleep(0.02)


async def test_a_call_that_has_ended_cannot_be_cancelled(shell: Shell) -> None:
    """What has succeeded has succeeded, and its result stays."""
    answer = await shell.run("cat", "done")

    cancelled = await shell.client.delete(answer.headers["location"])

    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "succeeded")
    assert (await shell.client.get(f"{answer.headers['location']}/result")).text == "done"


@pytest.mark.F13
async def test_a_function_has_its_own_limit(shell: Shell) -> None:
    """
    While one call of a function that allows one runs, the next is refused for the function, another function runs, and
    after the end it is free again.
    """
    name, other = await shell.make("sleep 60", limits={"max_concurrency": 1}), await shell.make("cat")
    location = (await shell.call(name, headers=ASYNC)).headers["location"]
    await record_of(shell.client, location, until="running")

    refused = await shell.call(name)
    meanwhile = await shell.call(other, "free")
    await shell.client.delete(location)
    after = await shell.call(name, headers=ASYNC)
    await shell.client.delete(after.headers["location"])

    problem = refused.json()
    assert (refused.status_code, problem["code"], problem["ran"]) == (429, "concurrency-limit", "no")
    assert (problem["scope"], problem["limit"], problem["in_use"]) == ("function", 1, 1)
    assert int(refused.headers["retry-after"]) >= 1
    assert (meanwhile.status_code, meanwhile.text, after.status_code) == (200, "free", 202)


@pytest.mark.F13
async def test_the_operator_lowers_one_users_limit(own_up: Up, own_shell: Shell) -> None:
    """`mayfly users limit` holds for the next call of somebody who is logged in, until `none` lifts it."""
    name = await own_shell.make("sleep 60")
    me = (await own_shell.client.get("/v1/users/me")).json()["username"]
    data_dir = ("--data-dir", str(own_up.data_dir))

    limited = await run("mayfly", "users", "limit", me, "1", *data_dir)
    first = await own_shell.call(name, headers=ASYNC)
    refused = await own_shell.call(name)
    lifted = await run("mayfly", "users", "limit", me, "none", *data_dir)
    second = await own_shell.call(name, headers=ASYNC)
    unknown = await run("mayfly", "users", "limit", "nobody-here", "1", *data_dir)
    for accepted in (first, second):
        await own_shell.client.delete(accepted.headers["location"])

    assert (limited[0], lifted[0]) == (0, 0), (limited, lifted)
    assert (first.status_code, second.status_code) == (202, 202)
    assert (refused.status_code, refused.json()["scope"], refused.json()["limit"]) == (429, "user", 1)
    assert unknown[0] == 5
    assert "There is no user 'nobody-here'." in unknown[1]


@pytest.mark.A1
async def test_all_of_it_passes_a_gateway(own_up: Up, image: str) -> None:
    """
    Prefer, Idempotency-Key, DELETE, and the headers of the answers come through the gateway as they are. Without
    MAYFLY_E2E_URL that is the stand-in, which is not APISIX.
    """
    with stand_in_before(own_up) as url:
        gateway = Up(url, own_up.ca_file, own_up.data_dir)
        async with await gateway.user() as client:
            shell = Shell(client, image)
            name = await shell.make(f"{ANOTHER_EACH_RUN}; sleep 60", limits={"max_concurrency": 1})
            key = {"Idempotency-Key": "over the gateway"}

            accepted = await shell.call(name, "x", headers=ASYNC | key)
            joined = asyncio.create_task(shell.call(name, "x", headers=key))
            location = await running_call(shell)
            cancelled = await client.delete(location)
            told = await joined

    assert (accepted.status_code, accepted.headers["location"]) == (202, location)
    assert accepted.headers["preference-applied"] == "respond-async"
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert (told.status_code, told.headers["mayfly-activation-id"]) == (499, location.rpartition("/")[2])


async def run(*command: str) -> tuple[int, str]:
    """Run a command; return its status and what it said, stdout and stderr as they come."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    inherited["PATH"] = f"{Path(sys.executable).parent}:{inherited['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=inherited,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()
