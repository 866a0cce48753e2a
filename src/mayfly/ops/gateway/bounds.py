"""
Every figure in the gateway's files, each derived from the figure of the API that it must not disagree with.

The gateway is never the narrower one where the API has an answer of its own: it waits longer than the longest call and
the API's own end, takes bodies a little larger than the API does, and lets a user have more requests open than
activations. What it refuses is a flood, and it says so in words of its own. Rows: A1, D3.
"""

from __future__ import annotations

from dataclasses import dataclass

from mayfly.api.bodies import BODY_TIMEOUT_S, JSON_MAX_BYTES
from mayfly.api.protocol import HEAD_MAX_BYTES, HEAD_TIMEOUT_S, UNWANTED_MAX_BYTES
from mayfly.api.server import GRACE_S, KEEP_ALIVE_S
from mayfly.bus.patience import FAILOVER_S
from mayfly.domain.limits import KIB, PARAMETER_MAX_BYTES, TIMEOUT_MAX_S
from mayfly.services.functions import PREPARE_TIMEOUT_S
from mayfly.services.tokens import CLOCK_SKEW_S
from mayfly.settings import GatewaySettings

HTTPS_PORT, CLEAR_PORT, STATUS_PORT, METRICS_PORT, CONTROL_PORT = 9443, 9080, 7085, 9091, 9090
METRICS_PATH = "/apisix/prometheus/metrics"

SLACK_BYTES = 64 * KIB  # a body that is too large by this much is still refused by the API, in its words
SHORT_BODY_BYTES = KIB  # of requests that have no body
HEAD_LINE_BYTES = 8 * KIB  # nginx counts the head in buffers, of which no line may need more than one

CONNECT_S = 3  # within the internal network
CHECK_EVERY_S = 2
CHECK_FAILURES = 2
OPEN_BESIDE_ACTIVATIONS = 64  # requests that a user may have open beside calls and questions about calls
LOGIN_BURST = 5  # times the rate
NO_LIMIT = 100_000  # above what a gateway can carry

FASTER_THAN_ANY_TEST = 1_000_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """The figures. Times in seconds, sizes in bytes, rates in requests a second."""

    read_s: int  # silence of an API server
    short_read_s: int  # the same, where nothing is waited for but the database
    send_s: int
    shutdown_s: int  # of an old worker process of APISIX with calls in flight
    head_timeout_s: int
    client_keep_alive_s: int
    pool_idle_s: int
    clock_skew_s: int
    body_bytes: int
    public_body_bytes: int
    backstop_bytes: int  # for what no route bounds
    head_buffers: int
    user_open: int
    client_rate: int
    client_burst: int
    user_rate: int
    login_rate: int
    login_burst: int


def bounds_of(settings: GatewaySettings) -> Bounds:
    """Derive the figures."""
    test = settings.gateway_profile == "test"
    login_rate = FASTER_THAN_ANY_TEST if test else settings.gateway_login_rate
    return Bounds(
        read_s=_longest_s() + 30,
        short_read_s=int(FAILOVER_S) + 21,  # two questions to a NATS cluster that is just choosing a leader
        send_s=int(BODY_TIMEOUT_S),
        shutdown_s=_longest_s() + 40,
        head_timeout_s=int(HEAD_TIMEOUT_S),
        client_keep_alive_s=KEEP_ALIVE_S,
        pool_idle_s=KEEP_ALIVE_S * 2 // 5,  # an API server must never be the first to close a connection
        clock_skew_s=CLOCK_SKEW_S,
        body_bytes=PARAMETER_MAX_BYTES + SLACK_BYTES,
        public_body_bytes=JSON_MAX_BYTES + SLACK_BYTES,
        backstop_bytes=UNWANTED_MAX_BYTES,
        head_buffers=HEAD_MAX_BYTES // HEAD_LINE_BYTES,
        user_open=_user_open(settings),
        client_rate=FASTER_THAN_ANY_TEST if test else settings.gateway_client_rate,
        client_burst=FASTER_THAN_ANY_TEST if test else settings.gateway_client_burst,
        user_rate=FASTER_THAN_ANY_TEST if test else settings.gateway_user_rate,
        login_rate=login_rate,
        login_burst=login_rate if test else LOGIN_BURST * login_rate,
    )


def _longest_s() -> int:
    """The longest that an API server may take: a call, or the image of a registration. Its own end comes after it."""
    longest = int(max(TIMEOUT_MAX_S, PREPARE_TIMEOUT_S))
    if longest + 30 <= GRACE_S:
        raise AssertionError("an API server must have cut its calls before the gateway does")
    return longest


def _user_open(settings: GatewaySettings) -> int:
    """
    More than a user can have in flight: U calls, as many questions for results, and some. So whoever is over U is
    told so by the API, which knows the limit and the usage, and not by the gateway.
    """
    user, platform = settings.max_activations_per_user, settings.max_activations
    limit = platform if user == "none" else user
    return NO_LIMIT if limit == "none" else 2 * limit + OPEN_BESIDE_ACTIVATIONS
