"""docs/reference/api.md: its examples are answers that the schema allows, and nothing on it lacks its words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from mayfly.api.app import create_app
from mayfly.api.description import openapi
from mayfly.settings import ApiSettings
from pages import api
from pages.played import OF_EVERY_ANSWER, Played, masked, recorded, shown


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The OpenAPI."""
    return openapi(create_app(ApiSettings()))


def operations(schema: dict[str, Any]) -> dict[str, Any]:
    """All operations, by their ids."""
    return {each["operationId"]: each for methods in schema["paths"].values() for each in methods.values()}


def references(value: Any) -> Iterator[str]:
    """Every $ref below a value."""
    if isinstance(value, dict):
        yield from [value["$ref"]] if "$ref" in value else []
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from references(inner)


def test_the_recorded_commands_are_those_of_the_page() -> None:
    """A command that is changed is to be run again: scripts/docs --record."""
    assert [(each.operation, each.command) for each in recorded()] == [
        (each.operation, each.command) for each in shown()
    ], "run scripts/docs --record"


@pytest.mark.parametrize("example", recorded(), ids=lambda each: each.operation)
def test_an_example_is_an_answer_that_the_schema_allows(schema: dict[str, Any], example: Played) -> None:
    """Status, headers and body of each recorded answer are documented for its operation."""
    operation = operations(schema)["show_me" if example.operation == "problem" else example.operation]
    answer = operation["responses"][example.status.partition(" ")[0]]
    known = {name.lower() for name in answer["headers"]}
    beside = OF_EVERY_ANSWER | {"content-type", "content-security-policy", "pragma"}
    assert set(example.headers) <= known | beside
    media_type = example.headers.get("content-type", "").partition(";")[0]
    if media_type.endswith("json"):
        rule = answer["content"][media_type]["schema"]
        jsonschema.validate(example.body, {**rule, "components": schema["components"]})
    elif example.body is not None:
        assert media_type in answer["content"]


def test_every_reference_leads_to_a_shape(schema: dict[str, Any]) -> None:
    """No operation names a shape that the schema does not have."""
    found = set(references(schema))

    assert len(found) > 40
    assert found <= {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]}


def test_an_operation_without_an_example_stops_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adds an endpoint has to show a call of it."""
    monkeypatch.setattr(api, "recorded", lambda: [each for each in recorded() if each.operation != "invoke"])

    with pytest.raises(ValueError, match="without an example, or without an operation: invoke"):
        api.page()


def test_an_example_without_its_operation_stops_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is gone is not shown."""
    monkeypatch.setattr(api, "recorded", lambda: [*recorded(), replace(recorded()[0], operation="paint")])

    with pytest.raises(ValueError, match="without an example, or without an operation: paint"):
        api.page()


def test_a_field_without_words_stops_the_page(monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any]) -> None:
    """Each field of each shape says what it is."""
    del schema["components"]["schemas"]["UserShape"]["properties"]["role"]["description"]
    monkeypatch.setattr(api, "schema_of", lambda _app: schema)

    with pytest.raises(ValueError, match="`role` has no description"):
        api.page()


def test_only_what_varies_is_not_compared() -> None:
    """Ids, times, tokens and durations may differ between runs; a value or a member may not."""
    first = {
        "id": "wsrf216748x990gjc3k5bdhn",
        "at": "2026-12-02T09:32:48.507442Z",
        "steps": {"run_s": 0.1},
        "ran": "no",
    }
    second = {"id": "zzhh4y17prr8dc5ytz6x453s", "at": "2027-01-01T00:00:00Z", "steps": {"run_s": 2.5}, "ran": "no"}

    assert masked(first) == masked(second)
    assert masked(first) != masked({**first, "ran": "yes"})
    assert masked(first) != masked({key: value for key, value in first.items() if key != "at"})


def test_what_a_caller_needs_is_what_the_routes_ask_for(schema: dict[str, Any]) -> None:
    """Registration needs nothing, a call a token, deleting the account a login, the list of all users an operator."""
    needs = {name: operation["x-needs"] for name, operation in operations(schema).items()}

    assert [needs[name] for name in ("register", "invoke", "delete_me", "list_users")] == [
        "nothing",
        "token",
        "login",
        "operator",
    ]
