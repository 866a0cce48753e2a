"""What most services do: `docker run --rm --network none`, with a dockerd of our own and its own data root."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from examples.oci import Image, write_layout

READY_S = 60
REFERENCE = "mayfly-bench:1"


@contextmanager
def dockerd() -> Iterator[str]:
    """Run a dockerd without networking, and take everything of it away again; yields the client's --host."""
    with tempfile.TemporaryDirectory(prefix="mayfly-dockerd-", ignore_cleanup_errors=True) as directory:
        root = Path(directory)
        host = f"unix://{root}/docker.sock"
        command = ["dockerd", "--host", host, "--data-root", f"{root}/data", "--exec-root", f"{root}/exec"]
        command += ["--pidfile", f"{root}/pid", "--iptables=false", "--ip6tables=false", "--bridge=none"]
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(host, process, root / "log")
            yield host
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
            _unmount(root)


def measure(calls: int) -> dict[str, object]:
    """Latency of one at a time, and runs a second with 1, 2 and 4 at once."""
    with dockerd() as host:
        _load(host)
        run(host)
        times = []
        for _ in range(calls):
            began = time.perf_counter()
            run(host)
            times.append((time.perf_counter() - began) * 1e3)
        per_s = {at_once: _rate(host, calls, at_once) for at_once in (1, 2, 4)}
    return {"p50_ms": statistics.median(times), "p95_ms": sorted(times)[int(calls * 0.95)], "per_s": per_s}


def run(host: str) -> None:
    """One container that gives its stdin back, as a call does."""
    command = ["docker", "--host", host, "run", "--rm", "-i", "--network", "none", REFERENCE]
    result = subprocess.run(command, input=b"hello", capture_output=True, check=True)
    assert result.stdout == b"hello", result


def _rate(host: str, calls: int, at_once: int) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda _: run(host), range(calls)))
    return calls / (time.perf_counter() - began)


def _load(host: str) -> None:
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as directory:
        layout, archive = Path(directory) / "layout", Path(directory) / "image.tar"
        layout.mkdir()
        write_layout(Image(cmd=("/bin/cat",)), layout)
        copy = ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{layout}:image"]
        subprocess.run([*copy, f"docker-archive:{archive}:{REFERENCE}"], check=True)
        subprocess.run(
            ["docker", "--host", host, "load", "--quiet", "--input", archive], check=True, capture_output=True
        )


def _wait(host: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + READY_S
    while subprocess.run(["docker", "--host", host, "info"], capture_output=True, check=False).returncode:
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise RuntimeError(f"dockerd does not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


def _unmount(root: Path) -> None:
    """What dockerd leaves mounted below its directories."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(str(root))), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)
    assert os.path.isdir(root)  # noqa: PTH112 - the caller's directory is the caller's to remove
