"""
The one table from an error to what a caller sees: status, title, and what to do about it.

Inner rooms know no HTTP and raise `domain.errors`; the few errors that only HTTP knows are defined here. Everything
leaves as problem+json (RFC 9457), never as a page or a stack. `docs/reference/errors.md` is made from this table.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from http import HTTPStatus

from starlette.responses import Response

from mayfly.domain import errors as domain
from mayfly.domain.errors import MayflyError, PlatformError, RequestError

MEDIA_TYPE = "application/problem+json"


class MethodNotAllowed(RequestError):
    """This resource does not know that method; the header Allow lists those it knows."""

    code = "method-not-allowed"


class UnsupportedMediaType(RequestError):
    """The body is not in the media type that this call takes."""

    code = "unsupported-media-type"


class BodyTooLarge(RequestError):
    """The body is larger than this call takes."""

    code = "body-too-large"


class BodyTimeout(RequestError):
    """The body did not arrive in time."""

    code = "body-timeout"


class HeadTooLarge(RequestError):
    """The request line and headers are larger than 64 KiB in all."""

    code = "head-too-large"


class GatewayRateLimit(RequestError):
    """
    More requests arrive from this address or user than the gateway lets through. Nothing was passed on. This is not the
    limit of activations in flight.
    """

    code = "gateway-rate-limit"


class BadGateway(PlatformError):
    """
    No API server answered the gateway, or the connection to it broke; then nobody knows how far a call came. It was
    not sent again.
    """

    code = "bad-gateway"
    default_ran = "unknown"


class GatewayUnavailable(PlatformError):
    """The gateway knows of no API server at the moment. Nothing was passed on."""

    code = "gateway-unavailable"


class GatewayTimeout(PlatformError):
    """The API server was silent for longer than the longest call takes. The call may still be running."""

    code = "gateway-timeout"
    default_ran = "unknown"


OF_THE_GATEWAY = frozenset({GatewayRateLimit, BadGateway, GatewayUnavailable, GatewayTimeout})
"""Never made here: the gateway says them, and this table explains them."""

TITLES = {413: "Content Too Large", 422: "Unprocessable Content", 499: "Client Closed Request"}
"""As RFC 9110 has them; Python's own table changed its words with 3.13, and does not know 499."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code stands for, over HTTP and in the reference."""

    status: int
    cause: str
    remedy: str

    @property
    def title(self) -> str:
        """The status in words, as RFC 9457 wants it where `type` says the rest."""
        return TITLES.get(self.status) or HTTPStatus(self.status).phrase


MEANINGS: dict[type[MayflyError], Meaning] = {
    domain.InvalidRequest: Meaning(
        400,
        "A field, a parameter of the URL or a header has a value that cannot be, is missing, or is not known; or the "
        "body is not JSON.",
        "`errors` names each field and its rule. Correct them; an unknown field is usually a misspelt one.",
    ),
    domain.NotAuthenticated: Meaning(
        401,
        "There is no access token or key, or it has expired, was not issued here, or its login or the key has ended "
        "(logout, new password, deleted key or account). On POST /v1/tokens: the user name, the password or the "
        "refresh token is wrong.",
        "Get a token from POST /v1/tokens and send it as `Authorization: Bearer TOKEN`.",
    ),
    domain.NotAllowed: Meaning(
        403,
        "The account is known, and may not do this, as it is no operator's, or is suspended; or a key was sent where a "
        "login is needed; or registration is closed or takes a good invitation; or, changing a password, the current "
        "one is wrong; or you have as many functions or keys as you may; or the call went to an API server directly, "
        "not through its gateway.",
        "`detail` says which. The operator of the installation can change what is closed.",
    ),
    domain.NotFound: Meaning(
        404,
        "There is no such path, or you have no function or activation of this name. Whether another user has one is "
        "not told.",
        "Compare with the list: GET /v1/functions, GET /v1/activations, /docs.",
    ),
    MethodNotAllowed: Meaning(
        405, "The path exists, but not with this method.", "The header Allow lists the methods that it knows."
    ),
    BodyTimeout: Meaning(
        408, "The request's body did not arrive within 60 seconds.", "Send it again over a better connection."
    ),
    domain.AlreadyExists: Meaning(
        409,
        "The user name is taken, or you have a function or a key of this name.",
        "Choose another name, replace the function with PUT, or delete the key first.",
    ),
    domain.IdempotencyConflict: Meaning(
        409,
        "The Idempotency-Key was used for a call of another function or with another parameter. Nothing was run.",
        "Make a new key for each new call; repeat a call with the very same function and parameter.",
    ),
    domain.Gone: Meaning(
        410,
        "The result or the logs of the activation are no longer kept; or nothing of it but its Idempotency-Key. Or the "
        "function was deregistered while the call waited, and nothing was run.",
        "Results are kept for a day, less when many large ones follow. Invoke again if the function allows it, "
        "with a new key; if it was deregistered, register it again first.",
    ),
    domain.PreconditionFailed: Meaning(
        412,
        "What you change is not at the revision in your If-Match: somebody changed it since you read it.",
        "GET it again, and repeat your change with the new ETag.",
    ),
    domain.ParameterTooLarge: Meaning(
        413,
        "The parameter is longer than 1 MiB, or than 131,000 bytes for a function that takes it as argument or in the "
        "environment. Nothing was queued.",
        "Send less, or register the function with `parameter: stdin`; beyond 1 MiB send a reference to the data.",
    ),
    BodyTooLarge: Meaning(413, "The JSON or form of the request is larger than any valid one.", "Send less."),
    domain.UnsupportedEncoding: Meaning(
        415, "The body came with a Content-Encoding.", "Send it as it is, without compression."
    ),
    UnsupportedMediaType: Meaning(
        415,
        "The body is not in the media type that this call takes.",
        "Send `Content-Type: application/json`; for POST /v1/tokens `application/x-www-form-urlencoded`. A parameter "
        "may have any type.",
    ),
    domain.ImageUnavailable: Meaning(
        422,
        "The image cannot be had or cannot be run; `detail` has the registry's own words. Nothing was registered; "
        "if it was a call, nothing was run.",
        "Check name and tag, whether the registry may be reached from the workers, and the image's architecture.",
    ),
    domain.ParameterNotText: Meaning(
        422,
        "The parameter is not UTF-8; or it has a NUL character, and the function takes it as argument or in the "
        "environment, where that cannot be.",
        "Encode binary data, for example as base64.",
    ),
    domain.LimitReached: Meaning(
        429,
        "As many activations are in flight as the limit of `scope` allows: yours (`user`), the `platform`'s, or that "
        "of the `function`, its `max_concurrency`. Nothing was queued.",
        "Call again after Retry-After.",
    ),
    domain.TooManyAttempts: Meaning(
        429,
        "Too many logins (or changes of a password) have failed with this user name or from this address, so the next "
        "one has to wait, at first 1 s, at last 15 minutes; a right password is refused until then as well, and "
        "nothing was looked at. Or too many users were registered from this address; or more logins arrive than can "
        "be checked. Whether there is such a user is not told. Logins and keys that exist are not affected.",
        "Try again after Retry-After, or from where you have logged in before. See docs/howto/log-in-under-attack.md.",
    ),
    GatewayRateLimit: Meaning(
        429,
        "The gateway got more requests from your address, or with your tokens, than it lets through. It is made by the "
        "gateway, and has nothing to do with the limit of activations in flight, which is `concurrency-limit`.",
        "Send fewer requests a second, after Retry-After.",
    ),
    HeadTooLarge: Meaning(431, "The request line and headers are larger than 64 KiB in all.", "Send less."),
    domain.Cancelled: Meaning(
        499,
        "The activation was cancelled by its owner, or ended by an operator, as `detail` says then.",
        "None is needed; after an operator's end ask him before you call again.",
    ),
    domain.InternalError: Meaning(
        500,
        "Something failed in Mayfly that should not.",
        "Tell the operator the `request_id`, which finds it in the log. Whether the function ran is in `ran`.",
    ),
    domain.FunctionFailed: Meaning(
        502,
        "The function's command ended with an exit code other than 0, or was killed by a signal.",
        "`exit_code` and `stderr` (the end of it) say why; GET /v1/activations/{id}/logs has all that is kept.",
    ),
    domain.ResultNotText: Meaning(
        502, "What the function wrote to stdout is not UTF-8.", "Have it write text, for example base64."
    ),
    domain.ResultTooLarge: Meaning(
        502, "The function wrote more than 1 MiB to stdout.", "Have it write less, or a reference to the data."
    ),
    domain.OutOfMemory: Meaning(
        502,
        "The function needed more memory than its limit; files that it writes count too.",
        "Raise `limits.memory_mib`, or have it need less.",
    ),
    domain.WorkerLost: Meaning(
        502,
        "The worker that ran the activation was lost, or a backup was restored that was made while the activation was "
        "in flight; nobody knows how far it came.",
        "Call again if running twice does no harm.",
    ),
    domain.RuntimeFailed: Meaning(
        502, "The container could not be started or removed.", "Try again; tell the operator if it stays."
    ),
    domain.SecretUnavailable: Meaning(
        502,
        "A secret of the function, or the password for its registry, cannot be read by the worker: the key that it was "
        "sealed with is gone, or what is stored was not sealed for it. Nothing was run.",
        "Set it again (PUT); tell the operator if it stays.",
    ),
    BadGateway: Meaning(
        502,
        "Made by the gateway: no API server answered, or its connection broke in the middle of a call.",
        "Try again if running twice does no harm, or if you sent an Idempotency-Key.",
    ),
    domain.QueueUnavailable: Meaning(
        503,
        "The queue or the database does not answer.",
        "Try again after Retry-After. `ran` says whether the function may have run.",
    ),
    domain.NoWorkers: Meaning(503, "There is no worker that could be asked.", "Try again after Retry-After."),
    GatewayUnavailable: Meaning(
        503, "Made by the gateway: it knows of no API server at the moment.", "Try again after Retry-After."
    ),
    domain.TimedOut: Meaning(
        504,
        "The activation's time ran out: waiting in the queue, preparing the image, or running, as `clock` says.",
        "Raise `limits.timeout_s` (queue, image and run are all within it), or have the function do less.",
    ),
    GatewayTimeout: Meaning(
        504,
        "Made by the gateway: the API server said nothing for 30 seconds longer than any call may take.",
        "See by GET /v1/activations what became of the call.",
    ),
}
"""Each error that can leave the API, or the gateway before it. In order of status, as the reference is."""


def meaning_of(error: type[MayflyError]) -> Meaning:
    """Look an error up, or the nearest class above it; whatever is in no table is an internal error."""
    for kind in error.__mro__:
        if kind in MEANINGS:
            return MEANINGS[kind]
    return MEANINGS[domain.InternalError]


def problem(error: MayflyError, request_id: str) -> Response:
    """Make the answer that an error stands for."""
    meaning = meaning_of(type(error))
    body: dict[str, object] = {
        **error.members,
        "type": f"/docs#{error.code}",
        "title": meaning.title,
        "status": meaning.status,
        "detail": error.detail,
        "code": error.code,
        "fault": error.fault,
        "ran": error.ran,
        "request_id": request_id,
    }
    if error.retry_after_s is not None:
        body["retry_after_s"] = error.retry_after_s
    content = json.dumps(body, default=str).encode()
    return Response(content, meaning.status, headers=_headers(error), media_type=MEDIA_TYPE)


def _headers(error: MayflyError) -> dict[str, str]:
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, domain.NotAuthenticated):
        invalid = ', error="invalid_token"' if error.members.get("error") == "invalid_token" else ""
        headers["WWW-Authenticate"] = f'Bearer realm="mayfly"{invalid}'
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = str(error.members.get("allow", ""))
    if activation_id := error.members.get("activation_id"):
        headers["Mayfly-Activation-Id"] = str(activation_id)
        headers["Location"] = f"/v1/activations/{activation_id}"
    return headers
