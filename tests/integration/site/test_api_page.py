"""The API's own page, /docs, in a real browser: whole in itself, for every width and light; and its examples, run."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from mayfly.api.errors import MEANINGS
from mayfly.bus.connection import connect
from mayfly.bus.stores import Stores
from mayfly.domain.ids import new_id
from mayfly.services.users import give_role
from mayfly.settings import NatsSettings
from tests.support.answering import answering_worker
from tests.support.api import ApiServer, bootstrapped
from tests.support.browser import DESKTOP, PHONE, Browser
from tests.support.nats import NatsServer

OPENAPI = json.loads((Path(__file__).resolve().parents[3] / "docs/reference/openapi.json").read_text())
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in OPENAPI["paths"].items()
    for method, operation in methods.items()
]
OVER = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
SHOWN = "return [...document.querySelectorAll('h3')].filter(each => each.offsetHeight).map(each => each.id)"
TARGETS = "return [...document.querySelectorAll('a[href^=\"#\"]')].map(each => each.getAttribute('href').slice(1))"
IDS = "return [...document.querySelectorAll('[id]')].map(each => each.id)"
EXAMPLES = """return Object.fromEntries([...document.querySelectorAll('h3 + p + pre')].map(
    each => [each.previousElementSibling.previousElementSibling.id, each.textContent]))"""
LAST = ("log_out", "delete_me", "change_password")
"""In this order at the end: after each of them the user of the examples has to log in, or to register, once more."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nats_url() -> AsyncIterator[str]:
    """A NATS server with all streams and buckets."""
    async with NatsServer() as nats:
        await bootstrapped(nats.url)
        yield nats.url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiServer]:
    """An API server, and a worker that answers without containers."""
    async with answering_worker(nats_url), ApiServer(nats_url, tmp_path_factory.mktemp("api")) as server:
        yield server


@pytest.fixture
def page(api: ApiServer, reader: Browser) -> str:
    """The address of the page, which is open."""
    address = f"https://127.0.0.1:{api.port}/docs"
    reader.open(address)
    return address


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_complaint(reader: Browser, page: str, width: int, scheme: str) -> None:
    """Its policy allows its own style and blocks nothing that it wants; it asks for itself only, fits the window, and
    is as dark as the system."""
    reader.look(width=width, scheme=scheme)
    reader.open(page)

    assert reader.complaints() == []
    assert {each for each in reader.requests() if urlsplit(each).path != "/favicon.ico"} == {page}
    assert reader.run(OVER) <= 0
    back = sum(map(int, re.findall(r"\d+", reader.run("return getComputedStyle(document.body).backgroundColor"))[:3]))
    assert (back < 200) == (scheme == "dark")


def test_each_operation_and_error_is_shown(reader: Browser, page: str) -> None:
    """Each operation, with its method and path, and each error has a heading that is seen, without a script."""
    shown = reader.run(SHOWN)

    assert {operation["operationId"] for _, _, operation in OPERATIONS} <= set(shown)
    assert {kind.code for kind in MEANINGS} <= set(shown)
    text = reader.run("return document.body.innerText")
    assert [path for method, path, _ in OPERATIONS if f"{method} {path}" not in text] == []
    assert reader.all("script") == []


def test_each_link_leads_to_a_part_of_the_page(reader: Browser, page: str) -> None:
    """The contents, and every error or shape that is named, lead to something that is there once."""
    ids = reader.run(IDS)

    assert len(ids) == len(set(ids))
    targets = reader.run(TARGETS)
    assert len(targets) > len(OPERATIONS) * 2
    assert set(targets) <= set(ids)


def test_the_type_of_an_error_leads_to_it(reader: Browser, page: str) -> None:
    """What a problem's `type` names, such as /docs#concurrency-limit, is at the top of the window, and marked."""
    reader.open(f"{page}#concurrency-limit")

    heading = reader.find("h3:target")
    assert heading.text.startswith("concurrency-limit")
    assert 0 <= reader.run("return arguments[0].getBoundingClientRect().top", heading) < 100
    assert reader.run("return getComputedStyle(arguments[0]).backgroundColor", heading) != "rgba(0, 0, 0, 0)"


@pytest.mark.asyncio(loop_scope="module")
async def test_its_examples_are_answered(api: ApiServer, nats_url: str, reader: Browser, tmp_path: Path) -> None:
    """Typed into a shell, the first call's commands answer with the function's result, and each operation's example
    with a status of success; only what is not there (a worker, an activation that ended) is answered so."""
    reader.open(f"https://127.0.0.1:{api.port}/docs")
    first, examples = reader.find("#first-call + p + pre").text, reader.run(EXAMPLES)
    assert examples.keys() == {operation["operationId"] for _, _, operation in OPERATIONS}
    here = os.environ | {"URL": f"https://127.0.0.1:{api.port}"}
    (tmp_path / "ca.crt").write_bytes(api.certificates.ca_file.read_bytes())

    said = await typed(f"{first}\necho; echo TOKEN=$TOKEN", here, tmp_path)
    assert "}hello, mayfly\nTOKEN=" in said
    here["TOKEN"] = said.split("TOKEN=")[1].strip()
    async with connect(NatsSettings(nats_url=nats_url), role="admin") as bus:
        await give_role(Stores.on(bus), "ann", "operator")
    await api.registered("ben")
    for variable, name, member in (("ACTIVATION_ID", "list_activations", "activations"), ("KEY", "make_key", "id")):
        found = json.loads(await typed(examples[name], here, tmp_path))[member]
        here[variable] = found[0]["id"] if isinstance(found, list) else found
    here["INVITATION_ID"] = json.loads(await typed(examples["invite"], here, tmp_path))["id"]
    here["WORKER_ID"] = new_id()

    answers = {}
    for _, _, operation in sorted(OPERATIONS, key=in_turn):
        name = operation["operationId"]
        if name in LAST:
            here["TOKEN"] = json.loads(
                await typed(f"{examples['register']} --output /dev/null\n{examples['get_tokens']}", here, tmp_path)
            )["access_token"]
        status = "--silent --show-error --output /dev/null --write-out '%{http_code}'"
        answers[name] = await typed(examples[name].replace("curl ", f"curl {status} ", 1), here, tmp_path)
    others = {name: status for name, status in answers.items() if not status.startswith("2")}
    assert others == {
        "register": "409",  # she is there already
        "register_function": "409",
        "make_key": "409",
        "end_users_activation": "404",  # it is hers, and not of the user who is asked about
        "drain_worker": "404",
        "undrain_worker": "404",
    }


def in_turn(each: tuple[str, str, object]) -> tuple[int, int]:
    """Sort operations so that what one needs is made before it, and removed after it."""
    method, path, operation = each
    assert isinstance(operation, dict)
    last = LAST.index(operation["operationId"]) if operation["operationId"] in LAST else -1
    return last, ["POST", "PUT", "PATCH", "GET", "DELETE"].index(method) * 10 - path.count("/")


async def typed(commands: str, environment: dict[str, str], directory: Path) -> str:
    """Type commands into a shell; return what they print."""
    pipe = asyncio.subprocess.PIPE
    shell = await asyncio.create_subprocess_exec(
        "bash", "-ec", commands, env=environment, cwd=directory, stdout=pipe, stderr=pipe
    )
    said, complained = await shell.communicate()
    assert shell.returncode == 0, complained.decode()
    return said.decode()
