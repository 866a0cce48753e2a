"""
What is counted and measured under the names that Prometheus reads: here what every role has, in `api.metrics` and
`worker.metrics` what one role has. `services.metrics_port` is where it can be read. Rows: D4.

One object a process, with a registry of its own; whoever does something worth counting holds it and calls one method.
Labels take few values and none that a user chose: no name of a user or function, no image, no address. So the number of
series does not grow with use, and whoever reads the metrics learns nothing of what anybody runs.

`docs/reference/metrics.md` is made from here by `scripts/docs-metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mayfly import __version__
from mayfly.bus.connection import Bus
from mayfly.services.metrics_certificates import end_of_server

# Else each counter has a second series, with the time of its first value, that nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

BUCKETS_S = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
"""Fine around the few milliseconds of a call without waiting, and up to the longest that a function may take."""

NO_CODE = "none"  # an empty label is no label to Prometheus


Values = Iterable[tuple[Sequence[str], float]]
"""Of one metric: the values of its labels, and the number."""

Family = type[CounterMetricFamily] | type[GaugeMetricFamily]


@dataclass(frozen=True, slots=True)
class Described:
    """A metric as the reference page has it."""

    name: str  # as it is scraped
    kind: str
    labels: tuple[str, ...]
    meaning: str


class Metrics:
    """What every role has: its version, its connection to NATS, its certificates, and what its process takes."""

    role = ""

    def __init__(self) -> None:
        """Everything at zero, no connection and no certificate."""
        self.registry = CollectorRegistry()
        self.described: list[Described] = []
        self.certificates: dict[str, float] = {}  # when they end: see `services.metrics_certificates.ends_of`
        self._bus: Bus | None = None
        build = self._gauge("mayfly_build_info", "Always 1; which version of which role this is.", "version", "role")
        build.labels(__version__, self.role).set(1)
        connected = self._gauge("mayfly_nats_connected", "1 while the connection to NATS is up, else 0.")
        connected.set_function(lambda: float(self._bus is not None and self._bus.is_connected))
        self._counted_elsewhere(
            "mayfly_nats_reconnects_total",
            "How often the connection to NATS came back.",
            lambda: [((), self._bus.reconnects if self._bus else 0)],
        )
        self._measured_elsewhere(
            "mayfly_certificate_not_after_timestamp_seconds",
            "When a certificate ends that this role works with now, as a Unix time. `own`: the API server's, the first "
            "to end of its chain; `authority`: the one of `MAYFLY_NATS_CA_FILE`; both as they were read at the start. "
            "`nats`: that of the nats-server it is connected to. No sample where there is no such certificate.",
            self._ends,
            "certificate",
        )
        ProcessCollector(registry=self.registry)

    def follow(self, bus: Bus) -> None:
        """Show the state of this connection from now on."""
        self._bus = bus

    def _ends(self) -> Values:
        server = end_of_server(self._bus)
        ends = self.certificates if server is None else {**self.certificates, "nats": server}
        return [((certificate,), end) for certificate, end in ends.items()]

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        self.described.append(Described(name, "counter", labels, meaning))
        return Counter(name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        self.described.append(Described(name, "gauge", labels, meaning))
        return Gauge(name, meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, *labels: str) -> Histogram:
        self.described.append(Described(name, "histogram", labels, meaning))
        return Histogram(name, meaning, labels, registry=self.registry, buckets=BUCKETS_S)

    def _counted_elsewhere(self, name: str, meaning: str, read: Callable[[], Values], *labels: str) -> None:
        """Show what another room counts for itself: *read* is asked at each scrape."""
        self._elsewhere(CounterMetricFamily, Described(name, "counter", labels, meaning), read)

    def _measured_elsewhere(self, name: str, meaning: str, read: Callable[[], Values], *labels: str) -> None:
        """Likewise of a gauge, which has only the samples that there are."""
        self._elsewhere(GaugeMetricFamily, Described(name, "gauge", labels, meaning), read)

    def _elsewhere(self, family: Family, described: Described, read: Callable[[], Values]) -> None:
        self.described.append(described)
        self.registry.register(_Elsewhere(family, described, read))


class _Elsewhere:
    """A metric whose values are somebody else's."""

    def __init__(self, family: Family, described: Described, read: Callable[[], Values]) -> None:
        self._family, self._described, self._read = family, described, read

    def describe(self) -> Iterable[Metric]:
        return [self._empty()]

    def collect(self) -> Iterable[Metric]:
        family = self._empty()
        for labels, value in self._read():
            family.add_metric(labels, value)
        return [family]

    def _empty(self) -> CounterMetricFamily | GaugeMetricFamily:
        return self._family(self._described.name, self._described.meaning, labels=self._described.labels)
