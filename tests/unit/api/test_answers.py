"""The statuses and codes that the OpenAPI lists for each operation."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mayfly.api.app import create_app
from mayfly.api.description import openapi
from mayfly.api.errors import MEANINGS
from mayfly.settings import ApiSettings

STATUSES = {kind.code: str(meaning.status) for kind, meaning in MEANINGS.items()}


@pytest.fixture(scope="module")
def operations() -> dict[str, dict[str, Any]]:
    """All operations, by their ids."""
    described = openapi(create_app(ApiSettings()))
    return {each["operationId"]: each for methods in described["paths"].values() for each in methods.values()}


def codes(operation: dict[str, Any]) -> dict[str, set[str]]:
    """The codes of each status of an operation that is an error's."""
    return {
        status: set(re.findall(r"`([a-z-]+)`", answer["description"]))
        for status, answer in operation["responses"].items()
        if "application/problem+json" in answer.get("content", {})
    }


def test_each_operation_says_how_it_can_fail(operations: dict[str, dict[str, Any]]) -> None:
    """None answers with whatever error: each lists statuses, with codes that have that status. See `answers.raises`."""
    for name, operation in operations.items():
        assert "default" not in operation["responses"], f"{name}: say in openapi_extra what it raises()"
        for status, named in codes(operation).items():
            assert named, (name, status)
            assert {code: STATUSES[code] for code in named} == dict.fromkeys(named, status), name


def test_what_the_way_adds_is_said_where_it_is(operations: dict[str, dict[str, Any]]) -> None:
    """A token is needed where one is; a body can be too large where there is one; and no code is left unmentioned."""
    said = {name: codes(operation) for name, operation in operations.items()}

    assert said["healthz"].keys() == {"400", "429", "431", "500", "502", "503", "504"}
    assert said["show_me"].keys() == said["healthz"].keys() | {"401", "403"}
    assert said["show_function"].keys() == said["show_me"].keys() | {"404"}
    assert said["register"]["409"] == {"already-exists"}
    assert said["register"]["413"] == {"body-too-large"}
    assert said["invoke"]["413"] == {"parameter-too-large"}
    assert said["invoke"]["429"] == {"concurrency-limit", "gateway-rate-limit"}
    assert operations["readyz"]["responses"]["503"]["content"].keys() == {
        "application/json",
        "application/problem+json",
    }
    everywhere = {code for named in said.values() for each in named.values() for code in each}
    assert STATUSES.keys() - everywhere <= {"method-not-allowed", "no-workers"}  # of no operation; of none any more
