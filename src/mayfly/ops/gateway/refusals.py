"""
What the gateway answers by itself: problems with the members that the API's own have.

Where the API has the error too, code, title, `fault` and words are the API's. The JSON is written here, all but the
request id, so that no Lua has to; `PAGES` of the Lua chunks are these texts. Rows: A1, D3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus

from mayfly.api.errors import TITLES, BodyTooLarge, HeadTooLarge, MethodNotAllowed, meaning_of
from mayfly.domain import errors
from mayfly.domain.errors import Fault, MayflyError, Ran

REQUEST_ID_MAX = 64
CLOSE = '"}'  # what follows the request id


@dataclass(frozen=True, slots=True)
class Refusal:
    """One answer of the gateway."""

    status: int
    code: str
    detail: str
    fault: Fault = "caller"
    ran: Ran = "no"
    retry_after_s: int | None = None

    @property
    def page(self) -> str:
        """The problem as JSON up to its request id; `CLOSE` ends it."""
        members: dict[str, object] = {
            "type": f"/docs#{self.code}",
            "title": TITLES.get(self.status) or HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "fault": self.fault,
            "ran": self.ran,
        }
        if self.retry_after_s is not None:
            members["retry_after_s"] = self.retry_after_s
        return json.dumps({**members, "request_id": ""}, ensure_ascii=True).removesuffix(CLOSE)


def _as_the_api(error: type[MayflyError], detail: str = "") -> Refusal:
    return Refusal(
        status=meaning_of(error).status,
        code=error.code,
        detail=detail or (error.__doc__ or "").strip(),
        fault=error.fault,
        ran=error.default_ran,
    )


RATE_LIMIT = Refusal(
    429,
    "gateway-rate-limit",
    "More requests arrive from this address or user than the gateway lets through. Nothing was passed on. "
    "This is not the limit of activations in flight.",
    retry_after_s=1,
)
NOT_NORMAL = _as_the_api(
    errors.InvalidRequest,
    "The path must be in normal form: no empty segment, no dot segment, no backslash, and none of them encoded.",
)
NOT_HTTP = _as_the_api(
    errors.InvalidRequest, "This is not a request of HTTP/1.1 over TLS, or it tells its length in two ways."
)
NOT_FOUND = _as_the_api(errors.NotFound, "There is nothing under this path. /docs lists what there is.")
PARAMETER_TOO_LARGE = _as_the_api(
    errors.ParameterTooLarge, "The parameter is larger than any function takes. Nothing was queued."
)

INSIDE = (
    NOT_NORMAL,
    _as_the_api(errors.NotAuthenticated),
    _as_the_api(errors.NotAllowed),
    NOT_FOUND,
    _as_the_api(MethodNotAllowed),
    _as_the_api(BodyTooLarge),
    RATE_LIMIT,
    _as_the_api(errors.InternalError),
    Refusal(
        502,
        "bad-gateway",
        "No API server answered, or the connection to it broke. If it broke during a call, nobody knows how far that "
        "came. The request was not sent again.",
        fault="platform",
        ran="unknown",
    ),
    Refusal(
        503,
        "gateway-unavailable",
        "The gateway knows of no API server at the moment. Nothing was passed on.",
        fault="platform",
        retry_after_s=1,
    ),
    Refusal(
        504,
        "gateway-timeout",
        "The API server was silent for longer than the longest call takes. The call may still be running.",
        fault="platform",
        ran="unknown",
    ),
)
"""Once a request has reached APISIX: refused by a plugin, or nginx failed to pass it on."""

EARLY = (
    NOT_HTTP,
    _as_the_api(MethodNotAllowed),
    RATE_LIMIT,
    _as_the_api(HeadTooLarge, "A line of the request's head is longer than 8 KiB, or all of them than 64 KiB."),
)
"""Made by nginx before APISIX sees the request."""

OF_NGINX = (413, 500, 502, 503, 504)
"""Statuses that nginx gives a request inside APISIX, where no plugin but `error-page` can word the answer."""


def pages(refusals: tuple[Refusal, ...]) -> dict[int, str]:
    """Return the texts by status."""
    return {refusal.status: refusal.page for refusal in refusals}


def static_body(status: int) -> str:
    """
    Return the body that `error-page` is given: without a request id, and with spaces at its end. It fixes the length
    of the answer, and the chunk `page.lua` then writes another one of the same length, with the id.
    """
    longest = max(len(refusal.page) for refusal in (*INSIDE, PARAMETER_TOO_LARGE) if refusal.status == status)
    return (pages(INSIDE)[status] + CLOSE).ljust(longest + REQUEST_ID_MAX + len(CLOSE))
