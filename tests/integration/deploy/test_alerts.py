"""The alerts, fed by promtool: each comes when it has to, and with an installation that is well none does."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.need import need

pytestmark = pytest.mark.D4

ALERTS = Path(__file__).resolve().parents[3] / "deploy" / "compose" / "monitoring" / "alerts.yml"
DAY_S = 86_400
LONG = "x200"  # so many minutes more of the same

WELL = {
    'mayfly_workers{instance="api-1"}': f"2{LONG}",
    'mayfly_workers{instance="api-2"}': " ".join(["NaN"] * 200),  # does not reach NATS
    'mayfly_workers_lost_total{instance="api-1"}': f"1{LONG}",
    "mayfly_nats_connected": f"1{LONG}",
    'mayfly_stream_leader{stream="ACT",instance="api-1"}': f"1{LONG}",
    'mayfly_stream_leader{stream="ACT",instance="api-2"}': f"0{LONG}",  # one that cannot ask
    'mayfly_stream_replicas{stream="ACT"}': f"3{LONG}",
    'mayfly_stream_replicas_current{stream="ACT"}': f"3{LONG}",
    'mayfly_stream_bytes{stream="RESPONSES"}': f"89{LONG}",
    'mayfly_stream_limit_bytes{stream="RESPONSES"}': f"100{LONG}",
    'mayfly_stream_bytes{stream="ACT"}': f"1e12{LONG}",
    'mayfly_stream_limit_bytes{stream="ACT"}': " ".join(["Inf"] * 200),
    "mayfly_store_bytes": f"89{LONG}",
    "mayfly_store_limit_bytes": f"100{LONG}",
    "mayfly_containers_left_total": f"4{LONG}",
    'mayfly_certificate_not_after_timestamp_seconds{certificate="own"}': f"{31 * DAY_S + 7200}{LONG}",
    'mayfly_certificate_not_after_timestamp_seconds{certificate="authority"}': f"{91 * DAY_S + 7200}{LONG}",
}
TROUBLE = {
    "NoWorkers": {'mayfly_workers{instance="api-1"}': f"0{LONG}"},
    "WorkerLost": {'mayfly_workers_lost_total{instance="api-1"}': "1x98 2x100"},
    "NatsUnreachable": {"mayfly_nats_connected": f"0{LONG}"},
    "StreamWithoutLeader": {'mayfly_stream_leader{stream="ACT",instance="api-1"}': f"0{LONG}"},
    "ReplicaBehind": {'mayfly_stream_replicas_current{stream="ACT"}': f"2{LONG}"},
    "StreamNearlyFull": {'mayfly_stream_bytes{stream="RESPONSES"}': f"91{LONG}"},
    "StoreNearlyFull": {"mayfly_store_bytes": f"91{LONG}"},
    "ContainersLeft": {"mayfly_containers_left_total": "4x80 5x100"},
    "CertificateEndsSoon": {'mayfly_certificate_not_after_timestamp_seconds{certificate="own"}': f"{30 * DAY_S}{LONG}"},
    "AuthorityEndsSoon": {
        'mayfly_certificate_not_after_timestamp_seconds{certificate="authority"}': f"{90 * DAY_S}{LONG}"
    },
}
NAMES = [each["alert"] for each in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]]


def test_every_alert_is_tried() -> None:
    """There is trouble for each alert of the file."""
    assert list(TROUBLE) == NAMES


@pytest.mark.parametrize("trouble", [None, *TROUBLE])
def test_an_alert_comes_with_its_trouble_only(trouble: str | None, tmp_path: Path) -> None:
    """After 100 minutes just the alert of that trouble is there; without any, none."""
    need(shutil.which("promtool"), "prometheus")
    series = WELL | (TROUBLE[trouble] if trouble else {})
    asked = [
        {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)', "eval_time": "100m"}
        | {"exp_samples": [{"labels": "{}", "value": int(name == trouble)}]}
        for name in NAMES
    ]
    test: dict[str, Any] = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": asked,
            }
        ],
    }
    file = tmp_path / "test.json"  # which is YAML as well
    file.write_text(json.dumps(test))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
