"""Calls that nobody waits for, from the command line: submitted, found again, cancelled; and calls that run once."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from tests.integration.cli.command import Mayfly
from tests.support.answering import AnsweringWorker, Ending

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F12]


async def submitted(mayfly: Mayfly, *arguments: str) -> str:
    """Submit a call of `echo` and return its id."""
    ended = await mayfly("invoke", "--async", "echo", *arguments)
    assert ended.status == 0, ended.stderr
    return ended.stdout.decode().removesuffix("\n")


async def until_running(mayfly: Mayfly, activation_id: str) -> None:
    """Wait until a worker has it."""
    async with asyncio.timeout(20):
        while (await mayfly("activations", "show", activation_id, "--json")).json["state"] != "running":
            pass


async def test_the_id_of_a_submitted_call_is_all_that_is_on_stdout(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """`id=$(mayfly invoke --async ...)` has the id while the call still runs; its result is there when it has ended."""
    worker.hold.clear()
    ended = await with_echo("invoke", "--async", "echo", "later")
    activation_id = ended.stdout.decode().strip()
    shown = await with_echo("activations", "show", activation_id, "--json")
    worker.hold.set()
    result = await with_echo("activations", "result", activation_id, "--wait", "20")

    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout == f"{activation_id}\n".encode()
    assert shown.json["state"] in {"queued", "running"}
    assert (result.status, result.stdout) == (0, b"later")


async def test_a_submitted_call_is_a_record_as_json(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """--json has the record as it was admitted, and --timeout its deadline."""
    record = (await with_echo("invoke", "--async", "echo", "--timeout", "7", "--json")).json

    given = datetime.fromisoformat(record["deadline_at"]) - datetime.fromisoformat(record["created_at"])
    assert (record["function"], record["state"], round(given.total_seconds(), 3)) == ("echo", "queued", 7)


async def test_a_submission_that_is_refused_is_told_at_once(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """Nothing is on stdout, so nobody takes an error for an id."""
    ended = await with_echo("invoke", "--async", "nobody")

    assert (ended.status, ended.stdout) == (5, b"")


@pytest.mark.F11
async def test_a_running_call_is_cancelled(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """`cancel` prints the state in which it ended, and whoever asks for the result is told so, with status 1."""
    worker.hold.clear()
    activation_id = await submitted(with_echo)
    await until_running(with_echo, activation_id)

    cancelled = await with_echo("activations", "cancel", activation_id)
    again = await with_echo("activations", "cancel", activation_id)
    result = await with_echo("activations", "result", activation_id)

    assert (cancelled.status, cancelled.stdout, cancelled.stderr) == (0, b"cancelled\n", "")
    assert (again.status, again.stdout) == (0, b"cancelled\n")
    assert (result.status, result.stdout) == (1, b"")
    assert "mayfly: Cancelled." in result.stderr


async def test_a_call_that_had_ended_stays_as_it_was(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """There was nothing to cancel, which is no failure: a script goes on, and stdout says how it had ended."""
    activation_id = await submitted(with_echo)
    await with_echo("activations", "result", activation_id, "--wait", "20")

    ended = await with_echo("activations", "cancel", activation_id)
    as_json = await with_echo("activations", "cancel", activation_id, "--json")

    assert (ended.status, ended.stdout) == (0, b"succeeded\n")
    assert "had ended before" in ended.stderr
    assert (as_json.json["state"], as_json.stderr) == ("succeeded", "")


async def test_a_strangers_call_cannot_be_cancelled(mayfly: Mayfly) -> None:
    """An id that is not there, or somebody else's, ends with status 5."""
    assert (await mayfly("activations", "cancel", f"{'a' * 24}-{'b' * 26}")).status == 5


async def test_list_chooses_by_state_and_time(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """--state and --since leave out what is in another state, and what came before."""
    worker.answer = lambda _: Ending(state="failed", changes={"code": "function-failed", "detail": "x"})  # type: ignore[arg-type]
    await with_echo("invoke", "echo")
    worker.answer = lambda work: Ending(result=work.parameter)
    activation_id = (await with_echo("invoke", "echo", "--json")).json["activation_id"]
    created_at = (await with_echo("activations", "show", activation_id, "--json")).json["created_at"]

    async def states(*arguments: str) -> list[str]:
        listed = await with_echo("activations", "list", "--json", *arguments)
        assert listed.status == 0, listed.stderr
        return [activation["state"] for activation in listed.json]

    assert await states("--state", "failed") == ["failed"]
    assert await states("--since", "1h") == ["succeeded", "failed"]
    assert await states("--since", created_at) == ["succeeded"]
    assert await states("--since", created_at, "--state", "failed") == []
    assert await states("--since", "0s") == []
    assert (await with_echo("activations", "list", "--since", "yesterday")).status == 2
    assert (await with_echo("activations", "list", "--state", "gone")).status == 2


async def test_a_call_with_a_key_runs_once(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """Asked again with the same key, also without waiting, the first outcome is told, of the same activation."""
    before = len(worker.claimed)
    key = ("--idempotency-key", "order 66")

    first = await with_echo("invoke", "echo", "pay", *key, "--json")
    second = await with_echo("invoke", "echo", "pay", *key, "--json")
    third = await with_echo("invoke", "--async", "echo", "pay", *key)

    assert first.json["result"] == second.json["result"] == "pay"
    assert {first.json["activation_id"], second.json["activation_id"], third.stdout.decode().strip()} == {
        first.json["activation_id"]
    }
    assert len(worker.claimed) == before + 1


async def test_a_key_is_for_one_call(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """The same key with another parameter is the caller's mistake, status 2, and nothing is run."""
    await with_echo("invoke", "echo", "one", "--idempotency-key", "k")
    before = len(worker.claimed)

    ended = await with_echo("invoke", "echo", "two", "--idempotency-key", "k")

    assert (ended.status, ended.stdout) == (2, b"")
    assert "Use a new key for a new call; nothing was run." in ended.stderr
    assert len(worker.claimed) == before


async def test_show_has_the_time_of_each_step(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """For a person the moments are there to the millisecond; one that nobody could say is left out."""
    activation_id = (await with_echo("invoke", "echo", "--json")).json["activation_id"]

    record = (await with_echo("activations", "show", activation_id, "--json")).json
    lines = (await with_echo("activations", "show", activation_id)).stdout.decode().splitlines()

    ended_at = datetime.fromisoformat(record["ended_at"])
    assert f"ended       {ended_at:%Y-%m-%d %H:%M:%S}.{ended_at.microsecond // 1000:03}Z" in lines
    assert {"created", "started", "first byte", "exited", "deadline"} <= {line[:12].strip() for line in lines}
    assert record["removed_at"] is None
    assert not any(line.startswith("removed") for line in lines)
