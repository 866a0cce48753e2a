"""Confined calls where they are meant to be: in a container that has what Docker gives by default, and nothing else."""

from __future__ import annotations

import json
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import httpx
import pytest

from tests.contract.conftest import UNPREPARED
from tests.support import dockerd_bare

pytestmark = [pytest.mark.root, pytest.mark.F9]

ROOT = Path(__file__).parent.parent.parent
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc")

PROBE = """
import ctypes, os
from pathlib import Path
lines = Path("/proc/self/status").read_text().splitlines()
print(*[line.split()[1] for line in lines if line.startswith(("CapEff", "Seccomp:"))])
libc = ctypes.CDLL(None, use_errno=True)
print(libc.unshare(0x10000000), libc.mount(b"x", b"/tmp", b"tmpfs", 0, None))
"""


@pytest.fixture(scope="module")
def image(docker_daemon: dockerd_bare.Daemon) -> str:
    """An empty image, which the machine's own system is mounted into."""
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    transport = httpx.HTTPTransport(uds=str(docker_daemon.socket))
    with httpx.Client(transport=transport, base_url="http://docker", timeout=60) as client:
        query = {"fromSrc": "-", "repo": "mayfly-test-empty"}
        client.post("/images/create", params=query, content=archive.getvalue()).raise_for_status()
    return "mayfly-test-empty"


def run(daemon: dockerd_bare.Daemon, image: str, *command: str) -> tuple[int, str]:
    """Run a command in a container with Docker's defaults, and this machine's programs; its exit code and output."""
    binds = [f"{Path(each).resolve()}:{each}:ro" for each in SYSTEM if Path(each).exists()]
    body = {
        "Image": image,
        "Cmd": list(command),
        "Tty": True,  # one stream, as it is
        "WorkingDir": str(ROOT),
        "Env": [f"PYTHONPATH={ROOT / 'src'}:{ROOT}:{':'.join(sys.path)}", f"{UNPREPARED}=1", "HOME=/tmp"],
        "HostConfig": {"NetworkMode": "none", "Init": True, "Binds": [*binds, "/tmp:/tmp", f"{ROOT}:{ROOT}:ro"]},
    }
    transport = httpx.HTTPTransport(uds=str(daemon.socket))
    with httpx.Client(transport=transport, base_url="http://docker", timeout=590) as client:
        created = client.post("/containers/create", json=body)
        assert created.status_code == 201, created.text
        container = f"/containers/{created.json()['Id']}"
        try:
            started = client.post(f"{container}/start")
            assert started.status_code == 204, started.text
            code = json.loads(client.post(f"{container}/wait").content)["StatusCode"]
            return code, client.get(f"{container}/logs", params={"stdout": "1", "stderr": "1"}).text
        finally:
            client.delete(container, params={"force": "1"})


def test_docker_gives_what_it_gives_by_default(docker_daemon: dockerd_bare.Daemon, image: str) -> None:
    """Its fourteen capabilities, its filter of system calls, no namespace, no mount: else the next test proves less."""
    code, output = run(docker_daemon, image, sys.executable, "-c", PROBE)
    assert (code, output.split()) == (0, ["00000000a80425fb", "2", "-1", "-1"]), output


def test_every_attack_fails_under_dockers_defaults(
    docker_daemon: dockerd_bare.Daemon, image: str, tmp_path: Path
) -> None:
    """All tests of confined calls pass there, too, but one that looks through links of /proc, which only root may."""
    suite = ["-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inside'}", "tests/contract/test_confined.py"]
    suite += ["-k", "not three_pipes"]
    code, output = run(docker_daemon, image, sys.executable, "-m", "pytest", *suite)
    assert code == 0, output
    assert " passed" in output
    assert "skipped" not in output
