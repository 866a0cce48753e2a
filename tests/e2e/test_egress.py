"""
A function that calls an external service, through an installation on a machine of the tests' own.

The machine, the outside and the service are network namespaces (`tests.support.outside`), so this never leaves the
machine, and works without any network.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.build import IMAGES
from examples.oci import push
from tests.docs.reader import prints
from tests.integration.cli.command import Mayfly
from tests.support.egress import network_left
from tests.support.need import need
from tests.support.outside import MACHINE, NAME, RESOLVER, WEB, Outside, machine_and_outside
from tests.support.page import ROOT, blocks_of
from tests.support.registry import Registry
from tests.support.up import PASSWORD, ROOM, Up, running_up

pytestmark = [pytest.mark.root, pytest.mark.D6]

TOKEN = "a-token-for-this-call-only"


@dataclass
class Installation:
    """What these tests have of their own."""

    up: Up
    registry: str
    outside: Outside


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """An installation with egress on that machine, with a registry; afterwards nothing of its networks is left."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("docker-registry"), "docker-registry")
    with machine_and_outside() as outside, asyncio.Runner() as runner:
        registry = Registry()
        runner.run(registry.start())
        try:
            for name in ("charge", "upper"):
                push(IMAGES[name](), f"{registry.url}/{name}:1")
            with running_up(registry.url, slots=2, egress="on", egress_dns=RESOLVER, **ROOM) as up:
                yield Installation(up, registry.url, outside)
        finally:
            runner.run(registry.__aexit__(None, None, None))
        assert not network_left()


@pytest.fixture
async def ann(installation: Installation) -> Any:
    """Somebody with a function `charge` that has a network, and one of shell without and with."""
    async with await installation.up.user() as client:
        for name, image, network in (
            ("charge", "charge", "egress"),
            ("quiet", "upper", "none"),
            ("loud", "upper", "egress"),
        ):
            spec: dict[str, Any] = {"name": name, "image": f"{installation.registry}/{image}:1", "network": network}
            answer = await client.post("/v1/functions", json=spec)
            assert answer.status_code == 201, answer.text
        yield client


def parameter(**given: Any) -> str:
    """The parameter of docs/explanation/external-services.md."""
    asked = {
        "v": 1,
        "data": {"invoice": 4711, "amount": "12.50"},
        "idempotency_key": "invoice-4711-charge-1",
        "deadline": time.time() + 60,
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "services": {"payments": {"endpoint": f"http://{NAME}/v2", "token": TOKEN}},
    }
    return json.dumps(asked | given)


async def called(client: httpx.AsyncClient, name: str, content: str) -> httpx.Response:
    """Invoke a function."""
    return await client.post(f"/v1/functions/{name}/activations", content=content)


async def test_a_service_is_called_once_however_often_it_is_asked(
    ann: httpx.AsyncClient, installation: Installation
) -> None:
    """Busy twice, then done: each attempt has the same key, the result has the effect, and nothing shows the token."""
    outside = installation.outside
    outside.seen.clear()
    outside.answers[:] = [(503, ""), (429, "")]
    answer = await called(ann, "charge", parameter())
    assert answer.status_code == 200, answer.text
    result = answer.json()
    assert (result["v"], result["ok"], result["error"]) == (1, True, None)
    assert result["effects"] == [{"service": "payments", "kind": "charge", "id": "ch_1", "state": "done"}]
    assert [(sender, path) for sender, path, _, _ in outside.seen] == [(MACHINE, "/v2/charges")] * 3
    headers = [headers for _, _, headers, _ in outside.seen]
    assert {each["Idempotency-Key"] for each in headers} == {"invoice-4711-charge-1"}
    assert {each["Authorization"] for each in headers} == {f"Bearer {TOKEN}"}
    assert all(each["Traceparent"].startswith("00-4bf92f35") for each in headers)
    assert json.loads(outside.seen[-1][3]) == {"invoice": 4711, "amount": "12.50"}
    logs = await ann.get(f"/v1/activations/{answer.headers['Mayfly-Activation-Id']}/logs")
    assert "again in" in logs.text
    assert TOKEN not in logs.text + answer.text + installation.up.log()


async def test_what_the_service_says_is_in_the_result(ann: httpx.AsyncClient, installation: Installation) -> None:
    """Busy for longer than there is time: repeat it. Refused: do not. Unreachable, as a private address is: repeat."""
    outside = installation.outside
    outside.answers[:] = [(503, "300")]
    busy = (await called(ann, "charge", parameter())).json()
    assert (busy["ok"], busy["error"]["code"], busy["error"]["retryable"]) == (False, "payments-busy", True)
    assert busy["error"]["retry_after_s"] == 300
    outside.answers[:] = [(402, "")]
    refused = (await called(ann, "charge", parameter())).json()
    assert (refused["error"]["code"], refused["error"]["retryable"]) == ("payments-refused", False)
    outside.answers.clear()
    private = {"payments": {"endpoint": f"http://private.{NAME}/v2", "token": TOKEN}}
    unreachable = (await called(ann, "charge", parameter(services=private, deadline=time.time()))).json()
    assert (unreachable["error"]["code"], unreachable["effects"]) == ("payments-unreachable", [])
    assert (await called(ann, "charge", parameter(v=2))).json()["error"]["code"] == "unknown-version"
    broken = await called(ann, "charge", '{"v": 1}')
    assert (broken.status_code, broken.json()["exit_code"]) == (502, 2)


async def test_the_pages_commands_show_what_is_reached(installation: Installation, tmp_path: Path) -> None:
    """What the operator's page types prints what it says there; only who is outside, and the registry, differ."""
    page = ROOT / "docs/howto/let-functions-reach-the-network.md"
    (typing, told) = (
        next(each.text for each in blocks_of(page) if words in each.text)
        for words in ("mayfly functions create reach", "not reached\nnot reached")
    )
    typing = typing.replace("busybox", f"{installation.registry}/upper:1").replace("example.org", WEB)
    ann = Mayfly(installation.up.url, installation.up.ca_file, tmp_path / "config")
    ann = ann.with_(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    await ann("register", "ann", "--password-stdin", stdin=PASSWORD.encode())

    status, said = await ann.shell(typing, tmp_path)

    assert status == 0, said
    assert prints(told, said), said


async def test_only_a_function_that_asks_for_it_has_a_network(ann: httpx.AsyncClient) -> None:
    """Side by side: one reaches the outside and nothing of the installation, the other has a loopback and no more."""
    ask = "printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 20 {} 80 2>/dev/null | grep done || echo none"
    script = f"{ask.format(WEB)}; {ask.format(MACHINE)}"
    loud, quiet = await asyncio.gather(called(ann, "loud", script), called(ann, "quiet", script))
    assert loud.text == '{"id": "ch_1", "status": "done"}\nnone\n'
    assert quiet.text == "none\nnone\n"
