"""
The commands of deploy/compose/README.md, typed in turn while callers call: what is said to lose no call loses none.

A block that begins with `#` is not typed: it needs the network, or ends what the other tests need.
"""

from __future__ import annotations

import re
import time
from base64 import urlsafe_b64decode

import httpx
import pytest

from mayfly.domain.ids import new_id
from tests.compose.load import calling
from tests.compose.terminal import Terminal, blocks
from tests.e2e.conftest import Shell
from tests.support.compose import containers
from tests.support.up import PASSWORD, Up


@pytest.mark.D4
@pytest.mark.F2
async def test_the_first_call(whole: Shell, terminal: Terminal) -> None:
    """Bring it up (which it is), and what follows prints what the page says; only name, password and image differ."""
    for block in blocks("Bring it up"):
        await terminal.type(block)
    (block,) = blocks("First call")
    ours = (
        block.replace("register ann", f"register ann-{new_id()[:8]} --password-stdin <<<'{PASSWORD}'")
        .replace(" busybox ", f" {whole.image} ")
        .replace(":8443", f":{httpx.URL(terminal.up.url).port}")
    )
    assert "HELLO, MAYFLY" in await terminal.type(ours)


@pytest.mark.A1
@pytest.mark.D7
async def test_the_signing_key_is_replaced_and_no_call_is_lost(whole: Shell, terminal: Terminal) -> None:
    """After both steps a new key signs; who was logged in still is."""
    before = await _kid(terminal.up)
    (block,) = blocks("Rotate keys")
    await _rotate(whole, terminal, block, steps=2)
    assert await _kid(terminal.up) != before
    assert (await whole.run("echo still here")).text == "still here\n"


@pytest.mark.A1
@pytest.mark.D7
async def test_the_gateways_secret_is_replaced_and_no_call_is_lost(whole: Shell, terminal: Terminal) -> None:
    """The same commands, three steps; afterwards API servers accept the new one only."""
    (block,) = blocks("Rotate keys")
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
async def test_everything_but_the_gateway_is_replaced_and_no_call_is_lost(whole: Shell, terminal: Terminal) -> None:
    """Afterwards there is not one of the old containers, the gateway's left out."""
    replaced = ("api-1", "api-2", "worker", "nats-1", "nats-2", "nats-3")
    before = {each.id for each in containers(*replaced)}
    (block,) = blocks("Upgrade")
    async with calling(whole) as load:
        began = time.monotonic()
        await terminal.type(block)
    assert load.told(began) == []
    assert load.calls
    after = {each.id for each in containers(*replaced)}
    assert before.isdisjoint(after)
    assert len(after) == len(before)
