"""Writing answers: a shape as JSON, nothing, or the result of an activation byte for byte. Rows: F8."""

from __future__ import annotations

import time

from pydantic import BaseModel
from starlette.responses import Response

from mayfly.api.shapes import ActivationShape
from mayfly.domain.activation import Activation, Steps
from mayfly.services.outcome import Succeeded


def write(shape: BaseModel, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with a shape."""
    return Response(shape.model_dump_json(), status, headers, media_type="application/json")


def no_content() -> Response:
    """Answer that it is done."""
    return Response(status_code=204)


def result(succeeded: Succeeded, *, received_at: float | None = None) -> Response:
    """
    Answer with a result. It is somebody's text on our origin, so no browser may run it or take it for something else.
    *received_at* is when the call came, by time.monotonic(), if this is the answer to it.
    """
    activation_id = succeeded.activation.id
    headers = {
        "Content-Type": succeeded.activation.result_type,
        "Content-Security-Policy": "sandbox",
        "Location": f"/v1/activations/{activation_id}",
        "Mayfly-Activation-Id": activation_id,
        "Server-Timing": server_timing(
            succeeded.activation.steps, total_s=None if received_at is None else time.monotonic() - received_at
        ),
    }
    return Response(succeeded.result, headers=headers)


def accepted(record: Activation) -> Response:
    """Answer that an activation is in the queue, and where to ask for it."""
    headers = {
        "Location": f"/v1/activations/{record.id}",
        "Mayfly-Activation-Id": record.id,
        "Preference-Applied": "respond-async",
        "Retry-After": "1",
    }
    return write(ActivationShape.of(record), status=202, headers=headers)


def server_timing(steps: Steps, *, total_s: float | None = None) -> str:
    """
    Write the steps of an activation as Server-Timing, in milliseconds; a step that was not reached is left out.

    With *total_s* that as well, and `answer`, which is what the steps leave of it. `start` is a part of `run`. Who gets
    the outcome of an earlier call took less than its steps: then there is no `answer`.
    """
    times = {
        "admit": steps.admit_s,
        "queue": steps.queue_s,
        "image": steps.image_s,
        "start": steps.start_s,
        "run": steps.run_s,
    }
    if total_s is not None:
        rest_s = total_s - sum(times[name] or 0.0 for name in ("admit", "queue", "image", "run"))
        times |= {"answer": rest_s if rest_s >= 0 else None, "total": total_s}
    return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in times.items() if seconds is not None)
