"""What a worker answers to an API server that wants an image."""

from __future__ import annotations

import pytest

from mayfly.domain.errors import ImageUnavailable, InternalError, MayflyError
from mayfly.domain.ids import UserId, new_id
from mayfly.domain.image import PrepareImage
from mayfly.worker.images import image_answerer

pytestmark = pytest.mark.F6


class Failing:
    """A store in which everything fails."""

    def __init__(self, error: Exception) -> None:
        """*error* is what it fails with."""
        self.error = error

    async def resolve(self, *_: object, **__: object) -> None:
        """Fail."""
        raise self.error


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
