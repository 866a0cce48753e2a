"""
A whole installation to be called with anything: nats-server, an API server behind TLS, the real worker. Its runtime
starts nothing, and ends calls in all the ways that there are, by what they are given.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mayfly.containers.fake import ending
from mayfly.containers.runtime import Call, ContainerSpec, Ending, EndReason
from mayfly.domain.errors import RuntimeFailed
from tests.support.bus import installation as a_nats_server
from tests.support.whole import Whole, whole

OPENAPI = Path(__file__).parents[3] / "docs/reference/openapi.json"


def end_somehow(_spec: ContainerSpec, call: Call) -> Ending | Exception:
    """Decide by the length of what the function was given, so that the same call ends alike each time."""
    ways: tuple[Ending | Exception, ...] = (
        ending(call.stdin),
        ending(call.stdin),
        ending(b"failed", exit_code=3),
        ending(b"\xff\xfe"),
        ending(reason=EndReason.OUT_OF_MEMORY),
        ending(reason=EndReason.RESULT_TOO_LARGE),
        ending(reason=EndReason.TIMED_OUT),
        RuntimeFailed("The container could not be started."),
    )
    return ways[len(call.stdin) % len(ways)]


@pytest.fixture(scope="session")
def openapi() -> dict[str, Any]:
    """The description that is committed."""
    described: dict[str, Any] = json.loads(OPENAPI.read_text())
    return described


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def installation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    """It, with one user and his function `f`."""
    async with (
        a_nats_server(max_activations=64, max_activations_per_user=16) as nats,
        whole(nats, tmp_path_factory.mktemp("fuzz"), egress=True) as running,
    ):
        running.runtime.script = end_somehow
        yield running
