"""How the installation stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mayfly.cli.output import columns, pairs, size
from mayfly.cli.terminal import Terminal, connected

if TYPE_CHECKING:
    from mayfly.client.shapes import OperatorStatus, Status, Stream, Usage, Worker

WORKERS = ("worker", "host", "version", "runtime", "slots", "running", "held", "images", "since", "state")
STREAMS = ("stream", "leader", "current", "behind", "messages", "size", "limit")


@connected
async def status(terminal: Terminal) -> None:
    """
    Show how the installation stands.

    Workers and slots, how many activations wait and run, and how many are in flight: all, and yours. An operator is
    also shown each worker and each of NATS's streams.

    Example: mayfly status
    """
    async with terminal.client() as client:
        now = await client.status()
    terminal.answer(now, "\n\n".join(_parts(terminal.url, now)))


def _parts(url: str, now: Status) -> Iterator[str]:
    yield pairs(
        [
            ("url", url),
            ("version", now.version),
            ("workers", now.workers),
            ("slots", f"{now.slots}, {now.running} in use"),
            ("waiting", now.waiting),
            ("in flight", _usage(now.platform)),
            ("of yours", _usage(now.user)),
            ("remark", now.remark),
        ]
    )
    if now.operator:
        yield from _tables(now.operator)


def _tables(operator: OperatorStatus) -> Iterator[str]:
    if operator.workers:
        yield columns(WORKERS, map(worker_row, operator.workers))
    yield columns(STREAMS, map(_stream, operator.streams))


def worker_row(each: Worker) -> tuple[object, ...]:
    """Lay out a worker under `WORKERS`."""
    state = "draining" if each.draining else "ready"
    used = (each.slots, each.running, each.held, each.images)
    return (each.id, each.host, each.version, each.runtime, *used, each.since, state)


def _stream(each: Stream) -> tuple[object, ...]:
    if each.leader is None:
        return (each.name, "NONE", None, None, None, None, None)
    behind = ", ".join(each.behind) or None
    current = f"{each.current} of {each.replicas}"
    return (each.name, each.leader, current, behind, each.messages, size(each.bytes), size(each.max_bytes))


def _usage(usage: Usage) -> str:
    return f"{usage.in_flight} of {usage.limit}" if usage.limit is not None else f"{usage.in_flight}, without a limit"
