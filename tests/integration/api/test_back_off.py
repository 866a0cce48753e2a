"""Back-off at the door: two API servers behind a gateway, which says where each caller is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

import mayfly.services.passwords
from mayfly.bus.connection import Bus
from mayfly.domain.ids import UserName, new_id
from tests.support.api import NO_BACK_OFF, PASSWORD, ApiServer, in_process

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F3]

SECRET, WRONG = "s" * 32, "not the password"
TOKENS, MINE = "/v1/tokens", "/v1/users/me/password"
LIMITS = {
    "login_failures_per_user_and_address": 3,
    "login_failures_per_user": 6,
    "login_failures_per_address": 9,
    "registrations_per_address": 5,
    "login_back_off_s": 3600,  # however slow the machine is, nobody has waited long enough
    "login_back_off_max_s": 3600,
}


class Two:
    """Two API servers, and callers at addresses that no other test has."""

    def __init__(self, servers: list[ApiServer]) -> None:
        """Nobody has called yet."""
        self.servers = servers
        self._turn = 0

    async def ask(self, method: str, path: str, network: str, token: str = "", **options: Any) -> httpx.Response:
        """Send to one of the servers, each in its turn."""
        self._turn += 1
        server = self.servers[self._turn % 2]
        headers = {"X-Mayfly-Gateway": SECRET, "X-Forwarded-For": network}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        async with server.client() as client:
            return await client.request(method, path, headers=headers, **options)

    async def log_in(self, name: str, password: str, network: str) -> httpx.Response:
        """Log in."""
        form = {"grant_type": "password", "username": name, "password": password}
        return await self.ask("POST", TOKENS, network, data=form)

    async def register(self, name: str, network: str) -> httpx.Response:
        """Register."""
        return await self.ask("POST", "/v1/users", network, json={"username": name, "password": PASSWORD})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def two(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Two]:
    """Both servers, on one database, with one set of keys."""
    directory = tmp_path_factory.mktemp("two")
    (directory / "gateway.secret").write_text(SECRET)
    settings = {**LIMITS, "gateway_secret_file": directory / "gateway.secret"}
    first, second = (ApiServer(nats_url, directory, **settings) for _ in range(2))
    async with first, second:
        yield Two([first, second])


@pytest.fixture
def network() -> str:
    """An IPv6 network that no other test has."""
    return f"2001:db8:{new_id().encode()[:2].hex()}:{new_id().encode()[2:4].hex()}"


@pytest.fixture
def name() -> str:
    """A user name that is free."""
    return f"u-{new_id()}"


def refused(answer: httpx.Response) -> bool:
    """Whether it is the refusal of back-off, as it is to be."""
    if answer.status_code != 429:
        return False
    problem = answer.json()
    assert (problem["code"], problem["fault"], problem["ran"]) == ("too-many-attempts", "caller", "no")
    assert int(answer.headers["Retry-After"]) >= problem["retry_after_s"] > 0
    assert answer.headers["content-type"] == "application/problem+json"
    return True


async def test_whichever_server_is_asked_the_same_failures_count(two: Two, network: str, name: str) -> None:
    """Three wrong passwords are looked at, then none, nor the right one; the words are the same without the user."""
    assert (await two.register(name, f"{network}::1")).status_code == 201
    bodies = []
    for who in (name, f"no-{name[5:]}"):
        answers = [await two.log_in(who, WRONG, f"{network}::{number}") for number in range(5)]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
        assert refused(answers[-1])
        bodies.append({**answers[-1].json(), "request_id": "", "retry_after_s": 0})
    assert bodies[0] == bodies[1]
    assert refused(await two.log_in(name, PASSWORD, f"{network}:ffff::1")), "the whole /64 is one caller"
    assert bodies[0]["error"] == "invalid_request"


async def test_who_is_logged_in_notices_nothing(two: Two, network: str, name: str) -> None:
    """Sessions, refreshes and keys go on while nobody may log in under this name from anywhere new."""
    await two.register(name, f"{network}::1")
    tokens = (await two.log_in(name, PASSWORD, f"{network}::1")).json()
    key = (await two.ask("POST", "/v1/keys", f"{network}::1", tokens["access_token"], json={"name": "ci"})).json()
    for number in range(7):
        await two.log_in(name, WRONG, f"203.0.113.{number}")
    assert refused(await two.log_in(name, PASSWORD, "203.0.113.99"))
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    refreshed = await two.ask("POST", TOKENS, "203.0.113.99", data=form)
    for token in (refreshed.json()["access_token"], key["token"]):
        assert (await two.ask("GET", "/v1/users/me", "203.0.113.99", token)).status_code == 200
    assert (await two.log_in(name, PASSWORD, f"{network}::2")).status_code == 200, "he is known there"


async def test_a_stolen_access_token_is_no_oracle_for_the_password(two: Two, network: str, name: str) -> None:
    """Wrong current passwords count as failed logins do: after three, from there, neither door looks any more."""
    await two.register(name, f"{network}::1")
    token = (await two.log_in(name, PASSWORD, f"{network}::1")).json()["access_token"]
    change = {"current_password": WRONG, "new_password": "a whole new password"}
    answers = [await two.ask("PUT", MINE, "198.51.100.1", token, json=change) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [403, 403, 403, 429, 429]
    right = {**change, "current_password": PASSWORD}
    assert refused(await two.ask("PUT", MINE, "198.51.100.1", token, json=right))
    assert refused(await two.log_in(name, PASSWORD, "198.51.100.1"))
    assert (await two.ask("PUT", MINE, f"{network}::1", token, json=right)).status_code == 204


async def test_registrations_are_slowed_by_address(two: Two, network: str) -> None:
    """Five from one network are looked at, a taken name among them, and the sixth waits; elsewhere nobody does."""
    taken = f"u-{new_id()}"
    answers = [await two.register(name, f"{network}::1") for name in (taken, taken)]
    answers += [await two.register(f"u-{new_id()}", f"{network}::{number}") for number in range(4)]
    assert [answer.status_code for answer in answers] == [201, 409, 201, 201, 201, 429]
    assert refused(answers[-1])
    assert (await two.register(f"u-{new_id()}", "198.51.100.77")).status_code == 201


async def test_who_is_not_behind_the_gateway_does_not_choose_his_address(
    nats_url: str, tmp_path: Path, name: str
) -> None:
    """Without a gateway, X-Forwarded-For is anybody's word, so all these come from one address."""
    # Which is all tests' address: what others have failed from there must not count.
    limits = {**LIMITS, "login_failures_per_address": 1_000_000}
    async with in_process(nats_url, tmp_path, **limits) as (_, client):
        statuses = []
        for number in range(4):
            form = {"grant_type": "password", "username": name, "password": WRONG}
            answer = await client.post(TOKENS, data=form, headers={"X-Forwarded-For": f"203.0.113.{number}"})
            statuses.append(answer.status_code)
    assert statuses == [401, 401, 401, 429]


async def test_refusals_are_counted_and_logged_without_the_name(two: Two, network: str, name: str) -> None:
    """The operator sees how many and from where, and not what was typed as a user name."""
    for _ in range(3):
        await two.log_in(name, WRONG, f"{network}::1")
    for _ in two.servers:  # one refusal at each
        await two.log_in(name, WRONG, f"{network}::1")
    for server in two.servers:
        line = await server.event("attempt.refused", scope="user-and-address", network=f"{network}::/64")
        assert line["wait_s"] > 0
        assert name not in str(server.log)


@contextmanager
def counting(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[str]]]:
    """Note each question to NATS, and each hash."""
    seen: dict[str, list[str]] = {"asked": [], "hashed": []}
    request, verify = bus.client.request, mayfly.services.passwords._verify

    async def noted(subject: str, *args: Any, **options: Any) -> Any:
        seen["asked"].append(subject if subject.startswith("$JS.") else subject.rpartition(".")[0])
        return await request(subject, *args, **options)

    def hashed(password_hash: str, password: str) -> bool:
        seen["hashed"].append(password_hash.rpartition("$")[0].rpartition("$")[0])
        return verify(password_hash, password)

    with monkeypatch.context() as patch:
        patch.setattr(bus.client, "request", noted)
        patch.setattr(mayfly.services.passwords, "_verify", hashed)
        yield seen


async def test_unknown_user_and_wrong_password_cost_the_same(
    nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is named, one hash with the same parameters, and the same questions to the database in the same order."""
    names = {"user": f"u-{new_id()}", "nobody": f"u-{new_id()}", "cannot be": "Not A Name", "long": "x" * 4000}
    costs: dict[str, Any] = {}
    async with in_process(nats_url, tmp_path, **NO_BACK_OFF) as (state, client):
        await state.users.register(UserName(names["user"]), PASSWORD)
        for kind, username in names.items():
            form = {"grant_type": "password", "username": username, "password": WRONG}
            with counting(state.bus, monkeypatch) as seen:
                answer = await client.post(TOKENS, data=form)
            costs[kind] = {"status": answer.status_code, "hashed": seen["hashed"], "asked": _own(seen["asked"])}
    assert costs["user"]["status"] == 401
    assert len(costs["user"]["hashed"]) == 1
    assert len(costs["user"]["asked"]) == 8  # five reads, and a write where each of three is counted
    for kind, cost in costs.items():
        assert cost == costs["user"], kind


def _own(asked: list[str]) -> list[str]:
    """Leave out what the server asks by itself meanwhile: of the buckets of logins only logins ask."""
    return sorted(each for each in asked if any(word in each for word in ("KV_users", "attempts", "KV_addresses")))


async def test_a_flood_at_one_name_is_refused_without_a_hash(two: Two, network: str, name: str) -> None:
    """Of thirty guesses at once no more than three cost a hash."""
    answers = await asyncio.gather(*(two.log_in(name, WRONG, f"{network}::1") for _ in range(30)))
    assert sorted(answer.status_code for answer in answers) == [401] * 3 + [429] * 27
