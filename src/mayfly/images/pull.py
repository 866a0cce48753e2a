"""
Fetching and unpacking one image: skopeo copies it into an OCI layout, umoci unpacks that into one flat tree.

Each pull has a directory of its own that is gone afterwards, whatever happens; its children die with it. Everything
the registry says in refusal is passed on in its own words.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import re
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from mayfly.domain.errors import ImageUnavailable
from mayfly.domain.ids import Digest
from mayfly.domain.image import ProcessConfig

log = structlog.get_logger()

UID_SHIFT = 100_000
UID_COUNT = 65_536
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
WATCH_EVERY_S = 0.2
WORDS_MAX_CHARACTERS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """A freshly unpacked image; its tree is still in the pull's directory."""

    digest: Digest
    rootfs: Path
    config: ProcessConfig
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What skopeo copies from."""

    name: str  # as skopeo says it, such as docker://host/path:tag
    plain_http: bool = False
    auth_file: Path | None = None


def machine_architecture() -> str:
    """This machine's architecture, by the name that images use."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


async def inspect(source: Source) -> tuple[Digest, dict[str, Any]]:
    """
    Ask the registry for the manifest of this machine's platform: its digest, and the manifest.

    Raises: ImageUnavailable.
    """
    raw = await _skopeo("inspect", "--raw", *access(source), source.name)
    manifest = _json(raw)
    if "manifests" in manifest:
        digest = _of_this_platform(manifest["manifests"])
        return digest, _json(await _skopeo("inspect", "--raw", *access(source), _at(source.name, digest)))
    return _digest_of(raw), manifest


def compressed_bytes(manifest: dict[str, Any]) -> int:
    """How much there is to fetch, as the manifest says."""
    return sum(int(layer.get("size", 0)) for layer in manifest.get("layers", ()))


async def pull(source: Source, digest: Digest | None, work: Path, *, max_bytes: int) -> Pulled:
    """
    Fetch *source* at *digest* (None: as it is) into the directory *work*, and unpack it.

    Raises: ImageUnavailable.
    """
    layout = work / "layout"
    await copy(_at(source.name, digest) if digest else source.name, f"oci:{layout}:image", access(source, "src-"))
    found, config = _read_layout(layout)
    _check_platform(config)
    bundle = work / "bundle"
    await _unpack(layout, bundle, max_bytes=max_bytes)
    rootfs = bundle / "rootfs"
    process = _process_config(json.loads((bundle / "config.json").read_text()), config)
    size = await asyncio.to_thread(tree_bytes, rootfs)
    await asyncio.to_thread(shutil.rmtree, layout)
    return Pulled(digest=digest or found, rootfs=rootfs, config=process, size_bytes=size)


async def copy(source: str, target: str, options: Sequence[str]) -> None:
    """
    Have skopeo copy an image. zstd layers become gzip, since umoci does not know zstd.

    Raises: ImageUnavailable.
    """
    gzip = ("--dest-compress", "--dest-compress-format", "gzip")
    await _skopeo("copy", "--quiet", *gzip, *options, source, target)


async def _unpack(layout: Path, bundle: Path, *, max_bytes: int) -> None:
    shift = f"0:{UID_SHIFT}:{UID_COUNT}"
    argv = ["umoci", "unpack", "--image", f"{layout}:image", "--uid-map", shift, "--gid-map", shift, str(bundle)]
    unpacking = asyncio.create_task(run(argv, "unpack the image"), name="unpack")
    try:
        while not unpacking.done():
            await asyncio.wait((unpacking,), timeout=WATCH_EVERY_S)
            if await asyncio.to_thread(tree_bytes, bundle) > max_bytes:
                raise too_large(max_bytes)
        await unpacking
    finally:
        unpacking.cancel()
        await asyncio.gather(unpacking, return_exceptions=True)


def too_large(max_bytes: int) -> ImageUnavailable:
    """Say that an image is over the cap."""
    return ImageUnavailable(
        f"The image is larger than {max_bytes >> 20} MiB unpacked, the most that is allowed here "
        "(the operator's MAYFLY_IMAGE_MAX_BYTES)."
    )


def tree_bytes(root: Path) -> int:
    """Count what a tree takes on disk; a hard link counts once, and what vanishes meanwhile not at all."""
    seen: set[int] = set()
    total = 0
    for directory, _, files in os.walk(root):
        for name in files:
            try:
                status = os.lstat(os.path.join(directory, name))  # noqa: PTH118 - many files
            except OSError:
                continue
            if status.st_nlink == 1 or status.st_ino not in seen:
                total += status.st_blocks * 512
            seen.add(status.st_ino)
    return total


def _read_layout(layout: Path) -> tuple[Digest, dict[str, Any]]:
    index = json.loads((layout / "index.json").read_text())
    digest = Digest(index["manifests"][0]["digest"])
    manifest = json.loads(_blob(layout, digest).read_text())
    return digest, json.loads(_blob(layout, manifest["config"]["digest"]).read_text())


def _blob(layout: Path, digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    return layout / "blobs" / algorithm / value


def _check_platform(config: dict[str, Any]) -> None:
    system, architecture = config.get("os", "linux"), config.get("architecture", "")
    if system != "linux" or architecture != machine_architecture():
        raise ImageUnavailable(
            f"The image is for {system}/{architecture}; this platform runs linux/{machine_architecture()}."
        )


def _of_this_platform(manifests: list[dict[str, Any]]) -> Digest:
    offered = []
    for manifest in manifests:
        platform_of = manifest.get("platform", {})
        offered.append(f"{platform_of.get('os')}/{platform_of.get('architecture')}")
        if offered[-1] == f"linux/{machine_architecture()}":
            return Digest(str(manifest["digest"]))
    raise ImageUnavailable(f"The image is for {', '.join(offered)}; this platform runs linux/{machine_architecture()}.")


def _process_config(runtime: dict[str, Any], image: dict[str, Any]) -> ProcessConfig:
    """Take from umoci what it resolved against the tree, and from the image how its command line is made up."""
    process = runtime["process"]
    own = image.get("config") or {}
    user = process["user"]
    return ProcessConfig(
        entrypoint=tuple(own.get("Entrypoint") or ()),
        cmd=tuple(own.get("Cmd") or ()),
        env=tuple(_pair(line) for line in process.get("env", ()) if "=" in line),
        cwd=process.get("cwd") or "/",
        uid=user.get("uid", 0),
        gid=user.get("gid", 0),
        groups=tuple(user.get("additionalGids") or ()),
    )


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    return name, value


def access(source: Source, prefix: str = "") -> list[str]:
    """Say how skopeo reaches a registry; *prefix* is what `copy` puts before these options."""
    if not source.name.startswith("docker://"):
        return []
    verify = "false" if source.plain_http else "true"
    credentials = f"--{prefix}authfile={source.auth_file}" if source.auth_file else f"--{prefix}no-creds"
    return [f"--{prefix}tls-verify={verify}", credentials]


def _at(name: str, digest: Digest) -> str:
    """The same place in the registry, at exactly this digest."""
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{re.split('[:@]', last)[0]}@{digest}"


async def _skopeo(command: str, *arguments: str) -> bytes:
    argv = ["skopeo", "--insecure-policy", "--override-os", "linux", "--override-arch", machine_architecture()]
    return await run([*argv, command, *arguments], "fetch the image")


async def run(argv: Sequence[str], doing: str) -> bytes:
    """
    Run a program to its end and return its stdout; when this task is cancelled, the program is killed first.

    Raises: ImageUnavailable with the program's own words.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "LANG": "C.UTF-8"},
        start_new_session=True,
    )
    try:
        stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode != 0:
        words = own_words(stderr.decode(errors="replace"))
        log.info("image.refused", doing=doing, words=words)
        raise ImageUnavailable(f"Could not {doing}: {words}")
    return stdout


def own_words(stderr: str) -> str:
    """What a program said last, without its log prefix and without paths of this machine."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    line = lines[-1] if lines else "no reason given"
    if match := re.search(r'msg="((?:[^"\\]|\\.)*)"', line):
        line = re.sub(r"\\(.)", r"\1", match[1])
    line = re.sub(r"(?:oci|dir):/\S+", "the image store", line)
    line = re.sub(r"(?<![\w:/.])/(?:[\w.-]+/)+[\w.-]*", "...", line)
    return line[:WORDS_MAX_CHARACTERS]


def _json(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ImageUnavailable("The registry's manifest cannot be read.")
    return value


def _digest_of(raw: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(raw).hexdigest()}")
