"""Backup, wipe, restore: a whole installation goes, and what its users had is there again in the next one."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.docs.reader import prints
from tests.e2e.test_asynchronous import record_of
from tests.e2e.test_up_killed import an_up
from tests.support.nats import free_port
from tests.support.page import commands, printed
from tests.support.up import PASSWORD, Up, running_up

pytestmark = [pytest.mark.A4, pytest.mark.D7]

PAGE = "docs/howto/back-up-and-restore.md"


@pytest.mark.parametrize("kept", ["nothing", "the keys"])
async def test_what_users_had_is_there_after_a_restore(registry: str, image: str, tmp_path: Path, kept: str) -> None:
    """
    The commands are those of the page. With nothing but the backup a user logs in with the old password, calls the old
    function, and reads what was called before. With the keys kept, too, and --logins, the old token is good and clients
    trust the same authority.
    """
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    save, bring_keys, restore = (
        block.replace("/var/lib/mayfly", str(data_dir)) for block in commands(PAGE, "With `mayfly up`")
    )
    listen = f"127.0.0.1:{free_port()}"
    with an_up(data_dir, listen, registry) as up:
        async with await up.user("ann") as ann:
            await make_function(ann, image)
            called = await ann.post("/v1/functions/upper/activations", content=b"before")
            assert called.text == "BEFORE"
            activation = called.headers["Mayfly-Activation-Id"]
            record = await record_of(ann, f"/v1/activations/{activation}", until="removed_at")
            token = ann.headers["Authorization"].removeprefix("Bearer ")
        authority = up.ca_file.read_bytes()
        await typed(save, tmp_path)
    shutil.rmtree(data_dir)
    if kept == "the keys":
        await typed(bring_keys, tmp_path)
    data_dir.mkdir(exist_ok=True)

    with an_up(data_dir, listen, registry) as up:
        async with up.client(token) as stranger:
            assert (await stranger.get("/v1/functions")).status_code == 401
        assert (up.ca_file.read_bytes() == authority) == (kept == "the keys")
        said = await typed(restore.replace(".tar", ".tar --logins") if kept == "the keys" else restore, tmp_path)
        assert re.search(r"^users +1 ", said, re.MULTILINE), said
        (told,) = printed(PAGE, "With `mayfly up`")
        assert kept == "the keys" or prints(told, said), said
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


async def test_the_nightly_script_keeps_two_weeks(registry: str, tmp_path: Path) -> None:
    """
    The script of the page makes today's backup and removes old ones, and what a killed one has left; no others. That
    backup passes the trial of the page, beside the installation that it was made of.
    """
    with running_up(registry) as up:
        async with await up.user("ann"):
            pass
        (script,) = commands(PAGE, "Every night")
        script = script.replace("/var/backups/mayfly", str(tmp_path)).replace("/var/lib/mayfly", str(up.data_dir))
        days = {"old.tar": 20, "recent.tar": 10, ".old.tar.abc": 3, ".now.tar.abc": 0, "notes.txt": 99}
        for name, age in days.items():
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (time.time() - age * 86_400,) * 2)

        await typed(script, tmp_path)

        made = {path.name for path in tmp_path.iterdir()} - set(days)
        assert len(made) == 1
        backup = made.pop()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d\.tar", backup)
        assert {path.name for path in tmp_path.iterdir()} & set(days) == {"recent.tar", ".now.tar.abc", "notes.txt"}

        (trial,) = commands(PAGE, "Try it")
        said = await typed(trial.replace("mayfly.tar", backup).replace("18443", str(free_port())), tmp_path)

        (told,) = printed(PAGE, "Try it")
        assert prints(told, said), said


async def typed(script: str, directory: Path) -> str:
    """Type the commands of a page in a directory; return what they said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", script),
        cwd=directory,
        env={**environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate()
    assert process.returncode == 0, complained.decode()
    print(said.decode())
    return said.decode()
