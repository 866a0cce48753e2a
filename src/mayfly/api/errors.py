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
        "Something in the request cannot be: a field of the body, a parameter of the URL or a header has a wrong "
        "value, is missing, or is not known; or the body is not JSON.",
        "Look at `errors`: it names each field with its rule. Correct them and send it again. An unknown field is "
        "usually a misspelt one.",
    ),
    domain.NotAuthenticated: Meaning(
        401,
        "There is no token in the request, or none that is good: it has expired (an access token after 15 minutes, "
        "unless the operator set another time), was not issued here, or its login or key has ended by a logout, a new "
        "password, or because key or account was deleted. On POST /v1/tokens: the user name, the password or the "
        "refresh token is wrong.",
        "Log in: `mayfly login NAME`, or POST /v1/tokens with your password or the newest refresh token, and send the "
        "`access_token` as `Authorization: Bearer TOKEN`. If a key was refused, make another: `mayfly keys create "
        "NAME`.",
    ),
    domain.NotAllowed: Meaning(
        403,
        "We know who you are, and you may not do this. `detail` says which of these it is: the call is for operators; "
        "the account is suspended; a key was sent where only a login will do; registration is closed, or takes an "
        "invitation that is good; the current password, to change it, is wrong; you have as many functions or keys as "
        "you may; or the call went to an API server directly, past its gateway.",
        "For want of a login: `mayfly login NAME`. For too many: `mayfly functions delete NAME` or `mayfly keys "
        "delete NAME`. Past the gateway: call the gateway's address. For all else ask the operator of the "
        "installation.",
    ),
    domain.NotFound: Meaning(
        404,
        "There is nothing of yours under this path: no such function, activation, secret, registry or key, or no such "
        "path at all. Whether another user has one of this name is not told. An activation is also not found any more "
        "once its record is no longer kept, a day after its end, or sooner if you have very many.",
        "See what there is: `mayfly functions list`, `mayfly activations list`, `mayfly keys list`; all paths stand "
        "in the reference of the API, and under /docs.",
    ),
    MethodNotAllowed: Meaning(
        405,
        "The path exists, but not with this method.",
        "Use one of the methods in the header `Allow`.",
    ),
    BodyTimeout: Meaning(
        408,
        "The request's body did not arrive within 60 seconds. Nothing was done.",
        "Send it again over a better connection, or send less.",
    ),
    domain.AlreadyExists: Meaning(
        409,
        "The user name is taken; or you have a function or a key of this name.",
        "Choose another name. Or replace the function (`mayfly functions update NAME`, PUT /v1/functions/NAME), or "
        "delete the key first (`mayfly keys delete NAME`).",
    ),
    domain.IdempotencyConflict: Meaning(
        409,
        "This Idempotency-Key was sent before, with a call of another function or with another parameter. Nothing was "
        "run for this call.",
        "Make a new key for each new call, and use it again only to repeat that very call.",
    ),
    domain.Gone: Meaning(
        410,
        "What you ask for was there, and is not kept any more: the result or the logs of an activation, or all of it "
        "but its Idempotency-Key. Or, after a call: the function was deregistered while it waited, and nothing was "
        "run.",
        "Results are kept for a day, less when many large ones follow: fetch them sooner. Invoke again, with a new "
        "key, if running twice does no harm; if the function was deregistered, register it again first.",
    ),
    domain.PreconditionFailed: Meaning(
        412,
        "Somebody changed the function since you read it: it is not at the ETag in your If-Match. Nothing was changed.",
        "GET it again, and repeat your change with the new ETag; or leave If-Match out to change it in any case.",
    ),
    domain.ParameterTooLarge: Meaning(
        413,
        "The parameter is longer than 1 MiB; or than 131,000 bytes, for a function that takes it as an argument or in "
        "the environment. Nothing was queued.",
        "Send less. Up to 1 MiB goes to a function with `parameter: stdin` (`mayfly functions update NAME --parameter "
        "stdin`); beyond that store the data elsewhere, and send where it is.",
    ),
    BodyTooLarge: Meaning(
        413,
        "The JSON, the form or the secret in the request is larger than any valid one.",
        "Send less. `detail` says how much is allowed.",
    ),
    domain.UnsupportedEncoding: Meaning(
        415,
        "The body came compressed: with the header Content-Encoding.",
        "Send it as it is, without compression and without that header.",
    ),
    UnsupportedMediaType: Meaning(
        415,
        "The header Content-Type names another media type than this call takes.",
        "Send `Content-Type: application/json` (with curl: `--json`); for POST /v1/tokens "
        "`application/x-www-form-urlencoded` (with curl: `--data`). A parameter may have any type.",
    ),
    domain.ImageUnavailable: Meaning(
        422,
        "No worker can have this image, or none can run it; `detail` has the registry's own words. Nothing was "
        "registered; if it was a call, nothing was run.",
        "Try `docker pull` with the same reference. If that works: for a private image set your credentials (`mayfly "
        "registries set HOST NAME`), see that the image is for the workers' architecture, and ask the operator "
        "whether his workers may reach that registry.",
    ),
    domain.ParameterNotText: Meaning(
        422,
        "The parameter is not UTF-8; or it has a NUL character, and the function takes it as an argument or in the "
        "environment, where that cannot be. Nothing was run.",
        "Encode binary data as text, for example by `base64`, and decode it in the function.",
    ),
    domain.LimitReached: Meaning(
        429,
        "As many activations are in flight, waiting or running, as a limit allows. `scope` says whose: yours "
        "(`user`), the `platform`'s, or that of the `function`, its `max_concurrency`; `limit` and `in_use` how many. "
        "Nothing was queued.",
        "Call again after Retry-After: nothing ran, so it is safe. `mayfly status` shows your limit and the "
        "platform's; the operator can raise both, and you the function's own, by `mayfly functions update NAME "
        "--max-concurrency N`.",
    ),
    domain.TooManyAttempts: Meaning(
        429,
        "Too many logins, or changes of a password, have failed with this user name or from this address, so the next "
        "one has to wait: at first 1 s, at last 15 minutes. A right password is refused until then as well, and "
        "nothing was looked at. Or too many users were registered from this address; or more logins arrive than can "
        "be checked. Whether there is such a user is not told. Logins and keys that exist are not affected.",
        "Try again after Retry-After, or from where you have logged in before. The operator finds more in "
        "docs/howto/log-in-under-attack.md.",
    ),
    GatewayRateLimit: Meaning(
        429,
        "More requests a second came from your address, or with your tokens, than the gateway lets through. Nothing "
        "was passed on. It has nothing to do with the limit of activations in flight, which is `concurrency-limit`.",
        "Send fewer requests a second, and again after Retry-After. The operator sets the rates: "
        "MAYFLY_GATEWAY_CLIENT_RATE for an address, MAYFLY_GATEWAY_USER_RATE for a user, MAYFLY_GATEWAY_LOGIN_RATE "
        "for logins.",
    ),
    HeadTooLarge: Meaning(
        431,
        "The request line and the headers are larger than 64 KiB in all.",
        "Send fewer or shorter headers, or a shorter URL.",
    ),
    domain.Cancelled: Meaning(
        499,
        "The activation was cancelled by its owner, or ended by an operator, as `detail` says then.",
        "None is needed. After an operator's end ask him before you call again.",
    ),
    domain.InternalError: Meaning(
        500,
        "Something failed in Mayfly that should not: a mistake of ours, not of yours. `ran` says whether the function "
        "may have run.",
        "Tell the operator the `request_id`: it finds the reason in the log.",
    ),
    domain.FunctionFailed: Meaning(
        502,
        "The function's command ended with an exit code other than 0, or was killed by a signal. Mayfly did its part.",
        "`exit_code` and `stderr`, the end of what it logged, say why; `mayfly activations logs ID` has all that is "
        "kept. Mend the function, or what it was sent.",
    ),
    domain.ResultNotText: Meaning(
        502,
        "The function ended well, but what it wrote to stdout is not UTF-8. There is no result.",
        "Have it write text: binary data for example through `base64`.",
    ),
    domain.ResultTooLarge: Meaning(
        502,
        "The function wrote more than 1 MiB to stdout. It was ended, and there is no result.",
        "Have it write less, or store the data elsewhere and write where it is.",
    ),
    domain.OutOfMemory: Meaning(
        502,
        "The function needed more memory than its limit, and was killed; or its worker had no more, and then `detail` "
        "says so. Files that it writes count as memory.",
        "Give it more, `mayfly functions update NAME --memory MIB`, or have it need less. If it was the worker, the "
        "operator has to give that more memory, or fewer slots.",
    ),
    domain.WorkerLost: Meaning(
        502,
        "The worker that ran the activation was lost, with its machine or its connection; or a backup was restored "
        "that was made while the activation was in flight. Nobody knows how far the function came.",
        "Call again if running twice does no harm. If it happens often tell the operator, whose metric "
        "`mayfly_janitor_actions_total` counts them.",
    ),
    domain.RuntimeFailed: Meaning(
        502,
        "The worker could not start or remove the container: a fault of its machine, not of the function.",
        "Try again. If it stays, tell the operator the `activation_id`: the worker's log has the reason.",
    ),
    domain.SecretUnavailable: Meaning(
        502,
        "A secret of the function, or the password for its registry, cannot be read by the worker: the key that it "
        "was sealed with is gone, or what is stored was not sealed for it. Nothing was run.",
        "Set it again: `mayfly functions secrets set FUNCTION NAME`, or `mayfly registries set HOST NAME`. If it "
        "stays, tell the operator: workers and API servers may have different sealing keys.",
    ),
    BadGateway: Meaning(
        502,
        "Said by the gateway: no API server answered, or its connection broke in the middle of a call. The gateway "
        "does not repeat a call, so nobody knows whether it ran.",
        "See by `mayfly activations list` what became of it. Repeat it if running twice does no harm; with an "
        "Idempotency-Key it never runs twice.",
    ),
    domain.QueueUnavailable: Meaning(
        503,
        "The queue or the database, NATS, does not answer, or takes nothing at the moment. `ran` says whether the "
        "function may have run.",
        "Try again after Retry-After; after `ran: unknown` only if running twice does no harm. If it stays, ask the "
        "operator: `/readyz` and his NATS say more.",
    ),
    domain.NoWorkers: Meaning(
        503,
        "No worker is there, or none answered in time. Nothing was done.",
        "Try again after Retry-After. `mayfly status` says how many workers there are; if there are none, ask the "
        "operator.",
    ),
    GatewayUnavailable: Meaning(
        503,
        "Said by the gateway: it knows of no API server that answers at the moment. Nothing was passed on.",
        "Try again after Retry-After. If it stays, ask the operator whether his API servers run.",
    ),
    domain.TimedOut: Meaning(
        504,
        "The activation's time ran out. `clock` says where: waiting in the `queue`, preparing the `image`, or in the "
        "`run`. The container was ended.",
        "Give it more time, `mayfly functions update NAME --timeout SECONDS` (waiting, image and run are all within "
        "it), have the function do less, or, if it was the `queue`, call when less is in flight.",
    ),
    GatewayTimeout: Meaning(
        504,
        "Said by the gateway: the API server was silent for 30 seconds longer than any call may take. The call may "
        "still run.",
        "See by `mayfly activations list` what became of the call before you repeat it.",
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
