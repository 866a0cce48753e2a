"""How calls end when they do not succeed: each ending told apart, and nothing of the container left."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.conftest import Shell
from tests.support.rounds import in_one_round

pytestmark = [pytest.mark.F11]


async def test_a_failing_function_says_its_exit_code(shell: Shell) -> None:
    """Exit 3 is 502 function-failed, with the exit code and the end of stderr."""
    answer = await shell.run("echo some result; echo no luck >&2; exit 3")
    problem = answer.json()

    assert (answer.status_code, problem["code"]) == (502, "function-failed")
    assert (problem["exit_code"], problem["stderr"], problem["ran"]) == (3, "no luck\n", "yes")


async def test_a_function_beyond_its_time_is_ended(shell: Shell) -> None:
    """A sleep beyond the limit is 504 timed-out, by the clock of the run, within a second of its deadline."""
    loop = asyncio.get_running_loop()
    name = await shell.make("trap '' TERM INT HUP; sleep 60", limits={"timeout_s": 2})

    async def took_s() -> float:
        began = loop.time()
        answer = await shell.call(name)
        took_s = loop.time() - began
        assert (answer.status_code, answer.json()["code"], answer.json()["clock"]) == (504, "timed-out", "run")
        return took_s

    await in_one_round(took_s, below_s=3)


async def test_a_caller_may_shorten_the_time(shell: Shell) -> None:
    """`Mayfly-Timeout` makes the limit shorter for one call."""
    name = await shell.make("sleep 60")

    answer = await shell.call(name, headers={"Mayfly-Timeout": "0.5"})

    assert (answer.status_code, answer.json()["code"]) == (504, "timed-out")


async def test_too_much_memory_is_told_apart(shell: Shell) -> None:
    """A function over its memory limit is 502 out-of-memory, not a mere exit code."""
    answer = await shell.run("x=a; while :; do x=$x$x; done", limits={"memory_mib": 64})

    assert (answer.status_code, answer.json()["code"]) == (502, "out-of-memory")


@pytest.mark.F8
async def test_two_mebibytes_are_too_large(shell: Shell) -> None:
    """More stdout than a result may hold is 502 result-too-large; exactly 1 MiB is a result."""
    exact = await shell.run("head -c 1048576 /dev/zero | tr '\\0' x")
    more = await shell.run("head -c 2097152 /dev/zero | tr '\\0' x")

    assert (exact.status_code, len(exact.content)) == (200, 1048576)
    assert (more.status_code, more.json()["code"]) == (502, "result-too-large")


@pytest.mark.F8
async def test_endless_output_is_cut(shell: Shell) -> None:
    """A function that writes without end is ended as soon as it has written too much."""
    answer = await shell.run("yes")

    assert answer.json()["code"] == "result-too-large"


@pytest.mark.F8
async def test_a_result_must_be_text(shell: Shell) -> None:
    """Bytes that are not UTF-8 on stdout are 502 result-not-text."""
    answer = await shell.run("printf '\\377\\376'")

    assert (answer.status_code, answer.json()["code"]) == (502, "result-not-text")


async def test_a_command_that_is_not_there(shell: Shell) -> None:
    """A command that the image does not have is a failure of the function, and stderr names it."""
    answer = await shell.client.post(
        "/v1/functions", json={"name": "missing", "image": shell.image, "command": ["/no/such/program"]}
    )
    assert answer.status_code == 201

    call = await shell.call("missing")

    assert (call.status_code, call.json()["code"], call.json()["exit_code"]) == (502, "function-failed", 127)
    assert "/no/such/program" in call.json()["stderr"]


async def test_a_parameter_that_is_never_read(shell: Shell) -> None:
    """A function that does not read its stdin ends as it likes, whatever the size of the parameter."""
    answer = await shell.run("echo done", "x" * 1048576)

    assert answer.text == "done\n"


async def test_stdout_closed_early(shell: Shell) -> None:
    """A function that closes stdout and goes on is waited for; what it had written is the result."""
    answer = await shell.run("echo early; exec >&-; sleep 0.3; echo late >&2")

    assert (answer.status_code, answer.text) == (200, "early\n")


async def test_children_left_behind_hold_nothing_up(shell: Shell) -> None:
    """Background children with the pipe open end with their parent; the call does not wait for them."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    answer = await shell.run("(sleep 60; echo late) & echo parent")

    assert answer.text == "parent\n"
    assert loop.time() - began < 5


async def test_a_failure_can_be_read_again(shell: Shell) -> None:
    """The record's result answers with the same problem as the call did."""
    answer = await shell.run("exit 7")
    activation = answer.json()["activation_id"]

    again = await shell.client.get(f"/v1/activations/{activation}/result")
    record = (await shell.client.get(f"/v1/activations/{activation}")).json()

    assert again.status_code == answer.status_code
    same = ("code", "detail", "exit_code", "ran", "fault")
    assert {key: again.json()[key] for key in same} == {key: answer.json()[key] for key in same}
    assert record["state"] == "failed"
