"""The lines of `functions show` about what each call is held in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mayfly.cli.output import size

if TYPE_CHECKING:
    from mayfly.client import Sandbox


def summary(sandbox: Sandbox | None) -> list[tuple[str, object]]:
    """One line; none where the server does not tell."""
    if sandbox is None:
        return []
    return [("sandbox", f"capabilities: {_words(sandbox.capabilities)}; its own root and namespaces; all by --sandbox")]


def lines(sandbox: Sandbox | None) -> list[tuple[str, object]]:
    """Name and value of each; none where the server does not tell."""
    if sandbox is None:
        return []
    shared = f"{sandbox.first_host_id} to {sandbox.first_host_id + sandbox.ids - 1}"
    writable = f"{size(sandbox.writable_bytes)} and {sandbox.writable_inodes} files over the image"
    return [
        ("sandbox", f"its own {_words(sandbox.namespaces)}"),
        ("user ids", f"0 to {sandbox.ids - 1} are outside {sandbox.host_ids or shared}"),
        ("capabilities", _words(sandbox.capabilities)),
        ("no_new_privs", "set" if sandbox.no_new_privileges else "not set"),
        ("system calls", f"filtered; refused besides: {_words(sandbox.denied_system_calls)}"),
        ("sockets", _words(sandbox.socket_families)),
        ("masked", _words(sandbox.masked_paths)),
        ("read-only", _words(["/sys", *sandbox.read_only_paths])),
        ("memory and swap", f"{size(sandbox.memory_bytes)}, {size(sandbox.swap_bytes)}"),
        ("writable", f"{writable}, {size(sandbox.shared_memory_bytes)} in /dev/shm: of the memory"),
        ("open files", f"{sandbox.open_files}, up to {sandbox.open_files_max}: at most, as the worker may have"),
        ("core dumps", size(sandbox.core_bytes) if sandbox.core_bytes else "none"),
        ("signals", f"{sandbox.signals_pending} pending"),
        ("reaches", sandbox.reaches),
        *(("with docker", f"{name}: {instead}") for name, instead in sandbox.lost_with_docker.items()),
        *(("with confined", f"{name}: {instead}") for name, instead in sandbox.lost_with_confined.items()),
    ]


def _words(names: list[str]) -> str:
    return ", ".join(names) or "none"
