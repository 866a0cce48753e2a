"""
Image references, in every form that docker accepts, and nothing else.

The grammar is that of the distribution project: [registry[:port]/]path[:tag][@digest], where the first part is a
registry only if it has a dot or a colon in it or is `localhost`; without one it is Docker Hub, and a single name
there is `library/NAME`. Rows: F6.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mayfly.domain.errors import InvalidRequest
from mayfly.domain.ids import DIGEST, Digest

MAX_CHARACTERS = 512
HOST_MAX_CHARACTERS = 255
DOCKER_HUB = "docker.io"
LOCAL = "local"  # images that the operator imported; no registry has this name, as it has no dot

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::[0-9]{{1,5}})?")
_PORT = r"(?:[0-9]{1,4}|[0-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_ALONE = (
    rf"(?:{_LABEL}(?:\.{_LABEL})+|localhost|\[[0-9a-fA-F:.]*[:.][0-9a-fA-F:.]*\])"  # a registry even without a port
)
_USER = r"[a-z0-9]+(?:(?:_|__|-+)[a-z0-9]+)*"  # with a dot it would be a registry
PATTERN = (
    rf"^(?:{_COMPONENT}|{_USER}(?:/{_COMPONENT})+|(?:{_ALONE}(?::{_PORT})?|{_LABEL}:{_PORT})/{_PATH.pattern})"
    rf"(?::{_TAG.pattern})?(?:@{DIGEST.pattern})?$"
)
"""The grammar as one expression, for programs that know no other; `parse_reference` says what is wrong."""

REGISTRY_PATTERN = rf"^(?:{_ALONE}(?::{_PORT})?|{_LABEL}:{_PORT})$"
"""What `registry_host` takes, likewise."""

FORMS = "Write NAME, USER/NAME:TAG or HOST:PORT/PATH@sha256:DIGEST, as for `docker pull`."


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReference:
    """Where an image is, in full."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def is_local(self) -> bool:
        """Whether the operator imported it, so that no registry is asked."""
        return self.registry == LOCAL

    @property
    def host(self) -> str:
        """The registry's host, in lower case and without port or brackets."""
        return _without_port(self.registry).strip("[]").lower()

    def pinned(self, digest: Digest) -> ImageReference:
        """The same repository at exactly this digest."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        """Write it in full."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def registry_host(text: str) -> str:
    """
    Read the name of a registry, HOST or HOST:PORT, as it may stand in a reference; return it in lower case.

    Raises: InvalidRequest (field host).
    """
    if len(text) > HOST_MAX_CHARACTERS or not _is_registry(text):
        raise InvalidRequest(
            f"A registry is HOST or HOST:PORT as in image references, with a dot, a port or `localhost`, such as "
            f"ghcr.io or {DOCKER_HUB}, and at most {HOST_MAX_CHARACTERS} characters.",
            field="host",
        )
    return DOCKER_HUB if _is_hub(text) else text.lower()


def parse_reference(text: str) -> ImageReference:
    """
    Read a reference as docker does.

    Raises: InvalidRequest (field image), which says what is wrong.
    """
    if not text or len(text) > MAX_CHARACTERS:
        raise _wrong(f"has {len(text)} characters; 1 to {MAX_CHARACTERS} are allowed")
    rest, digest = _split_digest(text)
    rest, tag = _split_tag(rest)
    registry, repository = _split_registry(rest)
    if not _PATH.fullmatch(repository):
        raise _wrong("has a name that is not made of a-z, 0-9 and single `.`, `_`, `-` or `/` between them")
    if tag is None and digest is None:
        tag = "latest"
    return ImageReference(registry=registry, repository=repository, tag=tag, digest=digest)


def _split_digest(text: str) -> tuple[str, Digest | None]:
    rest, at, digest = text.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise _wrong("has something other than `sha256:` and 64 hexadecimal digits after the `@`")
    return rest, Digest(digest) if at else None


def _split_tag(text: str) -> tuple[str, str | None]:
    head, slash, last = text.rpartition("/")
    name, colon, tag = last.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong("has a tag that is not 1 to 128 of A-Z, a-z, 0-9, `_`, `.` and `-`")
    return head + slash + name, tag if colon else None


def _split_registry(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if not slash:
        return DOCKER_HUB, f"library/{text}"
    if first == LOCAL:
        return LOCAL, rest
    if not _stands_for_registry(first):
        return DOCKER_HUB, text
    if not _is_registry(first):
        raise _wrong("has a registry that is not HOST or HOST:PORT")
    if _is_hub(first):
        return DOCKER_HUB, rest if "/" in rest else f"library/{rest}"
    return first, rest


def _stands_for_registry(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost"


def _is_registry(text: str) -> bool:
    return _stands_for_registry(text) and _REGISTRY.fullmatch(text) is not None and _port(text) <= 65535


def _is_hub(registry: str) -> bool:
    return registry.lower() in (DOCKER_HUB, f"index.{DOCKER_HUB}")


def _port(registry: str) -> int:
    port = registry[len(_without_port(registry)) :].lstrip(":")
    return int(port) if port else 0


def _without_port(registry: str) -> str:
    return re.sub(r":[0-9]+$", "", registry)


def _wrong(why: str) -> InvalidRequest:
    return InvalidRequest(f"The image reference {why}. {FORMS}", field="image")
