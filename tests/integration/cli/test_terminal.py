"""What a person at a terminal sees: prompts without echo, and something that moves while one waits."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from tests.integration.cli.command import PASSWORD, Mayfly
from tests.integration.cli.strange import http, strange_server
from tests.support.answering import AnsweringWorker
from tests.support.api import ApiServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

NO_IMAGE = {"code": "image-unavailable", "detail": "registry says: manifest unknown", "fault": "function", "ran": "no"}


@pytest.mark.F2
async def test_register_asks_twice_and_shows_nothing_of_it(anybody: Mayfly, name: str) -> None:
    """The password is asked for twice, and no character of it is on the screen."""
    async with anybody.at_terminal("register", name) as screen:
        await screen.until("Password: ")
        screen.type(f"{PASSWORD}\n")
        await screen.until("Password again: ")
        screen.type(f"{PASSWORD}\n")
        status = await screen.ended()

    assert status == 0, screen.shown
    assert PASSWORD not in screen.shown
    assert PASSWORD.split()[0] not in screen.shown
    assert (await anybody("whoami")).stdout == f"{name}\n".encode()


async def test_two_passwords_that_differ_register_nobody(anybody: Mayfly, name: str) -> None:
    """A slip of the finger ends with status 2, and the name stays free."""
    async with anybody.at_terminal("register", name) as screen:
        await screen.until("Password: ")
        screen.type(f"{PASSWORD}\n")
        await screen.until("Password again: ")
        screen.type(f"{PASSWORD}x\n")
        status = await screen.ended()

    assert status == 2
    assert "The two passwords differ." in screen.shown
    assert (await anybody("register", name, "--password-stdin", stdin=PASSWORD.encode())).status == 0


async def test_ctrl_c_ends_a_prompt(anybody: Mayfly, name: str) -> None:
    """Ctrl-C at a password prompt ends the command with status 130, without a traceback."""
    async with anybody.at_terminal("login", name) as screen:
        await screen.until("Password: ")
        screen.type("\x03")
        status = await screen.ended()

    assert status == 130
    assert "Traceback" not in screen.shown


async def test_end_of_input_ends_a_prompt(anybody: Mayfly, name: str) -> None:
    """Ctrl-D at a password prompt ends the command with a sentence."""
    async with anybody.at_terminal("login", name) as screen:
        await screen.until("Password: ")
        screen.type("\x04")
        status = await screen.ended()

    assert status == 2
    assert "No password was given." in screen.shown


async def test_a_password_is_not_read_where_it_would_be_seen(anybody: Mayfly, name: str) -> None:
    """--password-stdin at a terminal is refused, for the terminal would show what is typed."""
    async with anybody.at_terminal("login", name, "--password-stdin") as screen:
        status = await screen.ended()

    assert status == 2
    assert "Leave --password-stdin out" in screen.shown


@pytest.mark.F12
async def test_something_moves_while_a_call_takes_long(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """At a terminal one sees what is waited for, on stderr only; the result alone is on stdout."""
    worker.hold.clear()

    async with with_echo.at_terminal("invoke", "echo", "hello", stdout=asyncio.subprocess.PIPE) as screen:
        await screen.until("Waiting for echo")
        worker.hold.set()
        assert screen.process.stdout
        result = await screen.process.stdout.read()
        status = await screen.ended()

    assert (status, result) == (0, b"hello")


async def test_something_moves_while_an_image_is_fetched(anybody: Mayfly, api: ApiServer) -> None:
    """While the API waits for an image, a person sees which; once the answer is there nothing of it is left."""
    problem = http("422 Unprocessable Entity", "application/problem+json", json.dumps(NO_IMAGE))
    async with strange_server(api.certificates, problem, hold=True) as server:
        with_token = anybody.with_(MAYFLY_TOKEN="token", MAYFLY_URL=server.url)
        async with with_token.at_terminal("functions", "create", "upper", "busybox:nope") as screen:
            await screen.until("Fetching busybox:nope")
            server.hold.set()
            status = await screen.ended()

    assert status == 5
    assert screen.shown.rstrip().endswith("mayfly: registry says: manifest unknown")


async def test_ctrl_c_ends_the_typing_of_a_parameter(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """Ctrl-C while a parameter is typed ends `invoke` with status 130, at once, and nothing is sent."""
    before = len(worker.claimed)

    async with with_echo.at_terminal("invoke", "echo", "-") as screen:
        screen.type("hello\n")
        await screen.until("hello")
        await until_reading(screen.process.pid)
        screen.type("\x03")
        status = await screen.ended()

    assert status == 130
    assert len(worker.claimed) == before


async def until_reading(pid: int) -> None:
    """Wait until a process sleeps: nothing before its read of the terminal makes it."""
    async with asyncio.timeout(20):
        while "State:\tS" not in Path(f"/proc/{pid}/status").read_text():
            await asyncio.sleep(0.02)


@pytest.mark.F12
async def test_ctrl_c_during_a_call_says_what_becomes_of_it(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """Ctrl-C ends `invoke` with status 130 and says that the call goes on, and what ends it."""
    worker.hold.clear()
    before = len(worker.claimed)

    async with with_echo.at_terminal("invoke", "echo") as screen:
        await screen.until("Waiting for echo")
        async with asyncio.timeout(20):
            while len(worker.claimed) == before:
                await asyncio.sleep(0.02)
        screen.process.send_signal(signal.SIGINT)
        status = await screen.ended()
    worker.hold.set()

    assert status == 130
    assert "Interrupted." in screen.shown
    assert "`mayfly activations cancel ID`" in " ".join(screen.shown.split())
    assert "Traceback" not in screen.shown
    assert len(worker.claimed) == before + 1
