"""`mayfly admin` and `mayfly register --invitation`: an operator's commands, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mayfly.bus.connection import connect
from mayfly.bus.stores import Stores
from mayfly.cli.logins import KeptTokens, LoginFile
from mayfly.client import ApiError, Client
from mayfly.domain.ids import new_id
from mayfly.domain.worker import WorkerBeat
from mayfly.services.invitations import Invitations
from mayfly.services.users import give_role
from mayfly.settings import NatsSettings
from tests.integration.api.test_status import a_beat
from tests.integration.cli.command import PASSWORD, Mayfly
from tests.support.answering import AnsweringWorker
from tests.support.api import ApiServer
from tests.support.page import blocks_of

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F2]

PAGE = Path(__file__).resolve().parents[3] / "docs/howto/run-an-installation-for-others.md"


@pytest_asyncio.fixture(loop_scope="session")
async def operator(mayfly: Mayfly, name: str, nats_url: str) -> Mayfly:
    """The command line of an operator."""
    async with connect(NatsSettings(nats_url=nats_url), role="admin") as bus:
        await give_role(Stores.on(bus), name, "operator")
    return mayfly


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def by_invitation(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiServer]:
    """Another API server of the same installation, where registration is by invitation."""
    directory = tmp_path_factory.mktemp("by-invitation")
    async with ApiServer(nats_url, directory, registration="invitation") as server:
        yield server


def client_of(operator: Mayfly) -> Client:
    """A client with an operator's login, where a process for each command would take too long."""
    return Client(
        operator.url, ca_file=operator.ca_file, tokens=KeptTokens(LoginFile(operator.config_dir), operator.url)
    )


async def invited(operator: Mayfly) -> str:
    """A code that is good."""
    async with client_of(operator) as client:
        return (await client.admin.invite()).code or ""


async def test_the_operator_of_the_machine_makes_the_first_one(mayfly: Mayfly, name: str, nats_url: str) -> None:
    """Before `mayfly users role` the commands are refused with status 4, after it they work, after the next no more."""
    host = mayfly.with_(MAYFLY_NATS_URL=nats_url)
    before = await mayfly("admin", "users", "show", name)
    made = await host("users", "role", name, "operator")
    as_operator = await mayfly("admin", "users", "show", name, "--json")
    unmade = await host("users", "role", name, "user")

    trail = await mayfly("audit", "--limit", "2", "--json")

    assert [(each["action"], each["subject"], each["by"]) for each in trail.json] == [
        ("role.set", "user", "operator"),
        ("role.set", "operator", "operator"),
    ]
    assert (before.status, before.stdout) == (4, b"")
    assert before.stderr.startswith("mayfly: This is for operators only.")
    assert made.stdout.endswith(b" no limit of its own, operator\n")
    assert (as_operator.json["username"], as_operator.json["role"]) == (name, "operator")
    assert unmade.stdout.endswith(b" no limit of its own\n")
    async with client_of(mayfly) as client:
        with pytest.raises(ApiError, match="for operators only"):
            await client.admin.workers()


async def test_accounts_are_shown_with_what_was_set(operator: Mayfly, api: ApiServer) -> None:
    """A limit and a suspension are in the list and in the answer; deleting asks for --yes first."""
    other = f"u-{new_id()}"
    await api.registered(other)
    async with client_of(operator) as client:
        await client.admin.change_user(other, suspended=True)
    limited = await operator("admin", "users", "limit", other, "3", "--json")
    listed = await operator("admin", "users", "list")
    resumed = await operator("admin", "users", "resume", other)
    unsure = await operator("admin", "users", "delete", other)

    assert (limited.json["max_activations"], limited.json["suspended"]) == (3, True)
    (line,) = [line.split() for line in listed.stdout.decode().splitlines() if line.startswith(other)]
    assert line[1:4] == ["user", "3", "suspended"]
    assert re.search(r"^state +active$", resumed.stdout.decode(), re.MULTILINE)
    assert (unsure.status, "--yes" in unsure.stderr) == (2, True)
    async with client_of(operator) as client:
        assert (await client.admin.user(other)).max_activations == 3


async def test_a_limit_that_is_none_is_told(operator: Mayfly, name: str) -> None:
    """What is no number is status 2 before anything is sent; what is too large is the API's answer."""
    word = await operator("admin", "users", "limit", name, "many")
    large = await operator("admin", "users", "limit", name, "257")

    assert (word.status, word.stderr) == (2, "mayfly: A limit is a whole number, or none.\n")
    assert (large.status, "at most 256" in large.stderr) == (2, True)


async def test_an_invitation_is_made_used_and_revoked(
    operator: Mayfly, by_invitation: ApiServer, tmp_path: Path
) -> None:
    """stdout is the code and nothing else; with it one registers, the next is refused; another one is revoked."""
    made = await operator("admin", "invitations", "create", "--note", "for bea", "--expires-in", "2h")
    code, other = made.stdout.decode().strip(), await invited(operator)
    bea = Mayfly(by_invitation.url, by_invitation.certificates.ca_file, tmp_path / "bea")
    registering = ("register", f"u-{new_id()}", "--invitation", code, "--password-stdin")
    first = await bea(*registering, stdin=PASSWORD.encode())
    second = await bea("register", f"u-{new_id()}", *registering[2:], stdin=PASSWORD.encode())
    revoked = await operator("admin", "invitations", "delete", other.partition("-")[0])
    async with client_of(operator) as client:
        left = [each.id async for each in client.admin.invitations()]

    assert re.fullmatch(r"[a-z0-9]{26}-[a-z2-7]{32}", code)
    assert first.status == 0, first.stderr
    assert second.status == 4
    assert "This invitation is not good" in second.stderr
    assert (revoked.status, revoked.stderr) == (0, "The invitation is revoked.\n")
    assert not {code.partition("-")[0], other.partition("-")[0]} & set(left)
    assert (await operator("admin", "invitations", "create", "--expires-in", "soon")).status == 2


async def test_whoever_has_given_no_code_is_asked_for_it(
    operator: Mayfly, by_invitation: ApiServer, tmp_path: Path
) -> None:
    """At a terminal the code is asked for when it turns out that one is needed; without one it is status 4."""
    code = await invited(operator)
    bea = Mayfly(by_invitation.url, by_invitation.certificates.ca_file, tmp_path / "bea")
    piped = await bea("register", f"u-{new_id()}", "--password-stdin", stdin=PASSWORD.encode())
    async with bea.at_terminal("register", f"u-{new_id()}") as terminal:
        await terminal.until("Password: ")
        terminal.type(f"{PASSWORD}\n")
        await terminal.until("again: ")
        terminal.type(f"{PASSWORD}\n")
        await terminal.until("Code of the invitation: ")
        terminal.type(f"{code}\n")
        status = await terminal.ended()

    assert (piped.status, "by invitation" in piped.stderr) == (4, True)
    assert status == 0, terminal.shown
    assert code not in terminal.shown
    assert "is registered and logged in" in terminal.shown


@pytest.mark.F11
async def test_somebody_elses_calls_are_listed_and_ended(
    operator: Mayfly, api: ApiServer, worker: AnsweringWorker
) -> None:
    """One by its id, the others by --all; what is shown of them has no parameter."""
    worker.hold.clear()
    tokens = await api.registered()
    async with api.client(tokens["access_token"]) as client:
        await client.post("/v1/functions", json={"name": "echo", "image": "registry.example/echo:1"})
        for _ in range(3):
            answer = await client.post(
                "/v1/functions/echo/activations", content=b"the-parameter", headers={"Prefer": "respond-async"}
            )
            assert answer.status_code == 202
    listed = await operator("admin", "activations", tokens["username"], "--json")
    one = await operator("admin", "kill", tokens["username"], listed.json[0]["id"])
    both = await operator("admin", "kill", tokens["username"], listed.json[0]["id"], "--all")
    rest = await operator("admin", "kill", tokens["username"], "--all")
    worker.hold.set()

    assert len(listed.json) == 3
    assert b"the-parameter" not in listed.stdout
    assert (one.status, one.stdout) == (0, b"cancelled\n")
    assert (rest.status, rest.stdout) == (0, b"2 ended\n")
    assert (both.status, both.stdout) == (2, b"")


@pytest.mark.A5
async def test_workers_are_listed_and_one_that_does_not_answer_is_told(operator: Mayfly, nats_url: str) -> None:
    """The list has each with its state; draining one that is silent is status 6, an unknown one status 5."""
    silent: WorkerBeat = a_beat()
    async with connect(NatsSettings(nats_url=nats_url), role="admin") as bus:
        await Stores.on(bus).workers.put(silent.id, silent, ttl_s=30)
        async with client_of(operator) as client:
            listed = await client.admin.workers()
        drained = await operator("admin", "workers", "drain", silent.id, "--json")
        unknown = await operator("admin", "workers", "undrain", new_id())
        entry = await Stores.on(bus).workers.get(silent.id)
        assert entry
        await Stores.on(bus).workers.delete(silent.id, revision=entry.revision)

    assert silent.id in [each.id for each in listed]
    assert (drained.status, json.loads(drained.stderr)["code"]) == (6, "no-workers")
    assert unknown.status == 5


async def test_the_page_does_what_it_says(
    by_invitation: ApiServer, nats_url: str, tmp_path: Path, worker: AnsweringWorker
) -> None:
    """The commands of docs/howto/run-an-installation-for-others.md, typed in turn, on an installation with a worker."""
    beat = a_beat(id=worker.id)
    ann, bea = (f"u-{new_id()}" for _ in range(2))
    (tmp_path / "password").write_text(PASSWORD)
    script = "\n".join(block.text for block in blocks_of(PAGE) if block.language == "sh")
    script = script.replace(" ann", f" {ann}").replace(" bea", f" {bea}").replace("$WORKER", worker.id)
    anybody = Mayfly(by_invitation.url, by_invitation.certificates.ca_file, tmp_path / "config")
    environment = anybody.with_(MAYFLY_NATS_URL=nats_url, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    async with connect(NatsSettings(nats_url=nats_url), role="admin") as bus:
        await Stores.on(bus).workers.put(beat.id, beat, ttl_s=600)
        code = (await Invitations(Stores.on(bus)).issue("root", expires_in_s=600, note="")).code
        async with Client(by_invitation.url, ca_file=by_invitation.certificates.ca_file) as client:
            await client.register(bea, PASSWORD, invitation=code)
        status, said = await environment.shell(script, tmp_path)
        left = await Stores.on(bus).users.get(bea)
        entry = await Stores.on(bus).workers.get(beat.id)
        assert entry
        await Stores.on(bus).workers.delete(beat.id, revision=entry.revision)

    assert status == 0, said
    assert re.search(rf"{ann} .* operator\n", said)
    assert f"{bea} is deleted." in said
    assert left is None
    assert worker.drains == [True, False]
