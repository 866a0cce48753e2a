"""A registry that asks for a password: whose credentials are shown to it, where they are not, and to whom it helps."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mayfly.domain.errors import ImageUnavailable, QueueUnavailable, SecretUnavailable
from mayfly.domain.ids import UserId, new_id
from mayfly.domain.registry import OpenedCredentials
from mayfly.images import programs
from mayfly.images.login import login_file, path_of
from mayfly.images.policy import RegistryPolicy
from mayfly.images.reference import parse_reference
from mayfly.images.store import ImageStore
from tests.support.images import build_and_push
from tests.support.registry import HTPASSWD, HTPASSWD_PASSWORD, Registry

pytestmark = [pytest.mark.F4, pytest.mark.F6]

ANN, BOB = UserId(new_id()), UserId(new_id())
GOOD = OpenedCredentials(username="ann", password=HTPASSWD_PASSWORD)


@pytest.fixture
async def locked() -> AsyncIterator[Registry]:
    """A registry that has the image `app` and gives it to ann only."""
    async with Registry() as registry:
        await build_and_push(registry.url, "app")
        await registry.lock(HTPASSWD)
        yield registry


class Asked:
    """Finds credentials as a worker does, and remembers who was asked about."""

    def __init__(self, given: dict[tuple[UserId, str], OpenedCredentials | Exception]) -> None:
        self.given = given
        self.about: list[tuple[UserId, str]] = []

    async def __call__(self, owner: UserId, host: str) -> OpenedCredentials | None:
        """Find them."""
        self.about.append((owner, host))
        found = self.given.get((owner, host))
        if isinstance(found, Exception):
            raise found
        return found


SENT = base64.b64encode(f"ann:{HTPASSWD_PASSWORD}".encode())
"""How a password is sent."""


def a_store(registry: Registry, directory: Path, **settings: Any) -> ImageStore:
    """A store that may ask that registry."""
    policy = RegistryPolicy(private=(registry.url,), plain_http=(registry.url,))
    return ImageStore(directory=directory, policy=policy, **settings)


def open_files() -> set[str]:
    """This process's descriptors."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All words of all commands that are run, and of their environments."""
    words: list[str] = []
    create = asyncio.create_subprocess_exec

    async def noted(*argv: str, **options: Any) -> asyncio.subprocess.Process:
        words.extend((*argv, *options.get("env", {}).values()))
        return await create(*argv, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    return words


async def test_ones_own_credentials_open_ones_own_image(locked: Registry, tmp_path: Path, commands: list[str]) -> None:
    """
    Ann's image is fetched with her password, which is on no command line, in no environment and on no disk, and no
    descriptor of it stays; bob, who has none, is refused by the registry, though the image is in the cache.
    """
    find = Asked({(ANN, locked.url): GOOD})
    reference = parse_reference(f"{locked.url}/app:1")
    before = open_files()
    async with a_store(locked, tmp_path / "images", credentials=find) as store:
        image = await store.resolve(reference, owner=ANN)
        for theirs in (reference, reference.pinned(image.digest)):
            with pytest.raises(ImageUnavailable, match=r"mayfly registries set HOST USERNAME"):
                await store.resolve(theirs, owner=BOB)
        with pytest.raises(ImageUnavailable):
            await store.prepare(reference, image.digest, owner=BOB)
        assert (await store.prepare(reference, image.digest, owner=ANN)).digest == image.digest

    assert set(find.about) == {(ANN, locked.url), (BOB, locked.url)}
    pair = base64.b64encode(f"ann:{HTPASSWD_PASSWORD}".encode()).decode()
    assert len(commands) > 20
    assert not [word for word in commands if HTPASSWD_PASSWORD in word or pair in word]
    for path in (tmp_path / "images").rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert pair.encode() not in path.read_bytes(), path
    assert open_files() <= before


async def test_a_wrong_password_is_told_without_it(locked: Registry, tmp_path: Path) -> None:
    """The refusal has the registry's words, not the password; nothing is left."""
    wrong = OpenedCredentials(username="ann", password="not-her-password")
    async with a_store(locked, tmp_path / "images", credentials=Asked({(ANN, locked.url): wrong})) as store:
        with pytest.raises(ImageUnavailable, match=r"(?i)unauthorized|authentication required") as refused:
            await store.resolve(parse_reference(f"{locked.url}/app:1"), owner=ANN)

    assert "not-her-password" not in refused.value.detail
    assert not list((tmp_path / "images" / "pulls").iterdir())


async def test_the_operators_file_is_for_all_who_have_none(locked: Registry, tmp_path: Path) -> None:
    """Bob is let in by it; ann's own go before it, also when they are wrong."""
    pair = base64.b64encode(f"ann:{HTPASSWD_PASSWORD}".encode()).decode()
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {locked.url: {"auth": pair}}}))
    find = Asked({(ANN, locked.url): OpenedCredentials(username="ann", password="old")})
    async with a_store(locked, tmp_path / "images", credentials=find, auth_file=file) as store:
        assert await store.resolve(parse_reference(f"{locked.url}/app:1"), owner=BOB)
        with pytest.raises(ImageUnavailable):
            await store.resolve(parse_reference(f"{locked.url}/app:1"), owner=ANN)


@asynccontextmanager
async def answering(answer: Callable[[bytes], bytes]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that hears one request on each connection; its port, and the heads of all requests."""
    heads: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            if (first := await reader.readexactly(1)) == b"G":  # and not the beginning of TLS, which is tried first
                heads.append(first + await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer(heads[-1]) + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], heads


def asking(_: bytes) -> bytes:
    """Ask for a password."""
    return b"HTTP/1.1 401 Unauthorized\r\nWww-Authenticate: Basic realm=x\r\n"


async def looked_at(registry: str, work: Path) -> None:
    """Look at an image that is not there, with credentials for its registry."""
    with login_file(registry, GOOD) as descriptor:
        options = ["--tls-verify=false", f"--authfile={path_of(descriptor)}"]
        with pytest.raises(ImageUnavailable):
            await programs.skopeo(
                "inspect", "--raw", *options, f"docker://{registry}/app:1", work=work, kept=(descriptor,)
            )


async def test_credentials_are_shown_to_their_own_host_only(tmp_path: Path) -> None:
    """A registry that sends its visitors elsewhere does not send them with the password; it itself is shown it."""
    async with answering(asking) as (elsewhere, heard):

        def redirecting(head: bytes) -> bytes:
            if SENT not in head:
                return asking(head)
            return f"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://localhost:{elsewhere}/v2/x\r\n".encode()

        async with answering(redirecting) as (port, shown):
            await looked_at(f"127.0.0.1:{port}", tmp_path)

    assert [head for head in shown if SENT in head]
    assert heard
    assert not [head for head in heard if SENT in head or HTPASSWD_PASSWORD.encode() in head]


@pytest.mark.parametrize("error", [SecretUnavailable("cannot be opened"), QueueUnavailable()])
async def test_credentials_that_cannot_be_had_stop_the_pull(
    locked: Registry, tmp_path: Path, error: Exception, commands: list[str]
) -> None:
    """It is not tried without them, or with the operator's: that would be a pull as somebody else."""
    find = Asked({(ANN, locked.url): error})
    async with a_store(locked, tmp_path / "images", credentials=find) as store:
        with pytest.raises(type(error)):
            await store.resolve(parse_reference(f"{locked.url}/app:1"), owner=ANN)
    assert "skopeo" not in commands
    assert not list((tmp_path / "images" / "pulls").iterdir())
