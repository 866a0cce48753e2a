"""Commands that are started without one of the three streams, or lose it; and values that no request can carry."""

from __future__ import annotations

import asyncio
import functools
import os

import pytest

from tests.integration.cli.command import Ended, Mayfly
from tests.support.answering import AnsweringWorker

pytestmark = pytest.mark.asyncio(loop_scope="session")

STDIN, STDOUT, STDERR = 0, 1, 2
WAIT_S = 30


async def without(stream: int, mayfly: Mayfly, command: str) -> Ended:
    """Run a command that has one of its streams closed."""
    process = await mayfly.start(
        *command.split(), stdin=asyncio.subprocess.DEVNULL, preexec_fn=functools.partial(os.close, stream)
    )
    async with asyncio.timeout(WAIT_S):
        stdout, stderr = await process.communicate()
    return Ended(process.returncode or 0, stdout, stderr.decode())


@pytest.mark.parametrize("command", ["whoami", "invoke echo hi"])
async def test_without_stdout_the_answer_is_not_dropped_silently(
    with_echo: Mayfly, worker: AnsweringWorker, command: str
) -> None:
    """With stdout closed a command ends with status 6 and says that the answer cannot be written."""
    ended = await without(STDOUT, with_echo, command)

    assert (ended.status, ended.stderr) == (6, "mayfly: The answer cannot be written: stdout is closed.\n")


@pytest.mark.parametrize("command", ["invoke echo -", "login ann", "login ann --password-stdin"])
async def test_without_stdin_nothing_is_read(with_echo: Mayfly, worker: AnsweringWorker, command: str) -> None:
    """With stdin closed what has to be read cannot be: status 2 and one sentence."""
    ended = await without(STDIN, with_echo, command)

    assert (ended.status, ended.stderr) == (2, "mayfly: stdin is closed, so nothing can be read from it.\n")


@pytest.mark.parametrize(("command", "status"), [("whoami", 0), ("invoke nobody", 5)])
async def test_without_stderr_the_status_is_the_same(mayfly: Mayfly, command: str, status: int) -> None:
    """With stderr closed there is nobody to talk to, and the status still tells."""
    assert (await without(STDERR, mayfly, command)).status == status


async def test_an_error_that_nobody_reads_is_not_the_functions(mayfly: Mayfly) -> None:
    """When whoever reads stderr has gone, the status is 141, and not that of a function which failed."""
    read, write = os.pipe()
    os.close(read)
    process = await mayfly.start("invoke", "nobody", stderr=write)
    os.close(write)

    async with asyncio.timeout(WAIT_S):
        assert await process.wait() == 141


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("activations", "list", "--function", b"\xff"), "is not text"),
        (("invoke", "echo", "--timeout", "nan"), "nan is not a number of seconds."),
        (("invoke", "echo", "--timeout", "inf"), "inf is not a number of seconds."),
        (("whoami", "--url", "https://xn--"), "is not a URL"),
    ],
    ids=["function", "nan", "inf", "host"],
)
async def test_what_no_request_can_carry_is_told(mayfly: Mayfly, arguments: tuple[str, ...], words: str) -> None:
    """A value that cannot be sent ends with status 2 and one sentence, before anything is sent."""
    ended = await mayfly(*arguments)

    assert ended.status == 2
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
