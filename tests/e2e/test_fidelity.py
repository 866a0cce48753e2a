"""Fidelity: whatever text goes in comes back byte for byte, by curl and by the client, in every way of delivery."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from mayfly.client import Client, FixedToken
from tests.e2e.conftest import Shell
from tests.support.up import Up

pytestmark = [pytest.mark.F7, pytest.mark.F8]

SEED = 20261124
EDGES = [
    "",
    "x",
    "\n",
    "\r\n",
    "no final newline",
    "final newline\n",
    " leading and trailing ",
    "\ufeffbyte order mark",
    "\t\v\f\x1b[31m\x7f",
    "e\u0301 é ﬀ ß ı İ",
    "\u202eright to left\u202c אבג",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\U0010ffff\ue000",
    "' \" ` $HOME $(id) ; | & > < * ? ~ \\ !",
    "%s %n %00 +&=",
    "x" * 65_536,
    "é" * 32_768,
]
LARGE = ["x" * 1_048_576, "😀" * 262_144, ("line\r\n" * 174_763)[:1_048_576]]
WAYS = {"stdin": "cat", "argument": 'printf %s "$1"', "environment": 'printf %s "$MAYFLY_PARAMETER"'}


def parameters(count: int, *, nul: bool, most: int) -> list[str]:
    """Make texts of every kind of character and many lengths, always the same ones."""
    dice = random.Random(SEED)  # noqa: S311 - the same texts each time
    ranges = [(0x20, 0x7E), (0, 0x1F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]

    def text() -> str:
        length = dice.choice([1, 2, 3, 10, 100, 1000])
        kinds = dice.sample(ranges, dice.randint(1, 3))
        characters = (chr(dice.randint(*dice.choice(kinds))) for _ in range(length))
        return "".join(c for c in characters if nul or c != "\0")

    made = [*EDGES, *(LARGE if most > 131_000 else []), *(text() for _ in range(count))]
    return [one for one in made if len(one.encode()) <= most]


@pytest.mark.parametrize("way", WAYS)
async def test_parameters_come_back_through_the_client(up: Up, shell: Shell, way: str) -> None:
    """Some 200 parameters a way of delivery, each equal to the result of a function that gives it back."""
    name = await shell.make(WAYS[way], parameter=way)
    texts = parameters(200, nul=way == "stdin", most=1_048_576 if way == "stdin" else 131_000)
    room = asyncio.Semaphore(8)
    token = shell.client.headers["Authorization"].removeprefix("Bearer ")

    async with Client(up.url, ca_file=up.ca_file, tokens=FixedToken(token)) as client:

        async def wrong(text: str) -> str | None:
            async with room:
                result = await client.invoke(name, text)
            return None if result.result == text.encode() else f"{text[:40]!r} -> {result.result[:40]!r}"

        wrongs = await asyncio.gather(*map(wrong, texts))

    assert len(texts) > 200
    assert [one for one in wrongs if one] == []


@pytest.mark.parametrize("way", WAYS)
async def test_parameters_come_back_through_curl(up: Up, shell: Shell, way: str, tmp_path: Path) -> None:
    """Some 200 parameters a way of delivery through curl, as a person would send them."""
    name = await shell.make(WAYS[way], parameter=way)
    texts = parameters(180, nul=way == "stdin", most=1_048_576 if way == "stdin" else 131_000)
    room = asyncio.Semaphore(4)

    async def wrong(number: int, text: str) -> str | None:
        body = tmp_path / f"{number}"
        body.write_bytes(text.encode())
        async with room:
            result = await curl(up, shell, name, body)
        return None if result == text.encode() else f"{text[:40]!r} -> {result[:40]!r}"

    wrongs = await asyncio.gather(*(wrong(number, text) for number, text in enumerate(texts)))

    assert [one for one in wrongs if one] == []


async def curl(up: Up, shell: Shell, name: str, body: Path) -> bytes:
    """Invoke by `curl --data-binary @FILE`, and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        "curl",
        "--silent",
        "--show-error",
        *("--cacert", str(up.ca_file)),
        *("--header", f"Authorization: {shell.client.headers['Authorization']}"),
        *("--data-binary", f"@{body}"),
        f"{up.url}/v1/functions/{name}/activations",
        stdout=asyncio.subprocess.PIPE,
    )
    return (await process.communicate())[0]


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_no_text_is_refused(shell: Shell, way: str) -> None:
    """Lone surrogates and other bytes that are not UTF-8 are 422 parameter-not-text, and nothing runs."""
    name = await shell.make(WAYS[way], parameter=way)

    for bytes_ in (b"\xed\xa0\x80", b"ok \xff", b"\xc3", b"\xf8\x88\x80\x80\x80"):
        answer = await shell.call(name, bytes_)
        assert (answer.status_code, answer.json()["code"], answer.json()["ran"]) == (422, "parameter-not-text", "no")


@pytest.mark.parametrize(("way", "most"), [("stdin", 1_048_576), ("argument", 131_000), ("environment", 131_000)])
async def test_one_byte_more_than_allowed_is_refused(shell: Shell, way: str, most: int) -> None:
    """The largest parameter passes; one byte more is 413, before anything is queued."""
    name = await shell.make(WAYS[way], parameter=way)

    largest = await shell.call(name, "y" * most)
    more = await shell.call(name, "y" * (most + 1))

    assert (largest.status_code, len(largest.content)) == (200, most)
    assert (more.status_code, more.json()["code"], more.json()["ran"]) == (413, "parameter-too-large", "no")


@pytest.mark.parametrize("way", ["argument", "environment"])
async def test_nul_cannot_be_an_argument(shell: Shell, way: str) -> None:
    """The kernel ends an argument at NUL, so such a parameter is refused rather than cut."""
    name = await shell.make(WAYS[way], parameter=way)

    answer = await shell.call(name, b"a\0b")

    assert (answer.status_code, answer.json()["code"]) == (422, "parameter-not-text")
