"""
docs/reference/api.md: the REST API for people, from its OpenAPI and the recorded examples; and openapi.json itself.

Everything is read from the schema. A field, a parameter or an answer without a word on what it is, an operation without
an example, a tag without its place: the page cannot be made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from mayfly.api.answers import EVERYWHERE, HEADERS, REQUEST_ID
from mayfly.api.app import create_app
from mayfly.api.description import openapi as schema_of
from mayfly.api.description import openapi_file
from mayfly.api.errors import MEANINGS
from mayfly.settings import ApiSettings
from pages.examples import SETUP
from pages.page import prose, table, wrapped
from pages.played import Played, recorded

TAGS = {
    "Users": "Registering, and one's own account.",
    "Tokens": "Logging in and out.",
    "Functions": "What can be invoked. Everybody has his own, and sees no others.",
    "Activations": "Invoking functions, and looking at calls afterwards.",
    "Secrets": "Values that a function's containers are given and nobody is shown.",
    "Registries": "Credentials for one's own images.",
    "Keys": "Tokens that last, for machines.",
    "Audit": "Who did what with one's account.",
    "Platform": "How the installation stands.",
    "Operators": "For users with the role `operator`: [how to become one](../howto/run-an-installation-for-others.md).",
}
"""In the order in which a user meets them."""

NEEDS = {
    "nothing": "no token",
    "token": "a token or a key",
    "login": "a token of a login",
    "operator": "an operator's login",
}
HEAD = """# The API

<!-- made by scripts/docs from the OpenAPI of src/mayfly/api and from pages/examples.json -->

The same for programs is [openapi.json](openapi.json), which each installation also serves at `/openapi.json`, and this
for people at `/docs`. The [command line](cli.md) speaks this API and no other.

- **HTTPS only**, on one port. Clear text is refused.
- **Tokens** go into the header `Authorization: Bearer TOKEN`: an access token of [POST /v1/tokens](#post-v1tokens),
  good for 15 minutes unless the operator set MAYFLY_ACCESS_TOKEN_S, or a key of [POST /v1/keys](#post-v1keys). What
  needs *a token of a login* takes no key.
- **Bodies** are JSON (`Content-Type: application/json`), and strict: an unknown field is refused, not ignored. Three
  are not JSON: the form of a login; the parameter and the result of a call, which are text in UTF-8, byte for byte;
  and the value of a secret.
- **Lists** come in pages: `limit`, and for the next page `after`, which is the `next` of the page before; null is the
  end.
- **HEAD** is answered wherever GET is.
- **Every answer** has `{request_id}`, `X-Content-Type-Options: nosniff`, `Referrer-Policy: no-referrer`, and
  `Cache-Control: no-store`. `{request_id}` {request_id_meaning}
- **Errors** are [problems](errors.md), with a `code` for programs; `ran` says whether the function ran.

"""
TYPED = "<!-- typed by: tests/e2e/test_api_examples.py::test_every_example_is_answered_as_it_says -->"
EXAMPLES = """## The examples

<!-- not typed: the test says where its own installation is -->
```sh
{setup}```

They were run on an installation of their own, by curl with `--include`, and a test runs them again and compares. Left
out are the headers that every answer has. JSON is shown with line breaks, of a token its first characters, and as
`{{...}}` an object that stands in full with [GET /v1/functions/{{name}}](#get-v1functionsname).
Their times are those of a first call, on a machine that was busy with other things; [performance](performance.md) has
what was measured.
"""
ANYWHERE = """## Errors of every endpoint

Whatever is asked for, these may be the answer, and are not named again below:
"""
FOLDED = "sandbox"
"""A member that is long, and shown in one example only."""

LIST_MAX = 90  # characters of a list that stands on one line
PATTERN_MAX = 48  # characters of a pattern that are still read rather than skipped


def openapi() -> str:
    """Write docs/reference/openapi.json."""
    return openapi_file(create_app(ApiSettings()))


def page() -> str:
    """
    Write the whole page.

    Raises: ValueError when something has no words or no example.
    """
    schema = schema_of(create_app(ApiSettings()))
    examples = recorded()
    operations = list(_operations(schema))
    if unknown := {operation["tags"][0] for _, _, operation in operations} ^ set(TAGS):
        raise ValueError(f"{__name__} and the routes have different tags: {', '.join(unknown)}")
    names = {operation["operationId"] for _, _, operation in operations} | {"problem"}
    if different := names ^ {each.operation for each in examples}:
        raise ValueError(f"without an example, or without an operation: {', '.join(different)} (scripts/docs --record)")
    [problem] = [each for each in examples if each.operation == "problem"]
    text = "\n".join(
        [
            HEAD.format(request_id=REQUEST_ID, request_id_meaning=_lower(HEADERS[REQUEST_ID])).rstrip() + "\n",
            _contents(operations),
            "",
            EXAMPLES.format(setup=SETUP),
            ANYWHERE,
            table(("code", "when"), ((_error(kind.code), MEANINGS[kind].cause) for kind in EVERYWHERE)),
            "\nWhat a problem looks like:\n",
            _example(problem) + "\n",
            *(_part(tag, operations, examples, schema["components"]["schemas"]) for tag in TAGS),
            _not_in_the_schema(),
            _shapes(schema["components"]["schemas"]),
        ]
    )
    return wrapped(text)


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def anchor(heading: str) -> str:
    """Return what a heading is called in a link."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _contents(operations: list[tuple[str, str, dict[str, Any]]]) -> str:
    rows = (
        (
            f"[{method} {path}](#{anchor(f'{method} {path}')})",
            _first_sentence(operation["description"]),
            NEEDS[operation["x-needs"]],
        )
        for tag in TAGS
        for method, path, operation in operations
        if operation["tags"] == [tag]
    )
    return table(("endpoint", "what it does", "needs"), rows)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", text.strip(), maxsplit=1)[0]


def _part(
    tag: str, operations: list[tuple[str, str, dict[str, Any]]], examples: list[Played], schemas: dict[str, Any]
) -> str:
    sections = [
        _operation(method, path, operation, examples, schemas)
        for method, path, operation in operations
        if operation["tags"] == [tag]
    ]
    return "\n".join([f"## {tag}\n\n{TAGS[tag]}\n", *sections])


def _operation(
    method: str, path: str, operation: dict[str, Any], examples: list[Played], schemas: dict[str, Any]
) -> str:
    own = [each for each in examples if each.operation == operation["operationId"]]
    parts = [
        f"### {method} {path}",
        prose(operation["description"]),
        f"Needs {NEEDS[operation['x-needs']]}.",
        _parameters(operation, schemas),
        _body(operation, schemas),
        _answers(operation),
        _errors(operation),
        *map(_example, own),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _parameters(operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    rows = (
        (
            f"`{each['schema'].get('title', each['name']) if each['in'] == 'header' else each['name']}`",
            each["in"],
            *_value(_without_null(each["schema"]), schemas),
            described(each, each["name"], schemas),
        )
        for each in operation.get("parameters", ())
    )
    return _table(("parameter", "in", "type", "limits", "default", "meaning"), rows)


def _without_null(rule: dict[str, Any]) -> dict[str, Any]:
    """Return the rule of a parameter without null, for which there is no text in a URL: it is left out instead."""
    kinds = [each for each in rule.get("anyOf", ()) if each.get("type") != "null"]
    return {**rule, "anyOf": kinds} if kinds else rule


def _body(operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    body = operation.get("requestBody")
    if not body:
        return ""
    parts = [f"Body: {body['description']}" if "description" in body else ""]
    for media_type, content in body["content"].items():
        for shape in content["schema"].get("oneOf", [content["schema"]]):
            resolved = schemas[_name(shape)] if "$ref" in shape else shape
            if "properties" in resolved:
                parts += [f"Body, as `{media_type}`:", _fields(resolved, schemas, required=True)]
    return "\n\n".join(filter(None, parts))


def _fields(shape: dict[str, Any], schemas: dict[str, Any], *, required: bool = False) -> str:
    """Write the fields of a shape; *required* ones are named so where somebody has to send them."""
    needed = set(shape.get("required", ())) if required else set()
    rows = []
    for name, rule in shape["properties"].items():
        kind, limits, default = _value(rule, schemas)
        rows.append(
            (f"`{name}`", kind, limits, "**required**" if name in needed else default, described(rule, name, schemas))
        )
    if required:
        return table(("field", "type", "limits", "default", "meaning"), rows)
    return table(("field", "type", "meaning"), ((name, kind, words) for name, kind, _, _, words in rows))


def _value(rule: dict[str, Any], schemas: dict[str, Any]) -> tuple[str, str, str]:
    """Say which type a value has, which limits, and which default."""
    default = f"`{json.dumps(rule['default'])}`" if "default" in rule else ""
    if isinstance(rule.get("default"), dict):
        default = "its own defaults"
    return _kind(rule, schemas), ", ".join(_limits(rule, schemas)), default


WORDS = {"string": "text", "integer": "whole number", "boolean": "true or false", "date-time": "time"}


def _kind(rule: dict[str, Any], schemas: dict[str, Any]) -> str:
    """Say of which type a value is."""
    if "$ref" in rule:
        name = _name(rule)
        return _kind(schemas[name], schemas) if "enum" in schemas[name] else f"[{name}](#{anchor(name)})"
    if "anyOf" in rule:
        return " or ".join(_kind(part, schemas) for part in rule["anyOf"])
    if "enum" in rule or "const" in rule:
        return ", ".join(f"`{json.dumps(each)}`" for each in rule.get("enum", [rule.get("const")]))
    if rule["type"] in {"array", "object"}:
        return _collection(rule, schemas)
    kind: str = rule["format"] if rule.get("format") in WORDS else rule["type"]
    return WORDS.get(kind, kind)


def _collection(rule: dict[str, Any], schemas: dict[str, Any]) -> str:
    if rule["type"] == "array":
        return f"list of {_kind(rule['items'], schemas)}"
    inner = rule.get("additionalProperties") or next(iter(rule["patternProperties"].values()))
    return f"object of {_kind(inner, schemas)}"


def _limits(rule: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    for part in rule.get("anyOf", ()):
        yield from _limits(part, schemas)
    for word, least, most in (
        ("", "minimum", "maximum"),
        (" characters", "minLength", "maxLength"),
        (" items", "minItems", "maxItems"),
        (" entries", "minProperties", "maxProperties"),
    ):
        if least in rule and most in rule:
            yield f"{rule[least]:,} to {rule[most]:,}{word}"
        elif least in rule:
            yield f"at least {rule[least]:,}{word}"
        elif most in rule:
            yield f"at most {rule[most]:,}{word}"
    pattern = rule.get("pattern", "")
    if 0 < len(pattern) <= PATTERN_MAX and "u0000" not in pattern and "](" not in pattern:  # which would be a link
        yield f"`{rule['pattern']}`"


def described(rule: dict[str, Any], name: str, schemas: dict[str, Any]) -> str:
    """
    Return what a rule says of itself, or the shape that it names.

    Raises: ValueError when neither says anything.
    """
    words: str = rule.get("description") or (schemas[_name(rule)].get("description") if "$ref" in rule else "") or ""
    if not words:
        raise ValueError(f"`{name}` has no description in its shape or route")
    return words


def _answers(operation: dict[str, Any]) -> str:
    rows = (
        (
            status,
            ", ".join(f"`{name}`" for name in answer["headers"] if name != REQUEST_ID),
            _content(answer),
            answer["description"],
        )
        for status, answer in operation["responses"].items()
        if "application/json" in answer.get("content", {}) or status.startswith("2")
    )
    return table(("answer", "headers", "body", "meaning"), rows)


def _content(answer: dict[str, Any]) -> str:
    for media_type, content in answer.get("content", {}).items():
        if media_type == "application/json":
            name = _name(content["schema"])
            return f"[{name}](#{anchor(name)})"
        if media_type == "text/plain":
            return "text"
    return "none"


def _errors(operation: dict[str, Any]) -> str:
    everywhere = {kind.code for kind in EVERYWHERE}
    codes = [
        code
        for status, answer in operation["responses"].items()
        if not status.startswith("2")
        for code in re.findall(r"`([a-z-]+)`", answer["description"])
        if code not in everywhere
    ]
    listed = ", ".join(map(_error, codes))
    return prose(f"Errors: {listed or 'none'}; and [those of every endpoint](#errors-of-every-endpoint).")


def _error(code: str) -> str:
    return f"[`{code}`](errors.md#{code})"


def _example(example: Played) -> str:
    """Write a command and its answer."""
    headers = [f"{name}: {_cut(value)}" for name, value in example.headers.items()]
    body = example.body
    if isinstance(body, dict | list):
        body = _in_lines(json.dumps(_folded(body, example.operation), indent=2, ensure_ascii=False))
    answer = "\n".join([f"HTTP/1.1 {example.status}", *headers, *(["", str(body).rstrip("\n")] if body else [])])
    return f"{TYPED}\n```sh\n{example.command}\n```\n\n```http\n{answer}\n```"


def _in_lines(text: str) -> str:
    """Put a list of plain values on one line where it fits."""

    def joined(found: re.Match[str]) -> str:
        line = f"[{', '.join(each.strip().rstrip(',') for each in found[1].strip().splitlines())}]"
        return line if len(line) <= LIST_MAX else found[0]

    return re.sub(r"\[\n([^\[\]{}]*)\n *\]", joined, text).replace('"{...}"', "{...}")


def _folded(value: Any, operation: str) -> Any:
    match value:
        case dict():
            return {
                key: "{...}" if key == FOLDED and operation != "show_function" else _folded(inner, operation)
                for key, inner in value.items()
            }
        case list():
            return [_folded(inner, operation) for inner in value]
        case str():
            return _cut(value)
    return value


def _cut(text: str) -> str:
    """Leave of a token what shows that it is one."""
    return re.sub(r"\b(eyJ[\w-]{12})[\w-]*\.[\w-]+\.[\w-]+", r"\1...", text)


def _not_in_the_schema() -> str:
    return """## The description

Neither needs a token, and neither is in the OpenAPI.

| endpoint | answer |
|---|---|
| GET /openapi.json | the OpenAPI 3.1 of this installation's version, as [openapi.json](openapi.json) here |
| GET /docs | the same for people, as one page of HTML that needs nothing from elsewhere |
"""


def _shapes(schemas: dict[str, Any]) -> str:
    parts = ["## Shapes\n\nWhat answers hold. A field that can be null is there all the same.\n"]
    sent = {_name(each) for each in _references(openapi_bodies())}
    for name, shape in schemas.items():
        if "properties" in shape and name not in sent:
            parts.append(f"### {name}\n\n{prose(described(shape, name, schemas))}\n\n{_fields(shape, schemas)}\n")
    return "\n".join(parts)


def openapi_bodies() -> list[Any]:
    """Return the schemas of all bodies that are sent, which stand with their endpoints."""
    schema = schema_of(create_app(ApiSettings()))
    return [
        content["schema"]
        for _, _, operation in _operations(schema)
        for content in operation.get("requestBody", {}).get("content", {}).values()
    ]


def _references(rules: Iterable[Any]) -> Iterator[dict[str, Any]]:
    return (rule for rule in rules if "$ref" in rule)


def _name(rule: dict[str, Any]) -> str:
    return str(rule["$ref"].rpartition("/")[2])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    found = list(rows)
    return table(head, found) if found else ""
