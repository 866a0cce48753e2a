"""What JetStream answers: JSON, and errors in the same shape. Rows: A3, A4."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec
from nats.js.errors import APIError

from mayfly.bus.codec import UNREADABLE

A = TypeVar("A")


class Failure(msgspec.Struct):
    """What an answer says went wrong."""

    code: int = 0
    err_code: int = 0
    description: str = ""

    def to_error(self) -> APIError:
        """Make the client's error of it."""
        return APIError(**msgspec.structs.asdict(self))


class Answer(Generic[A]):
    """Decodes one kind of JetStream's answers."""

    def __init__(self, struct: type[A]) -> None:
        """*struct* names what is wanted of it."""
        self._decoder = msgspec.json.Decoder(struct)

    def decode(self, data: bytes) -> A:
        """
        Read one answer.

        Raises: APIError when it is none, as where JetStream itself says that it could not answer.
        """
        try:
            return self._decoder.decode(data)
        except UNREADABLE as error:
            raise APIError(description=f"an answer that cannot be read: {error}") from error
