"""Backup, wipe, restore: a whole installation goes, and what its users had is there again in the next one."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_up_killed import an_up
from tests.support.nats import free_port
from tests.support.up import PASSWORD, Up

pytestmark = [pytest.mark.A4, pytest.mark.D7]

KEYS = "tls"  # in the data directory: the authority and the token keys, which no backup has


@pytest.mark.parametrize("kept", ["nothing", "the keys"])
async def test_what_users_had_is_there_after_a_restore(registry: str, image: str, tmp_path: Path, kept: str) -> None:
    """
    With nothing but the backup a user logs in with the old password, calls the old function, and reads what was called
    before. With the keys kept, too, and --logins, the old token is good and clients trust the same authority.
    """
    data_dir, file, keys = tmp_path / "data", tmp_path / "mayfly.tar", tmp_path / "keys"
    data_dir.mkdir()
    listen = f"127.0.0.1:{free_port()}"
    with an_up(data_dir, listen, registry) as up:
        async with await up.user("ann") as ann:
            await make_function(ann, image)
            called = await ann.post("/v1/functions/upper/activations", content=b"before")
            assert called.text == "BEFORE"
            activation = called.headers["Mayfly-Activation-Id"]
            record = (await ann.get(f"/v1/activations/{activation}")).json()
            token = ann.headers["Authorization"].removeprefix("Bearer ")
        await mayfly("backup", file, "--data-dir", data_dir)
    shutil.copytree(data_dir / KEYS, keys)
    shutil.rmtree(data_dir)
    data_dir.mkdir()
    if kept == "the keys":
        shutil.copytree(keys, data_dir / KEYS)

    with an_up(data_dir, listen, registry) as up:
        async with up.client(token) as stranger:
            assert (await stranger.get("/v1/functions")).status_code == 401
        await mayfly("restore", file, "--data-dir", data_dir, *(["--logins"] if kept == "the keys" else []))
        async with up.client(token) as with_old_token:
            answer = await with_old_token.get("/v1/functions")
            assert answer.status_code == (200 if kept == "the keys" else 401)

        async with up.client(await log_in(up)) as ann:
            assert (await ann.get(f"/v1/activations/{activation}")).json() == record
            assert (await ann.get(f"/v1/activations/{activation}/result")).text == "BEFORE"
            assert (await ann.get(f"/v1/activations/{activation}/logs")).text == "a word\n"
            assert (await ann.post("/v1/functions/upper/activations", content=b"after")).text == "AFTER"
            assert len((await ann.get("/v1/activations")).json()["activations"]) == 2


async def make_function(client: httpx.AsyncClient, image: str) -> None:
    """Register a function that says a word to stderr."""
    command = ["/bin/sh", "-c", "echo a word >&2; tr a-z A-Z"]
    made = await client.post("/v1/functions", json={"name": "upper", "image": image, "command": command})
    assert made.status_code == 201, made.text


async def log_in(up: Up) -> str:
    """Log ann in, who is not registered again, and return the token."""
    async with up.client() as client:
        taken = await client.post("/v1/users", json={"username": "ann", "password": PASSWORD})
        assert taken.status_code == 409, taken.text
        form = {"grant_type": "password", "username": "ann", "password": PASSWORD}
        return str((await client.post("/v1/tokens", data=form)).json()["access_token"])


async def mayfly(*arguments: str | Path) -> str:
    """Run an operator's command as an operator does; return what it said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mayfly",
        *map(str, arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate()
    assert process.returncode == 0, complained.decode()
    print(said.decode())
    return said.decode()
