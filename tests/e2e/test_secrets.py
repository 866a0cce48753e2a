"""
Where secrets are not: in no log of an installation, whatever is done with it, and in no file that others may read.
"""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from mayfly.domain.ids import new_id
from tests.support.leaks import leaks, secrets_in
from tests.support.up import ROOM, Up, running_up

UNPRIVILEGED_UID = 59_200
SECRET_NAMES = ("*.key", "*.pem", "*.password", "nats.conf", "nats.url")


@pytest.fixture(scope="module")
def installation(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One that says all that it can, and was started with the most careless umask there is."""
    data_dir = tmp_path_factory.mktemp("secrets") / "data"
    settings: dict[str, Any] = {"data_dir": data_dir, "unprivileged_uid": UNPRIVILEGED_UID, **ROOM}
    with running_up(registry, umask=0, slots=2, log_level="debug", **settings) as up:
        yield replace(up, ca_file=data_dir / "ca.crt")


async def test_no_log_has_a_secret(installation: Up, image: str) -> None:
    """
    Registration, logins right and wrong, refreshing and its abuse, a new password, functions with variables, calls that
    succeed, fail and are repeated, at level debug: none of what was said in them is in any log, of whichever role.
    """
    secrets = {what: f"{what.replace(' ', '-')}-{new_id()}" for what in WHAT_IS_SAID}
    async with installation.client() as client:
        await live(client, image, secrets)

    data_dir = installation.ca_file.parent
    logs = {"up.log": installation.log(), "nats.log": (data_dir / "nats/nats.log").read_text()}
    for name, log in logs.items():
        assert leaks(log, secrets | secrets_in(data_dir)) == [], name
    assert '"level": "debug"' in logs["up.log"]
    for event in ("request.done", "activation.completed", "session.refresh-token-reused"):
        assert event in logs["up.log"]


WHAT_IS_SAID = (
    "first password",
    "second password",
    "wrong password",
    "variable",
    "parameter",
    "standard error",
    "idempotency key",
    "refresh token of nobody",
)


async def live(client: httpx.AsyncClient, image: str, secrets: dict[str, str]) -> None:
    """Do all that a user does, and note in *secrets* what only he is told."""
    name, said = f"u{new_id()}", secrets.copy()
    user = {"username": name, "password": said["first password"]}
    assert (await client.post("/v1/users", json=user)).status_code == 201
    assert (await client.post("/v1/users", json=user)).status_code == 409
    assert (await client.post("/v1/users", json=user | {"username": "NO"})).status_code == 400
    assert (await log_in(client, name, said["wrong password"])).status_code == 401
    tokens = (await log_in(client, name, said["first password"])).json()
    refresh = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    renewed = await client.post("/v1/tokens", data=refresh)
    reused = await client.post("/v1/tokens", data=refresh)
    bad = await client.post("/v1/tokens", data=refresh | {"refresh_token": said["refresh token of nobody"]})
    assert (renewed.status_code, reused.status_code, bad.status_code) == (200, 401, 401)
    tokens = (await log_in(client, name, said["first password"])).json()
    client.headers["Authorization"] = f"Bearer {tokens['access_token']}"
    change = {"current_password": said["first password"], "new_password": said["second password"]}
    assert (await client.put("/v1/users/me/password", json=change)).status_code == 204

    script = 'read -r given; echo "$SAID" "$given" | rev; echo "$1" >&2; [ "$given" != fail ]'
    function = {
        "name": "f",
        "image": image,
        "command": ["/bin/sh", "-c", script, "sh", said["standard error"]],
        "env": {"SAID": said["variable"]},
    }
    assert (await client.post("/v1/functions", json=function)).status_code == 201
    assert (await client.put("/v1/functions/f?pull", json={**function, "name": 1})).status_code == 400
    key = {"Idempotency-Key": said["idempotency key"]}
    call = "/v1/functions/f/activations"
    answer = await client.post(call, content=said["parameter"], headers=key)
    assert answer.status_code == 200, answer.text
    secrets["result"] = answer.text.strip()
    assert secrets["result"][::-1] == f"{said['variable']} {said['parameter']}"
    assert (await client.post(call, content=said["parameter"], headers=key)).text == answer.text
    assert (await client.post(call, content=said["parameter"] + "!", headers=key)).status_code == 409
    failed = await client.post(call, content="fail")
    assert (failed.status_code, said["standard error"] in failed.text) == (502, True)
    assert (await client.post(call, content=said["parameter"], headers={"Prefer": "respond-async"})).status_code == 202
    assert (await client.post(call, content=said["parameter"].encode() + b"\xff")).status_code == 422
    assert (await client.delete("/v1/users/me")).status_code == 204


async def log_in(client: httpx.AsyncClient, name: str, password: str) -> httpx.Response:
    """Ask for tokens."""
    return await client.post("/v1/tokens", data={"grant_type": "password", "username": name, "password": password})


async def test_files_are_their_owners(installation: Up, image: str, tmp_path: Path) -> None:
    """
    After a start with umask 0, a registration, a call and a login by command: nothing is writable by others, secrets
    are readable by the one role that needs them, in directories that nobody else enters; unpacked images likewise.
    """
    data_dir = installation.ca_file.parent
    async with await replace(installation).user() as client:
        function = {"name": "f", "image": image, "command": ["/bin/true"]}
        assert (await client.post("/v1/functions", json=function)).status_code == 201
        assert (await client.post("/v1/functions/f/activations")).status_code == 200
    await register_by_command(installation, tmp_path / "home")
    files = {path: path.lstat() for path in (data_dir, *below(data_dir), *below(tmp_path / "home"))}
    assert len(files) > 40

    writable = [path for path, found in files.items() if found.st_mode & 0o022 and not path.is_symlink()]
    assert writable == []
    for path, found in files.items():
        if any(path.match(name) for name in (*SECRET_NAMES, "logins.json")):
            assert stat.S_IMODE(found.st_mode) & 0o177 == 0, path
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700 or path.name == "nats.url", path
    owners = {path.relative_to(data_dir).parts[0]: files[path].st_uid for path in data_dir.iterdir()}
    assert owners | {"api": UNPRIVILEGED_UID + 1, "nats": UNPRIVILEGED_UID, "tls": 0, "secrets": 0} == owners
    for directory in ("api", "nats", "tls", "secrets", "images"):  # not `run`: the root of containers comes by there
        assert stat.S_IMODE(files[data_dir / directory].st_mode) == 0o700, directory
    readable = {
        str(path.relative_to(data_dir)) for path in data_dir.iterdir() if path.is_file() and files[path].st_mode & 0o004
    }
    assert readable == {"ca.crt"}


async def register_by_command(installation: Up, home: Path) -> None:
    """Register and log in with the command line, in a home directory of its own, which is made for it."""
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "MAYFLY_CA_FILE": str(installation.ca_file)}
    environment |= {"MAYFLY_URL": installation.url, "XDG_CONFIG_HOME": str(home / "config")}
    command = [sys.executable, "-m", "mayfly", "register", f"u{new_id()}", "--password-stdin"]
    ended = await asyncio.to_thread(
        subprocess.run,
        command,
        env=environment,
        input="correct horse battery\n",
        text=True,
        capture_output=True,
        umask=0,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def below(directory: Path) -> list[Path]:
    """All that lies below, without the files of images, which are their makers' affair behind a closed door."""
    return [path for path in directory.rglob("*") if "rootfs" not in path.relative_to(directory).parts]
