"""Images at a worker: prepared for a call, or because an API server asks for a registration. Rows: F4, F6."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import structlog
from msgspec.structs import replace

from mayfly.bus.store import Conflict
from mayfly.bus.stores import Stores
from mayfly.domain.errors import InternalError, MayflyError
from mayfly.domain.function import Function
from mayfly.domain.image import ImageAnswer, PrepareImage
from mayfly.images.reference import parse_reference
from mayfly.images.store import ImageStore
from mayfly.images.trees import PreparedImage

log = structlog.get_logger()


async def prepare_image(images: ImageStore, stores: Stores, function: Function) -> PreparedImage:
    """
    Have the image of a function that is to be called; at once when it is here, pulled otherwise.

    Raises: ImageUnavailable; InvalidRequest.
    """
    reference = parse_reference(function.image)
    if function.digest is not None:
        return await images.prepare(reference, function.digest, owner=function.user_id)
    image = await images.resolve(reference, owner=function.user_id)
    await _pin(stores, function, image)
    return image


async def _pin(stores: Stores, function: Function, image: PreparedImage) -> None:
    """Write the digest into a registration that was pending; if it changed meanwhile, its next call pins it."""
    entry = await stores.functions.get(function.key)
    if entry is None or entry.value.id != function.id or entry.value.digest is not None:
        return
    pinned = replace(entry.value, digest=image.digest, updated_at=time.time())
    try:
        await stores.functions.update(entry.key, pinned, revision=entry.revision)
    except Conflict:
        log.info("image.not-pinned", function=function.name)


async def _wanted(images: ImageStore, request: PrepareImage) -> PreparedImage:
    """
    Have what is asked for.

    Raises: ImageUnavailable; InvalidRequest.
    """
    reference = parse_reference(request.reference)
    if request.digest is not None:
        return await images.prepare(reference, request.digest, owner=request.owner)
    return await images.resolve(reference, owner=request.owner)


def image_answerer(images: ImageStore) -> Callable[[PrepareImage], Awaitable[ImageAnswer]]:
    """Make what answers an API server that wants an image; it answers whatever happens here."""

    async def answer(request: PrepareImage) -> ImageAnswer:
        try:
            image = await _wanted(images, request)
        except MayflyError as error:
            log.info("image.unavailable", image=request.reference, code=error.code, reason=error.detail)
            return ImageAnswer(code=error.code, problem=error.detail)
        except Exception:  # unanswered, the API server would wait for minutes, and then call it a missing worker
            log.exception("image.failed", image=request.reference)
            return ImageAnswer(code=InternalError.code, problem="A worker failed while it prepared the image.")
        log.info("image.ready", image=request.reference, digest=image.digest, size_bytes=image.size_bytes)
        return ImageAnswer(digest=image.digest, process=image.config)

    return answer
