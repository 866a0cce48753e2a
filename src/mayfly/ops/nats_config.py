"""
nats-server's configuration: who may do what, and nothing more.

Each role has a user of its own in the account MAYFLY. An API server cannot claim, a worker cannot read users or
sessions, neither can make or delete a stream, and nobody but the server itself publishes `done.>`. The server's own
events are in the account SYS, which nobody can log in to. The same accounts serve `mayfly up` and a cluster.
Rows: A3, A4, D7.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mayfly.bus import subjects
from mayfly.bus.connection import MIN_PAYLOAD_BYTES, inbox_prefix

ADMIN, API, WORKER = "admin", "api", "worker"
ROLES = (ADMIN, API, WORKER)

ACCOUNT, SYSTEM_ACCOUNT = "MAYFLY", "SYS"
CLUSTER = "mayfly"
ROUTE_USER = "route"
CLIENT_PORT, ROUTE_PORT, MONITOR_PORT = 4222, 6222, 8222


@dataclass(frozen=True, slots=True)
class Node:
    """One server of a cluster, and where its files are as it sees them itself."""

    host: str
    peers: tuple[str, ...]  # the others' hosts; none for a server alone
    monitor: str = "127.0.0.1"  # no password guards monitoring, so nobody else reaches it
    secrets: str = "/run/secrets/mayfly"
    store: str = "/data"

    @property
    def name(self) -> str:
        """The server's name: the first label of its host."""
        return self.host.partition(".")[0]


def server_config(*, port: int, store: Path, passwords: dict[str, str]) -> str:
    """Write the configuration of one server on loopback. It is JSON, which nats-server reads as its own format."""
    config = {"server_name": "mayfly", "listen": f"127.0.0.1:{port}", **_common(str(store), passwords)}
    return json.dumps(config, indent=2) + "\n"


def node_config(node: Node, *, passwords: dict[str, str], route_password: str) -> str:
    """
    Write the configuration of a server that clients reach by TLS, and, if it has peers, of its part in the cluster.

    Each server knows all others by name and tells clients nothing about them: what it would tell are addresses, which
    no certificate has.
    """
    tls = {
        "cert_file": f"{node.secrets}/nats.crt",
        "key_file": f"{node.secrets}/nats.key",
        "ca_file": f"{node.secrets}/ca.crt",
        "min_version": "1.3",
        "timeout": 10,
    }
    config: dict[str, Any] = {
        "server_name": node.name,
        "listen": f"0.0.0.0:{CLIENT_PORT}",
        "http": f"{_bracketed(node.monitor)}:{MONITOR_PORT}",
        "tls": {**tls, "handshake_first": True},
        **_common(node.store, passwords),
        "lame_duck_grace_period": "2s",
        "lame_duck_duration": "30s",
    }
    if node.peers:
        login = f"{ROUTE_USER}:{route_password}"
        config["cluster"] = {
            "name": CLUSTER,
            "listen": f"0.0.0.0:{ROUTE_PORT}",
            "no_advertise": True,
            "authorization": {"user": ROUTE_USER, "password": route_password, "timeout": 15},
            "tls": {**tls, "verify": True},
            "routes": [f"tls://{login}@{peer}:{ROUTE_PORT}" for peer in node.peers],
        }
    return json.dumps(config, indent=2) + "\n"


def with_passwords(config: str, passwords: dict[str, str]) -> str:
    """Put other passwords of the roles into a configuration that `node_config` wrote."""
    changed = json.loads(config)
    for user in changed["accounts"][ACCOUNT]["users"]:
        user["password"] = passwords[user["user"]]
    return json.dumps(changed, indent=2) + "\n"


def route_password(config: str) -> str | None:
    """Read the password of the routes from a configuration that `node_config` wrote; None if it has no peers."""
    cluster = json.loads(config).get("cluster")
    return str(cluster["authorization"]["password"]) if cluster else None


def _common(store: str, passwords: dict[str, str]) -> dict[str, Any]:
    """Return what every server has: limits, JetStream and the accounts."""
    return {
        "max_payload": MIN_PAYLOAD_BYTES,
        "ping_interval": "5s",
        "write_deadline": "10s",
        "jetstream": {"store_dir": store, "strict": True},
        "accounts": {
            ACCOUNT: {
                "jetstream": "enabled",
                "users": [
                    {"user": ADMIN, "password": passwords[ADMIN], "permissions": {"publish": ">", "subscribe": ">"}},
                    {"user": API, "password": passwords[API], "permissions": api_permissions()},
                    {"user": WORKER, "password": passwords[WORKER], "permissions": worker_permissions()},
                ],
            },
            SYSTEM_ACCOUNT: {},
        },
        "system_account": SYSTEM_ACCOUNT,
    }


def api_permissions() -> dict[str, Any]:
    """
    What an API server publishes and hears.

    It can remove any message of the work stream (the janitor does) and purge responses (a user's, who leaves): the
    server cannot be told to allow less of either. It cannot read the audit trail that it writes.
    """
    own = (
        subjects.USERS,
        subjects.SESSIONS,
        subjects.FUNCTIONS,
        subjects.ACTIVATIONS,
        subjects.IDEMPOTENCY,
        subjects.PLACES,
    )
    read = (subjects.ACT, subjects.RESPONSES, *map(subjects.kv_stream, (*own, subjects.WORKERS)))
    listed = (subjects.SESSIONS, subjects.FUNCTIONS, subjects.ACTIVATIONS, subjects.WORKERS)
    publish = [
        subjects.act("*"),
        "audit.>",
        subjects.PREPARE_IMAGE,
        subjects.PREFETCH_IMAGE,
        subjects.owns("*"),
        *(subjects.kv_subject(bucket, ">") for bucket in own),
        *(f"$JS.API.STREAM.MSG.GET.{stream}" for stream in read),
        *(f"$JS.API.STREAM.INFO.{stream}" for stream in (subjects.ACT, *map(subjects.kv_stream, listed))),
        f"$JS.API.STREAM.MSG.DELETE.{subjects.ACT}",
        f"$JS.API.STREAM.PURGE.{subjects.RESPONSES}",
    ]
    heard = [f"{inbox_prefix(API)}.>", "done.*.*", "response.*.*.*"]
    return {"publish": publish, "subscribe": heard}


def worker_permissions() -> dict[str, Any]:
    """
    What a worker publishes and hears.

    It reads and writes functions, because it pins the digest of an image that was not at hand at the registration; it
    lists nothing. It has no `allow_responses`: with that it could ask itself a question whose reply subject is
    somebody's record, and answer.
    """
    consumer = f"{subjects.ACT}.{subjects.ACT_CONSUMER}"
    read = (subjects.ACTIVATIONS, subjects.FUNCTIONS, subjects.WORKERS)
    publish = [
        f"$JS.API.CONSUMER.MSG.NEXT.{consumer}",
        f"$JS.ACK.{consumer}.>",
        f"$JS.ACK.*.*.{consumer}.>",
        "response.*.*.*",
        subjects.owns("*"),
        *(f"{inbox_prefix(role)}.*.*" for role in (API, WORKER)),  # its answers
        subjects.kv_subject(subjects.ACTIVATIONS, "*.*.*"),
        subjects.kv_subject(subjects.FUNCTIONS, "*.*"),
        subjects.kv_subject(subjects.WORKERS, "*"),
        *(f"$JS.API.STREAM.MSG.GET.{subjects.kv_stream(bucket)}" for bucket in read),
        f"$JS.API.STREAM.MSG.GET.{subjects.RESPONSES}",
    ]
    heard = [
        f"{inbox_prefix(WORKER)}.>",
        subjects.owns("*"),
        subjects.PREPARE_IMAGE,
        subjects.PREFETCH_IMAGE,
    ]
    return {"publish": publish, "subscribe": heard}


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
