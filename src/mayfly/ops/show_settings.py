"""What `mayfly settings` prints: the values in force, where each comes from, and the runtime with the reason for it."""

from __future__ import annotations

import json
from typing import Any

from mayfly.containers.choose import DockerAddress, explain_runtime
from mayfly.domain.errors import RuntimeFailed
from mayfly.settings import PREFIX, ROLES, Settings, SettingsError, UpSettings, WorkerSettings, load

SECRET = {"token"}


def show_settings(role: str, *, as_json: bool = False) -> str:
    """
    Word the settings of a role, secrets masked.

    Raises: SettingsError when there is no such role, or a setting is wrong.
    """
    if role not in ROLES:
        raise SettingsError(f"There is no role {role!r}: {', '.join(ROLES)}.")
    settings = load(ROLES[role])
    rows = [_row(settings, name) for name in sorted(type(settings).model_fields)]
    runtime = _runtime(settings)
    if as_json:
        return json.dumps({"role": role, "settings": rows, "runtime_in_use": runtime}, default=str, indent=2)
    width = max(len(row["name"]) for row in rows)
    lines = [f"{row['name']:<{width}}  {row['value']}  ({row['from']})" for row in rows]
    if runtime:
        named = f"{runtime['name']} {runtime['version']}".rstrip()
        lines += ["", f"runtime in use: {named}: {runtime['reason']}"]
    return "\n".join(lines)


def _row(settings: Settings, name: str) -> dict[str, Any]:
    value = getattr(settings, name)
    shown = "***" if name in SECRET and value else value
    source = "environment" if name in settings.model_fields_set else "default"
    return {"name": PREFIX + name.upper(), "value": _plain(shown), "from": source}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "(none)"
    return "(not set)" if value is None else value


def _runtime(settings: Settings) -> dict[str, str] | None:
    if not isinstance(settings, UpSettings | WorkerSettings):
        return None
    docker = DockerAddress()
    if isinstance(settings, WorkerSettings):
        docker = DockerAddress(host=settings.docker_host, tls_dir=settings.docker_tls_dir)
    try:
        name, version, reason = explain_runtime(settings.runtime, docker=docker)
    except RuntimeFailed as error:  # who looks for the reason wants to see the settings all the more
        name, version, reason = "none", "", error.detail
    return {"name": name, "version": version, "reason": reason}
