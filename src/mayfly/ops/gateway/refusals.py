"""
What the gateway answers by itself: problems with the members that the API's own have.

Codes, titles, `fault`, `ran` and most words are those of the API's own table of errors. The JSON is written here, all
but the request id, so that no Lua has to; `PAGES` of the Lua chunks are these texts. Rows: A1, D3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from mayfly.api.errors import (
    BadGateway,
    BodyTooLarge,
    GatewayRateLimit,
    GatewayTimeout,
    GatewayUnavailable,
    HeadTooLarge,
    MethodNotAllowed,
    meaning_of,
)
from mayfly.domain import errors
from mayfly.domain.errors import Fault, MayflyError, Ran

REQUEST_ID_MAX = 64
CLOSE = '"}'  # what follows the request id


@dataclass(frozen=True, slots=True)
class Refusal:
    """One answer of the gateway."""

    status: int
    title: str
    code: str
    detail: str
    fault: Fault
    ran: Ran
    retry_after_s: int | None = None

    @property
    def page(self) -> str:
        """The problem as JSON up to its request id; `CLOSE` ends it."""
        members: dict[str, object] = {
            "type": f"/docs#{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "fault": self.fault,
            "ran": self.ran,
        }
        if self.retry_after_s is not None:
            members["retry_after_s"] = self.retry_after_s
        return json.dumps({**members, "request_id": ""}, ensure_ascii=True).removesuffix(CLOSE)


def _refusal(error: type[MayflyError], detail: str = "", *, retry_after_s: int | None = None) -> Refusal:
    return Refusal(
        status=meaning_of(error).status,
        title=meaning_of(error).title,
        code=error.code,
        detail=detail or " ".join((error.__doc__ or "").split()),
        fault=error.fault,
        ran=error.default_ran,
        retry_after_s=retry_after_s,
    )


RATE_LIMIT = _refusal(GatewayRateLimit, retry_after_s=1)
NOT_NORMAL = _refusal(
    errors.InvalidRequest,
    "The path must be in normal form: no empty segment, no dot segment, no backslash, and none of them encoded.",
)
NOT_HTTP = _refusal(
    errors.InvalidRequest, "This is not a request of HTTP/1.1 over TLS, or it tells its length in two ways."
)
PARAMETER_TOO_LARGE = _refusal(
    errors.ParameterTooLarge, "The parameter is larger than any function takes. Nothing was queued."
)

INSIDE = (
    NOT_NORMAL,
    _refusal(errors.NotAuthenticated),
    _refusal(errors.NotAllowed),
    _refusal(errors.NotFound, "There is nothing under this path. /docs lists what there is."),
    _refusal(MethodNotAllowed),
    _refusal(BodyTooLarge),
    RATE_LIMIT,
    _refusal(errors.InternalError),
    _refusal(BadGateway),
    _refusal(GatewayUnavailable, retry_after_s=1),
    _refusal(GatewayTimeout),
)
"""Once a request has reached APISIX: refused by a plugin, or nginx failed to pass it on."""

EARLY = (
    NOT_HTTP,
    _refusal(MethodNotAllowed),
    RATE_LIMIT,
    _refusal(HeadTooLarge, "A line of the request's head is longer than 8 KiB, or all of them than 64 KiB."),
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
