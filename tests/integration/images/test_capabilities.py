"""
What a worker whose containers a Docker daemon runs may do: pull, unpack, hand over and evict images, and no more.

Each process here is started by setpriv with the capabilities that deploy/kubernetes gives such a worker, in its
bounding set, as a container has them. Rows: A5, D7.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.images import build_and_push
from tests.support.kubernetes import KUBERNETES
from tests.support.need import need
from tests.support.registry import Registry

pytestmark = [pytest.mark.A5, pytest.mark.root]

ROOT = Path(__file__).resolve().parents[3]
COMPONENTS = ("docker-socket", "remote-docker")
BIG = 8 << 20
WORKER = """
import asyncio, io, json, sys, tarfile
from pathlib import Path

from mayfly.containers.docker.rootfs import write_tar
from mayfly.domain.errors import ImageUnavailable
from mayfly.domain.ids import UserId, new_id
from mayfly.images.policy import RegistryPolicy
from mayfly.images.reference import parse_reference
from mayfly.images.store import ImageStore


async def main(directory, registry, first, second, cache_bytes):
    policy = RegistryPolicy(private=(registry,), plain_http=(registry,))
    owner = UserId(new_id())
    async with ImageStore(directory=Path(directory), policy=policy, cache_bytes=int(cache_bytes)) as store:
        image = await store.resolve(parse_reference(first), owner=owner)
        tar = io.BytesIO()
        write_tar(image.rootfs, b"the init", tar)
        tar.seek(0)
        members = {member.name.removeprefix("./"): member for member in tarfile.open(fileobj=tar)}
        said = {name: [member.uid, member.gid, member.mode] for name, member in members.items()}
        await store.resolve(parse_reference(second), owner=owner)
        print(json.dumps({"members": said, "evicted": not image.rootfs.exists()}))


try:
    asyncio.run(main(*sys.argv[1:]))
except ImageUnavailable as error:
    sys.exit(error.detail)
"""


def added(component: str) -> set[str]:
    """The capabilities that a component gives the worker."""
    patch = yaml.safe_load((KUBERNETES / "components" / component / "worker.yaml").read_text(encoding="utf-8"))
    (context,) = (each["value"] for each in patch if each["path"].endswith("/securityContext"))
    assert context["capabilities"]["drop"] == ["ALL"]
    return set(context["capabilities"].get("add", ()))


def member(name: str, kind: bytes = tarfile.REGTYPE, *, mode: int, owner: int = 0, **more: Any) -> tarfile.TarInfo:
    """A file of an image."""
    made = tarfile.TarInfo(name)
    made.type, made.mode, made.uid, made.gid = kind, mode, owner, owner
    for key, value in more.items():
        setattr(made, key, value)
    return made


NET_RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0).decode("utf-8", "surrogateescape")
MEMBERS = (  # what needs one capability or another: of other users, closed to everybody, with capabilities of its own
    member("srv", tarfile.DIRTYPE, mode=0o755),
    member("srv/private", tarfile.DIRTYPE, mode=0o700, owner=1234),
    member("srv/private/note", mode=0o600, owner=1234),
    member("srv/private/again", tarfile.LNKTYPE, mode=0o600, owner=1234, linkname="srv/private/note"),
    member("srv/closed", tarfile.DIRTYPE, mode=0, owner=55),
    member("srv/closed/file", mode=0, owner=55),
    member("srv/set-user-id", mode=0o4755),
    member("srv/link", tarfile.SYMTYPE, mode=0o777, owner=1234, linkname="private"),
    member("srv/ping", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": NET_RAW}),
)


async def unpack(directory: Path, capabilities: Collection[str]) -> subprocess.CompletedProcess[str]:
    """Pull an image as a worker with some capabilities, write its tar, and pull another for which it has to go."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("setpriv"), "setpriv")
    bounding = ",".join(["-all", *(f"+{name.lower()}" for name in sorted(capabilities))])
    async with Registry() as registry:
        images = [
            await build_and_push(registry.url, name, files={"/big": name.encode() * BIG}, members=MEMBERS)
            for name in ("a", "b")
        ]
        arguments = [str(directory), registry.url, *images, str(BIG * 3 // 2 + (4 << 20))]
        return await asyncio.to_thread(
            subprocess.run,
            ["setpriv", "--no-new-privs", f"--bounding-set={bounding}", "--", sys.executable, "-c", WORKER, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": f"{ROOT / 'src'}:{':'.join(sys.path)}", "PATH": os.environ["PATH"]},
        )


@pytest.mark.parametrize("component", COMPONENTS)
async def test_a_worker_of_a_docker_daemon_can_bring_any_image(component: str, tmp_path: Path) -> None:
    """With what the component adds it unpacks whatever files an image has, writes all of them as tar, and evicts."""
    ended = await unpack(tmp_path / "images", added(component))

    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    assert {name: said["members"][name] for name in ("srv/private/note", "srv/closed/file", "srv/set-user-id")} == {
        "srv/private/note": [1234, 1234, 0o600],
        "srv/closed/file": [55, 55, 0],
        "srv/set-user-id": [0, 0, 0o4755],
    }
    assert said["members"].keys() >= {each.name for each in MEMBERS}
    assert said["evicted"] is True


@pytest.mark.parametrize("name", sorted(added(COMPONENTS[0])))
async def test_each_capability_of_such_a_worker_is_needed(name: str, tmp_path: Path) -> None:
    """Without any one of them the image cannot be had: so the set is the smallest, and the test above can fail."""
    ended = await unpack(tmp_path / "images", added(COMPONENTS[0]) - {name})

    assert ended.returncode == 1
    assert "Could not unpack the image" in ended.stderr


async def test_without_capabilities_no_image_can_be_unpacked(tmp_path: Path) -> None:
    """Not even the root of one: its files are to belong to others than root."""
    ended = await unpack(tmp_path / "images", ())

    assert ended.returncode == 1
    assert "chown rootfs" in ended.stderr
