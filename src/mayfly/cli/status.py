"""How the installation stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mayfly.cli.output import pairs
from mayfly.cli.terminal import Terminal, connected

if TYPE_CHECKING:
    from mayfly.client import Usage


@connected
async def status(terminal: Terminal) -> None:
    """
    Show how the installation stands.

    Workers and slots, and how many activations are in flight: all, and yours.

    Example: mayfly status
    """
    async with terminal.client() as client:
        now = await client.status()
    lines = [
        ("url", terminal.url),
        ("version", now.version),
        ("workers", now.workers),
        ("slots", f"{now.slots}, {now.running} in use"),
        ("in flight", _usage(now.platform)),
        ("of yours", _usage(now.user)),
        ("remark", now.remark),
    ]
    terminal.answer(now, pairs(lines))


def _usage(usage: Usage) -> str:
    return f"{usage.in_flight} of {usage.limit}" if usage.limit is not None else f"{usage.in_flight}, without a limit"
