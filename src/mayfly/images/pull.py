"""
Fetching and unpacking one image: skopeo copies it into an OCI layout, umoci unpacks that into one flat tree.

Each pull has a directory of its own that is gone afterwards, whatever happens; its children die with it. The digest of
an image is that of the manifest for this machine's platform, also when the registry's name stands for a list of them.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from mayfly.domain.ids import Digest
from mayfly.domain.image import ProcessConfig
from mayfly.images.login import path_of
from mayfly.images.manifest import (
    ImageConfig,
    Manifest,
    digest_of,
    of_this_platform,
    read,
    read_image_manifest,
)
from mayfly.images.mount_points import check_mount_points
from mayfly.images.process import resolve_process, shift
from mayfly.images.programs import skopeo, umoci
from mayfly.images.proxy import RegistryProxy
from mayfly.images.tree import remove, settle, too_large, within


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
    proxy: RegistryProxy | None = None  # the way there, if it is a registry
    login: int | None = None  # the user's own credentials, which go before: `login.login_file`

    @property
    def kept(self) -> tuple[int, ...]:
        """Descriptors that skopeo has to be passed."""
        return () if self.login is None else (self.login,)

    async def asked(self, *arguments: str, work: Path) -> bytes:
        """
        Run skopeo on it.

        Raises: ImageUnavailable.
        """
        return await skopeo(*arguments, work=work, proxy=self.proxy, kept=self.kept)

    def at(self, digest: Digest) -> str:
        """The same place in the registry, at exactly this digest."""
        head, slash, last = self.name.rpartition("/")
        return f"{head}{slash}{re.split('[:@]', last)[0]}@{digest}"

    def access(self, prefix: str = "") -> list[str]:
        """Say how skopeo reaches the registry; *prefix* is what `copy` puts before these options."""
        if not self.name.startswith("docker://"):
            return []
        verify = "false" if self.plain_http else "true"
        file = self.auth_file if self.login is None else path_of(self.login)
        credentials = f"--{prefix}authfile={file}" if file else f"--{prefix}no-creds"
        return [f"--{prefix}tls-verify={verify}", credentials]


async def inspect(source: Source, work: Path) -> tuple[Digest, Manifest]:
    """
    Ask the registry for the manifest of this machine's platform: its digest, and the manifest.

    Raises: ImageUnavailable.
    """
    raw = await source.asked("inspect", "--raw", *source.access(), source.name, work=work)
    offered = read(raw, Manifest).manifests
    if offered is not None:
        digest = of_this_platform(offered)
        raw = await source.asked("inspect", "--raw", *source.access(), source.at(digest), work=work)
        return digest, read_image_manifest(raw)
    return digest_of(raw), read_image_manifest(raw)


async def fetch(source: Source, digest: Digest | None, work: Path, *, max_bytes: int) -> Path:
    """
    Fetch every blob of *source* at *digest* (None: as it is) into an OCI layout in *work*, where there is none yet.

    zstd layers become gzip, since umoci does not know zstd. What arrives is watched, as a manifest may lie about sizes.

    Raises: ImageUnavailable.
    """
    layout = work / "layout"
    gzip = ("--dest-compress", "--dest-compress-format", "gzip")
    name = source.at(digest) if digest else source.name
    copied = ("copy", "--quiet", *gzip, *source.access("src-"), name, f"oci:{layout}:image")
    copy = source.asked(*copied, work=work)
    await within(max_bytes, work, copy)
    return layout


async def pull(source: Source, digest: Digest | None, work: Path, *, max_bytes: int) -> Pulled:
    """
    Fetch *source* at *digest* (None: as it is) into the directory *work*, and unpack it.

    Raises: ImageUnavailable.
    """
    layout = await fetch(source, digest, work, max_bytes=max_bytes)
    found, image = _read_layout(layout)
    image.check_platform()
    rootfs = work / "bundle" / "rootfs"
    rootfs.parent.mkdir(mode=0o700)
    await within(max_bytes, rootfs, umoci("raw", "unpack", "--image", f"{layout}:image", *shift(), str(rootfs)))
    check_mount_points(rootfs)
    process = await resolve_process(layout, rootfs, image)
    await asyncio.to_thread(remove, layout)
    size = await asyncio.to_thread(settle, rootfs)
    if size > max_bytes:
        raise too_large(max_bytes)
    return Pulled(digest=digest or found, rootfs=rootfs, config=process, size_bytes=size)


def _read_layout(layout: Path) -> tuple[Digest, ImageConfig]:
    index = read((layout / "index.json").read_bytes(), Manifest)
    digest = Digest((index.manifests or ())[0].digest)
    manifest = read_image_manifest(_blob(layout, digest).read_bytes())
    config = manifest.config.digest if manifest.config else ""
    return digest, read(_blob(layout, config).read_bytes(), ImageConfig)


def _blob(layout: Path, digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    return layout / "blobs" / algorithm / value
