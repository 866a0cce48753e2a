"""The one table of errors, and the reference made from it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from mayfly.api import errors as api_errors
from mayfly.api.description import errors_reference
from mayfly.api.errors import MEANINGS, MEDIA_TYPE, OF_THE_GATEWAY, MethodNotAllowed, meaning_of, problem
from mayfly.domain import errors as domain
from mayfly.domain.errors import MayflyError

STATUSES = {400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 415, 422, 429, 431, 499, 500, 502, 503, 504}


def subclasses(kind: type[MayflyError]) -> Iterator[type[MayflyError]]:
    """All classes below one, wherever they are defined in the product."""
    for below in kind.__subclasses__():
        if below.__module__.startswith("mayfly."):
            yield below
            yield from subclasses(below)


CODED = sorted({kind for kind in subclasses(MayflyError) if "code" in vars(kind)}, key=lambda kind: kind.code)


@pytest.mark.parametrize("kind", CODED, ids=lambda kind: kind.code)
def test_every_error_has_a_meaning_of_its_own(kind: type[MayflyError]) -> None:
    """No error leaves the API with a status that was never thought about."""
    meaning = MEANINGS[kind]
    assert meaning.status in STATUSES
    assert meaning.cause.endswith(".")
    assert meaning.remedy.endswith(".")


@pytest.mark.parametrize("kind", [domain.Gone, domain.ImageUnavailable])
def test_what_a_queued_call_is_refused_with_is_explained_for_calls(kind: type[MayflyError]) -> None:
    """Both codes come of other requests as well; who reads the page after a call finds that nothing was run."""
    assert "nothing was run" in MEANINGS[kind].cause


def test_a_call_of_a_deregistered_function_is_told_to_register_it() -> None:
    """To invoke it again alone would be 404."""
    assert "deregistered" in MEANINGS[domain.Gone].cause
    assert "register it again first" in MEANINGS[domain.Gone].remedy


def test_codes_are_kebab_case_and_unique() -> None:
    """A program can tell any two errors apart by `code` alone."""
    codes = [kind.code for kind in CODED]
    assert len(set(codes)) == len(codes) == len(MEANINGS)
    assert all(code.replace("-", "").isalpha() and code.islower() for code in codes)


def test_platforms_faults_are_5xx_and_callers_4xx() -> None:
    """The status class agrees with whose fault it is; a function's fault is 502 or 504, or 422 before it ran."""
    for kind, meaning in MEANINGS.items():
        if kind.fault == "caller":
            assert 400 <= meaning.status < 500, kind
        elif kind.fault == "platform":
            assert meaning.status >= 500, kind
        else:
            assert meaning.status in {422, 502, 504}, kind


def test_unknown_error_is_taken_for_the_nearest_known_one() -> None:
    """A subclass without a line in the table has its parent's, and one without such a parent is a 500."""

    class Special(domain.NotFound):
        pass

    class Strange(MayflyError):
        pass

    assert meaning_of(Special).status == 404
    assert meaning_of(Strange).status == 500


def test_problem_has_all_members_and_headers() -> None:
    """Status, media type, members, Retry-After and the activation's address come out together."""
    error = domain.LimitReached(
        "Full.", retry_after_s=1.2, scope="user", limit=4, in_use=4, activation_id="a-1", status="not this"
    )
    answer = problem(error, "request-1")
    assert (answer.status_code, answer.media_type) == (429, MEDIA_TYPE)
    assert json.loads(bytes(answer.body)) == {
        "type": "/docs#concurrency-limit",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "Full.",
        "code": "concurrency-limit",
        "fault": "caller",
        "ran": "no",
        "request_id": "request-1",
        "retry_after_s": 1.2,
        "scope": "user",
        "limit": 4,
        "in_use": 4,
        "activation_id": "a-1",
    }
    assert answer.headers["Retry-After"] == "2"
    assert answer.headers["Location"] == "/v1/activations/a-1"
    assert answer.headers["Mayfly-Activation-Id"] == "a-1"


@pytest.mark.F3
def test_challenge_tells_a_missing_from_an_invalid_token() -> None:
    """WWW-Authenticate names the error only when a token was shown (RFC 6750)."""
    missing = problem(domain.NotAuthenticated(), "r")
    invalid = problem(domain.NotAuthenticated(error="invalid_token"), "r")
    assert missing.headers["WWW-Authenticate"] == 'Bearer realm="mayfly"'
    assert invalid.headers["WWW-Authenticate"] == 'Bearer realm="mayfly", error="invalid_token"'


def test_method_not_allowed_lists_methods() -> None:
    """405 has Allow."""
    assert problem(MethodNotAllowed(allow="GET, PUT"), "r").headers["Allow"] == "GET, PUT"


def test_text_that_is_no_utf8_does_not_break_an_error() -> None:
    """Whatever a message contains, the problem can be written."""
    body = bytes(problem(domain.FunctionFailed("\ud800 \0", stderr="\ud800"), "r").body)
    assert json.loads(body)["code"] == "function-failed"


def test_every_code_is_explained() -> None:
    """Each code is a heading of the reference, with a remedy."""
    text = errors_reference()
    for kind in CODED:
        assert f"\n## {kind.code}\n" in text
    assert text.count("**Remedy.**") == len(CODED)


def test_http_only_errors_are_the_callers() -> None:
    """What only HTTP knows never ran anything."""
    own = [kind for kind in CODED if kind.__module__ == api_errors.__name__ and kind not in OF_THE_GATEWAY]
    assert own
    assert {(kind.fault, kind.default_ran) for kind in own} == {("caller", "no")}
