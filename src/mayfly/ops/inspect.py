"""What `mayfly inspect` prints: the requests waiting, the responses held, the database. Rows: A3, A4."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from mayfly.bus import subjects
from mayfly.bus.connection import connect
from mayfly.bus.inspect import Message, messages, overview
from mayfly.domain.audit import AuditEntry
from mayfly.ops.access import admin_access
from mayfly.ops.nats_config import ADMIN


async def inspect(data_dir: Path | None, name: str | None, *, as_json: bool) -> list[str]:
    """
    Word what lies in NATS: everything as a whole, or one stream or bucket message by message.

    Raises: NotFound; SettingsError; QueueUnavailable when no `up` runs with this data directory.
    """
    async with connect(admin_access(data_dir, "inspect"), role=ADMIN) as bus:
        if name is None:
            return [
                json.dumps({"name": one.name, "messages": one.messages, "bytes": one.size_bytes})
                if as_json
                else f"{one.name:<12} {one.messages:>6} messages {one.size_bytes:>9} bytes"
                for one in await overview(bus)
            ]
        line = _trail_line if name == subjects.AUDIT and not as_json else _line
        return [line(message, as_json=as_json) async for message in messages(bus, name)]


def _line(message: Message, *, as_json: bool) -> str:
    stored_at = message.stored_at.isoformat(timespec="milliseconds")
    if as_json:
        fields = {"subject": message.subject, "seq": message.seq, "stored_at": stored_at, "content": message.content}
        return json.dumps({**fields, "bytes": message.size_bytes})
    return f"{message.subject} #{message.seq} {stored_at} {message.size_bytes} bytes {json.dumps(message.content)}"


def _trail_line(message: Message, *, as_json: bool) -> str:
    """Word an entry of the audit trail; what cannot be read as one is shown as it is."""
    try:
        entry = msgspec.convert(message.content, AuditEntry)
    except msgspec.ValidationError:
        return _line(message, as_json=as_json)
    actor = entry.actor
    parts = [
        f"{datetime.fromtimestamp(entry.at, UTC):%Y-%m-%d %H:%M:%SZ}",
        f"user {message.subject.split('.')[1]}" + (f" ({actor.user_name})" if actor.user_name else ""),
        f"{entry.action}" + (f" {entry.subject}" if entry.subject else ""),
        entry.outcome
        + (f" ({entry.code})" if entry.code else "")
        + (f" {entry.times} times" if entry.times > 1 else ""),
        f"by {actor.by}" + (f" from {actor.address}" if actor.address else ""),
    ]
    parts += [
        f"{name} {value}" for name, value in (("login", actor.session_id), ("request", actor.request_id)) if value
    ]
    return ", ".join(parts)
