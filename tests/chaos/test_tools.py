"""What the chaos suite stands on: the witness, the proxy, the supervisor, and what counts as an expected answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mayfly.bus.places import Places
from mayfly.ops.nats_config import ADMIN
from mayfly.settings import NatsSettings
from tests.chaos import leftovers
from tests.chaos.history import Call, Run
from tests.chaos.installation import Operator
from tests.chaos.load import unexpected
from tests.chaos.processes import Kept, is_dead, until
from tests.chaos.proxy import Cut, Proxy
from tests.chaos.run import until_quiet
from tests.chaos.witness import Witness, expected
from tests.support.bus import installation as bus_installation

pytestmark = [pytest.mark.F9]


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    """One that listens for one worker's commands."""
    with Witness(tmp_path, ("worker-1",)) as listening:
        yield listening


def start(witness: Witness, parameter: str, activation: str = "i-1") -> subprocess.Popen[bytes]:
    """Run the command as a function would."""
    process = subprocess.Popen(
        [witness.program, witness.socket_of("worker-1")],
        env={"MAYFLY_ACTIVATION_ID": activation},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin
    process.stdin.write(parameter.encode())
    process.stdin.close()
    return process


async def one_run(witness: Witness, *, over: bool) -> Run:
    """Wait for the one run's beginning, or for its end."""
    assert await until(lambda: any(run.is_over or not over for run in witness.runs()))
    [run] = witness.runs()
    return run


async def test_a_run_that_ends_has_left_both_marks(witness: Witness) -> None:
    """Who ran, since when and until when, by its own clock; and it wrote and ended as it was told."""
    process = start(witness, "tok 3 50 1000")
    assert process.stdout
    with process.stdout:
        assert process.stdout.read() == expected("tok", 1000)
    assert process.wait() == 3

    run = await one_run(witness, over=True)
    assert (run.activation, run.token, run.worker) == ("i-1", "tok", "worker-1")
    assert 0.05 <= run.alive_until - run.began_at < 5


async def test_a_run_that_is_killed_is_seen_to_begin_and_to_end(witness: Witness) -> None:
    """Its mark is there while it lives, and it counts as alive no longer than it was."""
    process = start(witness, "tok 0 60000 0")
    running = await one_run(witness, over=False)
    assert not running.is_over
    assert await until(lambda: witness.runs()[0].alive_until > running.began_at)
    process.kill()
    process.wait()
    assert process.stdout
    process.stdout.close()

    ended = await one_run(witness, over=True)
    assert ended.began_at == running.began_at


async def test_a_planted_run_is_a_second_one(witness: Witness) -> None:
    """It has the first one's activation and token."""
    process = start(witness, "tok 0 0 0")
    assert process.stdout
    process.stdout.close()
    assert process.wait() == 0
    first = await one_run(witness, over=True)
    witness.plant(first)

    assert await until(lambda: sum(run.is_over for run in witness.runs()) == 2)
    assert {(run.activation, run.token) for run in witness.runs()} == {("i-1", "tok")}


@pytest.fixture
async def echo() -> AsyncIterator[Proxy]:
    """A proxy before a server that sends back what it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


async def test_a_silent_cut_withholds_and_a_healed_one_delivers(echo: Proxy) -> None:
    """Nothing comes through and nothing breaks; what was withheld is counted, and arrives in the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
    echo.cut(Cut.SILENT)
    writer.write(b"hello")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(5), 0.1)
    assert await until(lambda: echo.withheld_bytes == 5)
    echo.heal()

    assert await asyncio.wait_for(reader.readexactly(5), 5) == b"hello"
    writer.close()
    await writer.wait_closed()


async def test_a_reset_breaks_connections_and_refuses_new_ones(echo: Proxy) -> None:
    """Both are counted; when it is healed, new ones come through."""
    reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
    writer.write(b"hello")
    await reader.readexactly(5)
    echo.cut(Cut.RESET)

    for again in (False, True):
        if again:
            reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(5) == b""
        writer.close()
    assert echo.broken >= 2
    echo.heal()
    reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()
    await writer.wait_closed()


async def test_a_kept_process_is_started_again_until_it_is_stopped(tmp_path: Path) -> None:
    """A killed one has a successor with another process id; a stopped one has none."""

    async def is_ready(_: Kept) -> bool:
        return True

    kept = Kept("sleeper", ["sleep", "600"], log=tmp_path / "log", is_ready=is_ready)
    await kept.start()
    first = kept.pid
    os.kill(first, signal.SIGKILL)
    assert await kept.died(first)
    assert await until(lambda: kept.pid != first and kept.is_running)

    assert await kept.stop() == -signal.SIGTERM
    assert is_dead(kept.pid)
    assert len(kept.lives) == 2


CALL = Call(
    token="a", kind="quick", user="ada", function="witness", api="api-1", sent_at=0, over_at=1, timeout_s=8, status=200
)


@pytest.mark.parametrize(
    ("call", "is_expected"),
    [
        (CALL, True),
        (replace(CALL, status=429, code="concurrency-limit", ran="no"), True),
        (replace(CALL, kind="failing", status=502, code="function-failed", ran="yes"), True),
        (replace(CALL, kind="cancelled: result", status=499, code="cancelled", ran="yes"), True),
        (replace(CALL, status=502, code="function-failed", ran="yes"), False),
        (replace(CALL, status=503, code="queue-unavailable", ran="no"), False),
        (replace(CALL, status=None), False),
        (replace(CALL, status=None, key="k"), False),
    ],
)
def test_an_answer_is_expected_or_not(call: Call, *, is_expected: bool) -> None:
    """Each kind of call has its answers; a limit is always one, a broken connection never."""
    assert (unexpected([call]) == []) is is_expected


def test_what_else_may_be_told() -> None:
    """A refusal that says that nothing ran, if it is allowed; a broken connection whose key was answered elsewhere."""
    refused = replace(CALL, status=503, code="queue-unavailable", ran="no")
    assert unexpected([refused], also=("503 queue-unavailable",)) == []
    assert unexpected([replace(refused, ran="unknown")], also=("503 queue-unavailable",)) != []
    assert unexpected([replace(CALL, status=None, key="k"), replace(CALL, key="k")]) == []


# --- all at rest --------------------------------------------------------------------------------------------------


async def test_a_place_that_is_taken_is_awaited_and_named() -> None:
    """Nothing is in flight, but a call that ended holds its place until the janitor has looked: all is not at rest."""
    async with bus_installation() as nats:
        operator = Operator()
        operator.settings = NatsSettings(**nats.access(ADMIN))
        places = Places(await operator.bus())
        taken = await places.take("u1.f1", 1, holder="u1.i1.a1", ttl_s=60)

        at_rest = asyncio.create_task(until_quiet(operator))
        done, _ = await asyncio.wait({at_rest}, timeout=1.0)
        left = await leftovers.in_nats(await operator.bus(), keys_used=0)
        await places.free(taken)

        assert not done
        assert left == [f"place {taken.key} of an activation that is not recorded"]
        assert await at_rest == 0
        assert await leftovers.in_nats(await operator.bus(), keys_used=0) == []
        await operator.close()
