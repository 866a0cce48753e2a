"""The gateway's Lua: what each chunk does to a request, run by LuaJIT with a stand-in for nginx and APISIX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import luajit21  # type: ignore[import-untyped]  # it has no types

from mayfly.api.errors import MEANINGS
from mayfly.domain.ids import new_id
from mayfly.ops.gateway.chunks import literal
from mayfly.ops.gateway.material import Material
from mayfly.ops.gateway.refusals import EARLY, INSIDE, OF_NGINX, PARAMETER_TOO_LARGE, static_body
from mayfly.ops.gateway.render import render
from mayfly.ops.gateway.routes import OF_THE_CALLER
from mayfly.settings import GatewaySettings
from tests.support.gateway_lua import Request

pytestmark = [pytest.mark.A1, pytest.mark.D3]

SECRET = "a-secret-of-the-gateway-0123456789-abcdef"
FILES = render(GatewaySettings(), Material("certificate", "key", SECRET, {"kid": "public key"}))
ROUTES = yaml.safe_load(FILES.routes)
CONFIG = yaml.safe_load(FILES.config)
GLOBAL = ROUTES["global_rules"][0]["plugins"]
[GUARD] = GLOBAL["serverless-pre-function"]["functions"]
[REFUSE] = GLOBAL["exit-transformer"]["functions"]
[PAGE] = GLOBAL["serverless-post-function"]["functions"]
[SUBJECT] = ROUTES["routes"][2]["plugins"]["serverless-pre-function"]["functions"]
EARLY_SNIPPET = CONFIG["nginx_config"]["http_server_configuration_snippet"]
EARLY_CODE = EARLY_SNIPPET.partition("content_by_lua_block {")[2].rpartition("}")[0].rpartition("}")[0]
MEMBERS = {"type", "title", "status", "detail", "code", "fault", "ran", "request_id"}


@pytest.mark.parametrize("code", [GUARD, REFUSE, PAGE, SUBJECT, EARLY_CODE])
def test_every_chunk_compiles(code: str) -> None:
    """With the LuaJIT that APISIX has: a chunk that does not compile would take its whole rule out of force."""
    luajit21.LuaRuntime().compile(code)


@pytest.mark.parametrize(
    "value",
    ["", "plain", 'quo"te', "back\\slash", "line\nbreak\r", "nul\0", "]]", "--[[", "ä€", "{", "}{", "%d", "x" * 300],
)
def test_a_value_is_a_literal_and_never_code(value: str) -> None:
    """Whatever a value is, Lua reads back the same bytes."""
    lua: Any = luajit21.LuaRuntime(encoding=None)
    assert lua.execute(f"return {literal(value)}".encode()) == value.encode()


def test_braces_come_in_pairs() -> None:
    """nginx and others look for the end of a block of Lua by counting braces, maybe inside strings as well."""
    assert EARLY_SNIPPET.count("{") == EARLY_SNIPPET.count("}")


@pytest.mark.parametrize("name", OF_THE_CALLER)
def test_what_only_a_gateway_may_say_is_taken_from_the_caller(name: str) -> None:
    """Identity headers never reach the API from outside, however they are spelt; the secret is the gateway's own."""
    request = Request(headers={name.lower(): "forged"})

    assert request.call(GUARD) == (None,)
    assert request.sent(name) == (SECRET if name == "X-Mayfly-Gateway" else None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("callers-own-id-1", True),
        ("A.b_c-1", True),
        ("01m8kq14k6ras3qq6rny039c3c", True),  # as our own are
        ("x" * 64, True),
        ("x" * 65, False),
        ("", False),
        ("two words", False),
        ("line\nbreak", False),
        ("trailing-newline\n", False),
        ('quote"', False),
        ("ünicode", False),
    ],
)
def test_a_sane_request_id_is_kept_and_no_other(given: str, kept: bool) -> None:
    """By the API's own rule, so that both logs have the same one; and it can be put into JSON as it is."""
    request = Request(headers={"X-Request-Id": given})

    request.call(GUARD)

    assert request.sent("X-Request-Id") == (given if kept else None)


@pytest.mark.parametrize(
    "path",
    [
        "//v1/functions",
        "/v1//functions",
        "/docs/../v1/functions",
        "/docs/./x",
        "/docs/..",
        "/docs/.",
        "/docs/%2e%2e/v1/functions",
        "/docs/%2E./v1",
        "/docs/..%2fv1",
        "/docs%2Fv1",
        "/docs\\..\\v1",
        "/docs%5c..%5Cv1",
        "https://elsewhere.example/v1/functions",
    ],
)
def test_a_path_that_two_could_read_in_two_ways_is_refused(path: str) -> None:
    """Before a route is chosen by one reading and the API serves another; nothing is sent on, not even the secret."""
    request = Request(uri=path, headers={"X-Mayfly-Gateway": "forged"})

    assert request.call(GUARD)[0] == 400
    assert request.sent("X-Mayfly-Gateway") is None


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/functions/upper/activations",
        "/v1/activations/abc-def/result?wait=1.5",
        "/v1/functions?after=..%2f//",
        "/v1/functions/a%20b",
        "/.well-known/x",
        "/v1/functions/...",
    ],
)
def test_an_ordinary_path_passes(path: str) -> None:
    """What is in the query is nobody's path."""
    request = Request(uri=path)

    assert request.call(GUARD) == (None,)
    assert request.sent("X-Mayfly-Gateway") == SECRET


def test_limits_are_kept_by_whose_token_it_is() -> None:
    """A user's id becomes the key of the limits by user."""
    user = new_id()
    request = Request()
    payload = request._table({"sub": user})

    assert request.call(SUBJECT, jwt_auth_payload=payload) == (None,)
    assert request.ctx.var.mayfly_sub == user


@pytest.mark.parametrize("sub", [None, "", "x" * 19, "x" * 33, "A" * 24, "a" * 23 + ".", 12345678, True])
def test_a_token_that_says_of_nobody_whose_it_is_is_refused(sub: object) -> None:
    """It could only have come from elsewhere; without a key its calls would count for the caller's address."""
    request = Request()
    payload = request._table({} if sub is None else {"sub": sub})

    assert request.call(SUBJECT, jwt_auth_payload=payload)[0] == 401
    assert request.ctx.var.mayfly_sub is None


def test_no_payload_is_refused() -> None:
    """Should the token check ever not have run, nobody is let through by this."""
    assert Request().call(SUBJECT)[0] == 401


@pytest.mark.parametrize("refusal", INSIDE, ids=lambda refusal: str(refusal.status))
def test_what_a_plugin_refuses_is_a_problem_with_the_apis_members(refusal: Any) -> None:
    """Whoever refuses, the caller reads the same members, and whether the function ran."""
    status, problem, headers = Request().transform(REFUSE, refusal.status, "words of APISIX")

    assert status == problem["status"] == refusal.status
    assert set(problem) == MEMBERS | ({"retry_after_s"} if refusal.retry_after_s else set())
    assert problem["ran"] == ("unknown" if refusal.status in {500, 502, 504} else "no")
    assert problem["fault"] == ("platform" if refusal.status >= 500 else "caller")
    assert problem["request_id"] == "id-of-the-request"
    assert problem["type"] == f"/docs#{problem['code']}"
    assert headers["Content-Type"] == "application/problem+json"
    assert headers.get("Retry-After") == (str(refusal.retry_after_s) if refusal.retry_after_s else None)


@pytest.mark.parametrize(
    ("given", "answered"), [(402, 400), (418, 400), (426, 400), (501, 500), (507, 500), (599, 500)]
)
def test_a_status_that_nobody_expects_is_a_problem_as_well(given: int, answered: int) -> None:
    """A plugin of another version may refuse otherwise; still no caller gets a page in HTML."""
    assert Request().transform(REFUSE, given)[0] == answered


def test_what_is_no_refusal_passes_as_it_is() -> None:
    """exit-transformer also sees answers that are fine."""
    request = Request()
    assert tuple(request._lua.execute(REFUSE, 200, "fine", None)) == (200, "fine", None)


@pytest.mark.parametrize(
    ("authorization", "challenge"),
    [(None, 'Bearer realm="mayfly"'), ("Bearer x.y.z", 'Bearer realm="mayfly", error="invalid_token"')],
)
def test_who_is_not_authenticated_is_told_how(authorization: str | None, challenge: str) -> None:
    """RFC 6750: an error is named only to who sent a token."""
    request = Request(headers={"Authorization": authorization} if authorization else {})
    assert request.transform(REFUSE, 401)[2]["WWW-Authenticate"] == challenge


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("/v1/functions/upper/activations", "parameter-too-large"),
        ("/v1/functions", "body-too-large"),
        ("/v1/tokens", "body-too-large"),
        ("/v1/functions/upper/activations/x", "body-too-large"),
    ],
)
def test_a_body_too_large_is_called_what_the_api_calls_it(uri: str, code: str) -> None:
    """By a plugin before the body is read, and by nginx while it is: the same code either way."""
    assert Request(uri=uri).transform(REFUSE, 413)[1]["code"] == code

    late = Request(uri=uri, status=413, body=static_body(413))
    late.call(PAGE, plugin_error_page_meta=True)
    assert yaml.safe_load(late.filtered)["code"] == code


@pytest.mark.parametrize("status", OF_NGINX)
@pytest.mark.parametrize("request_id", ["i", "x" * 64])
def test_what_nginx_fails_at_gets_its_request_id_in_the_same_length(status: int, request_id: str) -> None:
    """The length is in the headers by then: one byte more would be cut off, one less would hang the caller."""
    fixed = ROUTES["plugin_metadata"][0][f"error_{status}"]["body"]
    request = Request(uri="/v1/functions/x/activations", status=status, body=fixed, request_id=request_id)

    request.call(PAGE, plugin_error_page_meta=True)

    assert len(request.filtered) == len(fixed)
    assert yaml.safe_load(request.filtered)["request_id"] == request_id
    assert set(yaml.safe_load(fixed)) == set(yaml.safe_load(request.filtered)), "also without this chunk"


@pytest.mark.parametrize("status", [200, 404, 502])
def test_an_answer_of_the_api_is_not_touched(status: int) -> None:
    """A function's 502 has the API's own words; only what the plugin error-page wrote is written anew."""
    request = Request(status=status, body="the API's own")
    request.call(PAGE)
    assert request.filtered == "the API's own"


@pytest.mark.parametrize("refusal", EARLY, ids=lambda refusal: str(refusal.status))
def test_what_nginx_refuses_before_apisix_is_a_problem_too(refusal: Any) -> None:
    """With the same members, a request id in head and body, and the headers that every answer has."""
    request = Request(status=refusal.status)

    problem = request.run(EARLY_CODE)

    assert set(problem) - {"retry_after_s"} == MEMBERS
    assert (problem["status"], problem["ran"]) == (refusal.status, "no")
    assert request.answered("X-Request-Id") == problem["request_id"]
    assert request.answered("Strict-Transport-Security").startswith("max-age=")
    assert request.answered("Retry-After") == ("1" if refusal.status == 429 else None)
    assert (request.answered("Allow") is not None) == (refusal.status == 405)


def test_the_gateways_codes_are_in_the_apis_table() -> None:
    """Each is explained on /docs, where its `type` leads; a flood is never taken for a limit of activations."""
    of_the_api = {error.code for error in MEANINGS}
    all_codes = {refusal.code for refusal in (*INSIDE, *EARLY, PARAMETER_TOO_LARGE)}

    assert all_codes <= of_the_api
    assert not all_codes & {"concurrency-limit", "timed-out", "function-failed", "worker-lost"}


def test_every_code_of_the_gateway_is_explained() -> None:
    """In the guide for operators, which the caller's error leads to."""
    guide = (Path(__file__).resolve().parents[4] / "docs/howto/run-the-gateway.md").read_text()
    told = set(re.findall(r"^\| \d+ \| `([a-z-]+)`", guide, re.MULTILINE))

    assert {refusal.code for refusal in (*INSIDE, *EARLY, PARAMETER_TOO_LARGE)} <= told
