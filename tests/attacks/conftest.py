"""
The installation that is attacked, for the whole suite; its two users; the table of how it went.

    pytest tests/attacks                               10 of the neighbour's calls alone and 10 beside each attack
    pytest tests/attacks --long                        200 of each
    scripts/attacks                                    the same, and the table goes into docs/explanation/security.md
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.attacks import images
from tests.attacks.arena import Arena, an_arena
from tests.attacks.catalogue import ATTACKS
from tests.attacks.neighbour import FUNCTION
from tests.attacks.report import PAGE, Row, table, written
from tests.support.images import build_and_push
from tests.support.need import need
from tests.support.registry import Registry
from tests.support.up import ROOM, Up, running_up

IMAGE_MAX_BYTES = 24 << 20
PULL_TIMEOUT_S = 20
"""So that large images are stopped within seconds: by default it is 2 GiB, and two minutes."""

ROWS = pytest.StashKey[list[Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --neighbour-calls and --write-table."""
    parser.addoption("--neighbour-calls", type=int, help="how often the neighbour calls, alone and beside each attack")
    parser.addoption("--write-table", action="store_true", help="write the table into docs/explanation/security.md")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the table, and write it if every attack has its row."""
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.write_line(table(rows))
    if config.getoption("--write-table") and len(rows) == len(ATTACKS):
        PAGE.write_text(written(PAGE.read_text(), table(rows)))
        terminalreporter.write_line(f"written to {PAGE.relative_to(PAGE.parents[2])}")


@pytest.fixture
def rows(request: pytest.FixtureRequest) -> list[Row]:
    """The table so far."""
    return request.config.stash.setdefault(ROWS, [])


@pytest.fixture
def calls(request: pytest.FixtureRequest) -> int:
    """How often the neighbour calls, alone and beside an attack each."""
    given: int | None = request.config.getoption("--neighbour-calls")
    return given or (200 if request.config.getoption("--long") else 10)


@pytest.fixture(scope="session")
def registry() -> Iterator[str]:
    """A real registry, as host:port."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("cc"), "a C compiler")
    server = Registry()
    with asyncio.Runner() as runner:
        runner.run(server.start())
        try:
            yield server.url
        finally:
            runner.run(server.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def image(registry: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image with all attackers' programs."""
    made = images.with_attackers(tmp_path_factory.mktemp("attackers"))
    return asyncio.run(build_and_push(registry, "attackers", files=made.files, cmd=made.cmd))


@pytest.fixture(scope="session")
def up(registry: str) -> Iterator[Up]:
    """The installation."""
    with running_up(
        registry, slots=8, image_max_bytes=IMAGE_MAX_BYTES, pull_timeout_s=PULL_TIMEOUT_S, **ROOM
    ) as installation:
        yield installation


@pytest.fixture(scope="session")
def tokens(up: Up, image: str) -> tuple[str, str]:
    """The attacker's and the neighbour's, whose function is registered and has been called."""

    async def both() -> tuple[str, str]:
        async with await up.user() as attacker, await up.user() as neighbour:
            made = await neighbour.post("/v1/functions", json={**FUNCTION, "image": image})
            assert made.status_code == 201, made.text
            first, second = (each.headers["authorization"].split()[1] for each in (attacker, neighbour))
            return first, second

    return asyncio.run(both())


@pytest.fixture
async def arena(up: Up, tokens: tuple[str, str], image: str, registry: str) -> AsyncIterator[Arena]:
    """The installation with both users' clients."""
    async with an_arena(up, tokens, image, {}) as made:
        yield made
