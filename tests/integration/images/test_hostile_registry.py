"""
Registries that attack whoever pulls: by redirects, tokens, names, layers kept elsewhere, and answers without an end.

Here 127.0.0.0/8 and ::1 play the operator's network: the hostile registry, at a port of 127.0.0.1, is listed, and a
private service at another port of them is not. What it counts is what the attack achieved. Rows: F6.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mayfly.domain.errors import ImageUnavailable
from mayfly.domain.ids import UserId, new_id
from mayfly.images.policy import RegistryPolicy
from mayfly.images.reference import parse_reference
from mayfly.images.store import ImageStore
from tests.support.docker_certificates import make_certificates
from tests.support.hostile_registry import HostileRegistry, PrivateService, Rule, raw, realm, redirect

pytestmark = [pytest.mark.F6, pytest.mark.root]

OWNER = UserId(new_id())
MIB = 1 << 20
NAMES = {"evil.example": ["127.0.0.1"], "private.example": ["127.0.0.2"], "both.example": ["8.8.8.8", "127.0.0.2"]}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """A resolver that knows some names more: each has its addresses, or a list of them for each time it is asked."""
    known: dict[str, list[Any]] = {name: list(addresses) for name, addresses in NAMES.items()}
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *arguments: Any, **options: Any) -> list[Any]:
        if host not in known:
            return list(real(host, port, *arguments, **options))
        addresses = known[host]
        if isinstance(addresses[0], list):
            addresses = addresses.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


@pytest.fixture
def private() -> Iterator[PrivateService]:
    """The private service."""
    with PrivateService(["127.0.0.2", "127.0.0.1", "::1"]) as service:
        yield service


@pytest.fixture
async def evil(tmp_path: Path) -> AsyncIterator[HostileRegistry]:
    """The hostile registry."""
    async with HostileRegistry(tmp_path / "layout") as registry:
        yield registry


@asynccontextmanager
async def a_store(directory: Path, *listed: str, **settings: Any) -> AsyncIterator[ImageStore]:
    """Make a store that may ask what is listed, also without TLS."""
    policy = RegistryPolicy(private=listed, plain_http=settings.pop("plain_http", listed))
    async with ImageStore(directory=directory / "images", policy=policy, **settings) as store:
        yield store


async def refused(directory: Path, reference: str, *listed: str, **settings: Any) -> str:
    """Pull, which must fail as image-unavailable and leave nothing behind; return the words."""
    async with a_store(directory, *listed, **settings) as store:
        with pytest.raises(ImageUnavailable) as caught:
            await store.resolve(parse_reference(reference), owner=OWNER)
        assert store.list() == []
    left = [path for kind in ("trees", "pulls") for path in (directory / "images" / kind).iterdir()]
    assert left == []
    return caught.value.detail


PLACES = (  # where a registry leads, and what is said of it; {} is the private service's port
    ("http://127.0.0.2:{}/", "leads to this machine's own loopback"),
    ("https://127.0.0.1:{}/", "leads to this machine's own loopback"),
    ("http://localhost:{}/", "leads to this machine's own loopback"),
    ("http://[::1]:{}/", "leads to this machine's own loopback"),
    ("http://[::ffff:127.0.0.2]:{}/", "leads to this machine's own loopback"),
    ("https://2130706434:{}/", "at a private address"),
    ("https://0x7f.0.0.2:{}/", "at a private address"),
    ("https://0177.0.0.2:{}/", "at a private address"),
    ("https://0.0.0.0:{}/", "at a private address"),
    ("https://LOCALHOST:{}/", "at a private address"),
    ("https://private.example:{}/", "at a private address"),
    ("https://both.example:{}/", "at a private address"),
    ("http://both.example:{}/", "with TLS only"),
    ("http://private.example:{}/", "with TLS only"),
    ("https://user:word@private.example:{}/", "at a private address"),
)


@pytest.mark.parametrize(("place", "words"), PLACES)
async def test_a_blob_elsewhere(
    evil: HostileRegistry, private: PrivateService, names: object, tmp_path: Path, place: str, words: str
) -> None:
    """A registry that redirects a blob to a private address gets nobody there, however the address is written."""
    evil.rule = redirect("/blobs/", place.format(private.port))

    assert words in await refused(tmp_path, f"{evil.url}/x:1", evil.url)
    assert private.connections == 0


def led_to_manifest(place: str) -> Rule:
    """Redirect the manifest."""
    return redirect("/manifests/", place)


def led_to_ping(place: str) -> Rule:
    """Redirect the first question of all."""
    return redirect("/v2/", place)


@pytest.mark.parametrize("attack", [led_to_manifest, led_to_ping, realm], ids=["manifest", "ping", "token"])
@pytest.mark.parametrize("place", ["http://127.0.0.2:{}/", "https://private.example:{}/"])
async def test_anything_else_elsewhere(
    evil: HostileRegistry, private: PrivateService, names: object, tmp_path: Path, attack: Any, place: str
) -> None:
    """Neither a manifest, nor the first question, nor the server that gives tokens may be at a private address."""
    evil.rule = attack(place.format(private.port))

    words = await refused(tmp_path, f"{evil.url}/x:1", evil.url)

    assert "own loopback" in words or "at a private address" in words
    assert private.connections == 0


@pytest.mark.parametrize(
    ("kind", "place"), [("docker", "http://127.0.0.2:{}/"), ("oci", "https://private.example:{}/")]
)
async def test_a_layer_that_is_kept_elsewhere(
    evil: HostileRegistry, private: PrivateService, names: object, tmp_path: Path, kind: str, place: str
) -> None:
    """The `urls` of a layer in a manifest lead to no private address."""

    def change(manifest: dict[str, Any]) -> None:
        layer = manifest["layers"][0]
        layer["urls"] = [place.format(private.port)]
        if kind == "docker":
            manifest["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json"
            manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
            layer["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        else:
            layer["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"

    evil.change_manifest(change)

    assert "keeps layers at other addresses" in await refused(tmp_path, f"{evil.url}/x:1", evil.url)
    assert private.connections == 0


async def test_a_name_that_changes_its_meaning(
    evil: HostileRegistry, private: PrivateService, names: dict[str, list[Any]], tmp_path: Path
) -> None:
    """A registry whose name is public when it is judged and private when it is asked is refused at the second look."""
    names["rebind.example"] = [["8.8.8.8"], ["127.0.0.2"], ["127.0.0.2"], ["127.0.0.2"]]

    words = await refused(tmp_path, f"rebind.example:{private.port}/x:1", evil.url)

    assert "at a private address" in words
    assert private.connections == 0
    assert len(names["rebind.example"]) < 3


@pytest.mark.parametrize(
    "place",
    [
        "file:///etc/passwd",
        "unix:///run/docker.sock",
        "http+unix://%2Frun%2Fdocker.sock/",
        "ftp://127.0.0.2:{}/",
        "gopher://127.0.0.2:{}/",
        "docker://127.0.0.2:{}/x",
        "//127.0.0.2:{}/",
        "http://",
        "http://127.0.0.2:{}\t/",
        "http://private.example:{}%2f@evil.example/",
    ],
)
async def test_other_schemes_lead_nowhere(
    evil: HostileRegistry, private: PrivateService, names: object, tmp_path: Path, place: str
) -> None:
    """A redirect to a file, a socket or another protocol is an image that cannot be had."""
    evil.rule = redirect("/blobs/", place.format(private.port))

    await refused(tmp_path, f"{evil.url}/x:1", evil.url)
    assert private.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example"], ids=["relayed", "by proxy"])
async def test_a_redirect_to_itself_ends(evil: HostileRegistry, names: object, tmp_path: Path, host: str) -> None:
    """Who is sent round in a circle gives up after ten turns."""
    url = f"{host}:{evil.port}"
    evil.rule = redirect("/manifests/", "/v2/x/manifests/again")

    assert "stopped after 10 redirects" in await refused(tmp_path, f"{url}/x:1", url)
    assert len(evil.asked) < 30


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n"


def forever(chunk: bytes) -> Iterator[bytes]:
    """A head, and a chunk without an end."""
    yield HEAD
    while True:
        yield chunk


def in_drops() -> Iterator[bytes]:
    """A body that comes by the byte."""
    yield HEAD + b"Content-Length: 1000000\r\n\r\n"
    while not threading.Event().wait(0.05):
        yield b" "


def without_end() -> Iterator[bytes]:
    """A body that fills the disk, or memory."""
    return forever(b"\r\n" + bytes(MIB))


def header_without_end() -> Iterator[bytes]:
    """A head that never ends."""
    return forever(b"X: " + b"x" * 8192 + b"\r\n")


def not_http() -> Iterator[bytes]:
    """Something else."""
    yield b"SSH-2.0-OpenSSH_9.2\r\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example"], ids=["relayed", "by proxy"])
@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
@pytest.mark.parametrize("chunks", [without_end, header_without_end, not_http])
async def test_an_answer_that_is_too_much(
    evil: HostileRegistry, names: object, tmp_path: Path, host: str, part: str, chunks: Any
) -> None:
    """An endless body or head, or none at all, ends as an image that cannot be had, long before the time-out."""
    url = f"{host}:{evil.port}"
    evil.rule = raw(part, chunks)

    assert "did not arrive" not in await refused(tmp_path, f"{url}/x:1", url, max_unpacked_bytes=8 * MIB)


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example"], ids=["relayed", "by proxy"])
async def test_an_answer_by_drops(evil: HostileRegistry, names: object, tmp_path: Path, host: str) -> None:
    """A registry that sends a byte now and then has as long as a pull may take, and no longer."""
    url = f"{host}:{evil.port}"
    evil.rule = raw("/manifests/", in_drops)

    assert "did not arrive within 1 s" in await refused(tmp_path, f"{url}/x:1", url, pull_timeout_s=1)


@pytest.mark.parametrize("name", ["127.0.0.1:{}", "LocalHost:{}", "evil.example:{}", "127.1:{}"])
async def test_an_honest_image(evil: HostileRegistry, names: object, tmp_path: Path, name: str) -> None:
    """The same registry with no rule broken is pulled from: through the relay of a loopback address, or by proxy."""
    url = name.format(evil.port)
    async with a_store(tmp_path, url) as store:
        image = await store.resolve(parse_reference(f"{url}/x:1"), owner=OWNER)

    assert image.config.cmd == ("/x",)


async def test_a_redirect_to_what_is_listed(evil: HostileRegistry, names: dict[str, list[Any]], tmp_path: Path) -> None:
    """Blobs may be at another registry that the operator lists, also at one without TLS if that is listed as such."""
    evil_url, names["blobs.example"] = f"evil.example:{evil.port}", ["127.0.0.1"]
    async with HostileRegistry(tmp_path / "blobs") as blobs:
        listed = f"blobs.example:{blobs.port}"
        evil.rule = lambda path: redirect("/blobs/", f"http://{listed}{path}")(path)
        async with a_store(tmp_path, evil_url, listed) as store:
            image = await store.resolve(parse_reference(f"{evil_url}/x:1"), owner=OWNER)

        assert image.config.cmd == ("/x",)
        assert any("/blobs/" in path for path in blobs.asked)


async def test_a_tunnel_for_tls(names: object, tmp_path: Path) -> None:
    """A registry with TLS is reached through the proxy, and its certificate is judged by skopeo, not by the proxy."""
    make_certificates(tmp_path)
    async with HostileRegistry(tmp_path / "layout", certificates=tmp_path) as registry:
        url = f"evil.example:{registry.port}"
        assert "does not trust" in await refused(tmp_path, f"{url}/x:1", url, plain_http=())
        assert registry.asked == []
        async with a_store(tmp_path, url) as store:  # without checking, which is how no TLS is asked for
            image = await store.resolve(parse_reference(f"{url}/x:1"), owner=OWNER)

    assert image.config.cmd == ("/x",)
