"""Looking at calls afterwards: the record, the result, the logs, to their owner only. Rows: F4, F8, F10."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query
from starlette.responses import Response

from mayfly.api.answers import ENDINGS, RETRY_AFTER, heads, raises
from mayfly.api.auth import Caller, private_router
from mayfly.api.routes.invoke import RESULT
from mayfly.api.shapes import RESULT_WAIT_MAX_S, ActivationPage, ActivationQuery, ActivationShape
from mayfly.api.state import State
from mayfly.api.trail import CallersTrail
from mayfly.api.write import result, write
from mayfly.domain.activation import State as ActivationState
from mayfly.domain.audit import Action
from mayfly.domain.errors import Gone, MayflyError
from mayfly.domain.function import DEFAULT_RESULT_TYPE
from mayfly.services.activations import Wanted

private = private_router(tags=["Activations"])

ActivationInPath = Annotated[str, Path(description="The activation's id.")]

AGAIN = {"schema": {"type": "string"}, "description": "Seconds until it is worth asking again: 1."}

CANCELLED = frozenset({ActivationState.CANCELLED, ActivationState.RUNNING})
"""How an activation is after a cancellation that came before its own end: ended by it, or going to be."""

LOGS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What the function wrote to stderr, or its end.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}


@private.get("/v1/activations", response_model=ActivationPage, openapi_extra=raises())
async def list_activations(state: State, caller: Caller, page: Annotated[ActivationQuery, Query()]) -> Response:
    """
    List one's activations, the newest first. Records are kept for a day, less for who has very many. A page can have
    fewer than `limit`, or none: only `next` says whether there are more.
    """
    wanted = Wanted(
        function=page.function, state=page.state, since=None if page.since is None else page.since.timestamp()
    )
    records, more = await state.activations.list(caller.user_id, wanted, limit=page.limit, after=page.after)
    return write(ActivationPage(activations=[ActivationShape.of(record) for record in records], next=more))


@private.get("/v1/activations/{activation_id}", response_model=ActivationShape, openapi_extra=raises())
async def show_activation(activation_id: ActivationInPath, state: State, caller: Caller) -> Response:
    """Show the record of an activation."""
    return write(ActivationShape.of(await state.activations.get(caller.user_id, activation_id)))


@private.delete(
    "/v1/activations/{activation_id}",
    response_model=ActivationShape,
    responses={202: {"model": ActivationShape, "description": "It is being ended, and has not ended yet. Ask again."}},
    openapi_extra=raises(),
)
async def cancel_activation(
    activation_id: ActivationInPath, state: State, caller: Caller, trail: CallersTrail
) -> Response:
    """
    Cancel an activation, and show how it ended: a waiting one never runs, a running one is ended. One that had ended
    before stays as it is.
    """
    record = await state.activations.get(caller.user_id, activation_id)
    async with trail(Action.ACTIVATION_CANCEL, record.id) as change:
        ended = await state.canceller.cancel(record)
        change.happened = not record.state.is_final and ended.state in CANCELLED
    return write(ActivationShape.of(ended), status=200 if ended.state.is_final else 202)


@private.get(
    "/v1/activations/{activation_id}/result",
    response_class=Response,
    responses=RESULT
    | {202: {"model": ActivationShape, "description": "It has not ended. Ask again.", "headers": {RETRY_AFTER: AGAIN}}},
    openapi_extra=raises(*ENDINGS),
)
async def show_result(
    activation_id: ActivationInPath,
    state: State,
    caller: Caller,
    wait: Annotated[float, Query(ge=0, le=RESULT_WAIT_MAX_S, description="Seconds to wait for its end.")] = 0,
) -> Response:
    """Show the result of an activation; after a failure, the same problem that the call was answered with."""
    outcome = await state.activations.outcome(caller.user_id, activation_id, wait_s=wait)
    if outcome is None:
        record = await state.activations.get(caller.user_id, activation_id)
        return write(ActivationShape.of(record), status=202, headers={"Retry-After": "1"})
    if isinstance(outcome, MayflyError):
        raise outcome
    return result(outcome)


@private.get(
    "/v1/activations/{activation_id}/logs",
    response_class=Response,
    responses=LOGS,
    openapi_extra=raises(Gone) | heads("Mayfly-Logs-Truncated"),
)
async def show_logs(activation_id: ActivationInPath, state: State, caller: Caller) -> Response:
    """Show what the function wrote to stderr; empty while it runs."""
    logs = await state.activations.logs(caller.user_id, activation_id)
    headers = {"Mayfly-Logs-Truncated": "true"} if logs.truncated else {}
    headers["Content-Security-Policy"] = "sandbox"
    return Response(logs.stderr, headers=headers, media_type=DEFAULT_RESULT_TYPE)
