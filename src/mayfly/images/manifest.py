"""
What a registry says about an image: its list of platforms, its manifest, its configuration.

Anybody's registry may send anything here, so each document is read into a closed shape, and what could be used against
the worker is refused: layers at other addresses (skopeo would fetch them from anywhere), digests that are none.
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

import msgspec

from mayfly.domain.errors import ImageUnavailable
from mayfly.domain.ids import DIGEST, Digest
from mayfly.images.programs import machine_architecture

OFFERED_AT_MOST = 10  # platforms named in an error
OFFERED_MAX_CHARACTERS = 300  # of them together: an architecture may have megabytes, and a message may not
PLAIN_VARIANTS = ("", "v1", "v8")  # what every machine of an architecture can run
S = TypeVar("S", bound=msgspec.Struct)


class Platform(msgspec.Struct, frozen=True):
    """What an image is for."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        """Write it as docker does."""
        return f"{self.os}/{self.architecture}"


class Descriptor(msgspec.Struct, frozen=True):
    """Points at a blob or a manifest."""

    digest: str = ""
    size: int = 0
    urls: tuple[str, ...] | None = None
    platform: Platform | None = None


class Manifest(msgspec.Struct, frozen=True):
    """A manifest, or a list of one for each platform."""

    version: int = msgspec.field(name="schemaVersion", default=0)
    manifests: tuple[Descriptor, ...] | None = None
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] | None = None

    @property
    def compressed_bytes(self) -> int:
        """How much there is to fetch, as the manifest says."""
        return sum(max(layer.size, 0) for layer in self.layers or ())


class Command(msgspec.Struct, frozen=True):
    """The part of a configuration that says what to run."""

    entrypoint: tuple[str, ...] | None = msgspec.field(name="Entrypoint", default=None)
    cmd: tuple[str, ...] | None = msgspec.field(name="Cmd", default=None)
    env: tuple[str, ...] | None = msgspec.field(name="Env", default=None)


class ImageConfig(msgspec.Struct, frozen=True):
    """An image's configuration."""

    architecture: str = ""
    os: str = "linux"
    config: Command | None = None

    def check_platform(self) -> None:
        """
        See that this machine can run the image: one with a single manifest is handed out whatever one asks for.

        Raises: ImageUnavailable.
        """
        platform = Platform(os=self.os, architecture=self.architecture)
        if str(platform) != wanted_platform():
            raise _for_others(str(platform))


def read(raw: bytes, shape: type[S]) -> S:
    """
    Read one of a registry's documents.

    Raises: ImageUnavailable.
    """
    try:
        return msgspec.json.decode(raw, type=shape)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ImageUnavailable(f"The registry's {shape.__name__.lower()} cannot be read: {error}.") from error


def read_image_manifest(raw: bytes) -> Manifest:
    """
    Read the manifest of one image, not of a list.

    Raises: ImageUnavailable.
    """
    manifest = read(raw, Manifest)
    if manifest.version != 2 or manifest.config is None or not manifest.layers:
        raise ImageUnavailable("The registry's manifest is not that of a docker or OCI image (of schema 2).")
    if any(part.urls for part in (manifest.config, *manifest.layers)):
        raise ImageUnavailable("The image keeps layers at other addresses than its registry, which is not allowed.")
    return manifest


def of_this_platform(offered: tuple[Descriptor, ...]) -> Digest:
    """
    Choose from a list of manifests the one for this machine, with preference for one that any variant of it can run.

    Raises: ImageUnavailable with the platforms there are.
    """
    fitting = [one for one in offered if str(one.platform) == wanted_platform() and DIGEST.fullmatch(one.digest)]
    if not fitting:
        names = dict.fromkeys(str(one.platform) for one in offered if one.platform and one.platform.os != "unknown")
        raise _for_others(", ".join(list(names)[:OFFERED_AT_MOST]) or "no platform")
    fitting.sort(key=lambda one: one.platform is not None and one.platform.variant not in PLAIN_VARIANTS)
    return Digest(fitting[0].digest)


def digest_of(raw: bytes) -> Digest:
    """A document's digest."""
    return Digest(f"sha256:{hashlib.sha256(raw).hexdigest()}")


def wanted_platform() -> str:
    """This machine's platform."""
    return f"linux/{machine_architecture()}"


def _for_others(offered: str) -> ImageUnavailable:
    return ImageUnavailable(
        f"The image is for {offered[:OFFERED_MAX_CHARACTERS]}; this platform runs {wanted_platform()}."
    )
