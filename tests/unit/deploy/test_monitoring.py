"""The monitoring profile agrees with the code: every expression's metrics and labels, every scraped name and port."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from mayfly.api.metrics import ApiMetrics
from mayfly.api.usage import READ_WITHIN_S
from mayfly.services.metrics import Metrics
from mayfly.worker.metrics import WorkerMetrics

pytestmark = pytest.mark.D4

MONITORING = Path(__file__).resolve().parents[3] / "deploy" / "compose" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana/dashboards/mayfly.json").read_text(encoding="utf-8"))
GIVEN_BY_PROMETHEUS = {"instance", "job"}
FOREIGN = {"up": set[str](), "apisix_http_status": {"code", "route"}}
"""What is not ours: Prometheus's own, and APISIX's counter of answers."""
FUNCTIONS = {"sum", "max", "min", "count", "rate", "histogram_quantile", "clamp_min", "vector", "time"}
FUNCTIONS |= {"increase", "last_over_time"}
WORDS = {"by", "or", "Inf"}


def names_of(metrics: Metrics) -> dict[str, set[str]]:
    """Every name that can be queried, with its labels."""
    names = {}
    for each in metrics.described:
        suffixes = ("_bucket", "_sum", "_count") if each.kind == "histogram" else ("",)
        for suffix in suffixes:
            names[each.name + suffix] = {*each.labels, *(("le",) if suffix == "_bucket" else ())}
    exposed = generate_latest(metrics.registry).decode()
    return names | {name: set[str]() for name in re.findall(r"^# TYPE (process_\w+)", exposed, re.MULTILINE)}


KNOWN = names_of(ApiMetrics()) | names_of(WorkerMetrics()) | FOREIGN


def wrong_with(expression: str) -> list[str]:
    """Say what of an expression the code does not have: metrics, labels, functions, brackets."""
    wrong = []
    bare = re.sub(r'"[^"]*"', '""', expression)
    grouped = {label for inside in re.findall(r"\bby \(([^)]*)\)", bare) for label in re.split(r",\s*", inside)}
    selected = re.findall(r"([a-z_]\w*)\{([^}]*)\}", bare)
    rest = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)", " ", bare)
    used = set()
    for word, bracket in re.findall(r"([A-Za-z_]\w*)\s*(\(?)", rest):
        if bracket or word in WORDS:
            wrong += [f"function {word}"] if word not in FUNCTIONS | WORDS else []
        else:
            used.add(word)
    wrong += [f"metric {name}" for name in sorted(used - set(KNOWN))]
    labels = GIVEN_BY_PROMETHEUS.union(*(KNOWN.get(name, set()) for name in used))
    wrong += [f"label {label}" for label in sorted(grouped - labels)]
    for name, inside in selected:
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside):
            wrong += [f"label {label} of {name}"] if label not in KNOWN.get(name, set()) | GIVEN_BY_PROMETHEUS else []
    wrong += [f"unbalanced {left}" for left, right in ("()", "[]", "{}") if bare.count(left) != bare.count(right)]
    return wrong


def panels() -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def targets() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each query, with its panel's title."""
    return ((panel["title"], target) for panel in panels() for target in panel["targets"])


def test_every_expression_is_of_metrics_that_there_are() -> None:
    """No panel asks for a metric or a label that the code does not have."""
    assert {title: wrong for title, target in targets() if (wrong := wrong_with(target["expr"]))} == {}


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("max(mayfly_activations_inflight)", "metric mayfly_activations_inflight"),
        ("rate(mayfly_activation_duration_seconds[1m])", "metric mayfly_activation_duration_seconds"),
        ("sum by (user) (rate(mayfly_activations_total[1m]))", "label user"),
        ('mayfly_refusals_total{state="user"}', "label state of mayfly_refusals_total"),
        ("quantile(0.5, mayfly_workers)", "function quantile"),
        ("sum(rate(mayfly_refusals_total[1m])", "unbalanced ("),
    ],
)
def test_a_mistake_in_an_expression_is_noticed(expression: str, wrong: str) -> None:
    """The rule above sees a wrong metric, histogram, label, function and bracket."""
    assert wrong_with(expression) == [wrong]


def alerts() -> list[dict[str, Any]]:
    """Every alert."""
    return [each for group in loaded("alerts.yml")["groups"] for each in group["rules"]]


def test_every_alert_is_of_metrics_that_there_are() -> None:
    """No alert asks for a metric or a label that the code does not have; each says what is the matter."""
    assert {each["alert"]: wrong for each in alerts() if (wrong := wrong_with(each["expr"]))} == {}
    assert all(each["annotations"]["summary"].endswith(".") for each in alerts())
    assert loaded("prometheus.yml")["rule_files"] == ["alerts.yml"]


def test_every_alert_is_on_the_page() -> None:
    """How to monitor says of each alert what to do, and names none that is not there."""
    page = (MONITORING.parents[2] / "docs/howto/monitor.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([A-Z]\w+)` \|", page, re.MULTILINE)
    assert named == [each["alert"] for each in alerts()]


def test_legends_name_labels_that_the_query_has() -> None:
    """A legend's {{label}} is one by which its query groups, or one that each series has."""
    for title, target in targets():
        kept = {
            label for inside in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in re.split(r",\s*", inside)
        }
        allowed = kept or GIVEN_BY_PROMETHEUS
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= allowed, title


@pytest.mark.parametrize(
    "metric",
    [
        "mayfly_activations_total",
        "mayfly_activation_duration_seconds_bucket",
        "mayfly_activation_step_duration_seconds_bucket",
        "mayfly_activations_in_flight",
        "mayfly_activations_waiting",
        "mayfly_workers_lost_total",
        "mayfly_stream_leader",
        "mayfly_stream_replicas_current",
        "mayfly_stream_bytes",
        "mayfly_worker_slots_in_use",
        "mayfly_refusals_total",
        "mayfly_certificate_not_after_timestamp_seconds",
    ],
)
def test_what_an_operator_asks_first_is_shown(metric: str) -> None:
    """Calls, steps, queue, slots, refusals, streams, lost workers, and what ends by itself each have a panel."""
    assert [title for title, target in targets() if re.search(rf"\b{metric}\b", target["expr"])]


def test_panels_lie_beside_each_other() -> None:
    """Every panel has an id of its own and a place of its own, within the 24 columns."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)


def test_the_dashboard_finds_its_data_and_grafana_the_dashboard() -> None:
    """All panels name the provisioned source, which is the Prometheus of the profile; it is read-only."""
    [source] = loaded("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    asked = [panel["datasource"] for panel in panels()] + [target["datasource"] for _, target in targets()]
    assert {(each["type"], each["uid"]) for each in asked} == {("prometheus", source["uid"])}
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert source["jsonData"]["timeInterval"] == loaded("prometheus.yml")["global"]["scrape_interval"]
    [provider] = loaded("grafana/provisioning/dashboards/mayfly.yaml")["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    assert provider["allowUiUpdates"] is False


def test_prometheus_scrapes_every_role_where_it_listens() -> None:
    """Both API servers by name, every worker by its addresses, the gateway at APISIX's own path; and never NATS."""
    jobs = {job["job_name"]: job for job in loaded("prometheus.yml")["scrape_configs"]}
    assert set(jobs) == {"api", "worker", "gateway", "prometheus"}
    assert jobs["api"]["static_configs"] == [{"targets": ["api-1:9464", "api-2:9464"]}]
    [found] = jobs["worker"]["dns_sd_configs"]
    assert (found["names"], found["type"], found["port"]) == (["worker"], "A", 9464)
    assert jobs["gateway"]["static_configs"] == [{"targets": ["gateway:9091"]}]
    assert jobs["gateway"]["metrics_path"] == "/apisix/prometheus/metrics"
    assert not [job for name, job in jobs.items() if name != "gateway" and "metrics_path" in job]


def test_a_scrape_may_take_longer_than_its_reading_of_nats() -> None:
    """Prometheus waits longer than an API server waits for NATS, so an outage is no gap in the rest."""
    limits = loaded("prometheus.yml")["global"]
    timeout_s, interval_s = (int(limits[name].removesuffix("s")) for name in ("scrape_timeout", "scrape_interval"))
    assert READ_WITHIN_S < timeout_s < interval_s


def loaded(name: str) -> Any:
    """Read one of the files."""
    return yaml.safe_load((MONITORING / name).read_text(encoding="utf-8"))
