"""Rules about the ports that the gateway opens, and to whom. Rows: D3, F1."""

from __future__ import annotations

import ipaddress
from typing import Any

from mayfly.domain.limits import TIMEOUT_MAX_S
from mayfly.ops.gateway.bounds import CLEAR_PORT, CONTROL_PORT, HTTPS_PORT, METRICS_PORT, STATUS_PORT
from mayfly.ops.gateway.checks.rule import Found, Gateway, config_rule


@config_rule
def tls_on_one_port(gateway: Gateway) -> Found:
    """Callers are served on port 9443 and on no other: that is the port which deployments publish."""
    for index, listener in enumerate(gateway.config["apisix"]["ssl"]["listen"]):
        if listener["port"] != HTTPS_PORT:
            yield f"apisix.ssl.listen[{index}].port", f"must be {HTTPS_PORT}, the port that deployments publish."


@config_rule
def no_clear_text(gateway: Gateway) -> Found:
    """The listener without TLS is on loopback, unless MAYFLY_GATEWAY_CLEAR_TEXT says that TLS ends in front of it."""
    for index, listener in enumerate(gateway.config["apisix"]["node_listen"]):
        where = f"apisix.node_listen[{index}]"
        if listener["port"] != CLEAR_PORT:
            yield f"{where}.port", f"must be {CLEAR_PORT}; no other port is ours."
        if not _is_loopback(listener["ip"]) and not gateway.settings.gateway_clear_text:
            yield (
                f"{where}.ip",
                (
                    "would take tokens in clear text from anybody; make it 127.0.0.1, or set "
                    "MAYFLY_GATEWAY_CLEAR_TEXT where TLS ends in front of the gateway."
                ),
            )


@config_rule
def control_on_loopback(gateway: Gateway) -> Found:
    """APISIX's control API is on 127.0.0.1:9090: whoever reaches it reads all that the gateway knows."""
    yield from _place(gateway.config["apisix"]["control"], "apisix.control", port=CONTROL_PORT)
    if not _is_loopback(gateway.config["apisix"]["control"]["ip"]):
        yield "apisix.control.ip", "must be 127.0.0.1: whoever reaches the control API reads what the gateway knows."


@config_rule
def status_where_it_is_asked_for(gateway: Gateway) -> Found:
    """The status listener is on port 7085, where the deployments' health checks ask."""
    yield from _place(gateway.config["apisix"]["status"], "apisix.status", port=STATUS_PORT)


@config_rule
def metrics_where_they_are_read(gateway: Gateway) -> Found:
    """Metrics are on port 9091, where Prometheus reads them, and not on callers' ports."""
    attributes = gateway.config["plugin_attr"]["prometheus"]["export_addr"]
    yield from _place(attributes, "plugin_attr.prometheus.export_addr", port=METRICS_PORT)


@config_rule
def buckets_cover_calls(gateway: Gateway) -> Found:
    """The buckets of the time that requests take, in milliseconds, ascend as far as the longest call."""
    buckets = gateway.config["plugin_attr"]["prometheus"].get("default_buckets")
    longest = int(TIMEOUT_MAX_S * 1000)
    if buckets is not None and (buckets != sorted(buckets) or buckets[-1] < longest):
        yield "plugin_attr.prometheus.default_buckets", f"must ascend to {longest} ms, the longest call."


def _place(address: dict[str, Any], where: str, *, port: int) -> Found:
    if address["port"] != port:
        yield f"{where}.port", f"must be {port}: deployments count on it, and publish no other port by mistake."


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"
