"""
What is wrong with a request is said with the right status and code, as problem+json, and never with a 500.

One table; each line is one request. Acceptance 8 of the main job.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from mayfly.api.bodies import FORM_MAX_BYTES, JSON_MAX_BYTES
from mayfly.domain.function import COMMAND_MAX_BYTES, ENV_MAX_BYTES, ENV_MAX_ENTRIES
from mayfly.domain.limits import PARAMETER_MAX_BYTES
from tests.integration.api.conftest import Someone
from tests.support.answering import AnsweringWorker

pytestmark = pytest.mark.asyncio(loop_scope="session")

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
USERS, TOKENS, FUNCTIONS = "/v1/users", "/v1/tokens", "/v1/functions"
KEY_NAME = "Idempotency-Key"
INVOKE = "/v1/functions/echo/activations"
BY_ARGUMENT = "/v1/functions/by-argument/activations"
GOOD_PASSWORD = "long enough 1"


@dataclass(frozen=True)
class Bad:
    """One request and what it deserves."""

    id: str
    method: str
    path: str
    status: int
    code: str
    body: bytes | str | dict[str, Any] = b""
    headers: dict[str, str] | dict[bytes, bytes] = field(default_factory=dict)
    says: str = ""  # somewhere in the detail
    field: str | None = None  # the member `field`

    @property
    def content(self) -> bytes:
        """The body as bytes."""
        if isinstance(self.body, dict):
            return json.dumps(self.body).encode()
        return self.body.encode() if isinstance(self.body, str) else self.body


def user(**members: Any) -> dict[str, Any]:
    """A registration of a user with something wrong."""
    return {"username": "somebody-new", "password": GOOD_PASSWORD} | members


def function(**members: Any) -> dict[str, Any]:
    """A registration of a function with something wrong."""
    return {"name": "wrong", "image": "busybox"} | members


def bad_user(label: str, says: str, field: str | None = None, **members: Any) -> Bad:
    """A line about POST /v1/users."""
    return Bad(label, "POST", USERS, 400, "invalid-request", user(**members), JSON, says, field)


def bad_function(label: str, says: str, field: str | None = None, **members: Any) -> Bad:
    """A line about POST /v1/functions."""
    return Bad(label, "POST", FUNCTIONS, 400, "invalid-request", function(**members), JSON, says, field)


def bad_json(label: str, body: bytes | str, says: str = "") -> Bad:
    """A line about JSON as such."""
    return Bad(label, "POST", FUNCTIONS, 400, "invalid-request", body, JSON, says)


def bad_form(label: str, body: str, says: str = "") -> Bad:
    """A line about POST /v1/tokens."""
    return Bad(label, "POST", TOKENS, 400, "invalid-request", body, FORM, says)


TABLE = [
    # user names and passwords
    bad_user("username-short", "3 to 32 characters", "username", username="ab"),
    bad_user("username-33", "3 to 32 characters", "username", username="a" * 33),
    bad_user("username-capital", "a-z", "username", username="Alice"),
    bad_user("username-digit-first", "first one a letter", "username", username="1abc"),
    bad_user("username-dot", "a-z", "username", username="a.b.c"),
    bad_user("username-wildcard", "a-z", "username", username="abc*"),
    bad_user("username-newline", "a-z", "username", username="abc\n"),
    bad_user("username-unicode", "a-z", "username", username="älice"),
    bad_user("username-number", "must be a string", "username", username=12345),
    bad_user("username-null", "must be a string", "username", username=None),
    bad_user("username-megabyte", "a-z", "username", username="a" * 100_000),
    bad_user("password-9", "at least 10", "password", password="a" * 9),
    bad_user("password-257", "at most 256", "password", password="a" * 257),
    bad_user("password-nul", "NUL", "password", password="long enough\0"),
    bad_user("password-list", "must be a string", "password", password=["long enough 1"]),
    bad_user("user-unknown-field", "did you mean `username`", "user_name", user_name="x"),
    bad_user("user-role", "is not known", "role", role="operator"),
    Bad("user-missing-all", "POST", USERS, 400, "invalid-request", {}, JSON, "`username` is missing"),
    # function names
    bad_function("name-empty", "1 to 63", "name", name=""),
    bad_function("name-64", "1 to 63", "name", name="a" * 64),
    bad_function("name-capital", "a-z", "name", name="Echo"),
    bad_function("name-dash-first", "no -", "name", name="-a"),
    bad_function("name-dash-last", "no -", "name", name="a-"),
    bad_function("name-dot", "a-z", "name", name="a.b"),
    bad_function("name-greater", "a-z", "name", name="a>"),
    bad_function("name-slash", "a-z", "name", name="a/b"),
    bad_function("name-bool", "must be a string", "name", name=True),
    # images, commands, environment
    bad_function("image-empty", "at least 1", "image", image=""),
    bad_function("image-513", "at most 512", "image", image="a" * 513),
    bad_function("image-space", "image reference", "image", image="busy box"),
    bad_function("image-option", "image reference", "image", image="--help"),
    bad_function("image-newline", "image reference", "image", image="busybox\n"),
    bad_function("image-control", "image reference", "image", image="busybox\x1b[2J"),
    bad_function("image-unicode", "image reference", "image", image="büsybox"),
    bad_function("image-object", "must be a string", "image", image={"name": "busybox"}),
    bad_function("command-string", "must be a list", "command", command="echo hello"),
    bad_function("command-empty", "at least 1 entries", "command", command=[]),
    bad_function("command-no-program", "the program", "command", command=["", "x"]),
    bad_function("command-number", "must be a string", "command[1]", command=["echo", 1]),
    bad_function("command-nul", "NUL", "command[0]", command=["ec\0ho"]),
    bad_function("command-65-words", "at most 64", "command", command=["x"] * 65),
    bad_function("command-too-long", "bytes in all", "command", command=["x" * COMMAND_MAX_BYTES]),
    bad_function("args-too-long", "bytes in all", "args", args=["x" * COMMAND_MAX_BYTES]),
    bad_function("env-list", "must be an object", "env", env=["A=1"]),
    bad_function("env-name", "a variable's name", "env.1A", env={"1A": "x"}),
    bad_function("env-name-equals", "a variable's name", "env.A=B", env={"A=B": "x"}),
    bad_function("env-reserved", "Mayfly's own", "env.MAYFLY_X", env={"MAYFLY_X": "x"}),
    bad_function("env-value-nul", "NUL", "env.A", env={"A": "\0"}),
    bad_function("env-value-number", "must be a string", "env.A", env={"A": 1}),
    bad_function("env-65", "at most 64", "env", env={f"A{n}": "" for n in range(ENV_MAX_ENTRIES + 1)}),
    bad_function("env-too-large", "bytes in all", "env", env={"A": "x" * ENV_MAX_BYTES}),
    bad_function("parameter-mode", "must be 'stdin'", "parameter", parameter="file"),
    bad_function("result-type-injects", "media type", "result_type", result_type="text/plain\r\nSet-Cookie: a=b"),
    bad_function("result-type-nonsense", "media type", "result_type", result_type="html"),
    bad_function("function-unknown-field", "did you mean `limits`", "limit", limit={}),
    bad_function("function-digest", "is not known", "digest", digest="sha256:00"),
    # limits, at the edge and one over
    bad_function("memory-31", "at least 32", "limits.memory_mib", limits={"memory_mib": 31}),
    bad_function("memory-8193", "at most 8192", "limits.memory_mib", limits={"memory_mib": 8193}),
    bad_function("memory-text", "whole number", "limits.memory_mib", limits={"memory_mib": "128"}),
    bad_function("memory-half", "whole number", "limits.memory_mib", limits={"memory_mib": 64.5}),
    bad_function("memory-true", "whole number", "limits.memory_mib", limits={"memory_mib": True}),
    bad_function("memory-huge", "at most 8192", "limits.memory_mib", limits={"memory_mib": 10**40}),
    bad_function("cpus-0", "at least 0.05", "limits.cpus", limits={"cpus": 0}),
    bad_function("cpus-negative", "at least 0.05", "limits.cpus", limits={"cpus": -1}),
    bad_function("cpus-17", "at most 16", "limits.cpus", limits={"cpus": 16.01}),
    bad_function("pids-3", "at least 4", "limits.pids", limits={"pids": 3}),
    bad_function("timeout-0.09", "at least 0.1", "limits.timeout_s", limits={"timeout_s": 0.09}),
    bad_function("timeout-301", "at most 300", "limits.timeout_s", limits={"timeout_s": 300.1}),
    bad_function("limits-unknown", "did you mean `memory_mib`", "limits.memory_mb", limits={"memory_mb": 64}),
    bad_function("limits-list", "must be an object", "limits", limits=[]),
    # JSON as such
    bad_json("json-empty", b"", "is not JSON"),
    bad_json("json-cut", b'{"name": "a", ', "is not JSON"),
    bad_json("json-single-quotes", b"{'name': 'a'}", "is not JSON"),
    bad_json("json-list", b"[]", "must be an object"),
    bad_json("json-string", b'"hello"', "must be an object"),
    bad_json("json-null", b"null", "must be an object"),
    bad_json("json-trailing", b'{"name": "a", "image": "b"} x', "is not JSON"),
    bad_json("json-nan", b'{"name": "a", "image": "b", "limits": {"cpus": NaN}}', "finite"),
    bad_json("json-infinity", b'{"name": "a", "image": "b", "limits": {"cpus": 1e999}}', "finite"),
    bad_json("json-long-number", b'{"name": "a", "image": "b", "limits": {"pids": ' + b"9" * 6000 + b"}}"),
    bad_json("json-deep", b"[" * 200_000, "is not JSON"),
    bad_json("json-deep-object", b'{"a":' * 60_000, "is not JSON"),
    bad_json("json-invalid-utf8", b'{"name": "\xff", "image": "b"}', "is not JSON in UTF-8"),
    bad_json("json-utf16", '{"name": "a", "image": "b"}'.encode("utf-16"), "is not JSON"),
    bad_json("json-surrogate", b'{"name": "\\ud800", "image": "b"}', "is not JSON"),
    bad_json("json-duplicate", b'{"name": "a", "image": "b", "image": "c"}', "`image` occurs twice"),
    bad_json("json-duplicate-inside", b'{"name":"a","image":"b","env":{"X":"1","X":"2"}}', "`X` occurs twice"),
    bad_json("json-duplicate-hides", b'{"name":"a","image":"b","args":' + b"9" * 6000 + b',"args":[]}'),
    bad_json("json-many-unknown", json.dumps({f"x{n}": 1 for n in range(5000)}), "see `errors`"),
    Bad("json-as-text", "POST", FUNCTIONS, 415, "unsupported-media-type", function(), {"Content-Type": "text/plain"}),
    Bad("json-as-form", "POST", FUNCTIONS, 415, "unsupported-media-type", "name=a&image=b", FORM, "application/json"),
    Bad("json-no-type", "POST", FUNCTIONS, 415, "unsupported-media-type", function(), {}, "without one"),
    Bad("json-gzip", "POST", FUNCTIONS, 415, "unsupported-encoding", b"\x1f\x8b", JSON | {"Content-Encoding": "gzip"}),
    Bad("json-too-large", "POST", FUNCTIONS, 413, "body-too-large", b" " * (JSON_MAX_BYTES + 1), JSON),
    # the form of POST /v1/tokens
    bad_form("form-empty", "", "`grant_type` is missing"),
    bad_form("form-no-username", "grant_type=password&password=x", "`username` is missing"),
    bad_form("form-no-password", "grant_type=password&username=x", "`password` is missing"),
    bad_form("form-grant", "grant_type=client_credentials", "must be `password` or `refresh_token`"),
    bad_form("form-no-refresh-token", "grant_type=refresh_token", "`refresh_token` is missing"),
    bad_form("form-twice", "grant_type=password&grant_type=password", "more than once"),
    bad_form("form-many", "&".join(f"a{n}=1" for n in range(33)), "at most 32"),
    bad_form("form-not-utf8", "grant_type=password&username=%ff&password=x", "UTF-8"),
    Bad("form-as-json", "POST", TOKENS, 415, "unsupported-media-type", {"grant_type": "password"}, JSON),
    Bad("form-too-large", "POST", TOKENS, 413, "body-too-large", b"a" * (FORM_MAX_BYTES + 1), FORM),
    Bad(
        "wrong-password",
        "POST",
        TOKENS,
        401,
        "not-authenticated",
        "grant_type=password&username=nobody-at-all&password=long+enough+1",
        FORM,
    ),
    Bad(
        "username-impossible",
        "POST",
        TOKENS,
        401,
        "not-authenticated",
        "grant_type=password&username=$KV.users.%3E&password=long+enough+1",
        FORM,
    ),
    Bad(
        "refresh-nonsense",
        "POST",
        TOKENS,
        401,
        "not-authenticated",
        "grant_type=refresh_token&refresh_token=abc",
        FORM,
    ),
    # passwords
    Bad(
        "wrong-current-password",
        "PUT",
        "/v1/users/me/password",
        403,
        "not-allowed",
        {"current_password": "not this one", "new_password": GOOD_PASSWORD},
        JSON,
    ),
    Bad(
        "new-password-short",
        "PUT",
        "/v1/users/me/password",
        400,
        "invalid-request",
        {"current_password": "x", "new_password": "short"},
        JSON,
        "at least 10",
        "new_password",
    ),
    # paths and methods
    Bad("path-unknown", "GET", "/v2/functions", 404, "not-found"),
    Bad("path-root", "GET", "/", 404, "not-found"),
    Bad("path-slash-behind", "GET", "/v1/functions/", 404, "not-found"),
    Bad("path-double-slash", "GET", "//v1/functions", 404, "not-found"),
    Bad("path-metrics", "GET", "/metrics", 404, "not-found"),
    Bad("path-name-capital", "GET", "/v1/functions/Echo", 404, "not-found", says="a-z"),
    Bad("path-name-encoded-slash", "GET", "/v1/functions/a%2Fb", 404, "not-found"),
    Bad("path-name-nul", "GET", "/v1/functions/a%00b", 404, "not-found"),
    Bad("path-name-not-utf8", "GET", "/v1/functions/%ff", 404, "not-found"),
    Bad("path-name-wildcard", "POST", "/v1/functions/%3E/activations", 404, "not-found"),
    Bad("path-name-dots", "GET", "/v1/functions/a.b", 404, "not-found"),
    Bad("path-name-long", "GET", f"/v1/functions/{'a' * 9000}", 404, "not-found"),
    Bad("function-unknown", "GET", "/v1/functions/nothing", 404, "not-found"),
    Bad("invoke-unknown", "POST", "/v1/functions/nothing/activations", 404, "not-found"),
    Bad("method-users", "GET", USERS, 405, "method-not-allowed", says="POST"),
    Bad("method-functions", "PATCH", FUNCTIONS, 405, "method-not-allowed", says="GET, HEAD, POST"),
    Bad("method-function", "POST", "/v1/functions/echo", 405, "method-not-allowed", says="DELETE, GET, HEAD, PUT"),
    Bad("method-invoke-get", "GET", INVOKE, 405, "method-not-allowed", says="POST"),
    Bad("method-options", "OPTIONS", FUNCTIONS, 405, "method-not-allowed"),
    Bad("method-trace", "TRACE", "/healthz", 405, "method-not-allowed"),
    Bad("method-health", "POST", "/healthz", 405, "method-not-allowed", says="GET, HEAD"),
    # queries and headers
    Bad("limit-0", "GET", "/v1/functions?limit=0", 400, "invalid-request", says="at least 1", field="limit"),
    Bad("limit-201", "GET", "/v1/functions?limit=201", 400, "invalid-request", says="at most 200", field="limit"),
    Bad("limit-text", "GET", "/v1/activations?limit=ten", 400, "invalid-request", says="whole number", field="limit"),
    Bad("query-unknown", "GET", "/v1/functions?limt=3", 400, "invalid-request", says="did you mean `limit`"),
    Bad("after-long", "GET", f"/v1/functions?after={'a' * 129}", 400, "invalid-request", says="at most 128"),
    Bad("filter-name", "GET", "/v1/activations?function=A.B", 400, "invalid-request", says="a-z", field="function"),
    Bad("wait-61", "GET", "/v1/activations/x/result?wait=61", 400, "invalid-request", says="at most 60", field="wait"),
    Bad("wait-nan", "GET", "/v1/activations/x/result?wait=nan", 400, "invalid-request", field="wait"),
    Bad("pull-maybe", "PUT", "/v1/functions/echo?pull=maybe", 400, "invalid-request", {"image": "b"}, JSON, "true or"),
    Bad(
        "if-match-bare",
        "PUT",
        "/v1/functions/echo",
        400,
        "invalid-request",
        {"image": "b"},
        JSON | {"If-Match": "12"},
        "quotes included",
        "If-Match",
    ),
    Bad("if-match-weak", "DELETE", "/v1/functions/echo", 412, "precondition-failed", headers={"If-Match": 'W/"1"'}),
    Bad("if-match-old", "DELETE", "/v1/functions/echo", 412, "precondition-failed", headers={"If-Match": '"999999"'}),
    Bad("timeout-header-text", "POST", INVOKE, 400, "invalid-request", headers={"Mayfly-Timeout": "soon"}),
    Bad("timeout-header-0", "POST", INVOKE, 400, "invalid-request", headers={"Mayfly-Timeout": "0"}),
    Bad("timeout-header-nan", "POST", INVOKE, 400, "invalid-request", headers={"Mayfly-Timeout": "nan"}),
    Bad("timeout-header-301", "POST", INVOKE, 400, "invalid-request", headers={"Mayfly-Timeout": "301"}),
    Bad("timeout-underscore", "POST", INVOKE, 400, "invalid-request", headers={"Mayfly-Timeout": "1_0"}),
    *(
        Bad(f"timeout-{wrong!r}", "POST", INVOKE, 400, "invalid-request", headers={"Mayfly-Timeout": wrong})
        for wrong in (".", "1.2.3", "+1", "-1", "1e0", "1 0", "1. 5", "inf", "0x1", f"1.{'0' * 21}", f"{'0' * 4}1")
    ),
    *(
        Bad(f"timeout-digits-{wrong[0]}", "POST", INVOKE, 400, "invalid-request", headers={b"Mayfly-Timeout": wrong})
        for wrong in ("\u0663".encode(), b"\xb2")  # Arabic and superscript digits
    ),
    Bad("key-empty", "POST", INVOKE, 400, "invalid-request", headers={KEY_NAME: ""}, field=KEY_NAME),
    Bad("key-256", "POST", INVOKE, 400, "invalid-request", headers={KEY_NAME: "k" * 256}, field=KEY_NAME),
    Bad("key-tab", "POST", INVOKE, 400, "invalid-request", headers={KEY_NAME: "a\tb"}, field=KEY_NAME),
    Bad("list-state", "GET", "/v1/activations?state=done", 400, "invalid-request"),
    Bad("list-since-words", "GET", "/v1/activations?since=yesterday", 400, "invalid-request"),
    Bad("list-since-no-zone", "GET", "/v1/activations?since=2026-11-29T12:00:00", 400, "invalid-request"),
    Bad("cancel-unknown", "DELETE", f"/v1/activations/{'a' * 24}-{'0' * 26}", 404, "not-found"),
    Bad("cancel-no-id", "DELETE", "/v1/activations/x", 404, "not-found"),
    Bad(
        "concurrency-0", "POST", "/v1/functions", 400, "invalid-request", function(limits={"max_concurrency": 0}), JSON
    ),
    Bad(
        "concurrency-257",
        "POST",
        "/v1/functions",
        400,
        "invalid-request",
        function(limits={"max_concurrency": 257}),
        JSON,
    ),
    # the parameter
    Bad("parameter-not-utf8", "POST", INVOKE, 422, "parameter-not-text", b"abc\xff", says="at byte 3"),
    Bad("parameter-surrogate", "POST", INVOKE, 422, "parameter-not-text", b"\xed\xa0\x80", says="at byte 0"),
    Bad("parameter-overlong", "POST", INVOKE, 422, "parameter-not-text", b"a\xc0\x80", says="at byte 1"),
    Bad("parameter-cut", "POST", INVOKE, 422, "parameter-not-text", "€".encode()[:2]),
    Bad("parameter-one-over", "POST", INVOKE, 413, "parameter-too-large", b"a" * (PARAMETER_MAX_BYTES + 1)),
    Bad("parameter-gzip", "POST", INVOKE, 415, "unsupported-encoding", b"x", {"Content-Encoding": "gzip"}),
    Bad("argument-nul", "POST", BY_ARGUMENT, 422, "parameter-not-text", b"ab\0c", says="at byte 2"),
    Bad("argument-one-over", "POST", BY_ARGUMENT, 413, "parameter-too-large", b"a" * 131_001),
]


@pytest.mark.A2
@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.id)
async def test_bad_request_is_a_problem_with_the_right_status(
    resident: Someone, worker: AnsweringWorker, bad: Bad
) -> None:
    """Each wrong request gets its status and code, words that help, and nothing reaches a worker."""
    claimed = len(worker.claimed)
    answer = await resident.client.request(bad.method, bad.path, content=bad.content, headers=bad.headers)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (bad.status, bad.code), problem
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["status"] == bad.status
    assert {"type", "title", "detail", "fault", "ran", "request_id"} <= problem.keys()
    assert (problem["ran"], problem["fault"]) == ("no", "caller")
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert bad.says in problem["detail"]
    assert len(answer.content) < 8192, "an error does not repeat a large input"
    if bad.field is not None:
        assert problem["field"] == bad.field
    assert len(worker.claimed) == claimed


@pytest.mark.parametrize("since", ["2026-11-29T12:00:00", "2026-11-29T12:00:00+01:00", "yesterday", ""])
async def test_a_time_without_its_zone_is_told_how_to_write_it(resident: Someone, since: str) -> None:
    """The field, the rule and an example; and that the + of a zone, sent as it is, arrives as a space."""
    answer = await resident.client.get(f"/v1/activations?since={since}")

    assert answer.status_code == 400
    words = ("`since`", "time with its zone", "2026-11-29T12:00:00Z", "%2B")
    assert all(word in answer.json()["detail"] for word in words)


async def test_table_is_as_long_as_was_promised() -> None:
    """At least 60 malformed requests are tried, each under a name of its own."""
    assert len({bad.id for bad in TABLE}) == len(TABLE) >= 60


@pytest.mark.F3
@pytest.mark.parametrize(
    "bad", [bad for bad in TABLE if bad.path == USERS and bad.method == "POST"], ids=lambda b: b.id
)
async def test_password_is_never_repeated(resident: Someone, bad: Bad) -> None:
    """A refused registration does not show the password again, whatever is wrong with it."""
    answer = await resident.client.post(USERS, content=bad.content, headers=bad.headers)
    sent = bad.body.get("password") if isinstance(bad.body, dict) else None
    assert answer.status_code == 400
    if isinstance(sent, str):
        assert sent not in answer.text


async def test_allow_lists_every_method_of_the_path(resident: Someone) -> None:
    """405 carries Allow with the methods of all routes under the path."""
    answer = await resident.client.post("/v1/functions/echo")
    assert answer.headers["Allow"] == "DELETE, GET, HEAD, PUT"


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ({"limits": {"memory_mib": 32, "cpus": 0.05, "pids": 4, "timeout_s": 0.1}}, 201),
        ({"limits": {"memory_mib": 8192, "cpus": 16, "pids": 4096, "timeout_s": 300}}, 201),
        ({"name": "a"}, 201),
        ({"name": "a" * 63}, 201),
        ({"image": "h" * 512}, 201),
        ({"command": ["x" * (COMMAND_MAX_BYTES - 1)]}, 201),
        ({"command": ["x"], "args": []}, 201),
        ({"env": {"A": "x" * (ENV_MAX_BYTES - 3)}}, 201),
        ({"env": {f"A{n}": "" for n in range(ENV_MAX_ENTRIES)}}, 201),
        ({"result_type": "application/vnd.x+json; charset=utf-8"}, 201),
    ],
)
async def test_values_at_the_limit_are_taken(
    ann: Someone, worker: AnsweringWorker, members: dict[str, Any], status: int
) -> None:
    """What is exactly at a limit is not over it."""
    answer = await ann.client.post(FUNCTIONS, json=function(**members))
    assert answer.status_code == status, answer.text
