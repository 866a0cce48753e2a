"""A call with a key whose API server is killed in the middle of it, and comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mayfly.client import Client, Spec, Unreachable
from tests.integration.cli.command import PASSWORD
from tests.support.answering import AnsweringWorker
from tests.support.api import ApiServer
from tests.support.nats import free_port

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F12]


async def test_the_first_outcome_is_had_though_the_api_server_was_killed(
    nats_url: str, tmp_path: Path, name: str, worker: AnsweringWorker
) -> None:
    """
    kill -9 while the function runs: a call without a key is lost, with `ran` unknown; one with a key is repeated by the
    client, and gets the result of the one run that there was.
    """
    listen = f"127.0.0.1:{free_port()}"
    (tmp_path / "again").mkdir()
    async with (
        ApiServer(nats_url, tmp_path, listen=listen) as first,
        Client(first.url, ca_file=first.certificates.ca_file) as client,
    ):
        await client.register(name, PASSWORD)
        await client.log_in(name, PASSWORD)
        await client.create_function("echo", Spec(image="registry.example/echo:1"))
        worker.hold.clear()
        before = len(worker.claimed)
        lost = asyncio.create_task(client.invoke("echo", "without"))
        kept = asyncio.create_task(client.invoke("echo", "with", idempotency_key="order 66"))
        async with asyncio.timeout(20):
            while len(worker.claimed) < before + 2:
                await asyncio.sleep(0.02)

        first.process.kill()
        await first.process.wait()
        same = {
            "listen": listen,
            "tls_certificate_file": first.certificates.certificate_file,
            "tls_key_file": first.certificates.key_file,
            "token_keys_dir": first.token_keys,
        }
        async with ApiServer(nats_url, tmp_path / "again", **same), client:  # closed before a server waits for it
            worker.hold.set()
            with pytest.raises(Unreachable) as caught:
                await lost
            answer = await kept
            ran = [activation.id async for activation in client.activations()]

    assert caught.value.ran == "unknown"
    assert answer.text == "with"
    assert answer.activation_id in ran
    assert len(ran) == 2
    assert len(worker.claimed) == before + 2
