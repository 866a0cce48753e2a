"""What `mayfly inspect` prints: the requests waiting, the responses held, the database. Rows: A3, A4."""

from __future__ import annotations

import json
from pathlib import Path

from mayfly.bus.connection import connect
from mayfly.bus.inspect import Message, messages, overview
from mayfly.ops.layout import Layout, admin_settings
from mayfly.ops.nats_config import ADMIN


async def inspect(data_dir: Path, name: str | None, *, as_json: bool) -> list[str]:
    """
    Word what lies in NATS: everything as a whole, or one stream or bucket message by message.

    Raises: NotFound; QueueUnavailable when no `up` runs with this data directory.
    """
    async with connect(admin_settings(Layout(data_dir)), role=ADMIN) as bus:
        if name is None:
            return [
                json.dumps({"name": one.name, "messages": one.messages, "bytes": one.size_bytes})
                if as_json
                else f"{one.name:<12} {one.messages:>6} messages {one.size_bytes:>9} bytes"
                for one in await overview(bus)
            ]
        return [_line(message, as_json=as_json) async for message in messages(bus, name)]


def _line(message: Message, *, as_json: bool) -> str:
    stored_at = message.stored_at.isoformat(timespec="milliseconds")
    if as_json:
        fields = {"subject": message.subject, "seq": message.seq, "stored_at": stored_at, "content": message.content}
        return json.dumps({**fields, "bytes": message.size_bytes})
    return f"{message.subject} #{message.seq} {stored_at} {message.size_bytes} bytes {json.dumps(message.content)}"
