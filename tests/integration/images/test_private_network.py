"""
The whole of it where it runs: in a network with a metadata service and a neighbour, with a composed worker's
capabilities, on uvloop.

The network is a namespace of the test's own, in whose loopback the private addresses are. Rows: F6, A5.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from mayfly.images.landlock import knows_ports
from tests.support.kubernetes import KUBERNETES
from tests.support.need import need

pytestmark = [pytest.mark.F6, pytest.mark.A5, pytest.mark.root]

ROOT = Path(__file__).resolve().parents[3]
PRIVATE = ("169.254.169.254", "10.0.0.5", "127.0.0.2")
NETWORK = """
import fcntl, os, socket, struct, sys

SIOCSIFADDR, SIOCSIFFLAGS, IFREQ = 0x8916, 0x8914, struct.Struct("16sHH4s16x")
addresses, command = sys.argv[1].split(","), sys.argv[2:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", 1))
    for number, address in enumerate(addresses):
        named = b"lo:%d" % number
        fcntl.ioctl(any_socket, SIOCSIFADDR, IFREQ.pack(named, socket.AF_INET, 0, socket.inet_aton(address)))
os.execvp(command[0], command)
"""
WORKER = """
import asyncio, json, socket, sys
from pathlib import Path

import uvloop

from mayfly.domain.errors import ImageUnavailable
from mayfly.domain.ids import UserId, new_id
from mayfly.images import landlock
from mayfly.images.policy import RegistryPolicy
from mayfly.images.reference import parse_reference
from mayfly.images.store import ImageStore
from tests.support.hostile_registry import HostileRegistry, PrivateService, realm, redirect


async def main(directory, *addresses):
    said = {}
    with PrivateService(addresses) as private:
        async with HostileRegistry(directory / "layout") as evil:
            policy = RegistryPolicy(private=(evil.url,), plain_http=(evil.url,))
            async with ImageStore(directory=directory / "images", policy=policy) as store:
                for address in addresses:
                    place = f"{address}:{private.port}/latest/meta-data/"
                    for rule in (redirect("/blobs/", f"https://{place}"), realm(f"http://{place}")):
                        evil.rule = rule
                        try:
                            await store.resolve(parse_reference(f"{evil.url}/x:1"), owner=UserId(new_id()))
                        except ImageUnavailable as error:
                            said.setdefault(address, []).append(error.detail)
                evil.rule = lambda _: None
                image = await store.resolve(parse_reference(f"{evil.url}/x:1"), owner=UserId(new_id()))
        came = private.connections
        for address in addresses:
            socket.create_connection((address, private.port), timeout=5).close()
    print(json.dumps({"said": said, "came": came, "cmd": image.config.cmd, "enclosure": store.enclosure.value}))


# first
uvloop.run(main(Path(sys.argv[1]), *sys.argv[2:]))
"""


def composed() -> set[str]:
    """The capabilities of a composed worker."""
    text = (ROOT / "deploy/compose/compose.yaml").read_text(encoding="utf-8")
    return set(yaml.safe_load(text)["services"]["worker"]["cap_add"])


async def attack(directory: Path, capabilities: set[str], first: str = "") -> dict[str, Any]:
    """Attack a worker that has these capabilities; what it says, and how many connections there were."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("setpriv"), "setpriv")
    bounding = ",".join(["-all", *(f"+{name.lower()}" for name in sorted(capabilities))])
    network = ["unshare", "--net", "--", sys.executable, "-c", NETWORK, ",".join(PRIVATE[:2])]
    worker = [
        "setpriv",
        "--no-new-privs",
        f"--bounding-set={bounding}",
        "--",
        sys.executable,
        "-c",
        WORKER.replace("# first", first),
    ]
    ended = await asyncio.to_thread(
        subprocess.run,
        [*network, *worker, str(directory), *PRIVATE],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}:{':'.join(sys.path)}", "PATH": os.environ["PATH"]},
    )
    assert ended.returncode == 0, ended.stderr
    said: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return said


def refused(said: dict[str, Any], addresses: Sequence[str]) -> bool:
    """Whether both attacks at each address were refused, and the user told why."""
    words = [detail for address in addresses for detail in said["said"][address]]
    began = [detail.startswith("Could not fetch the image: 127.0.0.1:") and " leads " in detail for detail in words]
    return len(began) == 2 * len(addresses) and all(began)


async def test_no_registry_leads_into_the_workers_network(tmp_path: Path) -> None:
    """
    Redirects and tokens at the metadata service, a neighbour and the worker's own loopback: each is an image that
    cannot be had, nobody there saw a connection, and the same registry's honest image is pulled.
    """
    said = await attack(tmp_path, composed())

    assert said["enclosure"] == "namespace"
    assert refused(said, PRIVATE)
    assert said["came"] == 0
    assert said["cmd"] == ["/x"]


async def test_without_sys_admin_ports_are_refused(tmp_path: Path) -> None:
    """A worker that can make no namespace, as with a Docker daemon, is as safe where Landlock knows ports."""
    need(knows_ports(), "Landlock of a kernel from 6.7 on")
    said = await attack(tmp_path, composed() - {"SYS_ADMIN"})

    assert said["enclosure"] == "ports"
    assert refused(said, PRIVATE)
    assert said["came"] == 0
    assert said["cmd"] == ["/x"]


async def test_without_either_it_is_the_proxy_alone(tmp_path: Path) -> None:
    """On an older kernel a registry may lead to the worker's own loopback then, but no further."""
    said = await attack(tmp_path, composed() - {"SYS_ADMIN"}, "landlock.FIRST_WITH_PORTS = 1000")

    assert said["enclosure"] == "none"
    assert refused(said, PRIVATE[:2])


def test_every_worker_that_makes_containers_may_make_namespaces() -> None:
    """Kubernetes' workers have what compose's have, so what was attacked above is what runs there."""
    text = (KUBERNETES / "base" / "worker.yaml").read_text(encoding="utf-8")
    (deployment,) = (each for each in yaml.safe_load_all(text) if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert set(container["securityContext"]["capabilities"]["add"]) >= composed() | {"SYS_ADMIN"}
