"""The commands of docs/howto/rotate-keys.md, typed in turn, and what is in the files after each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mayfly.ops.layout import Layout
from tests.docs.reader import prints
from tests.support.page import commands, printed

pytestmark = [pytest.mark.A1, pytest.mark.D7]

PAGE = "docs/howto/rotate-keys.md"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A deployment's secrets."""
    typed("mayfly secrets create ./secrets", tmp_path)
    return tmp_path / "secrets"


def typed(script: str, directory: Path) -> str:
    """Type commands in a directory; return what they said."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "-euc", script], cwd=directory, env={"PATH": path}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def names(directory: Path) -> set[str]:
    """The files of a directory."""
    return {path.name for path in directory.iterdir()}


def test_the_steps_do_what_the_page_says(secrets: Path) -> None:
    """After each block the files are as the page says, and what `rotate` says to do next is what the page says, too."""
    verify, sign, gateway, certificates, sealing, passwords = commands(PAGE, "The steps")
    (old,) = names(secrets / "api/token-keys")

    said = typed(verify, secrets.parent)
    assert prints(printed(PAGE, "The steps")[0], said), said
    assert "NEXT render the gateway's files again, and restart the API servers one after the other" in said
    assert len(names(secrets / "gateway/token-keys")) == 2
    assert {name for name in names(secrets / "api/token-keys") if name.endswith(".pem")} == {old}

    said = typed(sign, secrets.parent)
    assert "NEXT restart the API servers one after the other: from then on the new key signs" in said
    assert names(secrets / "api/token-keys") == names(secrets / "gateway/token-keys")
    assert old in names(secrets / "api/token-keys")

    before = (secrets / "gateway/gateway.secret").read_bytes()
    said = typed(gateway, secrets.parent)
    assert said.count("NEXT") == 3
    assert "That was the last step" in said
    assert (secrets / "api/gateway.secret").read_bytes() == (secrets / "gateway/gateway.secret").read_bytes() != before
    assert (secrets / "gateway/gateway.secret").read_text() in (secrets / "gateway/apisix.yaml").read_text()

    authority, certificate = (secrets / "ca/ca.crt").read_bytes(), (secrets / "api/api.crt").read_bytes()
    said = typed(certificates, secrets.parent)
    assert "NEXT render the gateway's files again, and restart the nats-servers and the API servers" in said
    assert (secrets / "ca/ca.crt").read_bytes() == authority
    assert (secrets / "api/api.crt").read_bytes() != certificate

    [old_key] = names(secrets / "worker/sealing-keys")
    said = typed(sealing, secrets.parent)
    assert said.count("NEXT restart") == 2
    [_, new_key] = sorted(names(secrets / "worker/sealing-keys"))
    assert old_key in names(secrets / "worker/sealing-keys")
    assert new_key.replace(".pem", ".pub.pem") in names(secrets / "api/sealing-keys")

    password = (secrets / "worker/nats.password").read_text()
    said = typed(passwords, secrets.parent)
    assert "NEXT restart the nats-servers one after the other" in said
    assert password not in (secrets / "nats-2/nats.conf").read_text()
    assert (secrets / "worker/nats.password").read_text() in (secrets / "nats-2/nats.conf").read_text()


def test_a_stolen_key_is_known_to_nobody_any_more(secrets: Path) -> None:
    """After the commands of the page there is one token key, another one, and the gateway knows no other."""
    (stolen,) = names(secrets / "api/token-keys")
    (script,) = commands(PAGE, "When a token key was stolen")

    typed(script, secrets.parent)

    (key,) = names(secrets / "api/token-keys")
    assert key != stolen
    assert names(secrets / "gateway/token-keys") == {key}
    assert stolen.removesuffix(".pem") not in (secrets / "gateway/apisix.yaml").read_text()


def test_up_makes_what_was_removed(tmp_path: Path) -> None:
    """Each line of the page has `mayfly up` make that secret anew at its next start, under the same authority."""
    (script,) = commands(PAGE, "With `mayfly up`")
    layout = Layout(tmp_path)

    def start() -> dict[str, bytes]:
        layout.fill(("localhost",), nats_port=4222, nats_uid=os.getuid(), api_uid=os.getuid())
        secret = [*layout.secrets.iterdir(), *layout.tls.glob("server.*"), *layout.tls.glob("ca.*")]
        keys = b"".join(path.read_bytes() for path in (layout.tls / "token-keys").iterdir())
        return {path.name: path.read_bytes() for path in secret} | {"token keys": keys}

    before = start()
    assert start() == before
    typed(script.replace("/var/lib/mayfly", str(tmp_path)), tmp_path)
    after = start()

    assert {name for name in before if before[name] == after[name]} == {"ca.crt", "ca.key"}
