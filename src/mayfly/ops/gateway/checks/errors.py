"""Rules about what the gateway answers by itself: problems with the members that the API's own have. Rows: A1, D3."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from mayfly.ops.gateway.checks.lua import without_comments
from mayfly.ops.gateway.checks.nginx import SERVER
from mayfly.ops.gateway.checks.rule import Found, Gateway, config_rule, routes_rule

MEMBERS = ("code", "fault", "ran")
OURS = "concurrency-limit"
MAYBE_RUN = {502, 504}  # the request may have reached an API server


@routes_rule
def refusals_of_plugins_worded(gateway: Gateway) -> Found:
    """What the global rule's chunks say, for refusals of plugins and for failures of nginx, has `code`, `fault` and
    `ran`, as the API's own errors have: without `ran` nobody knows whether a call may be repeated."""
    for where, name, chunk in gateway.chunks():
        if name in {"exit-transformer", "serverless-post-function"}:
            yield from _page_problems(_pages(chunk), where)


@config_rule
def refusals_of_nginx_worded(gateway: Gateway) -> Found:
    """What nginx refuses before a route has `code`, `fault` and `ran`, too."""
    yield from _page_problems(_pages(gateway.nginx[SERVER]), f"nginx_config.{SERVER}")


@routes_rule
def error_pages_worded(gateway: Gateway) -> Found:
    """The pages for errors that nginx makes are JSON with the page's own status, and with `code`, `fault` and `ran`."""
    for where, status, page in _error_pages(gateway):
        if page is None:
            yield where, "is no JSON object; `mayfly gateway render` writes it."
        elif page.get("status") != status:
            yield where, f"must say status {status}, which it is the page of."
        else:
            yield from _page_problems([page], where)


def _error_pages(gateway: Gateway) -> Iterator[tuple[str, int, dict[str, Any] | None]]:
    for metadata in gateway.routes["plugin_metadata"]:
        for key, page in metadata.items():
            if not key.startswith("error_"):
                continue
            where = f"plugin_metadata[{metadata['id']}].{key}.body"
            try:
                content = json.loads(page["body"])
            except (ValueError, RecursionError):
                content = None
            yield where, int(key.removeprefix("error_")), content if isinstance(content, dict) else None


def _pages(text: str) -> list[dict[str, Any]]:
    """Find the problem documents in a chunk: JSON in Lua's strings, whose request id is added when they are sent."""
    code = without_comments(text).replace('\\"', '"')
    return [
        {name: _number(value) for name, value in re.findall(r'"(\w+)":\s*("[^"]*"|\d+)', piece)}
        for piece in re.split(r'(?="type":)', code)[1:]
    ]


def _number(value: str) -> str | int:
    return int(value) if value.isdecimal() else value.strip('"')


def _page_problems(pages: list[dict[str, Any]], where: str) -> Found:
    if not pages:
        yield where, "has no problem document; `mayfly gateway render` writes them."
    for page in pages:
        status = page.get("status")
        if missing := [name for name in MEMBERS if name not in page]:
            yield where, f"the page for {status} lacks {', '.join(missing)}, which every error of the API has."
        elif page["code"] == OURS:
            yield where, f"the page for {status} says {OURS}, which is the API's own exact limit; name the flood limit."
        elif page["ran"] != "unknown" and status in MAYBE_RUN:
            yield where, f"the page for {status} must say ran: unknown, since the request may have reached the API."
        elif page["ran"] != "no" and isinstance(status, int) and status < 500:
            yield where, f"the page for {status} must say ran: no, since nothing was passed on."
