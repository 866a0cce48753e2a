"""The client as a program uses it, against a real API server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from msgspec.structs import replace

from mayfly.client import ApiError, Client, InvalidCall, MemoryTokens, NotLoggedIn, Spec
from tests.integration.cli.command import PASSWORD
from tests.support.answering import AnsweringWorker
from tests.support.api import ApiServer

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def tokens() -> MemoryTokens:
    """Where the client keeps its tokens."""
    return MemoryTokens()


@pytest_asyncio.fixture(loop_scope="session")
async def client(api: ApiServer, worker: AnsweringWorker, name: str, tokens: MemoryTokens) -> AsyncIterator[Client]:
    """A client that has logged in and has a function `echo`."""
    async with Client(api.url, ca_file=api.certificates.ca_file, tokens=tokens) as one:
        await one.register(name, PASSWORD)
        await one.log_in(name, PASSWORD)
        await one.create_function("echo", Spec(image="registry.example/echo:1"))
        yield one


def strings(count: int) -> list[str]:
    """Random texts of all planes of Unicode, of lengths from 0 to 5000; no lone surrogates."""
    chance = random.Random(4)  # noqa: S311 - the same texts each time
    planes = [(0x00, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
    return [
        "".join(chr(chance.randrange(*chance.choice(planes))) for _ in range(chance.choice([0, 1, 7, 100, 5000])))
        for _ in range(count)
    ]


@pytest.mark.F7
@pytest.mark.F8
async def test_strings_come_back_as_they_were_sent(client: Client) -> None:
    """200 random texts, and each kind of line ending, come back character for character."""
    for text in (*strings(200), "\r\n", "\n", "\r", "\0", "\ufeff", " "):
        assert (await client.invoke("echo", text)).text == text


@pytest.mark.F7
@pytest.mark.parametrize("text", ["\ud800", "abc\udfff", "\ud83d-\ude00"])
async def test_lone_surrogates_are_refused(client: Client, worker: AnsweringWorker, text: str) -> None:
    """A string that is no text is refused with where and why, and nothing is sent."""
    before = len(worker.claimed)

    with pytest.raises(InvalidCall, match="lone surrogate") as caught:
        await client.invoke("echo", text)

    assert caught.value.ran == "no"
    assert len(worker.claimed) == before


@pytest.mark.F13
async def test_many_calls_at_once_share_one_client(client: Client) -> None:
    """Calls run side by side on one client; those over the limit carry scope, limit and when to come back."""
    ended = await asyncio.gather(*(client.invoke("echo", str(n)) for n in range(40)), return_exceptions=True)

    refused = [each for each in ended if isinstance(each, ApiError)]
    assert all(each.code == "concurrency-limit" for each in refused)
    assert all(each.members["scope"] == "user" and each.members["limit"] == 4 for each in refused)
    assert all(each.retry_after_s and each.ran == "no" and each.status == 429 for each in refused)
    assert len(refused) < 40
    assert not [each for each in ended if isinstance(each, BaseException) and not isinstance(each, ApiError)]


@pytest.mark.F3
async def test_calls_at_once_renew_the_token_once(client: Client, tokens: MemoryTokens) -> None:
    """Twenty calls that find a stale token do not use the refresh token twice, which would end the login."""
    kept = await tokens.current()
    assert kept
    await tokens.keep(replace(kept, fresh_until=0.0))

    await asyncio.gather(*(client.me() for _ in range(20)))

    assert (await client.me()).id
    assert await tokens.current() != kept


@pytest.mark.F4
async def test_a_function_is_replaced_only_as_it_was_read(client: Client) -> None:
    """With the ETag that was read, a change on top of somebody else's is refused; lists come in pages."""
    read = await client.function("echo")
    await client.replace_function("echo", replace(read.spec, env={"A": "1"}), if_match=read.etag)

    with pytest.raises(ApiError) as caught:
        await client.replace_function("echo", read.spec, if_match=read.etag)

    assert caught.value.code == "precondition-failed"
    assert [function.env async for function in client.functions()] == [{"A": "1"}]


@pytest.mark.F3
async def test_after_logout_there_is_nothing_to_call_with(client: Client) -> None:
    """Logging out forgets the tokens, and the next call says so without asking the API."""
    await client.log_out()

    with pytest.raises(NotLoggedIn):
        await client.me()


@pytest.mark.F2
async def test_an_account_can_be_deleted(client: Client, api: ApiServer, name: str) -> None:
    """After `delete_me` the name can be registered again."""
    await client.delete_me()

    assert (await client.register(name, PASSWORD)).username == name


async def test_lists_go_on_over_pages(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """All functions and activations are listed, however few a page holds."""
    monkeypatch.setattr("mayfly.client.client.PAGE", 2)
    for number in range(4):
        await client.create_function(f"f{number}", Spec(image="registry.example/echo:1"))
        await client.invoke("echo", str(number))

    assert [function.name async for function in client.functions()] == ["echo", "f0", "f1", "f2", "f3"]
    assert len([activation async for activation in client.activations()]) == 4
