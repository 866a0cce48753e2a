"""From a final record and its response to what a caller gets: a result, or one of the errors. Rows: F8, F12."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mayfly.bus.connection import Bus
from mayfly.bus.responses import read_response
from mayfly.domain import errors
from mayfly.domain.activation import Activation, Response, State
from mayfly.domain.errors import MayflyError

STDERR_TAIL_BYTES: Final = 4096  # of the kept stderr, in an error's body; the rest is under /logs

BY_CODE: Final[dict[str, type[MayflyError]]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, MayflyError) and "code" in vars(kind)
}


@dataclass(frozen=True, slots=True)
class Succeeded:
    """An activation that ended well, and its complete result."""

    activation: Activation
    result: bytes


async def outcome_of(bus: Bus, record: Activation, response: Response | None = None) -> Succeeded | MayflyError:
    """
    Say how a finished activation ended; the response is read from the stream when it is not at hand.

    Raises: QueueUnavailable.
    """
    if response is None and record.attempt and record.response_seq:
        response = await read_response(bus, record.key, attempt=record.attempt)
    if record.state is State.SUCCEEDED:
        if response is None or response.result is None:
            return errors.Gone("The result is no longer kept.", ran="yes", activation_id=record.id)
        return Succeeded(record, response.result)
    return error_of(record, response)


def error_of(record: Activation, response: Response | None) -> MayflyError:
    """Make the error that a record without a result stands for, the same for whoever asks whenever."""
    kind = BY_CODE.get(record.code or "", errors.InternalError)
    members: dict[str, Any] = {"activation_id": record.id}
    if record.exit_code is not None:
        members["exit_code"] = record.exit_code
    if record.clock:
        members["clock"] = record.clock
    if response is not None and response.stderr:
        members["stderr"] = response.stderr[-STDERR_TAIL_BYTES:].decode(errors="replace")
    return kind(record.detail, ran=record.ran, **members)
