"""Registering what cannot be had, or cannot run: told in the registry's words, and nothing is kept."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Shell
from tests.support.images import build_and_push
from tests.support.nats import free_port
from tests.support.registry import Registry
from tests.support.up import running_up

pytestmark = pytest.mark.F6


async def refused(client: httpx.AsyncClient, reference: str, **spec: object) -> str:
    """Try to register *reference*; check that nothing came of it, and return what was said."""
    answer = await client.post("/v1/functions", json={"name": "wanted", "image": reference, **spec})
    problem = answer.json()

    assert (answer.status_code, problem["code"], problem["ran"]) == (422, "image-unavailable", "no")
    assert (await client.get("/v1/functions/wanted")).status_code == 404
    assert (await client.get("/v1/functions")).json()["functions"] == []
    return str(problem["detail"])


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nothing-here:1", "manifest unknown"),
        ("busybox:no-such-tag", "manifest unknown"),
        ("busybox@sha256:" + "0" * 64, "manifest unknown"),
    ],
)
async def test_what_the_registry_does_not_have(shell: Shell, registry: str, reference: str, words: str) -> None:
    """An unknown image, tag or digest is refused with the registry's own words."""
    assert words in await refused(shell.client, f"{registry}/{reference}")


async def test_an_image_for_another_architecture(shell: Shell, registry: str) -> None:
    """An image for another machine is refused, and both architectures are named."""
    reference = await build_and_push(registry, "elsewhere", architecture="s390x", cmd=["/bin/cat"])

    assert "linux/s390x" in await refused(shell.client, reference)


async def test_an_image_without_a_command(shell: Shell, registry: str) -> None:
    """An image that says nothing about what to run is refused, unless the registration does."""
    reference = await build_and_push(registry, "no-command")

    assert "`command`" in await refused(shell.client, reference)
    spec = {"name": "wanted", "image": reference, "command": ["/bin/cat"]}
    assert (await shell.client.post("/v1/functions", json=spec)).status_code == 201


async def test_a_private_address_is_no_registry(shell: Shell) -> None:
    """A reference cannot make the worker talk to the operator's own network."""
    said = await refused(shell.client, f"127.0.0.1:{free_port()}/x")

    assert "private address" in said
    assert "MAYFLY_PRIVATE_REGISTRIES" in said


@pytest.fixture
async def capped(registry: str) -> AsyncIterator[tuple[httpx.AsyncClient, Registry]]:
    """An installation with a small cap on images, and a registry of its own that can be stopped."""
    async with Registry() as own:
        both = f"{registry},{own.url}"
        settings: dict[str, Any] = {"private_registries": both, "plain_http_registries": both}
        with running_up(slots=1, image_max_bytes=4 << 20, **settings) as up:
            async with await up.user() as client:
                yield client, own


async def test_the_cap_and_a_registry_that_is_down(capped: tuple[httpx.AsyncClient, Registry]) -> None:
    """An image over the cap is refused, compressed or not; so is one whose registry does not answer."""
    client, own = capped
    large = await build_and_push(own.url, "large", files={"/random": os.urandom(5 << 20)}, cmd=["/bin/cat"])
    bomb = await build_and_push(own.url, "bomb", files={"/zeros": bytes(50 << 20)}, cmd=["/bin/cat"])
    small = await build_and_push(own.url, "small", cmd=["/bin/cat"])

    assert "larger than 4 MiB" in await refused(client, large)
    assert "larger than 4 MiB" in await refused(client, bomb)
    await own.stop()
    assert "connection refused" in await refused(client, small)
