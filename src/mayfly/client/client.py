"""
The client: one method for each call of the API.

A token that ends is renewed by itself, and a call that was refused for its token is then repeated, once: the API
answers 401 before it reads the call's body, so nothing can have run. A call with an idempotency key is repeated when
its connection is lost, since Mayfly runs it once (`client.repeats`). Nothing else is ever repeated here. Whether a call
without a key may be repeated is for the caller to say, who finds `ran` in every error.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
import msgspec

from mayfly.client.admin import Admin
from mayfly.client.bodies import as_json as _json
from mayfly.client.bodies import as_utf8 as _utf8
from mayfly.client.bodies import read as _read
from mayfly.client.bodies import segment as _segment
from mayfly.client.connection import Connection, Trace
from mayfly.client.errors import ApiError, ClientError, InvalidCall, NotLoggedIn, answer_error, not_mayfly
from mayfly.client.repeats import repeated
from mayfly.client.shapes import (
    Activation,
    ActivationPage,
    AuditEntry,
    AuditPage,
    Function,
    FunctionPage,
    InvokeResult,
    Key,
    KeyList,
    Logs,
    MadeKey,
    Registry,
    RegistryList,
    Secret,
    SecretList,
    Spec,
    Status,
    User,
    timing,
    wire,
)
from mayfly.client.tokens import MemoryTokens, TokenAnswer, TokenKeeper, Tokens
from mayfly.domain.idempotency import KEY_MAX_CHARACTERS
from mayfly.domain.limits import TIMEOUT_MAX_S

ANSWER_S = 30.0  # for what needs no container
PULL_S = 150.0  # the API gives a worker some two minutes for an image
MARGIN_S = 30.0  # beyond a function's time-out, for what the API does after it
PAGE = 200

T = TypeVar("T")

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750: anything else would end up in an error's text
_KEY = re.compile(rf"[\x20-\x7e]{{1,{KEY_MAX_CHARACTERS}}}")


class Client:
    """One user's calls to one installation, any number of them at once."""

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path | None = None,
        tokens: TokenKeeper | None = None,
        trace: Trace | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """
        Trust the system's authorities unless there is a *ca_file*; keep tokens in memory unless *tokens* keeps them.

        Raises: InvalidCall.
        """
        self._connection = Connection(url, ca_file=ca_file, trace=trace, transport=transport)
        self._tokens: TokenKeeper = tokens if tokens is not None else MemoryTokens()

    @property
    def url(self) -> str:
        """Where the API is."""
        return self._connection.url

    async def __aenter__(self) -> Client:
        """Nothing is sent yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._connection.close()

    # Accounts

    async def register(self, username: str, password: str, *, invitation: str | None = None) -> User:
        """
        Make an account. Log in then. Where registration is by invitation it takes the code of one; without, or with one
        that is not good, the ApiError has the member `field` with the value `invitation`.
        """
        body = {"username": username, "password": password, **({"invitation": invitation} if invitation else {})}
        return _read(await self._send_public("POST", "/v1/users", **_json(body)), User)

    async def log_in(self, username: str, password: str) -> Tokens:
        """Begin a login and keep its tokens."""
        form = {"grant_type": "password", "username": username, "password": password}
        tokens = await self._grant(form)
        await self._tokens.keep(tokens)
        return tokens

    async def log_out(self) -> None:
        """End the login: its tokens are refused from now on, and forgotten here."""
        await self._send("DELETE", "/v1/tokens/current")
        await self._tokens.keep(None)

    async def me(self) -> User:
        """Show the account that the token belongs to."""
        return _read(await self._send("GET", "/v1/users/me"), User)

    async def change_password(self, *, current: str, new: str, end_keys: bool = False) -> None:
        """Set a new password. All other logins end, and keys if *end_keys*."""
        body = {"current_password": current, "new_password": new, **({"end_keys": True} if end_keys else {})}
        await self._send("PUT", "/v1/users/me/password", **_json(body))

    async def delete_me(self) -> None:
        """Delete the account with its functions and records."""
        await self._send("DELETE", "/v1/users/me")
        await self._tokens.keep(None)

    # Keys

    async def create_key(self, name: str, *, expires_in_s: int | None = None) -> MadeKey:
        """Make a key for a machine, by default for 90 days. Its token is in the answer, and nowhere else."""
        body = {"name": name} | ({} if expires_in_s is None else {"expires_in_s": expires_in_s})
        return _read(await self._send("POST", "/v1/keys", **_json(body)), MadeKey)

    async def keys(self) -> list[Key]:
        """List one's keys by name."""
        return _read(await self._send("GET", "/v1/keys"), KeyList).keys

    async def delete_key(self, key: str) -> None:
        """End a key, by its name or id: it is refused from now on."""
        await self._send("DELETE", f"/v1/keys/{_segment(key)}")

    # Functions

    async def create_function(self, name: str, spec: Spec) -> Function:
        """Register a function. Its state is `pending` if no worker could be asked for the image in time."""
        body = {"name": name, **wire(spec)}
        return _function(await self._send("POST", "/v1/functions", read_s=PULL_S, **_json(body)))

    async def function(self, name: str) -> Function:
        """Show a function."""
        return _function(await self._send("GET", f"/v1/functions/{_segment(name)}"))

    async def functions(self) -> AsyncIterator[Function]:
        """List one's functions by name, fetching page after page."""
        after: str | None = None
        while True:
            page = await self._page("/v1/functions", FunctionPage, after=after)
            for function in page.functions:
                yield function
            after = page.next
            if after is None:
                return

    async def replace_function(
        self, name: str, spec: Spec, *, if_match: str | None = None, pull: bool = False
    ) -> Function:
        """Replace all of a function but its name; with *pull*, resolve the image's tag anew."""
        options = _json(wire(spec))
        if if_match:
            options["headers"]["If-Match"] = if_match
        query = {"pull": "true"} if pull else {}
        path = f"/v1/functions/{_segment(name)}"
        return _function(await self._send("PUT", path, read_s=PULL_S, params=query, **options))

    async def delete_function(self, name: str) -> None:
        """Deregister a function: new and waiting calls are refused, running ones finish."""
        await self._send("DELETE", f"/v1/functions/{_segment(name)}")

    # Secrets, and accounts at registries

    async def set_secret(self, function: str, key: str, value: str | bytes, *, deliver_as: str | None = None) -> None:
        """Set a secret of a function, as a variable of its `environment` (the default) or as a `file`."""
        path = f"/v1/functions/{_segment(function)}/secrets/{_segment(key)}"
        query = {} if deliver_as is None else {"as": deliver_as}
        headers = {"Content-Type": "application/octet-stream"}
        await self._send("PUT", path, params=query, headers=headers, content=_utf8(value, "secret"))

    async def secrets(self, function: str) -> list[Secret]:
        """List a function's secrets, without their values, which nobody is shown."""
        return _read(await self._send("GET", f"/v1/functions/{_segment(function)}/secrets"), SecretList).secrets

    async def delete_secret(self, function: str, key: str) -> None:
        """Delete a secret of a function."""
        await self._send("DELETE", f"/v1/functions/{_segment(function)}/secrets/{_segment(key)}")

    async def set_registry(self, host: str, *, username: str, password: str) -> None:
        """Set one's account at a registry, for one's own images."""
        body = {"username": username, "password": password}
        await self._send("PUT", f"/v1/registries/{_segment(host)}", **_json(body))

    async def registries(self) -> list[Registry]:
        """List one's accounts at registries, without the passwords."""
        return _read(await self._send("GET", "/v1/registries"), RegistryList).registries

    async def delete_registry(self, host: str) -> None:
        """Forget one's account at a registry."""
        await self._send("DELETE", f"/v1/registries/{_segment(host)}")

    # Activations

    async def invoke(
        self,
        name: str,
        parameter: str | bytes = b"",
        *,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> InvokeResult:
        """
        Invoke a function and wait for its result. *timeout_s* shortens the function's own time-out. With an
        *idempotency_key*, such as a UUID, the function runs once however often this is asked, and a call whose
        connection is lost is repeated here.

        Raises: InvalidCall for a string that is not text (a lone surrogate), a time-out that is no time or a key that
        is none; ApiError; Unreachable, with `ran` unknown once the call was sent.
        """
        read_s = min(timeout_s or TIMEOUT_MAX_S, TIMEOUT_MAX_S) + MARGIN_S
        response = await self._call(
            name, parameter, timeout_s=timeout_s, idempotency_key=idempotency_key, read_s=read_s
        )
        return _result(response)

    async def submit(
        self,
        name: str,
        parameter: str | bytes = b"",
        *,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> Activation:
        """
        Queue a call without waiting for its end, and return its record; `result` and `logs` are for later.

        Raises: as `invoke`, but for what becomes of it in the queue and after.
        """
        response = await self._call(
            name, parameter, timeout_s=timeout_s, idempotency_key=idempotency_key, prefer="respond-async"
        )
        if response.status_code != httpx.codes.ACCEPTED:  # RFC 7240 allows a server to wait all the same
            raise _may_have_run(not_mayfly(response))
        return _read(response, Activation)

    async def cancel(self, activation_id: str) -> Activation:
        """
        End an activation, and return its record: cancelled, or as it ended before; not final yet if its worker needs
        longer than the API waits, and then it can be asked for again.
        """
        path = f"/v1/activations/{_segment(activation_id)}"
        return _read(await self._send("DELETE", path), Activation)

    async def activation(self, activation_id: str) -> Activation:
        """Show the record of an activation."""
        return _read(await self._send("GET", f"/v1/activations/{_segment(activation_id)}"), Activation)

    async def activations(
        self, *, function: str | None = None, state: str | None = None, since: datetime | None = None
    ) -> AsyncIterator[Activation]:
        """
        List one's activations, the newest first, fetching page after page: all, or those of a *function*, in a *state*,
        that arrived *since* then (local time, if it has no zone).
        """
        moment = None if since is None else since.astimezone(UTC).isoformat()
        after: str | None = None
        while True:
            page = await self._page(
                "/v1/activations", ActivationPage, after=after, function=function, state=state, since=moment
            )
            for activation in page.activations:
                yield activation
            after = page.next
            if after is None:
                return

    async def result(self, activation_id: str, *, wait_s: float = 0) -> InvokeResult | None:
        """
        Fetch the result of an activation; None if it has not ended within *wait_s*.

        Raises: ApiError, the same that the call was answered with, if it failed.
        """
        path = f"/v1/activations/{_segment(activation_id)}/result"
        query = {"wait": _seconds(wait_s)}
        response = await self._send("GET", path, read_s=wait_s + ANSWER_S, params=query)
        return None if response.status_code == httpx.codes.ACCEPTED else _result(response)

    async def logs(self, activation_id: str) -> Logs:
        """Fetch what the function wrote to stderr."""
        response = await self._send("GET", f"/v1/activations/{_segment(activation_id)}/logs")
        return Logs(stderr=response.content, truncated=response.headers.get("mayfly-logs-truncated") == "true")

    async def audit(self) -> AsyncIterator[AuditEntry]:
        """List who did or tried what with one's account, the newest first, fetching page after page."""
        after: str | None = None
        while True:
            page = await self._page("/v1/audit", AuditPage, after=after)
            for entry in page.entries:
                yield entry
            after = page.next
            if after is None:
                return

    async def status(self) -> Status:
        """Show how the platform and one's own share of it stand."""
        return _read(await self._send("GET", "/v1/status"), Status)

    @property
    def admin(self) -> Admin:
        """What only operators may do."""
        return Admin(self._send)

    # How it is sent

    async def _call(
        self,
        name: str,
        parameter: str | bytes,
        *,
        timeout_s: float | None,
        idempotency_key: str | None,
        prefer: str | None = None,
        read_s: float = ANSWER_S,
    ) -> httpx.Response:
        """Send a call; one with a key as often as need be."""
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        if timeout_s is not None:
            headers["Mayfly-Timeout"] = _seconds(timeout_s)
        if prefer is not None:
            headers["Prefer"] = prefer
        path, content = f"/v1/functions/{_segment(name)}/activations", _utf8(parameter)

        async def send() -> httpx.Response:
            return await self._send("POST", path, read_s=read_s, headers=headers, content=content)

        if idempotency_key is None:
            return await send()
        headers["Idempotency-Key"] = _key(idempotency_key)
        return await repeated(send)

    async def _page(self, path: str, shape: type[T], **query: str | None) -> T:
        given = {name: _utf8(value, name).decode() for name, value in query.items() if value is not None}
        return _read(await self._send("GET", path, params={"limit": PAGE, **given}), shape)

    async def _send_public(self, method: str, path: str, *, read_s: float = ANSWER_S, **options: Any) -> httpx.Response:
        """Send what needs no token."""
        response = await self._connection.send(method, path, read_s=read_s, **options)
        if not response.is_success:
            raise answer_error(response)
        return response

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send with a token: a stale one is renewed before, a refused one after, and then it is sent once more."""
        tokens = await self._tokens.current()
        if tokens is None:
            raise NotLoggedIn(f"You are not logged in at {self.url}.")
        if tokens.is_stale:
            tokens = await self._renew(tokens)
        try:
            return await self._send_public(method, path, **_bearing(tokens, options))
        except ApiError as error:
            refused = error.status == httpx.codes.UNAUTHORIZED and error.ran == "no"
            if not (refused and tokens.can_renew):
                raise
        tokens = await self._renew(tokens)
        return await self._send_public(method, path, **_bearing(tokens, options))

    async def _renew(self, tokens: Tokens) -> Tokens:
        async def exchange(refresh_token: str) -> Tokens:
            return await self._grant({"grant_type": "refresh_token", "refresh_token": refresh_token})

        return await self._tokens.renewed(tokens, exchange)

    async def _grant(self, form: dict[str, str]) -> Tokens:
        for name, value in form.items():
            _utf8(value, name)
        return _read(await self._send_public("POST", "/v1/tokens", data=form), TokenAnswer).kept()


def _bearing(tokens: Tokens, options: dict[str, Any]) -> dict[str, Any]:
    if not _TOKEN.fullmatch(tokens.access_token):
        raise InvalidCall("The access token has characters that no token has; was it copied whole?")
    headers = {**options.get("headers", {}), "Authorization": f"Bearer {tokens.access_token}"}
    return {**options, "headers": headers}


def _seconds(value: float) -> str:
    """Write a duration for the API, which says which ones it takes; what is none would end in our own timers."""
    if not 0 <= value < math.inf:
        raise InvalidCall(f"{value:g} is not a number of seconds.")
    return f"{value:g}"


def _key(text: str) -> str:
    """Check what becomes a header, and would end in HTTP's own errors if it cannot."""
    if not _KEY.fullmatch(text):
        raise InvalidCall(
            f"An idempotency key has 1 to {KEY_MAX_CHARACTERS} printable ASCII characters, such as a UUID."
        )
    return text


def _function(response: httpx.Response) -> Function:
    return msgspec.structs.replace(_read(response, Function), etag=response.headers.get("etag"))


def _result(response: httpx.Response) -> InvokeResult:
    """Only an answer that names its activation is a function's."""
    activation_id = response.headers.get("mayfly-activation-id")
    if activation_id is None:
        raise _may_have_run(not_mayfly(response))
    return InvokeResult(
        result=response.content, activation_id=activation_id, timing=timing(response.headers.get("server-timing", ""))
    )


def _may_have_run(error: ClientError) -> ClientError:
    """A call was answered by somebody; who knows by whom."""
    error.ran = "unknown"
    return error
