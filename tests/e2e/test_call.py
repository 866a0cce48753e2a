"""A call from outside: what goes in, what comes out, and what a function sees."""

from __future__ import annotations

import asyncio
import json

import pytest

from mayfly.domain.sandbox import OWN_HOST_IDS
from tests.e2e.conftest import Shell, most_at_once
from tests.support.rounds import in_one_round
from tests.support.up import Up


@pytest.mark.F7
@pytest.mark.F8
@pytest.mark.F9
@pytest.mark.F12
async def test_a_call_answers_with_the_functions_stdout(shell: Shell) -> None:
    """The parameter goes to a container's stdin, and the answer is its stdout, byte for byte."""
    answer = await shell.run("tr a-z A-Z", "hello, mayfly\n")

    assert (answer.status_code, answer.content) == (200, b"HELLO, MAYFLY\n")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["mayfly-activation-id"] in answer.headers["location"]


@pytest.mark.F9
@pytest.mark.parametrize("image_has_command", [True, False])
async def test_an_image_runs_by_its_own_command(shell: Shell, image_has_command: bool) -> None:
    """An image with a command is a function by its reference alone; one without needs `command`."""
    spec = {"name": "own", "image": shell.image} | ({} if image_has_command else {"command": ["/bin/cat"]})
    made = await shell.client.post("/v1/functions", json=spec)

    answer = await shell.call("own", "echo from the shell" if image_has_command else "x")

    assert made.status_code == 201
    assert answer.content == (b"from the shell\n" if image_has_command else b"x")


@pytest.mark.F7
@pytest.mark.parametrize(
    ("mode", "script"),
    [
        ("stdin", "cat"),
        ("argument", 'printf %s "$1"'),
        ("environment", 'printf %s "$MAYFLY_PARAMETER"'),
    ],
)
async def test_each_way_of_delivery(shell: Shell, mode: str, script: str) -> None:
    """By stdin, as the last argument or in the environment, the parameter arrives as it was sent."""
    name = await shell.make(script, parameter=mode)

    for parameter in ("", "x", "-n", "a b\n", "é€😀 \t'\"$`\\", "y" * 131_000):
        answer = await shell.call(name, parameter)
        assert (answer.status_code, answer.text) == (200, parameter)


@pytest.mark.F10
async def test_stderr_never_reaches_the_result(shell: Shell) -> None:
    """What goes to stderr is kept apart, and can be read afterwards."""
    answer = await shell.run("for i in 1 2 3; do echo out $i; echo err $i >&2; done")
    logs = await shell.client.get(answer.headers["location"] + "/logs")

    assert answer.text == "out 1\nout 2\nout 3\n"
    assert logs.text == "err 1\nerr 2\nerr 3\n"


@pytest.mark.F9
@pytest.mark.F11
async def test_each_call_has_a_fresh_container(shell: Shell) -> None:
    """A file written by one call is not there in the next."""
    name = await shell.make("cat /tmp/trace /trace 2>/dev/null; echo was-here > /tmp/trace; echo was-here > /trace")

    answers = [await shell.call(name) for _ in range(3)]

    assert [answer.text for answer in answers] == ["", "", ""]


@pytest.mark.F9
async def test_a_function_sees_nothing_but_its_own_world(shell: Shell) -> None:
    """Own processes, shifted ids, no capabilities, loopback only, the limits that were registered."""
    script = (
        "echo pids $(ls -d /proc/[0-9]* | wc -l); cat /proc/self/uid_map; grep CapEff /proc/self/status; "
        "grep NoNewPrivs /proc/self/status; ls /sys/class/net; id -u; ulimit -c; hostname"
    )
    answer = await shell.run(script)
    lines = answer.text.splitlines()

    assert int(lines[0].split()[1]) <= 5
    assert int(lines[1].split()[1]) in OWN_HOST_IDS
    assert lines[2].split()[1] == "0000000000000000"
    assert lines[3].split()[1] == "1"
    assert lines[4:6] == ["lo", "0"]
    assert lines[6] == "0"


@pytest.mark.F13
async def test_functions_run_in_parallel(shell: Shell) -> None:
    """
    Eight calls that sleep are all asleep at one moment. If for one second, they take little more than one second
    together.
    """
    name = await shell.make("cut -d' ' -f1 /proc/uptime; sleep $(cat); cut -d' ' -f1 /proc/uptime")
    loop = asyncio.get_running_loop()

    async def eight(seconds: int) -> list[str]:
        answers = await asyncio.gather(*(shell.call(name, str(seconds)) for _ in range(8)))
        assert [answer.status_code for answer in answers] == [200] * 8
        return [answer.text for answer in answers]

    async def took_s() -> float:
        began = loop.time()
        await eight(1)
        return loop.time() - began

    assert most_at_once(await eight(4)) == 8
    await in_one_round(took_s, below_s=1.6)


@pytest.mark.F8
async def test_a_thousand_one_byte_results(shell: Shell) -> None:
    """Of 1,000 results of one byte none is lost or mixed up."""
    name = await shell.make("cat")
    room = asyncio.Semaphore(8)

    async def call(number: int) -> bool:
        byte = chr(33 + number % 90)
        async with room:
            answer = await shell.call(name, byte)
        return answer.status_code == 200 and answer.text == byte

    assert sum(await asyncio.gather(*(call(number) for number in range(1000)))) == 1000


@pytest.mark.F12
async def test_the_record_tells_how_it_went(shell: Shell) -> None:
    """The record has the state, the digest, the times of each step, the use of cpu and memory."""
    answer = await shell.run("cat", "hello")
    record = (await shell.client.get(answer.headers["location"])).json()

    assert record["state"] == "succeeded"
    assert record["ran"] == "yes"
    assert record["digest"].startswith("sha256:")
    assert all(record["steps"][step] >= 0 for step in ("admit_s", "queue_s", "image_s", "start_s", "run_s"))
    assert record["cpu_s"] > 0
    assert record["memory_peak_bytes"] > 0
    assert record["parameter_bytes"] == 5


@pytest.mark.F9
async def test_a_function_learns_who_it_is(shell: Shell) -> None:
    """MAYFLY_ variables and the registration's own are there, and nothing of the worker's."""
    name = await shell.make("env", env={"GREETING": "hello"})
    answer = await shell.call(name, headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
    env = dict(line.partition("=")[::2] for line in answer.text.splitlines())

    assert env["GREETING"] == "hello"
    assert env["MAYFLY_FUNCTION"] == name
    assert env["MAYFLY_ACTIVATION_ID"] == answer.headers["mayfly-activation-id"]
    assert env["MAYFLY_TRACEPARENT"].startswith("00-0af7")
    assert {key for key in env if key.startswith("MAYFLY_")} == {
        "MAYFLY_FUNCTION",
        "MAYFLY_ACTIVATION_ID",
        "MAYFLY_DEADLINE",
        "MAYFLY_TRACEPARENT",
    }


@pytest.mark.F1
async def test_clear_text_gets_no_answer_from_the_api(up: Up) -> None:
    """HTTP without TLS on the HTTPS port is closed without a byte of the API's."""
    host, port = up.url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(10):
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""
    writer.close()

    assert b"HTTP/1.1 200" not in answer
    assert json.dumps({"status": "ok"}).encode() not in answer
