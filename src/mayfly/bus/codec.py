"""
What lies on the bus is MessagePack, typed by the structs of `domain`, each with its version `v`; what may be in their
fields they say themselves (`domain.stored`). What JetStream answers is JSON.

A reader accepts the current version and the one before. Anything else is `Undecodable`: a worker gives such a
message back and says so, and never runs it or ends because of it.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import msgspec

VERSION = 1


class Versioned(Protocol):
    """A struct with a version."""

    @property
    def v(self) -> int:
        """The version of the struct's shape."""
        ...


T = TypeVar("T", bound=Versioned)


class Undecodable(Exception):
    """Something on the bus cannot be read: damaged, or of a version that this program does not know."""


UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""All that a decoder raises."""


class Codec(Generic[T]):
    """Encodes and decodes one type of struct."""

    def __init__(self, struct: type[T]) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(struct)
        self.encode = self._encoder.encode

    def decode(self, data: bytes) -> T:
        """
        Read one struct.

        Raises: Undecodable.
        """
        try:
            value: T = self._decoder.decode(data)
        except UNREADABLE as error:
            raise Undecodable(str(error)) from error
        if value.v not in (VERSION, VERSION - 1):
            raise Undecodable(f"version {value.v} is unknown here; this program reads {VERSION - 1} and {VERSION}")
        return value
