"""The metrics by themselves: names, labels, what is counted, and the port that answers nothing but /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import Gauge, generate_latest

from mayfly.api.metrics import ApiMetrics, state_of
from mayfly.domain.activation import Activation, State, Steps
from mayfly.domain.errors import (
    FunctionFailed,
    Gone,
    ImageUnavailable,
    InternalError,
    LimitReached,
    MayflyError,
    NotAuthenticated,
    QueueUnavailable,
    TimedOut,
    WorkerLost,
)
from mayfly.domain.ids import FunctionName, UserId
from mayfly.services.metrics import BUCKETS_S, Metrics
from mayfly.services.metrics_port import CONNECTIONS_AT_ONCE, HEAD_MAX_BYTES, check_metrics_port, served
from mayfly.settings import SettingsError
from mayfly.worker.metrics import WorkerMetrics
from tests.support.nats import free_port
from tests.support.scrape import Scrape, scrape

ROOT = Path(__file__).resolve().parents[3]
BOTH = pytest.mark.parametrize("metrics", [ApiMetrics(), WorkerMetrics()], ids=["api", "worker"])
FORBIDDEN_LABELS = {"user", "user_id", "function", "name", "image", "activation", "path", "le", "instance", "job"}


def record(state: State, steps: Steps, code: str | None = None) -> Activation:
    """A record that ended so."""
    return Activation(
        state=state,
        nonce="n",
        user_id=UserId("u"),
        instance="i",
        ulid="l",
        function=FunctionName("f"),
        function_id="f",
        image="busybox",
        digest=None,
        parameter_bytes=0,
        parameter_sha256="",
        created_at=1.0,
        deadline_at=2.0,
        ran="yes" if state is State.SUCCEEDED else "no",
        steps=steps,
        code=code,
    )


def now(metrics: Metrics) -> Scrape:
    """What a scrape would read."""
    return Scrape(generate_latest(metrics.registry).decode())


@BOTH
def test_names_are_as_prometheus_wants_them(metrics: Metrics) -> None:
    """Every name is `mayfly_*` in lower case; counters, and only they, end in `_total`; times are in seconds."""
    for each in metrics.described:
        assert re.fullmatch(r"mayfly(_[a-z]+)+", each.name), each.name
        assert each.name.endswith("_total") == (each.kind == "counter"), each.name
        assert not re.search(r"_(ms|millis\w*|minutes|kb|mib|percent)\b", each.name), each.name
        assert each.kind != "histogram" or each.name.endswith("_seconds"), each.name
        assert each.meaning.endswith("."), each.name


@BOTH
def test_no_label_is_something_that_users_choose(metrics: Metrics) -> None:
    """There are at most three labels on a metric, and none for users, functions, images or single activations."""
    for each in metrics.described:
        assert len(each.labels) <= 3, each.name
        assert not FORBIDDEN_LABELS & set(each.labels), each.name


@BOTH
def test_everything_that_is_described_is_scraped(metrics: Metrics) -> None:
    """What the reference lists is in the first scrape, before anything has happened, and nothing else of ours is."""
    families = {line.split()[2] for line in generate_latest(metrics.registry).decode().splitlines() if "# TYPE" in line}
    assert {name for name in families if name.startswith("mayfly_")} == {each.name for each in metrics.described}


def test_durations_are_told_apart_from_a_millisecond_to_the_longest_call() -> None:
    """The buckets go up from 1 ms to 300 s, and none is more than three times the one before."""
    assert (BUCKETS_S[0], BUCKETS_S[-1]) == (0.001, 300.0)
    assert list(BUCKETS_S) == sorted(BUCKETS_S)
    assert max(after / before for before, after in pairwise(BUCKETS_S)) <= 3


def test_a_call_is_counted_by_how_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result, a failure and a refusal each count once, under their state, code and `ran`, with their duration."""
    monkeypatch.setattr("mayfly.api.metrics.time", SimpleNamespace(monotonic=lambda: 100.0))
    metrics = ApiMetrics()
    before = now(metrics)
    with metrics.call(98.0):
        pass
    with pytest.raises(FunctionFailed), metrics.call(None):
        raise FunctionFailed(exit_code=3)
    with pytest.raises(LimitReached), metrics.call(None):
        raise LimitReached(scope="user", limit=1, in_use=1)

    grown = now(metrics).grown(before)
    assert grown['mayfly_activations_total{code="none",ran="yes",state="succeeded"}'] == 1
    assert grown['mayfly_activations_total{code="function-failed",ran="yes",state="failed"}'] == 1
    assert grown['mayfly_activations_total{code="concurrency-limit",ran="no",state="refused"}'] == 1
    assert grown['mayfly_refusals_total{scope="user"}'] == 1
    assert 'mayfly_refusals_total{scope="platform"}' not in grown
    assert grown['mayfly_activation_duration_seconds_sum{state="succeeded"}'] == 2
    assert grown['mayfly_activation_duration_seconds_bucket{le="0.001",state="refused"}'] == 1
    assert 'mayfly_activation_duration_seconds_bucket{le="1.0",state="succeeded"}' not in grown


def test_what_nobody_foresaw_is_counted_too() -> None:
    """An exception that is no error of ours counts as an internal one, and goes on."""
    metrics = ApiMetrics()
    with pytest.raises(ZeroDivisionError), metrics.call(None):
        raise ZeroDivisionError
    assert now(metrics).value("mayfly_activations_total", state="unknown", code="internal-error", ran="unknown") == 1


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (FunctionFailed(), "failed"),
        (ImageUnavailable(), "refused"),
        (LimitReached(), "refused"),
        (TimedOut(ran="no"), "timed-out"),
        (WorkerLost(), "worker-lost"),
        (QueueUnavailable(ran="unknown"), "unknown"),
        (InternalError(), "unknown"),
        (Gone(ran="yes"), "succeeded"),
        (Gone(), "refused"),
    ],
    ids=lambda value: value.code + "-" + value.ran if isinstance(value, MayflyError) else value,
)
def test_an_error_says_how_the_activation_ended(error: MayflyError, state: str) -> None:
    """From an error's kind and `ran` follows the state of its record, and `unknown` where it does not."""
    assert state_of(error) == state


def test_a_refused_login_is_counted_by_its_code() -> None:
    """A wrong password counts as `not-authenticated`; nothing tells whose it was."""
    metrics = ApiMetrics()
    with pytest.raises(NotAuthenticated), metrics.login():
        raise NotAuthenticated
    with metrics.login():
        pass
    assert now(metrics).value("mayfly_logins_total", outcome="not-authenticated") == 1
    assert now(metrics).value("mayfly_logins_total", outcome="succeeded") == 1


def test_usage_that_is_not_known_is_not_a_number() -> None:
    """Before the first reading, and when NATS does not answer, no number is shown that could be taken for one."""
    metrics = ApiMetrics()
    metrics.in_flight.set(7)
    metrics.forget_usage()
    scraped = now(metrics)
    assert str(scraped.value("mayfly_activations_in_flight")) == "nan"
    assert str(scraped.value("mayfly_activations_limit", scope="platform")) == "nan"


def test_a_worker_counts_the_steps_that_were_reached() -> None:
    """An activation refused while its image was prepared has no start and no run, and adds none to them."""
    metrics = WorkerMetrics()
    before = now(metrics)
    metrics.ended(record(State.SUCCEEDED, Steps(admit_s=0.001, queue_s=0.002, image_s=0.003, start_s=0.004, run_s=0.5)))
    metrics.ended(record(State.REFUSED, Steps(admit_s=0.001, queue_s=0.002), code="gone"))

    grown = now(metrics).grown(before)
    counts = {
        step: grown[f'mayfly_activation_step_duration_seconds_count{{step="{step}"}}'] for step in ("queue", "run")
    }
    assert counts == {"queue": 2, "run": 1}
    assert grown['mayfly_activation_step_duration_seconds_sum{step="run"}'] == 0.5
    assert grown['mayfly_worker_activations_total{code="gone",ran="no",state="refused"}'] == 1


@asynccontextmanager
async def port_of(metrics: Metrics, **options: object) -> AsyncIterator[int]:
    """Serve metrics on a free port."""
    port = free_port()
    async with served(f"127.0.0.1:{port}", metrics, **options):  # type: ignore[arg-type]
        yield port


async def said(port: int, request: bytes) -> bytes:
    """Send bytes, and read all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_metrics_are_read_by_get() -> None:
    """GET /metrics answers in the text format that Prometheus reads, also with a query."""
    async with port_of(WorkerMetrics()) as port:
        assert (await scrape(port)).value("mayfly_nats_connected") == 0
        assert (await said(port, b"GET /metrics?a=b HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", b"404"),
        (b"GET /metrics/ HTTP/1.1", b"404"),
        (b"GET /v1/status HTTP/1.1", b"404"),
        (b"GET http://elsewhere/metrics HTTP/1.1", b"404"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"HEAD /metrics HTTP/1.1", b"405"),
        (b"nonsense", b"404"),
    ],
)
async def test_nothing_else_is_answered(request_line: bytes, status: bytes) -> None:
    """Another path is 404 and another method 405, and neither tells a number."""
    async with port_of(ApiMetrics()) as port:
        answer = await said(port, request_line + b"\r\nHost: x\r\n\r\n")
    assert answer.split()[1] == status
    assert b"mayfly_" not in answer


async def test_a_head_without_end_is_cut_off() -> None:
    """Who sends more than 8 KiB gets no answer, and the port goes on."""
    async with port_of(ApiMetrics()) as port:
        assert await said(port, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * HEAD_MAX_BYTES * 40) == b""
        await scrape(port)


async def test_who_says_nothing_keeps_nobody_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which nothing comes is closed after its time, and does not hold up the end of the role."""
    monkeypatch.setattr("mayfly.services.metrics_port.REQUEST_WITHIN_S", 0.05)
    async with port_of(ApiMetrics()) as port:
        assert await said(port, b"") == b""
        _, silent = await asyncio.open_connection("127.0.0.1", port)
    silent.close()


async def test_a_flood_of_scrapes_is_refused() -> None:
    """Beyond eight at once a scrape is answered 503; those under way are answered as always."""
    go_on, waiting = asyncio.Event(), asyncio.Semaphore(0)

    async def refresh() -> None:
        waiting.release()
        await go_on.wait()

    async with port_of(ApiMetrics(), refresh=refresh) as port:
        request = b"GET /metrics HTTP/1.1\r\n\r\n"
        first = [asyncio.create_task(said(port, request)) for _ in range(8)]
        async with asyncio.timeout(5):
            for _ in first:
                await waiting.acquire()
        assert (await said(port, request)).startswith(b"HTTP/1.1 503 ")
        go_on.set()
        assert {(await each).split()[1] for each in first} == {b"200"}


async def test_who_says_nothing_takes_nobodys_place() -> None:
    """Beside any number of silent connections Prometheus is answered, and few of them are kept."""
    async with port_of(ApiMetrics()) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3 * CONNECTIONS_AT_ONCE)]
        await scrape(port)
        await asyncio.gather(*(reader.read() for reader, _ in silent[: 2 * CONNECTIONS_AT_ONCE]))
        for _, writer in silent:
            writer.close()


async def test_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that nobody takes does not keep its connection, and its content, for ever."""
    monkeypatch.setattr("mayfly.services.metrics_port.REQUEST_WITHIN_S", 1)
    metrics = ApiMetrics()
    large = Gauge("large", "More than the kernel keeps for a reader.", ["text"], registry=metrics.registry)
    large.labels("x" * (32 << 20)).set(1)
    async with port_of(metrics) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        while not (scrapes := [task for task in asyncio.all_tasks() if task.get_name() == "scrape"]):
            await asyncio.sleep(0)
        await asyncio.wait(scrapes)

        head = await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            body = await reader.read()
            assert len(body) < 32 << 20, "all of it was kept until somebody read it"
        writer.close()
    assert b" 200 OK" in head


async def test_no_setting_is_no_port() -> None:
    """Without MAYFLY_METRICS_LISTEN nothing listens, and the metrics are counted all the same."""
    metrics = ApiMetrics()
    async with served("", metrics) as same:
        assert same is metrics


@pytest.mark.parametrize("listen", ["9464", ":9464", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000", "127.0.0.1:-1"])
async def test_an_address_that_cannot_be_is_named(listen: str) -> None:
    """The sentence names the variable, the value and an example."""
    with pytest.raises(
        SettingsError, match=r"MAYFLY_METRICS_LISTEN: '.*' is not `address:port`, such as 127\.0\.0\.1:9464"
    ):
        async with served(listen, ApiMetrics()):
            pytest.fail("it was served")


async def test_a_name_that_cannot_be_looked_up_is_named() -> None:
    """A host with an empty label is an error of the codec, not of the network."""
    with pytest.raises(SettingsError, match=r"MAYFLY_METRICS_LISTEN: 'a\.\.b:9464' cannot be listened on"):
        async with served("a..b:9464", ApiMetrics()):
            pytest.fail("it was served")


async def test_a_port_that_is_taken_is_named() -> None:
    """A second role on the same port is told so, in one sentence."""
    async with port_of(ApiMetrics()) as port:
        with pytest.raises(SettingsError, match=f"MAYFLY_METRICS_LISTEN: '127.0.0.1:{port}' cannot be listened on"):
            async with served(f"127.0.0.1:{port}", WorkerMetrics()):
                pytest.fail("it was served")


@pytest.mark.parametrize("listen", ["127.0.0.1:8443", "0.0.0.0:8443", "[::1]:8443"])
def test_the_port_of_the_api_is_refused(listen: str) -> None:
    """Metrics on the port that callers reach are refused at the start, whatever the address; none at all is fine."""
    with pytest.raises(SettingsError, match="8443 is the port of MAYFLY_LISTEN"):
        check_metrics_port(listen, beside="0.0.0.0:8443")
    check_metrics_port("", beside="0.0.0.0:8443")
    check_metrics_port("127.0.0.1:9464", beside="0.0.0.0:8443")
