"""Secrets and private registries in a whole installation: where no value is, and who gets none."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mayfly.domain.sandbox import FIRST_HOST_ID
from tests.support.images import build_and_push
from tests.support.registry import HTPASSWD, HTPASSWD_PASSWORD, Registry
from tests.support.up import Up, running_up

pytestmark = [pytest.mark.F4, pytest.mark.F6]

VALUE, FILE_VALUE = "of-nobody-else-3b7e91", "nor-is-this-60a2d4"


@dataclass
class Locked:
    """An installation whose registry has the images `busybox` and `private`, and asks for a password."""

    up: Up
    registry: str


@pytest.fixture(scope="module")
def locked() -> Iterator[Locked]:
    """Make one."""
    registry = Registry()
    with asyncio.Runner() as runner:
        runner.run(registry.start())
        try:
            runner.run(build_and_push(registry.url, "busybox", "1", cmd=["/bin/sh"]))
            runner.run(build_and_push(registry.url, "private", "1", cmd=["/bin/echo", "not for everybody"]))
            runner.run(registry.lock(HTPASSWD))
            with running_up(registry.url, slots=4, max_activations=16, max_activations_per_user=16) as up:
                yield Locked(up, registry.url)
        finally:
            runner.run(registry.__aexit__(None, None, None))


@pytest.fixture
def image(locked: Locked) -> str:
    """An image of the registry, for everybody who has an account there."""
    return f"{locked.registry}/busybox:1"


async def test_no_value_is_anywhere_but_in_its_container(locked: Locked, image: str) -> None:
    """
    While a function runs that has been given a variable and a file, and after it has failed, neither value nor the
    registry's password is in any file of the installation, NATS's store and the log included, in the environment or on
    the command line of any of our processes, or in the record.
    """
    async with await locked.up.user() as client:
        await client.put(f"/v1/registries/{locked.registry}", json={"username": "ann", "password": HTPASSWD_PASSWORD})
        script = 'wc -c /run/secrets/KEY; printf %s "$TOKEN" | wc -c; [ "$(cat)" != wait ] || sleep 60; exit 5'
        made = await client.post("/v1/functions", json={"name": "f", "image": image, "command": ["sh", "-c", script]})
        assert made.status_code == 201, made.text
        await client.put("/v1/functions/f/secrets/TOKEN", content=VALUE)
        await client.put("/v1/functions/f/secrets/KEY?as=file", content=FILE_VALUE)
        call = asyncio.create_task(client.post("/v1/functions/f/activations", content="wait"))
        async with asyncio.timeout(30):
            while not (running := (await client.get("/v1/activations?state=running")).json()["activations"]):
                await asyncio.sleep(0.02)
        assert_nowhere(locked.up, functions=True)
        await client.delete(f"/v1/activations/{running[0]['id']}")
        await call
        failed = await client.post("/v1/functions/f/activations")
        record = await client.get(failed.headers["location"])
        result = await client.get(f"{failed.headers['location']}/logs")
    assert_nowhere(locked.up, functions=False)

    assert (failed.status_code, failed.json()["exit_code"]) == (502, 5)
    for text in (failed.text, record.text, result.text):
        assert not [value for value in (VALUE, FILE_VALUE, HTPASSWD_PASSWORD) if value in text]


def assert_nowhere(up: Up, *, functions: bool) -> None:
    """Look for the values in all files and in our processes, of which some are *functions* or none."""
    values = [value.encode() for value in (VALUE, FILE_VALUE, HTPASSWD_PASSWORD)]
    files = [path for path in up.data_dir.rglob("*") if path.is_file() and "images/trees" not in str(path)]
    assert any("KV_secrets" in str(path) for path in files)  # NATS's store is among them, and the log
    assert up.data_dir / "up.log" in files
    for path in files:
        with contextlib.suppress(FileNotFoundError):  # NATS has put another in its place
            assert not [value for value in values if value in path.read_bytes()], path
    assert up.process
    found = []
    for pid in [up.process.pid, *descendants(up.process.pid)]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            is_function = Path(f"/proc/{pid}").stat().st_uid >= FIRST_HOST_ID
            found.append(is_function)
            for name in ("cmdline",) if is_function else ("cmdline", "environ"):
                with contextlib.suppress(PermissionError):  # it keeps others from reading it
                    content = Path(f"/proc/{pid}/{name}").read_bytes()
                    assert not [value for value in values if value in content], (pid, name)
    assert found.count(False) > 4
    assert any(found) == functions


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found, left = [], [pid]
    while left:
        left += (below := children.get(left.pop(), []))
        found += below
    return found


async def test_a_private_image_is_its_owners(locked: Locked) -> None:
    """
    Ann's account gets her the image. Bob, who names the same one by tag or by digest, is refused in the registry's
    words, though the worker has it; with a wrong password as well; with ann's account at his own name he has it.
    """
    reference = f"{locked.registry}/private:1"
    async with await locked.up.user() as ann, await locked.up.user() as bob:
        refused = await ann.post("/v1/functions", json={"name": "mine", "image": reference})
        await ann.put(f"/v1/registries/{locked.registry}", json={"username": "ann", "password": HTPASSWD_PASSWORD})
        made = await ann.post("/v1/functions", json={"name": "mine", "image": reference})
        called = await ann.post("/v1/functions/mine/activations")

        names = (reference, f"{locked.registry}/private@{made.json()['digest']}")
        stolen = [await bob.post("/v1/functions", json={"name": "theirs", "image": name}) for name in names]
        await bob.put(f"/v1/registries/{locked.registry}", json={"username": "ann", "password": "guess-of-bob"})
        guessed = await bob.post("/v1/functions", json={"name": "theirs", "image": reference})

        assert (await ann.delete(f"/v1/registries/{locked.registry}")).status_code == 204
        cached = await ann.post("/v1/functions/mine/activations")
        anew = await ann.put("/v1/functions/mine?pull", json={"image": reference})

    assert (made.status_code, called.text, cached.text) == (201, "not for everybody\n", "not for everybody\n")
    for answer in (refused, *stolen, guessed, anew):
        assert (answer.status_code, answer.json()["code"]) == (422, "image-unavailable"), answer.text
        assert re.search(r"(?i)unauthorized|authentication required", answer.json()["detail"])
        assert HTPASSWD_PASSWORD not in answer.text
        assert "guess-of-bob" not in answer.text
