"""What a worker answers to an API server that wants an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from mayfly.domain.errors import ImageUnavailable, InternalError, MayflyError
from mayfly.domain.ids import Digest, UserId, new_id
from mayfly.domain.image import PrepareImage, ProcessConfig
from mayfly.images.reference import ImageReference, parse_reference
from mayfly.images.trees import PreparedImage
from mayfly.worker.images import image_answerer

pytestmark = pytest.mark.F6

IMAGE = PreparedImage(
    digest=Digest("sha256:" + "a" * 64), rootfs=Path("/nowhere"), config=ProcessConfig(), size_bytes=1
)


class Failing:
    """A store in which everything fails."""

    def __init__(self, error: Exception) -> None:
        """*error* is what it fails with."""
        self.error = error

    async def resolve(self, *_: object, **__: object) -> None:
        """Fail."""
        raise self.error


class Asked:
    """A store that notes what is asked of it, and has everything."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self.asked: list[tuple[str, Digest | None]] = []

    async def resolve(self, reference: ImageReference, *, owner: UserId) -> PreparedImage:
        """Note it."""
        self.asked.append((f"resolve {reference} for {owner}", None))
        return IMAGE

    async def prepare(self, reference: ImageReference, digest: Digest, *, owner: UserId) -> PreparedImage:
        """Note it."""
        self.asked.append((f"prepare {reference} for {owner}", digest))
        return IMAGE


@pytest.mark.parametrize(("digest", "verb"), [(None, "resolve"), (Digest("sha256:" + "b" * 64), "prepare")])
async def test_what_has_been_resolved_is_not_resolved_again(digest: Digest | None, verb: str) -> None:
    """A worker that is told the digest does not ask the registry what the reference stands for."""
    images, owner, reference = Asked(), UserId(new_id()), parse_reference("busybox")
    answer = image_answerer(images)  # type: ignore[arg-type]

    told = await answer(PrepareImage(reference="busybox", owner=owner, digest=digest))

    assert images.asked == [(f"{verb} {reference} for {owner}", digest)]
    assert told.digest == IMAGE.digest


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ImageUnavailable("manifest unknown"), ImageUnavailable.code, "manifest unknown"),
        (OSError(28, "No space left on device", "/some/path"), InternalError.code, "worker failed"),
        (KeyError("digest"), InternalError.code, "worker failed"),
    ],
)
async def test_every_failure_is_answered(error: Exception, code: str, words: str) -> None:
    """Whatever goes wrong, whoever asked hears of it at once; what is ours to know stays in the log."""
    answer = image_answerer(Failing(error))  # type: ignore[arg-type]

    told = await answer(PrepareImage(reference="busybox", owner=UserId(new_id())))

    assert told.digest is None
    assert told.code == code
    assert words in (told.problem or "")
    assert isinstance(error, MayflyError) or str(error) not in (told.problem or "")
