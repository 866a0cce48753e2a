"""The list of all pages that are made from the code."""

from __future__ import annotations

from bench.capacity.page import PAGE, curves, refreshed
from pages import (
    api,
    cli,
    configuration,
    errors,
    functions,
    gateway_checks,
    metrics,
    nats,
    scripts,
    settings,
    transitions,
)
from pages.page import Page, whole

PAGES = (
    Page("docs/reference/openapi.json", whole(api.openapi)),
    Page("docs/reference/api.md", whole(api.page)),
    Page("docs/reference/errors.md", whole(errors.page)),
    Page("docs/reference/cli.md", whole(cli.page)),
    Page("docs/reference/functions.md", whole(functions.page)),
    Page("docs/reference/settings.md", whole(settings.page)),
    Page("docs/reference/configuration.md", whole(configuration.page)),
    Page("docs/reference/nats.md", whole(nats.page)),
    Page("docs/reference/metrics.md", whole(metrics.page)),
    Page("docs/reference/gateway-checks.md", whole(gateway_checks.page)),
    Page("docs/reference/scripts.md", whole(scripts.page)),
    Page("docs/explanation/life-of-an-activation.md", transitions.page),
    Page("docs/explanation/capacity.md", refreshed),
    Page("docs/explanation/capacity-overload.svg", whole(lambda: curves(PAGE.read_text(encoding="utf-8")))),
)
