"""The image store, against a real registry: what is pulled, what is refused in which words, and who may run it."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from examples.oci import Image, write_layout
from mayfly.domain.errors import ImageUnavailable, InvalidRequest
from mayfly.domain.ids import Digest, UserId, new_id
from mayfly.images.policy import RegistryPolicy
from mayfly.images.reference import parse_reference
from mayfly.images.store import ImageStore
from mayfly.images.tree import remove
from tests.support.files import directories_below
from tests.support.images import build_and_push
from tests.support.registry import Registry

ALICE, BOB = UserId(new_id()), UserId(new_id())
MIB = 1 << 20


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    """A fresh registry."""
    async with Registry() as registry:
        yield registry


@pytest.fixture
async def store(registry: Registry, tmp_path: Path) -> AsyncIterator[ImageStore]:
    """A fresh store that may ask that registry."""
    async with a_store(registry.url, tmp_path / "images") as store:
        yield store


def a_store(registry: str, directory: Path, **settings: Any) -> ImageStore:
    """Make a store."""
    policy = RegistryPolicy(private=(registry,), plain_http=(registry,))
    return ImageStore(directory=directory, policy=policy, **settings)


def files_below(directory: Path) -> list[str]:
    """List what a store holds: trees, and anything half-done."""
    return sorted(
        str(path.relative_to(directory)) for kind in ("trees", "pulls") for path in (directory / kind).iterdir()
    )


@pytest.mark.F6
async def test_an_image_is_pulled_unpacked_and_pinned(registry: Registry, store: ImageStore) -> None:
    """The tree belongs to shifted ids, and user, groups, variables and directory are resolved against it."""
    reference = await build_and_push(
        registry.url, "app", user="app", workdir="/srv", entrypoint=["/bin/cat"], cmd=["-u"], env={"A": "1"}
    )

    image = await store.resolve(parse_reference(reference), owner=ALICE)

    config = image.config
    assert (config.uid, config.gid, config.groups, config.cwd) == (1234, 1234, (777,), "/srv")
    assert (config.entrypoint, config.cmd) == (("/bin/cat",), ("-u",))
    assert dict(config.env)["A"] == "1"
    assert dict(config.env)["HOME"] == "/home/app"
    assert (image.rootfs / "bin/busybox").stat().st_uid == 100_000
    assert (image.rootfs / "home/app").stat().st_uid == 101_234
    assert image.size_bytes > 1 * MIB


@pytest.mark.F6
async def test_a_tag_that_moves_leaves_the_pinned_image(registry: Registry, store: ImageStore) -> None:
    """What was pinned stays what it was; resolving the tag anew gives the new image."""
    reference = parse_reference(await build_and_push(registry.url, "app", files={"/version": "1"}))
    first = await store.resolve(reference, owner=ALICE)
    await build_and_push(registry.url, "app", files={"/version": "2"})

    pinned = await store.prepare(reference, first.digest, owner=ALICE)
    second = await store.resolve(reference, owner=ALICE)

    assert (pinned.rootfs / "version").read_text() == "1"
    assert (second.rootfs / "version").read_text() == "2"


@pytest.mark.F6
@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nothing-here:1", "manifest unknown"),
        ("app:nope", "manifest unknown"),
        ("app@sha256:" + "0" * 64, "manifest unknown"),
    ],
)
async def test_what_the_registry_does_not_have(
    registry: Registry, store: ImageStore, tmp_path: Path, reference: str, words: str
) -> None:
    """An unknown image, tag or digest is refused with the registry's own words, and nothing is left on disk."""
    await build_and_push(registry.url, "app")

    with pytest.raises(ImageUnavailable, match=words) as caught:
        await store.resolve(parse_reference(f"{registry.url}/{reference}"), owner=ALICE)

    assert str(tmp_path) not in caught.value.detail
    assert files_below(tmp_path / "images") == []


@pytest.mark.F6
async def test_a_registry_that_is_down(registry: Registry, store: ImageStore) -> None:
    """A registry that does not answer is told as the connection's failure."""
    reference = await build_and_push(registry.url, "app")
    await registry.stop()

    with pytest.raises(ImageUnavailable, match="connection refused"):
        await store.resolve(parse_reference(reference), owner=ALICE)


@pytest.mark.F6
async def test_an_image_for_another_architecture(registry: Registry, store: ImageStore, tmp_path: Path) -> None:
    """An image that cannot run here is refused, with both architectures, and nothing is left."""
    reference = await build_and_push(registry.url, "app", architecture="s390x")

    with pytest.raises(ImageUnavailable, match="linux/s390x; this platform runs linux/"):
        await store.resolve(parse_reference(reference), owner=ALICE)

    assert files_below(tmp_path / "images") == []


@pytest.mark.F6
async def test_an_image_over_the_cap(registry: Registry, tmp_path: Path) -> None:
    """An image whose layers alone are over the cap is refused before any is fetched."""
    reference = await build_and_push(registry.url, "large", files={"/random": os.urandom(3 * MIB)})

    async with a_store(registry.url, tmp_path / "images", max_unpacked_bytes=2 * MIB) as store:
        with pytest.raises(ImageUnavailable, match="larger than 2 MiB"):
            await store.resolve(parse_reference(reference), owner=ALICE)

    assert files_below(tmp_path / "images") == []


@pytest.mark.F6
async def test_a_decompression_bomb_is_stopped(registry: Registry, tmp_path: Path) -> None:
    """A layer that is small on the wire and large on disk is stopped at the cap, and nothing of it is left."""
    reference = await build_and_push(registry.url, "bomb", files={"/zeros": bytes(300 * MIB)})

    async with a_store(registry.url, tmp_path / "images", max_unpacked_bytes=20 * MIB) as store:
        with pytest.raises(ImageUnavailable, match="larger than 20 MiB"):
            await store.resolve(parse_reference(reference), owner=ALICE)

    assert files_below(tmp_path / "images") == []


@pytest.mark.F6
async def test_a_pull_that_takes_too_long(tmp_path: Path) -> None:
    """A registry that accepts the connection and says nothing is given up after the time allowed for a pull."""
    server = await asyncio.start_server(_say_nothing, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, a_store(host, tmp_path / "images", pull_timeout_s=1) as store:
        with pytest.raises(ImageUnavailable, match="did not arrive within 1 s"):
            await store.resolve(parse_reference(f"{host}/x"), owner=ALICE)
        server.close()

    assert files_below(tmp_path / "images") == []


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(4096):
        continue
    writer.close()
    await writer.wait_closed()


@pytest.mark.F4
async def test_each_owner_proves_access(registry: Registry, store: ImageStore) -> None:
    """A tree that one user pulled is run for another only after that user's own pull."""
    reference = parse_reference(await build_and_push(registry.url, "private"))
    image = await store.resolve(reference, owner=ALICE)
    await registry.stop()

    assert await store.prepare(reference, image.digest, owner=ALICE) == image
    with pytest.raises(ImageUnavailable):
        await store.prepare(reference, image.digest, owner=BOB)
    with pytest.raises(ImageUnavailable):
        await store.resolve(reference.pinned(image.digest), owner=BOB)

    await registry.start()
    assert await store.resolve(reference, owner=BOB) == image


@pytest.mark.F4
async def test_a_manifest_alone_proves_nothing(registry: Registry, tmp_path: Path) -> None:
    """
    A hostile registry that serves the manifest of another's private image, whose layers it never had, gains nothing.
    """
    reference = parse_reference(await build_and_push(registry.url, "private"))
    manifest = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"], check=True, capture_output=True
    ).stdout
    with a_registry_of_manifests(manifest) as evil:
        policy = RegistryPolicy(private=(registry.url, evil), plain_http=(registry.url, evil))
        async with ImageStore(directory=tmp_path / "images", policy=policy) as store:
            image = await store.resolve(reference, owner=ALICE)

            with pytest.raises(ImageUnavailable):
                await store.resolve(parse_reference(f"{evil}/x@{image.digest}"), owner=BOB)
            with pytest.raises(ImageUnavailable):
                await store.prepare(parse_reference(f"{evil}/x"), image.digest, owner=BOB)


@contextmanager
def a_registry_of_manifests(manifest: bytes) -> Iterator[str]:
    """A stand-in that is no real registry: it has one manifest under every name, and no blob."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.rstrip("/") == "/v2" or "/manifests/" in self.path
            body = manifest if "/manifests/" in self.path else b"{}"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", json.loads(manifest)["mediaType"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_fifty_who_want_the_same_pull_once(registry: Registry, store: ImageStore, tmp_path: Path) -> None:
    """Of 50 racing requests of one owner one pulls, and all have the same image."""
    reference = parse_reference(await build_and_push(registry.url, "app"))
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, sum(1 for _ in (tmp_path / "images" / "pulls").iterdir()))
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    digest = (await store.resolve(reference, owner=BOB)).digest
    images = await asyncio.gather(*(store.prepare(reference, digest, owner=ALICE) for _ in range(50)))
    watching.cancel()

    assert len({image.rootfs for image in images}) == 1
    assert most == 1


async def test_who_leaves_does_not_stop_the_others(registry: Registry, store: ImageStore) -> None:
    """Cancelling one of two who wait for the same pull leaves the other with the image."""
    reference = parse_reference(await build_and_push(registry.url, "app", files={"/f": bytes(40 * MIB)}))
    first = asyncio.create_task(store.resolve(reference, owner=ALICE))
    second = asyncio.create_task(store.resolve(reference, owner=ALICE))
    await asyncio.sleep(0.15)
    first.cancel()

    assert (await second).rootfs.is_dir()


async def test_a_store_that_closes_leaves_nothing_half_done(registry: Registry, tmp_path: Path) -> None:
    """Closing the store during a pull kills its children and removes what they wrote."""
    reference = parse_reference(await build_and_push(registry.url, "app", files={"/f": os.urandom(60 * MIB)}))
    async with a_store(registry.url, tmp_path / "images") as store:
        pulling = asyncio.create_task(store.resolve(reference, owner=ALICE))
        async with asyncio.timeout(10):
            while not any(directories_below(tmp_path / "images" / "pulls")):
                await asyncio.sleep(0.005)
        pulling.cancel()
        await asyncio.gather(pulling, return_exceptions=True)

    assert files_below(tmp_path / "images") == []


async def test_a_restart_finds_images_and_removes_leftovers(registry: Registry, tmp_path: Path) -> None:
    """A new process has what an earlier one pulled, with its owners, and removes what that one left half-done."""
    reference = parse_reference(await build_and_push(registry.url, "app"))
    async with a_store(registry.url, tmp_path / "images") as store:
        image = await store.resolve(reference, owner=ALICE)
    (tmp_path / "images" / "pulls" / "crashed").mkdir()
    await registry.stop()

    async with a_store(registry.url, tmp_path / "images") as store:
        assert await store.prepare(reference, image.digest, owner=ALICE) == image
        with pytest.raises(ImageUnavailable):
            await store.prepare(reference, image.digest, owner=BOB)

    assert list((tmp_path / "images" / "pulls").iterdir()) == []


async def test_the_longest_unused_goes_first(registry: Registry, tmp_path: Path) -> None:
    """With no room for a third image the longest unused one is removed, but never one in use."""
    references = [
        parse_reference(await build_and_push(registry.url, f"app{number}", files={"/f": os.urandom(4 * MIB)}))
        for number in range(3)
    ]
    async with a_store(registry.url, tmp_path / "images", cache_bytes=14 * MIB) as store:
        first = await store.resolve(references[0], owner=ALICE)
        second = await store.resolve(references[1], owner=ALICE)
        with store.lease(first.digest):
            third = await store.resolve(references[2], owner=ALICE)

            assert {image.digest for image in store.list()} == {first.digest, third.digest}
            assert not second.rootfs.exists()
        assert store.usage_bytes <= 14 * MIB


async def test_when_all_are_in_use_nothing_is_removed(registry: Registry, tmp_path: Path) -> None:
    """A full cache of images in use refuses the next one with a sentence."""
    first = parse_reference(await build_and_push(registry.url, "app1", files={"/f": os.urandom(4 * MIB)}))
    second = parse_reference(await build_and_push(registry.url, "app2", files={"/f": os.urandom(4 * MIB)}))
    async with a_store(registry.url, tmp_path / "images", cache_bytes=8 * MIB) as store:
        image = await store.resolve(first, owner=ALICE)
        with store.lease(image.digest), pytest.raises(ImageUnavailable, match="full of images in use"):
            await store.resolve(second, owner=ALICE)

        assert [one.digest for one in store.list()] == [image.digest]


async def test_an_imported_image_is_everybodys(registry: Registry, store: ImageStore, tmp_path: Path) -> None:
    """An archive becomes local/NAME, without a registry, for every user."""
    archive = an_archive(tmp_path, Image(cmd=("/bin/cat",)))

    digest = await store.import_image(str(archive), "cat:1")

    for owner in (ALICE, BOB):
        image = await store.resolve(parse_reference("local/cat:1"), owner=owner)
        assert (image.digest, image.config.cmd) == (digest, ("/bin/cat",))
    with pytest.raises(ImageUnavailable, match="no imported image 'other'"):
        await store.resolve(parse_reference("local/other"), owner=ALICE)


async def test_a_pulled_image_is_not_local(registry: Registry, store: ImageStore) -> None:
    """Naming another's digest under local/ gives nobody an image that was not imported."""
    image = await store.resolve(parse_reference(await build_and_push(registry.url, "private")), owner=ALICE)

    with pytest.raises(ImageUnavailable):
        await store.resolve(parse_reference(f"local/x@{image.digest}"), owner=BOB)
    with pytest.raises(ImageUnavailable):
        await store.prepare(parse_reference("local/x"), Digest(image.digest), owner=BOB)


@pytest.mark.parametrize("source", ["/nonexistent.tar", "--help", "docker://x", "/etc/passwd"])
async def test_an_import_takes_archives_only(store: ImageStore, source: str) -> None:
    """What is neither an archive nor the docker daemon is refused, before any program is started."""
    with pytest.raises(InvalidRequest, match=r"neither a file nor docker-daemon:REFERENCE|archive, as `docker save`"):
        await store.import_image(source, "x")


async def test_whiteouts_links_and_modes(registry: Registry, store: ImageStore) -> None:
    """Symbolic links stay as they are, and modes are kept."""
    link = tarfile.TarInfo("etc/link")
    link.type, link.linkname = tarfile.SYMTYPE, "../../../../etc/shadow"
    reference = await build_and_push(
        registry.url, "app", files={"/run.sh": "#!/bin/sh\n"}, modes={"/run.sh": 0o4755}, members=[link]
    )

    image = await store.resolve(parse_reference(reference), owner=ALICE)

    assert str((image.rootfs / "etc/link").readlink()) == "../../../../etc/shadow"
    assert (image.rootfs / "run.sh").stat().st_mode & 0o7777 == 0o4755


@pytest.mark.parametrize("path", ["../../../escaped", "/../../escaped"])
async def test_a_layer_cannot_write_outside_its_tree(
    registry: Registry, store: ImageStore, tmp_path: Path, path: str
) -> None:
    """An entry that points above the root ends up inside it, or the image is refused; nothing appears outside."""
    member = tarfile.TarInfo(path)
    reference = await build_and_push(registry.url, "evil", members=[member])
    try:
        image = await store.resolve(parse_reference(reference), owner=ALICE)
    except ImageUnavailable:
        pass
    else:
        assert (image.rootfs / "escaped").exists()

    outside = [found for found in tmp_path.rglob("escaped") if "rootfs" not in found.parts]
    assert outside == []
    assert not Path("/escaped").exists()


def an_archive(directory: Path, image: Image) -> Path:
    """Write an OCI archive, as `skopeo copy` or `docker save` would."""
    layout = directory / "layout"
    layout.mkdir()
    write_layout(image, layout)
    archive = directory / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(layout, arcname=".")
    return archive


async def test_directories_deeper_than_python_can_walk(registry: Registry, store: ImageStore, tmp_path: Path) -> None:
    """A tree nested 1,050 directories deep is unpacked or refused, and the store opens again afterwards."""
    member = tarfile.TarInfo("/".join(["d"] * 1050))
    member.type = tarfile.DIRTYPE
    reference = await build_and_push(registry.url, "deep", members=[member])
    try:
        await store.resolve(parse_reference(reference), owner=ALICE)
    except ImageUnavailable:
        assert files_below(tmp_path / "images") == []

    async with a_store(registry.url, tmp_path / "images") as again:
        assert isinstance(again.usage_bytes, int)
    remove(tmp_path / "images")  # pytest could not


@pytest.mark.parametrize("path", ["etc/passwd", "etc/group"])
async def test_an_image_cannot_read_this_machines_users(registry: Registry, store: ImageStore, path: str) -> None:
    """An /etc/passwd that is a link to this machine's resolves no user of this machine's."""
    link = tarfile.TarInfo(path)
    link.type, link.linkname = tarfile.SYMTYPE, f"/{path}"
    reference = await build_and_push(registry.url, "linked", members=[link], user="daemon", busybox=False)

    with pytest.raises(ImageUnavailable):
        await store.resolve(parse_reference(reference), owner=ALICE)


async def test_a_manifest_that_lies_about_sizes(registry: Registry, tmp_path: Path) -> None:
    """A layer said to be small is watched while it arrives, and cut off at the cap."""
    reference = await build_and_push(registry.url, "app", files={"/random": os.urandom(1 << 20)})
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"], check=True, capture_output=True
    ).stdout
    manifest = json.loads(raw)
    manifest["layers"][0]["size"] = 10
    with a_hostile_registry(json.dumps(manifest).encode(), blob_mib=400) as evil:
        async with a_store(evil, tmp_path / "images", max_unpacked_bytes=20 * MIB) as store:
            with pytest.raises(ImageUnavailable):
                await store.resolve(parse_reference(f"{evil}/x:1"), owner=ALICE)

    assert files_below(tmp_path / "images") == []


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"null",
        b'{"manifests": 1}',
        b'{"manifests": [1]}',
        b'{"manifests": []}',
        b'{"manifests": [{"platform": {"os": "linux", "architecture": "amd64"}, "digest": "../../etc"}]}',
        b'{"schemaVersion": 2, "layers": "x", "config": {}}',
        b'{"schemaVersion": 2, "layers": [{"size": "1"}], "config": {}}',
        b'{"schemaVersion": 2, "layers": [{"digest": "x", "size": 1}], "config": {"digest": "x", "size": 1}}',
        b'{"schemaVersion": 1, "signatures": []}',
        b"[" * 100_000,
    ],
)
async def test_what_is_no_manifest_is_refused(tmp_path: Path, manifest: bytes) -> None:
    """Whatever a hostile registry sends for a manifest, the answer is image-unavailable."""
    with a_hostile_registry(manifest) as evil:
        async with a_store(evil, tmp_path / "images") as store:
            with pytest.raises(ImageUnavailable):
                await store.resolve(parse_reference(f"{evil}/x:1"), owner=ALICE)


@contextmanager
def a_hostile_registry(manifest: bytes, *, blob_mib: int = 0) -> Iterator[str]:
    """A stand-in that is no real registry: one manifest under every name, and every blob as large as one likes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if "/blobs/" in self.path and not blob_mib else 200)
            self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
            self.end_headers()
            try:
                if "/manifests/" in self.path:
                    self.wfile.write(manifest)
                for _ in range(blob_mib if "/blobs/" in self.path else 0):
                    self.wfile.write(os.urandom(MIB))
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_another_process_leaves_a_running_pull_alone(registry: Registry, tmp_path: Path) -> None:
    """Opening the store elsewhere, as `mayfly images list` does, removes nothing that a living pull works on."""
    reference = parse_reference(await build_and_push(registry.url, "app", files={"/f": os.urandom(40 * MIB)}))
    async with a_store(registry.url, tmp_path / "images") as store:
        pulling = asyncio.create_task(store.resolve(reference, owner=ALICE))
        async with asyncio.timeout(10):
            while not any(path.name == "blobs" for path in directories_below(tmp_path / "images" / "pulls")):
                await asyncio.sleep(0.005)
        async with a_store(registry.url, tmp_path / "images", may_evict=False):
            pass

        assert (await pulling).rootfs.is_dir()


async def test_a_tree_that_cannot_be_read_is_pulled_anew(registry: Registry, tmp_path: Path) -> None:
    """An image.json cut short, as by a power failure, costs a pull and not the worker's start."""
    reference = parse_reference(await build_and_push(registry.url, "app"))
    async with a_store(registry.url, tmp_path / "images") as store:
        image = await store.resolve(reference, owner=ALICE)
    (image.rootfs.parent / "image.json").write_bytes(b"")

    async with a_store(registry.url, tmp_path / "images") as store:
        assert store.list() == []
        assert (await store.resolve(reference, owner=ALICE)).digest == image.digest


async def test_an_imported_image_is_not_evicted(registry: Registry, tmp_path: Path) -> None:
    """What no registry can bring back is not removed to make room."""
    archive = an_archive(tmp_path, Image(files={"/f": os.urandom(4 * MIB)}, cmd=("/bin/cat",)))
    reference = parse_reference(await build_and_push(registry.url, "app", files={"/f": os.urandom(4 * MIB)}))
    async with a_store(registry.url, tmp_path / "images", cache_bytes=9 * MIB) as store:
        digest = await store.import_image(str(archive), "cat")
        with pytest.raises(ImageUnavailable, match="cache is full"):
            await store.resolve(reference, owner=ALICE)

        assert [image.digest for image in store.list()] == [digest]
