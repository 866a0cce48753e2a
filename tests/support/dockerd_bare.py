"""A Docker daemon of a test's own: no bridge, no rule of iptables, its files in a directory that goes with it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from mayfly.containers.choose import DockerAddress
from tests.support.nats import free_port

READY_S = 60.0
STOP_S = 30.0
PROGRAM = shutil.which("dockerd")


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """Where it can be reached."""

    socket: Path
    tcp: str
    """`tcp://127.0.0.1:port`, with TLS."""

    @property
    def unix(self) -> DockerAddress:
        """By its socket."""
        return DockerAddress(host=f"unix://{self.socket}")

    def ask(self, method: str, path: str) -> httpx.Response:
        """One request of the Engine API, without the driver."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://docker") as client:
            return client.request(method, path, timeout=60)


@contextmanager
def dockerd(tls: Path | None = None) -> Iterator[Daemon]:
    """Run one; with *tls* (ca.pem, server-cert.pem, server-key.pem) it listens on the loopback as well."""
    with tempfile.TemporaryDirectory(prefix="mayfly-dockerd-", ignore_cleanup_errors=True) as directory:
        root = Path(directory)
        path, port = root / "docker.sock", free_port()
        command = ["dockerd", "--host", f"unix://{path}"]
        command += ["--data-root", f"{root}/data", "--exec-root", f"{root}/exec"]
        command += ["--pidfile", f"{root}/pid", "--iptables=false", "--ip6tables=false", "--bridge=none"]
        if tls is not None:
            command += ["--host", f"tcp://127.0.0.1:{port}", "--tlsverify", f"--tlscacert={tls}/ca.pem"]
            command += [f"--tlscert={tls}/server-cert.pem", f"--tlskey={tls}/server-key.pem"]
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        daemon = Daemon(socket=path, tcp=f"tcp://127.0.0.1:{port}")
        try:
            _wait(daemon, process, root / "log")
            yield daemon
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=STOP_S)
            _unmount(root)


def _wait(daemon: Daemon, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + READY_S
    while not _answers(daemon):
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise RuntimeError(f"dockerd does not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)


def _answers(daemon: Daemon) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(daemon.socket)):
            return False
    return daemon.ask("GET", "/_ping").status_code == 200


def _unmount(root: Path) -> None:
    """What dockerd leaves mounted below its directories."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{root}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)
    assert os.path.isdir(root)  # noqa: PTH112 - the caller's directory is the caller's to remove
