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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from mayfly.containers.choose import DockerAddress
from tests.support.nats import free_port

READY_S = 60.0
STOP_S = 30.0
PROGRAM = shutil.which("dockerd")


@dataclass(kw_only=True)
class Daemon:
    """Where it can be reached, and what can be done to it."""

    root: Path
    tls: Path | None = None
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Its socket."""
        return self.root / "docker.sock"

    @property
    def tcp(self) -> str:
        """`tcp://127.0.0.1:port`, with TLS."""
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def unix(self) -> DockerAddress:
        """By its socket."""
        return DockerAddress(host=f"unix://{self.socket}")

    def ask(self, method: str, path: str) -> httpx.Response:
        """One request of the Engine API, without the driver."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://docker") as client:
            return client.request(method, path, timeout=60)

    def everything(self) -> dict[str, list[str]]:
        """All that it keeps, by its own word and on its disk, by kind."""
        volumes = self.ask("GET", "/volumes").json()["Volumes"] or []
        return {
            "containers": sorted(each["Id"] for each in self.ask("GET", "/containers/json?all=1").json()),
            "networks": sorted(each["Id"] for each in self.ask("GET", "/networks").json()),
            "volumes": sorted(each["Name"] for each in volumes),
            "images": sorted(each["Id"] for each in self.ask("GET", "/images/json?all=1").json()),
            "layers": sorted(path.name for path in (self.root / "data" / "overlay2").glob("*")),
            "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if str(self.root) in line],
        }

    def start(self) -> None:
        """Start it, also after `stop` or `kill`, with what it had; return when it answers."""
        command = ["dockerd", "--host", f"unix://{self.socket}"]
        command += ["--data-root", f"{self.root}/data", "--exec-root", f"{self.root}/exec"]
        command += ["--pidfile", f"{self.root}/pid", "--iptables=false", "--ip6tables=false", "--bridge=none"]
        command += self.options
        if self.tls is not None:
            command += ["--host", self.tcp, "--tlsverify", f"--tlscacert={self.tls}/ca.pem"]
            command += [f"--tlscert={self.tls}/server-cert.pem", f"--tlskey={self.tls}/server-key.pem"]
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        _wait(self, self.process, self.root / "log")

    def signal(self, number: signal.Signals) -> None:
        """Send one."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """In good order."""
        self.signal(signal.SIGTERM)
        self._ended()

    def kill(self) -> None:
        """As a crash: of dockerd and of its containerd."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._ended()
        (self.root / "pid").unlink(missing_ok=True)

    def pids(self) -> list[int]:
        """Its process, and its containerd's."""
        assert self.process is not None
        containerd = self.root / "exec" / "containerd" / "containerd.pid"
        return [self.process.pid, *([int(containerd.read_text())] if containerd.exists() else [])]

    def _ended(self) -> None:
        assert self.process is not None
        self.process.wait(timeout=STOP_S)
        self.process = None


@contextmanager
def dockerd(
    tls: Path | None = None, *, disk_bytes: int | None = None, options: tuple[str, ...] = ()
) -> Iterator[Daemon]:
    """
    Run one, with further *options*. With *tls* (ca.pem, server-cert.pem, server-key.pem) it listens on the loopback as
    well; with *disk_bytes* its disk is that small.
    """
    with tempfile.TemporaryDirectory(prefix="mayfly-dockerd-", ignore_cleanup_errors=True) as directory:
        daemon = Daemon(root=Path(directory), tls=tls, options=options)
        if disk_bytes is not None:
            (daemon.root / "data").mkdir()
            disk = ["mount", "-t", "tmpfs", "-o", f"size={disk_bytes}", "mayfly-test", f"{directory}/data"]
            subprocess.run(disk, check=True)
        try:
            daemon.start()
            yield daemon
        finally:
            if daemon.process is not None:
                daemon.signal(signal.SIGCONT)
                daemon.stop()
            _unmount(daemon.root)


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
