"""Which NATS an operator's command means: that of a `mayfly up`, or that of a deployment. Rows: A4, D7."""

from __future__ import annotations

from pathlib import Path

from mayfly.ops.layout import Layout, admin_settings
from mayfly.ops.nats_config import API, WORKER
from mayfly.services.logs import configure_logs
from mayfly.settings import BootstrapSettings, NatsSettings, SettingsError, UpSettings, load


def admin_access(data_dir: Path | None, command: str) -> NatsSettings:
    """
    Say how NATS is reached: at *data_dir*, else at MAYFLY_NATS_URL, else at the usual data directory; and have the logs
    say which *command* wrote them.

    Raises: SettingsError; QueueUnavailable when no `up` runs there.
    """
    cluster = load(BootstrapSettings)
    configure_logs(cluster, role=command)
    if data_dir is None and "nats_url" in cluster.model_fields_set:
        if cluster.nats_user in (API, WORKER):
            raise SettingsError(f"MAYFLY_NATS_USER: {cluster.nats_user} may not do this; it takes the user `admin`.")
        return cluster
    return admin_settings(Layout(load(UpSettings, data_dir=data_dir).data_dir.resolve()))
