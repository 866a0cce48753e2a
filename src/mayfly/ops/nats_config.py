"""
nats-server's configuration: who may do what, and nothing more.

Each role has a user of its own. An API server cannot claim, a worker cannot read users or sessions, neither can make or
delete a stream, and nobody but the server itself publishes `done.>`. The server's own events are in the account SYS,
which nobody can log in to. The same accounts serve `mayfly up` and a cluster.

The streams are in the account MAYFLY; workers are in one of their own, WORKERS, which imports the few subjects that
they need. Permissions alone would not hold a worker: nats-server checks where a client publishes, not where it asks for
the answer, and some answers (to an ack, to a pull of nothing) are empty. Sent to `$JS.API.STREAM.DELETE.KV_users`, such
an answer deletes the users. Across accounts an answer goes back into the account that asked, where there is nothing.
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

ACCOUNT, WORKERS_ACCOUNT, SYSTEM_ACCOUNT = "MAYFLY", "WORKERS", "SYS"
ANSWERS = "_R_.*.*"  # where nats-server has a question from the other account answered
PULL_FORGOTTEN = "30s"  # without an answer or heartbeat: longer than a pull lasts
CLUSTER = "mayfly"
ROUTE_USER = "route"
CLIENT_PORT, ROUTE_PORT, MONITOR_PORT = 4222, 6222, 8222
STORE_BYTES = 5 << 30
"""Of a server's JetStream, unless told otherwise. Its files take up to twice that, before NATS tidies up."""

ENVIRONMENT = {"GOGC": "35"}
"""nats-server has the blocks of its files that it wrote last in memory, 8 MiB each, until Go collects garbage next. By
Go's default garbage may be as much again as what is in use, and with 32 calls of 1 MiB at once, again and again, a
server on two cores peaks above 340 MiB. With half of that at 281 to 340, with a third at 234 to 273: for 1 to 3 % more
of its processor time for small calls.

No GOMEMLIMIT here: with one of 240 MiB it peaks at 249 for less, but what is stored has an index in memory that nothing
collects, and a server at its limit does little but look for garbage. Where a container has a limit, that is just below
it: see deploy."""


@dataclass(frozen=True, slots=True)
class Node:
    """One server of a cluster, and where its files are as it sees them itself."""

    host: str
    peers: tuple[str, ...]  # the others' hosts; none for a server alone
    monitor: str = "127.0.0.1"  # no password guards monitoring, so nobody else reaches it
    secrets: str = "/run/secrets/mayfly"
    store: str = "/data"
    store_bytes: int = STORE_BYTES

    @property
    def name(self) -> str:
        """The server's name: the first label of its host."""
        return self.host.partition(".")[0]


def server_config(*, port: int, store: Path, passwords: dict[str, str], store_bytes: int = STORE_BYTES) -> str:
    """Write the configuration of one server on loopback. It is JSON, which nats-server reads as its own format."""
    config = {"server_name": "mayfly", "listen": f"127.0.0.1:{port}", **_common(str(store), store_bytes, 1, passwords)}
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
        **_common(node.store, node.store_bytes, 1 + len(node.peers), passwords),
        "lame_duck_grace_period": "2s",
        "lame_duck_duration": "30s",
    }
    if node.peers:
        login = f"{ROUTE_USER}:{route_password}"
        config["cluster"] = {
            "name": CLUSTER,
            "listen": f"0.0.0.0:{ROUTE_PORT}",
            "no_advertise": True,
            # To the other servers: what they would tell each other else is its address, which is in no certificate.
            "advertise": f"{_bracketed(node.host)}:{ROUTE_PORT}",
            "authorization": {"user": ROUTE_USER, "password": route_password, "timeout": 15},
            "tls": {**tls, "verify": True},
            "routes": [f"tls://{login}@{peer}:{ROUTE_PORT}" for peer in node.peers],
        }
    return json.dumps(config, indent=2) + "\n"


def with_passwords(config: str, passwords: dict[str, str]) -> str:
    """Put other passwords of the roles into a configuration that `node_config` wrote."""
    changed = json.loads(config)
    for account in changed["accounts"].values():
        for user in account.get("users", ()):
            user["password"] = passwords[user["user"]]
    return json.dumps(changed, indent=2) + "\n"


def route_password(config: str) -> str | None:
    """Read the password of the routes from a configuration that `node_config` wrote; None if it has no peers."""
    cluster = json.loads(config).get("cluster")
    return str(cluster["authorization"]["password"]) if cluster else None


def _common(store: str, store_bytes: int, servers: int, passwords: dict[str, str]) -> dict[str, Any]:
    """
    Return what every server has: limits, JetStream and the accounts.

    The account's limit, of all servers together, comes before each server's. At the account's a write is refused and no
    more; at a server's the streams that it leads look for another leader. And API servers can ask for the account's.
    """
    return {
        "max_payload": MIN_PAYLOAD_BYTES,
        "ping_interval": "5s",
        "write_deadline": "10s",
        "jetstream": {"store_dir": store, "max_file_store": store_bytes, "strict": True},
        "accounts": {
            ACCOUNT: {
                "jetstream": {"max_file": servers * (store_bytes - store_bytes // 16)},
                "users": [
                    {"user": ADMIN, "password": passwords[ADMIN], "permissions": {"publish": ">", "subscribe": ">"}},
                    {"user": API, "password": passwords[API], "permissions": api_permissions()},
                ],
                "exports": [
                    *_offered_to(WORKERS_ACCOUNT, worker_services()),
                    {"stream": subjects.PREFETCH_IMAGE, "accounts": [WORKERS_ACCOUNT]},
                ],
                "imports": _taken_from(WORKERS_ACCOUNT, answered_by_workers()),
            },
            WORKERS_ACCOUNT: {
                "users": [{"user": WORKER, "password": passwords[WORKER], "permissions": worker_permissions()}],
                "exports": _offered_to(ACCOUNT, answered_by_workers()),
                "imports": [
                    *_taken_from(ACCOUNT, worker_services()),
                    {"stream": {"account": ACCOUNT, "subject": subjects.PREFETCH_IMAGE}},
                ],
            },
            SYSTEM_ACCOUNT: {},
        },
        "system_account": SYSTEM_ACCOUNT,
    }


def api_permissions() -> dict[str, Any]:
    """
    What an API server publishes and hears.

    It can remove any message of the work stream (the janitor does), give back any place, remove any secret (but open
    none), and purge responses (those of a user who leaves, or has too many): the server cannot be told to allow less of
    any of these. Of the trail it adds entries and reads single ones, for their user; it is told no more of it, and
    cannot take one out. Of each other stream that it reads, and of the workers' consumer, it is told how they stand;
    and how full the store is.
    """
    own = (
        subjects.USERS,
        subjects.SESSIONS,
        subjects.FUNCTIONS,
        subjects.ACTIVATIONS,
        subjects.IDEMPOTENCY,
        subjects.PLACES,
        subjects.ATTEMPTS,
        subjects.ADDRESSES,
        subjects.INVITATIONS,
        subjects.SECRETS,
        subjects.REGISTRIES,
    )
    read = (subjects.ACT, subjects.RESPONSES, *map(subjects.kv_stream, (*own, subjects.WORKERS)))
    publish = [
        subjects.act("*"),
        subjects.audit("*", "*"),
        subjects.PREPARE_IMAGE,
        subjects.PREFETCH_IMAGE,
        subjects.owns("*"),
        subjects.cancel("*"),
        subjects.drain("*"),
        subjects.response(f"*.{subjects.BOOKS}.*"),
        *(subjects.kv_subject(bucket, ">") for bucket in own),
        *(subjects.message_get(stream) for stream in (*read, subjects.AUDIT)),
        *(f"$JS.API.STREAM.INFO.{stream}" for stream in read),
        subjects.consumer_info(subjects.ACT, subjects.ACT_CONSUMER),
        "$JS.API.INFO",
        subjects.message_delete(subjects.ACT),
        *(subjects.message_delete(subjects.kv_stream(bucket)) for bucket in subjects.LEAVE_NOTHING),
        f"$JS.API.STREAM.PURGE.{subjects.RESPONSES}",
    ]
    heard = [f"{inbox_prefix(API)}.>", "done.*.*", "response.*.*.*", subjects.kept("*", "*", "*")]
    return {"publish": publish, "subscribe": heard}


def worker_services() -> list[str]:
    """
    What a worker asks of the streams: to be given work, to settle it, to read and write what it must.

    It reads and writes functions, because it pins the digest of an image that was not at hand at the registration; it
    reads secrets and registries' credentials, which it alone can open; it lists nothing.
    """
    consumer = f"{subjects.ACT}.{subjects.ACT_CONSUMER}"
    read = (subjects.ACTIVATIONS, subjects.FUNCTIONS, subjects.WORKERS, subjects.SECRETS, subjects.REGISTRIES)
    return [
        f"$JS.API.CONSUMER.MSG.NEXT.{consumer}",
        subjects.consumer_info(subjects.ACT, subjects.ACT_CONSUMER),
        f"$JS.ACK.{consumer}.>",
        f"$JS.ACK.*.*.{consumer}.>",
        "response.*.*.*",
        subjects.kv_subject(subjects.ACTIVATIONS, "*.*.*"),
        subjects.kv_subject(subjects.FUNCTIONS, "*.*"),
        subjects.kv_subject(subjects.WORKERS, "*"),
        *(subjects.message_get(subjects.kv_stream(bucket)) for bucket in read),
    ]


def named_by_worker(subject: str) -> str:
    """
    The name of a service in the workers' account. Of `$JS.API` nats-server has one in each account, which would answer
    as well: that there are no streams.
    """
    asked = ("STREAM.", "CONSUMER.INFO.")
    if not subject.startswith(tuple(f"{subjects.STREAMS_API}.{what}" for what in asked)):
        return subject
    return subjects.WORKERS_API + subject.removeprefix(subjects.STREAMS_API)


def answered_by_workers() -> list[str]:
    """What API servers ask workers."""
    return [subjects.owns("*"), subjects.cancel("*"), subjects.drain("*"), subjects.PREPARE_IMAGE]


def worker_permissions() -> dict[str, Any]:
    """
    What a worker publishes and hears, within its own account.

    It has no `allow_responses`: with that it could ask itself a question whose reply subject is another worker's inbox
    for messages, and answer. Two tokens after the prefix are the inboxes of questions only.
    """
    services = map(named_by_worker, worker_services())
    publish = [*services, subjects.owns("*"), ANSWERS, f"{inbox_prefix(WORKER)}.*.*"]
    heard = [
        f"{inbox_prefix(WORKER)}.>",
        subjects.owns("*"),
        subjects.cancel("*"),
        subjects.drain("*"),
        subjects.PREPARE_IMAGE,
        subjects.PREFETCH_IMAGE,
    ]
    return {"publish": publish, "subscribe": heard}


def _offered_to(account: str, services: list[str]) -> list[dict[str, Any]]:
    """Let *account* ask for these; a pull is answered many times, anything else once."""
    many = {"response_type": "stream", "threshold": PULL_FORGOTTEN}
    return [
        {"service": subject, "accounts": [account], **(many if ".MSG.NEXT." in subject else {})} for subject in services
    ]


def _taken_from(account: str, services: list[str]) -> list[dict[str, Any]]:
    taken: list[dict[str, Any]] = []
    for subject in services:
        name = named_by_worker(subject)
        other_name = {"to": name} if name != subject else {}
        taken.append({"service": {"account": account, "subject": subject}, **other_name})
    return taken


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
