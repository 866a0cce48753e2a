"""Functions that are registered, and calls that run, for as long as a test needs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

CANCELLED_S = 30.0


@asynccontextmanager
async def a_function(client: httpx.AsyncClient, name: str, image: str, *command: str) -> AsyncIterator[None]:
    """One with a minute for each call."""
    body = {"name": name, "image": image, "command": list(command), "limits": {"timeout_s": 60}}
    made = await client.post("/v1/functions", json=body)
    assert made.status_code == 201, made.text
    yield
    assert (await client.delete(f"/v1/functions/{name}")).status_code == 204


@asynccontextmanager
async def cancelled_in_the_end(client: httpx.AsyncClient, name: str) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """A call that would not end by itself."""
    call = asyncio.create_task(client.post(f"/v1/functions/{name}/activations"))
    try:
        yield call
    finally:
        async with asyncio.timeout(CANCELLED_S):
            while not call.done():
                listed = await client.get("/v1/activations", params={"function": name, "state": "running"})
                for activation in listed.json()["activations"]:
                    await client.delete(f"/v1/activations/{activation['id']}")
                await asyncio.wait({call}, timeout=0.1)
        assert (await call).status_code == 499, (await call).text
