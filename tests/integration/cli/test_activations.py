"""Calls looked at afterwards from the command line, and how the installation stands."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.cli.command import Mayfly
from tests.support.answering import AnsweringWorker, Ending

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.F8
async def test_a_call_can_be_looked_at_afterwards(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """Its record, its result and its logs are there, result and logs byte for byte."""
    activation_id = (await with_echo("invoke", "echo", "é\r\n", "--json")).json["activation_id"]

    shown = await with_echo("activations", "show", activation_id)
    result = await with_echo("activations", "result", activation_id)
    logs = await with_echo("activations", "logs", activation_id)

    assert "state       succeeded" in shown.stdout.decode().splitlines()
    assert "run took    0.3 ms" in shown.stdout.decode().splitlines()
    assert result.stdout == "é\r\n".encode()
    assert logs.stdout == b"logged\n"


async def test_list_is_newest_first_and_no_longer_than_asked_for(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """--limit and --function choose; the newest call comes first."""
    await with_echo("functions", "create", "other", "registry.example/other:1")
    ids = [(await with_echo("invoke", "echo", str(i), "--json")).json["activation_id"] for i in range(3)]
    await with_echo("invoke", "other")

    listed = await with_echo("activations", "list", "--function", "echo", "--limit", "2", "--json")
    table = await with_echo("activations", "list")

    assert [activation["id"] for activation in listed.json] == [ids[2], ids[1]]
    assert [line.split()[1] for line in table.stdout.decode().splitlines()] == ["FUNCTION", "other"] + ["echo"] * 3


async def test_result_of_a_call_that_runs_can_be_waited_for(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """Before its end there is no result, which is status 5 and not an empty one; --wait waits for it."""
    worker.hold.clear()
    before = len(worker.claimed)
    calling = asyncio.create_task(with_echo("invoke", "echo", "at last"))
    async with asyncio.timeout(20):
        while len(worker.claimed) == before:
            await asyncio.sleep(0.02)
    activation_id = worker.claimed[-1].record.id

    early = await with_echo("activations", "result", activation_id)
    waiting = asyncio.create_task(with_echo("activations", "result", activation_id, "--wait", "20"))
    worker.hold.set()
    late, _ = await waiting, await calling

    assert (early.status, early.stdout) == (5, b"")
    assert "has not ended" in early.stderr
    assert (late.status, late.stdout) == (0, b"at last")


@pytest.mark.F10
async def test_logs_as_json_say_whether_they_are_whole(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """--json has the logs as a string; bytes that are no text are replaced in it, and only there."""
    worker.answer = lambda work: Ending(result=work.parameter, stderr=b"bin\xffary\n")
    activation_id = (await with_echo("invoke", "echo", "--json")).json["activation_id"]

    as_json = await with_echo("activations", "logs", activation_id, "--json")
    raw = await with_echo("activations", "logs", activation_id)

    assert as_json.json == {"stderr": "bin\ufffdary\n", "truncated": False}
    assert raw.stdout == b"bin\xffary\n"


@pytest.mark.parametrize("command", ["show", "result", "logs"])
async def test_an_unknown_call_is_told(mayfly: Mayfly, command: str) -> None:
    """An id that is not there, or somebody else's, ends with status 5."""
    assert (await mayfly("activations", command, f"{'a' * 24}-{'b' * 26}")).status == 5


@pytest.mark.F13
async def test_status_shows_limits_and_usage(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """`status` has both limits with what is in flight, for people and as JSON."""
    async with asyncio.timeout(20):  # another test's last call may be on its way out
        while (await with_echo("status", "--json")).json["platform"]["in_flight"]:
            continue
    ended = await with_echo("status")
    as_json = await with_echo("status", "--json")

    assert ended.status == 0
    assert "in flight  0 of 8" in ended.stdout.decode().splitlines()
    assert "of yours   0 of 4" in ended.stdout.decode().splitlines()
    assert as_json.json["platform"] == {"limit": 8, "in_flight": 0}
