"""
nats-server's configuration: who may do what, and nothing more.

Each role has a user of its own. An API server cannot claim, a worker cannot read users or sessions, neither can make
or delete a stream, and nobody but the server itself publishes `done.>`. Rows: A3, A4.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mayfly.bus import subjects
from mayfly.bus.connection import MIN_PAYLOAD_BYTES, inbox_prefix

ADMIN, API, WORKER = "admin", "api", "worker"
ROLES = (ADMIN, API, WORKER)


def server_config(*, port: int, store: Path, passwords: dict[str, str]) -> str:
    """Write the configuration of one server on loopback. It is JSON, which nats-server reads as its own format."""
    config: dict[str, Any] = {
        "server_name": "mayfly",
        "listen": f"127.0.0.1:{port}",
        "max_payload": MIN_PAYLOAD_BYTES,
        "ping_interval": "5s",
        "write_deadline": "10s",
        "jetstream": {"store_dir": str(store), "strict": True},
        "authorization": {
            "users": [
                {"user": ADMIN, "password": passwords[ADMIN], "permissions": {"publish": ">", "subscribe": ">"}},
                {"user": API, "password": passwords[API], "permissions": api_permissions()},
                {"user": WORKER, "password": passwords[WORKER], "permissions": worker_permissions()},
            ]
        },
    }
    return json.dumps(config, indent=2) + "\n"


def api_permissions() -> dict[str, Any]:
    """What an API server publishes and hears."""
    buckets = [
        subjects.USERS,
        subjects.SESSIONS,
        subjects.FUNCTIONS,
        subjects.ACTIVATIONS,
        subjects.IDEMPOTENCY,
        subjects.PLACES,
    ]
    publish = [
        subjects.act("*"),
        "audit.>",
        subjects.PREPARE_IMAGE,
        subjects.PREFETCH_IMAGE,
        subjects.owns("*"),
        "$JS.API.STREAM.MSG.GET.*",
        "$JS.API.STREAM.INFO.*",
        f"$JS.API.STREAM.MSG.DELETE.{subjects.ACT}",
        f"$JS.API.STREAM.PURGE.{subjects.RESPONSES}",
        *(subjects.kv_subject(bucket, ">") for bucket in buckets),
    ]
    return {"publish": publish, "subscribe": [f"{inbox_prefix(API)}.>", "done.>", "response.>"]}


def worker_permissions() -> dict[str, Any]:
    """What a worker publishes and hears."""
    consumer = f"{subjects.ACT}.{subjects.ACT_CONSUMER}"
    read = (subjects.ACTIVATIONS, subjects.FUNCTIONS, subjects.WORKERS)
    publish = [
        f"$JS.API.CONSUMER.MSG.NEXT.{consumer}",
        f"$JS.ACK.{consumer}.>",
        f"$JS.ACK.*.*.{consumer}.>",
        "response.>",
        subjects.owns("*"),
        *(subjects.kv_subject(bucket, ">") for bucket in read),
        *(f"$JS.API.STREAM.MSG.GET.{subjects.kv_stream(bucket)}" for bucket in read),
        f"$JS.API.STREAM.MSG.GET.{subjects.RESPONSES}",
    ]
    subscribe = [
        f"{inbox_prefix(WORKER)}.>",
        subjects.owns("*"),
        subjects.PREPARE_IMAGE,
        subjects.PREFETCH_IMAGE,
    ]
    return {"publish": publish, "subscribe": subscribe, "allow_responses": True}
