"""A dockerd of the bench's own, with the image of all containers, in a cgroup that counts its processor time."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.cpu import Group, new_group
from examples.oci import Image, write_layout
from tests.support.dockerd_bare import Daemon, dockerd

REFERENCE = "mayfly-bench:1"
WHOSE = "dockerd, containerd, runc"


@dataclass(frozen=True, slots=True)
class Docker:
    """A daemon that has the image REFERENCE, whose command is `cat`."""

    daemon: Daemon
    group: Group

    @property
    def socket(self) -> Path:
        """Where the Engine API is."""
        return self.daemon.socket

    def version(self) -> str:
        """The daemon's version, and what it keeps images and containers by."""
        said = self.daemon.ask("GET", "/info").json()
        return f"{said['ServerVersion']} ({said['Driver']})"


@contextmanager
def running_docker() -> Iterator[Docker]:
    """Run one without networking; nothing of it is left afterwards."""
    name = f"mayfly-bench-{os.getpid()}"
    with new_group(name) as group:
        options = ("--exec-opt=native.cgroupdriver=cgroupfs", f"--cgroup-parent=/{name}")
        with dockerd(options=options) as daemon:
            group.take(daemon.pids())
            _load(daemon)
            yield Docker(daemon, group)


def _load(daemon: Daemon) -> None:
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as directory:
        layout, archive = Path(directory) / "layout", Path(directory) / "image.tar"
        layout.mkdir()
        write_layout(Image(cmd=("/bin/cat",)), layout)
        copy = ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{layout}:image"]
        subprocess.run([*copy, f"docker-archive:{archive}:{REFERENCE}"], check=True)
        load = ["docker", "--host", daemon.unix.host, "load", "--quiet", "--input", str(archive)]
        subprocess.run(load, check=True, capture_output=True)
