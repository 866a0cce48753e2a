"""
The call itself: the body is the parameter, byte for byte, and the answer's body is the function's stdout.

The caller is known before one byte of the body is read; the parameter is checked before anything is queued. Beyond
that, all is `services.invoke`'s. Rows: F7, F8, F9, F12.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.routing import APIRoute
from pydantic import WithJsonSchema
from starlette.responses import Response

from mayfly.api.answers import ENDINGS, raises
from mayfly.api.auth import CallerAndFunction, authenticated_for_function, bearer, genuine_token, private_router
from mayfly.api.bodies import read_parameter
from mayfly.api.envelope import exchange_of
from mayfly.api.shapes import ActivationShape
from mayfly.api.state import State, api_state
from mayfly.api.write import accepted, result
from mayfly.domain.errors import IdempotencyConflict, InvalidRequest, ParameterNotText, ParameterTooLarge
from mayfly.domain.idempotency import KEY_MAX_CHARACTERS
from mayfly.domain.limits import ARGUMENT_MAX_BYTES, PARAMETER_MAX_BYTES, TIMEOUT_MAX_S, TIMEOUT_MIN_S
from mayfly.services.call import Call, CallOptions


async def _called(request: Request) -> Response:
    """Call `invoke` with what it declares, in that order: first who calls, then the headers."""
    claims = await genuine_token(request, await bearer(request))
    headers = request.headers
    return await invoke(
        request,
        state=await api_state(request),
        caller_and_function=await authenticated_for_function(request, request.path_params["name"], claims),
        mayfly_timeout=headers.get("mayfly-timeout"),
        traceparent=headers.get("traceparent"),
        prefer=headers.getlist("prefer"),
        idempotency_key=headers.get("idempotency-key"),
    )


class _Route(APIRoute):
    """
    A call's. FastAPI would find out anew for each call what it has declared, which takes twice as long as all the rest
    that the API server does before it asks the database: see docs/explanation/where-the-time-goes.md.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Have it carried out by `_called`."""
        return _called


private = private_router(authenticated_for_function, tags=["Activations"], route_class=_Route)

TAKES_PARAMETER: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "description": "The parameter: text in UTF-8, whatever the content type, at most "
        f"{PARAMETER_MAX_BYTES:,} bytes, or {ARGUMENT_MAX_BYTES:,} for a function that takes it as argument or in the "
        "environment. No body is the empty string.",
        "content": {"*/*": {"schema": {}}},
    }
}
ACTIVATION_ID = {"schema": {"type": "string"}, "description": "The activation's id."}
RESULT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The function's stdout, byte for byte, in the function's `result_type`.",
        "content": {"text/plain": {"schema": {"type": "string"}}, "*/*": {"schema": {"type": "string"}}},
        "headers": {
            "Location": {"schema": {"type": "string"}, "description": "Of the activation's record."},
            "Mayfly-Activation-Id": ACTIVATION_ID,
            "Server-Timing": {
                "schema": {"type": "string"},
                "description": "admit, queue, image, start and run, in milliseconds; then `total`, from the request's "
                "head to the answer, and before it `answer`, which is what the steps leave of it. `start` is a part of "
                "`run`.",
            },
        },
    }
}

ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": ActivationShape,
        "description": "With `Prefer: respond-async`: it is in the queue. `Location` is its record, and the result "
        "will be under `/result` there.",
        "headers": {
            "Location": {"schema": {"type": "string"}, "description": "Of the activation's record."},
            "Mayfly-Activation-Id": ACTIVATION_ID,
            "Preference-Applied": {"schema": {"type": "string"}, "description": "`respond-async`."},
            "Retry-After": {"schema": {"type": "string"}, "description": "Seconds until it is worth asking again: 1."},
        },
    }
}

_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{0,20})?|\.[0-9]{1,20}")  # str(0.1 + 0.2) has 17 decimals
_KEY = re.compile(rf"[\x20-\x7e]{{1,{KEY_MAX_CHARACTERS}}}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@private.post(
    "/v1/functions/{name}/activations",
    response_class=Response,
    responses=RESULT | ACCEPTED,
    openapi_extra=TAKES_PARAMETER | raises(*ENDINGS, IdempotencyConflict, ParameterNotText, ParameterTooLarge),
)
async def invoke(
    request: Request,
    *,
    state: State,
    caller_and_function: CallerAndFunction,
    mayfly_timeout: Annotated[
        str | None,
        Header(description="Seconds; shortens the function's own time-out, never lengthens it."),
        WithJsonSchema({"type": "number", "minimum": TIMEOUT_MIN_S, "maximum": TIMEOUT_MAX_S}),
    ] = None,
    traceparent: Annotated[
        str | None,
        Header(description="Handed to the function as MAYFLY_TRACEPARENT (W3C Trace Context)."),
        WithJsonSchema({"type": "string"}),
    ] = None,
    prefer: Annotated[
        list[str] | None,
        Header(description="`respond-async`: do not wait for the result (RFC 7240)."),
        WithJsonSchema({"type": "string"}),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        Header(description="Of your choice: another call with it gets the outcome of the first, not another run."),
        WithJsonSchema({"type": "string", "pattern": f"^{_KEY.pattern}$"}),
    ] = None,
) -> Response:
    """
    Invoke a function and wait for its result. Each call runs a fresh container, at most once; an error says in `ran`
    whether it ran.
    """
    caller, function = caller_and_function
    options = CallOptions(
        timeout_s=_timeout(mayfly_timeout),
        traceparent=traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else None,
        received_at=exchange_of(request.scope).received_at,
        idempotency_key=_key(idempotency_key, times=len(request.headers.getlist("idempotency-key"))),
        user_limit=caller.max_activations,
    )
    call = Call(caller.user_id, function, await read_parameter(request, function.parameter), options)
    if _prefers_async(prefer or []):
        with state.metrics.submission():
            record = await state.invoker.submit(call)
        return accepted(record)
    with state.metrics.call(options.received_at):
        succeeded = await state.invoker.invoke(call)
    return result(succeeded, received_at=options.received_at)


def _prefers_async(lines: list[str]) -> bool:
    """Read `Prefer`, on however many lines; other preferences are nobody's duty to follow."""
    preferences = (part.partition(";")[0].strip().lower() for line in lines for part in line.split(","))
    return "respond-async" in preferences


def _key(text: str | None, *, times: int) -> str | None:
    if times > 1 or (text is not None and not _KEY.fullmatch(text)):
        raise InvalidRequest(
            f"The header Idempotency-Key takes 1 to {KEY_MAX_CHARACTERS} printable ASCII characters, such as a UUID, "
            "and may be there once.",
            field="Idempotency-Key",
        )
    return text


def _timeout(text: str | None) -> float | None:
    if text is None:
        return None
    seconds = float(text) if _SECONDS.fullmatch(text) else math.nan
    if not TIMEOUT_MIN_S <= seconds <= TIMEOUT_MAX_S:
        raise InvalidRequest(
            f"The header Mayfly-Timeout takes seconds from {TIMEOUT_MIN_S} to {TIMEOUT_MAX_S:.0f}, such as 2.5.",
            field="Mayfly-Timeout",
        )
    return seconds
