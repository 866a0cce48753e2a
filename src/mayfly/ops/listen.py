"""Addresses to listen at, as settings have them: `host:port`."""

from __future__ import annotations

from mayfly.settings import SettingsError


def host_and_port(listen: str, *, setting: str = "MAYFLY_LISTEN") -> tuple[str, int]:
    """
    Take the `host:port` of a setting apart.

    Raises: SettingsError.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{setting}: {listen!r} is not `address:port`, such as 127.0.0.1:8443.")
    return host.strip("[]"), int(port)


def ports_after(listen: str, count: int = 1) -> str:
    """
    Return the address of metrics with a port that comes so many after. Nothing stays nothing, and any port (0) any.

    Raises: SettingsError.
    """
    if not listen:
        return ""
    _, port = host_and_port(listen, setting="MAYFLY_METRICS_LISTEN")
    return f"{listen.rpartition(':')[0]}:{port + count if port else 0}"
