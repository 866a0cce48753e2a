"""A backup and a restore that are killed halfway, and how much memory they take of a machine."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from pathlib import Path

import pytest

from mayfly.bus.connection import Bus
from mayfly.bus.snapshot import stream_state
from mayfly.domain.errors import PreconditionFailed
from mayfly.ops.backup import backup
from tests.support.backup import Command, fill, fill_with_noise, mayfly
from tests.support.bus import Installation

pytestmark = [pytest.mark.A4, pytest.mark.D7]

LARGE_MIB = 96
MEMORY_MIB = 48
"""More than a window (8 MiB) and what a process's memory varies by; half of what lies in the stream."""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_a_killed_backup_leaves_no_file(
    nats: Installation, bus: Bus, tmp_path: Path, number: signal.Signals
) -> None:
    """The name is given to a whole file only; who asks it to end finds nothing at all, and is told so."""
    await fill_with_noise(bus, mebibytes=LARGE_MIB)
    file = tmp_path / "mayfly.tar"
    command = await mayfly(nats, "backup", file)
    await command.kill_when(lambda: any(tmp_path.iterdir()), number)
    status, _, complained = await command.ended()

    assert not file.exists()
    if number is not signal.SIGKILL:
        assert (status, list(tmp_path.iterdir())) == (130, [])
        assert "Interrupted. A backup has left no file" in complained
    await backup(bus, file)  # and the next one is made as if nothing had been


async def killed_restore(nats: Installation, bus: Bus, file: Path, number: signal.Signals) -> Command:
    """Restore, and kill it while the largest stream is on its way."""
    command = await mayfly(nats, "restore", file, "--replace")
    async with asyncio.timeout(30):
        while True:
            assert command.process.returncode is None, "it ended before"
            try:
                await stream_state(bus, "RESPONSES")
            except PreconditionFailed:
                break
    command.process.send_signal(number)
    return command


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_killed_restore_is_run_again(
    nats: Installation, bus: Bus, tmp_path: Path, number: signal.Signals
) -> None:
    """What was being restored is missing or empty then; the next run, with --replace, restores all of it."""
    await fill(bus)
    await fill_with_noise(bus, mebibytes=LARGE_MIB)
    file = tmp_path / "mayfly.tar"
    await backup(bus, file)
    before = {str(info.config.name): info.state.messages for info in await bus.js.streams_info()}
    killed = await killed_restore(nats, bus, file, number)
    status, _, complained = await killed.ended()
    if number is signal.SIGTERM:
        assert (status, complained) == (
            130,
            "mayfly: Interrupted. A backup has left no file; run a restore again, with --replace.\n",
        )
        assert (await stream_state(bus, "RESPONSES")).messages == 0

    refused = await (await mayfly(nats, "restore", file)).ended()
    again = await (await mayfly(nats, "restore", file, "--replace")).ended()

    assert refused[0] == 6
    assert "--replace" in refused[2]
    assert again[0] == 0, again[2]
    after = {str(info.config.name): info.state.messages for info in await bus.js.streams_info()}
    assert after == before | {"KV_sessions": 0, "KV_activations": before["KV_activations"]}


async def test_a_large_stream_is_not_held_in_memory(nats: Installation, bus: Bus, tmp_path: Path) -> None:
    """To save or restore a stream of 96 MiB takes less than half of that more memory than to do so with nothing."""
    little = [await memory_mib(nats, "backup", tmp_path / "small.tar")]
    little.append(await memory_mib(nats, "restore", tmp_path / "small.tar"))
    await fill_with_noise(bus, mebibytes=LARGE_MIB)

    much = [await memory_mib(nats, "backup", tmp_path / "large.tar")]
    much.append(await memory_mib(nats, "restore", tmp_path / "large.tar", "--replace"))

    assert (tmp_path / "large.tar").stat().st_size > LARGE_MIB << 20
    assert max(large - small for large, small in zip(much, little, strict=True)) < MEMORY_MIB


async def memory_mib(nats: Installation, *arguments: str | Path) -> int:
    """Run a command; return the most memory that it had at any time."""
    access = {f"MAYFLY_{name.upper()}": str(value) for name, value in nats.access("admin").items()}
    environment = {**{key: value for key, value in os.environ.items() if not key.startswith("MAYFLY_")}, **access}
    command = [sys.executable, "-m", "mayfly", *map(str, arguments)]

    def run() -> resource.struct_rusage:
        pid = os.posix_spawn(sys.executable, command, environment)
        _, status, used = os.wait4(pid, 0)
        assert status == 0
        return used

    return (await asyncio.to_thread(run)).ru_maxrss >> 10
