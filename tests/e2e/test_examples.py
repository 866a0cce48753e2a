"""The examples, built here as scripts/build-examples does, do what their READMEs say."""

from __future__ import annotations

import asyncio

import pytest

from examples.build import main as build_examples
from tests.support.up import Up

pytestmark = [pytest.mark.F6, pytest.mark.F9]

EXPECTED = {
    "upper": ("echo from the shell", 200),
    "json-python": ('{"numbers": [1, 2, 6]}', 200),
    "fail": ("", 502),
    "sleep": ("0.1", 200),
    "mebibyte": ("", 200),
    "misbehave": ("", 200),
}


async def test_each_example_does_what_it_says(up: Up, registry: str) -> None:
    """Every example builds, registers by reference and answers; what misbehaves is refused all it tries."""
    await asyncio.to_thread(build_examples, registry)
    texts = {}
    async with await up.user() as client:
        for name, (parameter, status) in EXPECTED.items():
            made = await client.post("/v1/functions", json={"name": name, "image": f"{registry}/{name}:1"})
            assert made.status_code == 201, made.text
            answer = await client.post(f"/v1/functions/{name}/activations", content=parameter)
            assert answer.status_code == status, (name, answer.text)
            texts[name] = answer.text

    assert texts["upper"] == "from the shell\n"
    assert '"mean": 3.0' in texts["json-python"]
    assert texts["sleep"] == "slept 0.1 s\n"
    assert len(texts["mebibyte"]) == 1_048_576
    assert texts["misbehave"].count(": refused\n") == 12
    assert "DONE" not in texts["misbehave"]
