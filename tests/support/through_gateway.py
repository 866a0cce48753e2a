"""
Runs the end-to-end suite through a gateway: `mayfly up` behind the stand-in, which is NOT APISIX.

    python -m tests.support.through_gateway [pytest's arguments]

The suite is told a URL and a CA and nothing else, as it would be of any deployment. Left out are the tests that call an
installation of their own, whatever they are told: through the gateway they would be the same again. Without `--long`
also those of what happens behind the API server: there a gateway passes on what other tests see it pass on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from tests.e2e.conftest import OUR_REGISTRY_PORT
from tests.support.nats import free_port
from tests.support.up import ROOM, Up, running_up

READY_S = 20
REGISTRY = f"127.0.0.1:{OUR_REGISTRY_PORT}"
BEHIND_THE_API = ("egress", "examples", "function_secrets", "isolation", "readme", "registration")
"""Files of the suite, as `test_<name>.py`, that ask little of what is in front."""


@contextmanager
def stand_in_before(up: Up) -> Iterator[str]:
    """Run the stand-in in front of an installation; yields its URL, which has a certificate of the same CA."""
    with tempfile.TemporaryDirectory(prefix="mayfly-stand-in-") as directory:
        secrets = Path(directory)
        _fill(secrets, up)
        listen = f"127.0.0.1:{free_port()}"
        program = [sys.executable, "-m", "tests.support.stand_in_gateway", "--listen", listen]
        process = subprocess.Popen([*program, "--secrets", secrets, "--api", up.url.removeprefix("https://")])
        try:
            _wait(f"https://{listen}", up, process)
            yield f"https://{listen}"
        finally:
            process.terminate()
            process.wait(timeout=20)


def _fill(secrets: Path, up: Up) -> None:
    """The directory that `mayfly secrets create` makes for a gateway, from what `up` made for itself."""
    (secrets / "token-keys").mkdir()
    (secrets / "ca.crt").write_bytes(up.ca_file.read_bytes())
    for ending in ("crt", "key"):
        (secrets / f"gateway.{ending}").write_bytes((up.data_dir / "tls" / f"server.{ending}").read_bytes())
    for path in (up.data_dir / "tls" / "token-keys").glob("*.pem"):
        public = load_pem_private_key(path.read_bytes(), password=None).public_key()
        (secrets / "token-keys" / path.name).write_bytes(
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )


def _wait(url: str, up: Up, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + READY_S
    with httpx.Client(verify=up.tls, trust_env=False) as client:
        while time.monotonic() < give_up_at and process.poll() is None:
            try:
                if client.get(f"{url}/readyz").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
    raise RuntimeError("the stand-in gateway does not answer")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what would not go through the gateway. This module is a plugin of the run that it starts."""
    left_out = () if config.getoption("--long") else tuple(f"test_{name}.py" for name in BEHIND_THE_API)
    goes_through = {
        item: "up" in (names := getattr(item, "fixturenames", ()))
        and "own_up" not in names
        and item.path.name not in left_out
        for item in items
    }
    config.hook.pytest_deselected(items=[item for item in items if not goes_through[item]])
    items[:] = [item for item in items if goes_through[item]]
    if not items:
        raise pytest.UsageError("No test is left that would go through the gateway.")


def main() -> None:
    """Bring both up, run the suite, take both down."""
    with running_up(REGISTRY, slots=8, **ROOM) as up, stand_in_before(up) as url:
        environment = os.environ | {"MAYFLY_E2E_URL": url, "MAYFLY_E2E_CA": str(up.ca_file)}
        arguments = sys.argv[1:] or ["tests/e2e"]
        command = [sys.executable, "-m", "pytest", "-p", "tests.support.through_gateway", *arguments]
        ended = subprocess.run(command, env=environment, check=False)
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
