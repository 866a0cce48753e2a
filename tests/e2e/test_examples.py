"""The examples, built here as scripts/build-examples does, do what their READMEs say."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from examples.build import PROGRAMS
from examples.build import main as build_examples
from tests.support.need import need
from tests.support.up import Up

pytestmark = [pytest.mark.F6, pytest.mark.F9]

EXPECTED = {
    "factor": ("600851475143", 200),
    "total": ("coffee 2.50\ntea 1\ncoffee 3\n", 200),
    "words": ('{"text": "The mayfly and the trout.", "most": 1}', 200),
    "upper": ("echo from the shell", 200),
    "json-python": ('{"numbers": [1, 2, 6]}', 200),
    "fail": ("", 502),
    "sleep": ("0.1", 200),
    "mebibyte": ("", 200),
    "misbehave": ("", 200),
}

SPECS = {"factor": {"parameter": "argument"}}


async def test_each_example_does_what_it_says(up: Up, registry: str) -> None:
    """Every example builds, registers by reference and answers; what misbehaves is refused all it tries."""
    for program in set(PROGRAMS.values()):
        need(shutil.which(program), program)
    await asyncio.to_thread(build_examples, registry)
    texts = {}
    async with await up.user() as client:
        for name, (parameter, status) in EXPECTED.items():
            spec = {"name": name, "image": f"{registry}/{name}:1", **SPECS.get(name, {})}
            made = await client.post("/v1/functions", json=spec)
            assert made.status_code == 201, made.text
            answer = await client.post(f"/v1/functions/{name}/activations", content=parameter)
            assert answer.status_code == status, (name, answer.text)
            texts[name] = answer.text

    assert texts["upper"] == "from the shell\n"
    assert '"mean": 3.0' in texts["json-python"]
    assert texts["factor"] == '{"factors":[71,839,1471,6857]}\n'
    assert texts["total"] == "coffee 5.50\ntea 1.00\n"
    assert texts["words"] == '{"common":[["the",2]]}\n'
    assert texts["sleep"] == "slept 0.1 s\n"
    assert len(texts["mebibyte"]) == 1_048_576
    assert texts["misbehave"].count(": refused\n") == 12
    assert "DONE" not in texts["misbehave"]
