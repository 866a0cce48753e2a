"""Looking at calls afterwards: the record, the result, the logs, to their owner only. Rows: F4, F8, F10."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import Query
from starlette.responses import Response

from mayfly.api.auth import Caller, private_router
from mayfly.api.routes.invoke import RESULT
from mayfly.api.shapes import RESULT_WAIT_MAX_S, ActivationPage, ActivationQuery, ActivationShape
from mayfly.api.state import ApiState, State
from mayfly.api.write import result, write
from mayfly.domain.errors import MayflyError
from mayfly.domain.function import DEFAULT_RESULT_TYPE
from mayfly.services.outcome import Succeeded

private = private_router(tags=["Activations"])

LOOK_FIRST_AFTER_S, LOOK_AT_LEAST_EVERY_S = 0.05, 0.5

LOGS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What the function wrote to stderr, or its end: then the header `Mayfly-Logs-Truncated: true`.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}


@private.get("/v1/activations", response_model=ActivationPage)
async def list_activations(state: State, caller: Caller, page: Annotated[ActivationQuery, Query()]) -> Response:
    """List one's activations, the newest first. Records are kept for a day."""
    records, more = await state.activations.list(
        caller.user_id, limit=page.limit, after=page.after, function=page.function
    )
    return write(ActivationPage(activations=[ActivationShape.of(record) for record in records], next=more))


@private.get("/v1/activations/{activation_id}", response_model=ActivationShape)
async def show_activation(activation_id: str, state: State, caller: Caller) -> Response:
    """Show the record of an activation."""
    return write(ActivationShape.of(await state.activations.get(caller.user_id, activation_id)))


@private.get(
    "/v1/activations/{activation_id}/result",
    response_class=Response,
    responses=RESULT | {202: {"model": ActivationShape, "description": "It has not ended. Ask again."}},
)
async def show_result(
    activation_id: str,
    state: State,
    caller: Caller,
    wait: Annotated[float, Query(ge=0, le=RESULT_WAIT_MAX_S, description="Seconds to wait for its end.")] = 0,
) -> Response:
    """Show the result of an activation; after a failure, the same problem that the call was answered with."""
    outcome = await _wait_for_end(state, caller.user_id, activation_id, until=time.monotonic() + wait)
    if outcome is None:
        record = await state.activations.get(caller.user_id, activation_id)
        return write(ActivationShape.of(record), status=202, headers={"Retry-After": "1"})
    if isinstance(outcome, MayflyError):
        raise outcome
    return result(outcome)


@private.get("/v1/activations/{activation_id}/logs", response_class=Response, responses=LOGS)
async def show_logs(activation_id: str, state: State, caller: Caller) -> Response:
    """Show what the function wrote to stderr; empty while it runs."""
    logs = await state.activations.logs(caller.user_id, activation_id)
    headers = {"Mayfly-Logs-Truncated": "true"} if logs.truncated else {}
    headers["Content-Security-Policy"] = "sandbox"
    return Response(logs.stderr, headers=headers, media_type=DEFAULT_RESULT_TYPE)


async def _wait_for_end(
    state: ApiState, owner: Any, activation_id: str, *, until: float
) -> Succeeded | MayflyError | None:
    """Ask at growing intervals: the activation may be waited for by another API server, whose news come only there."""
    pause = LOOK_FIRST_AFTER_S
    while True:
        outcome = await state.activations.outcome(owner, activation_id)
        left = until - time.monotonic()
        if outcome is not None or left <= 0:
            return outcome
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 2, LOOK_AT_LEAST_EVERY_S)
