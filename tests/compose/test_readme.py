"""The commands of deploy/compose/README.md, typed while callers call: what is said to lose no call loses none."""

from __future__ import annotations

import re
import time
from base64 import urlsafe_b64decode
from datetime import datetime
from pathlib import Path

import httpx
import pytest
import yaml

from mayfly.domain.ids import new_id
from tests.compose.load import CALLERS, Load, calling
from tests.compose.terminal import README, Terminal
from tests.docs.reader import prints
from tests.e2e.conftest import Shell
from tests.support.compose import containers, settled
from tests.support.page import commands, printed
from tests.support.up import PASSWORD, Up

END = "--- here a block ends ---"
LASTING = ("gateway", "api-1", "api-2", "worker", "nats-1", "nats-2", "nats-3")


@pytest.mark.D4
@pytest.mark.F2
async def test_the_first_call(whole: Shell, terminal: Terminal) -> None:
    """
    Bring it up (which it is), make a call, see both workers and what is in NATS: each block prints what the page says.
    Only the user's name, the password, the image and the port differ.
    """
    for block in commands(README, "Bring it up"):
        await terminal.type(block)
    name, port = f"ann-{new_id()[:8]}", httpx.URL(terminal.up.url).port

    def ours(text: str) -> str:
        text = text.replace("register ann\n", f"register ann --password-stdin <<<'{PASSWORD}'\n")
        text = re.sub(r"\bann\b", name, text).replace(":8443", f":{port}")
        return re.sub(r"\bbusybox\b", whole.image, text)

    headings = ("First call", "Two workers")
    typed = [ours(text) for heading in headings for text in commands(README, heading)]
    told = [ours(text) for heading in headings for text in printed(README, heading)]
    said = await terminal.type("exec 2>&1\n" + f"echo {END}\n".join(typed))
    for words, expected in zip(said.split(f"{END}\n"), told, strict=True):
        assert prints(expected, words), words


@pytest.mark.D3
@pytest.mark.D4
async def test_a_changed_setting_of_the_gateway_is_in_force_after_up(whole: Shell, terminal: Terminal) -> None:
    """One that it reads at its start: its file is there before it starts anew, and nobody else that lasts does."""
    before = {each.id: each.service for each in containers(*LASTING)}
    try:
        await terminal.type("MAYFLY_GATEWAY_WORKERS=1 docker compose up --detach")
        await settled()
        after = {each.id for each in containers(*LASTING)}
        assert [service for id_, service in before.items() if id_ not in after] == ["gateway"]
        (gateway,) = containers("gateway")
        (files,) = (mount for mount in gateway.facts["Mounts"] if mount["Destination"] == "/run/secrets/mayfly")
        config = Path(files["Source"], "config.yaml")
        assert yaml.safe_load(config.read_text(encoding="utf-8"))["nginx_config"]["worker_processes"] == 1
        assert config.stat().st_mtime < datetime.fromisoformat(gateway.facts["State"]["StartedAt"]).timestamp()
        assert (await whole.run("echo back")).text == "back\n"
    finally:
        await terminal.type("docker compose up --detach")


@pytest.mark.A1
@pytest.mark.D7
async def test_the_signing_key_is_replaced_and_no_call_is_lost(whole: Shell, terminal: Terminal) -> None:
    """After both steps a new key signs; who was logged in still is."""
    before = await _kid(terminal.up)
    (block,) = commands(README, "Rotate keys")
    await _rotate(whole, terminal, block, steps=2)
    assert await _kid(terminal.up) != before
    assert (await whole.run("echo still here")).text == "still here\n"


@pytest.mark.A1
@pytest.mark.D7
async def test_the_gateways_secret_is_replaced_and_no_call_is_lost(whole: Shell, terminal: Terminal) -> None:
    """The same commands, three steps; afterwards API servers accept the new one only."""
    (block,) = commands(README, "Rotate keys")
    before = await _gateway_secrets(terminal)
    await _rotate(whole, terminal, block.replace("token-key", "gateway-secret").replace("1 2;", "1 2 3;"), steps=3)
    after = await _gateway_secrets(terminal)
    assert len(before) == len(after) == 1
    assert before != after


async def _rotate(shell: Shell, terminal: Terminal, script: str, *, steps: int) -> None:
    """Take so many steps while callers call."""
    async with calling(shell) as load:
        began = time.monotonic()
        said = await terminal.type(script)
    assert load.told(began) == []
    assert load.calls
    assert said.count("NEXT") == steps


async def _gateway_secrets(terminal: Terminal) -> set[str]:
    """What the gateway sends and API servers accept."""
    read = "docker compose run --rm -T --entrypoint sh secrets -c 'cat /secrets/gateway/*.secret /secrets/api/*.secret'"
    return set((await terminal.type(read)).split())


async def _kid(up: Up) -> str:
    """The key that signs a new user's token."""
    async with await up.user() as client:
        claims = client.headers["authorization"].removeprefix("Bearer ").split(".")[1]
    text = urlsafe_b64decode(claims + "==").decode()
    found = re.search(r'"kid": ?"([^"]+)"', text)
    assert found, text
    return found[1]


@pytest.mark.A5
@pytest.mark.D4
async def test_workers_and_api_servers_are_replaced_and_no_call_is_lost(whole: Shell, terminal: Terminal) -> None:
    """Afterwards there is none of the old containers, and as many as before, also of a system that was scaled."""
    (scale,) = commands(README, "Scale")
    block, _ = commands(README, "Upgrade")
    await terminal.type(scale.replace("worker=4", "worker=3"))
    assert len(containers("worker")) == 3
    try:
        load, began = await _replace(whole, terminal, block, "api-1", "api-2", "worker")
    finally:
        await terminal.type(scale.replace("worker=4", "worker=2"))
    assert load.told(began) == []


@pytest.mark.A4
@pytest.mark.D4
async def test_nats_servers_are_replaced_at_the_cost_of_calls_on_their_way(whole: Shell, terminal: Terminal) -> None:
    """No more than one of each caller for each server, each told that it did not run or was lost; data stay."""
    _, block = commands(README, "Upgrade")
    load, began = await _replace(whole, terminal, block, "nats-1", "nats-2", "nats-3")
    print(f"\n{len(load.calls)} calls, failed: {load.told(began)}")
    assert len(load.failed()) <= 3 * CALLERS
    lost = [call for call in load.failed() if '"worker-lost"' in call.words]
    refused = [call for call in load.failed() if '"queue-unavailable"' in call.words and '"ran": "no"' in call.words]
    assert len(lost) + len(refused) == len(load.failed())


async def _replace(shell: Shell, terminal: Terminal, script: str, *services: str) -> tuple[Load, float]:
    """Run the script while callers call; return what they got, and when it began."""
    before = {each.id for each in containers(*services)}
    async with calling(shell) as load:
        began = time.monotonic()
        await terminal.type(script)
    assert load.calls
    after = {each.id for each in containers(*services)}
    assert before.isdisjoint(after)
    assert len(after) == len(before)
    return load, began
