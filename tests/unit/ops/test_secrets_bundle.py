"""Secrets as one line of text, and the commands that handle them."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mayfly.ops.bundle import VARIABLE, BundleUnusable, bundle, unpack
from mayfly.ops.secrets import Wanted, create
from mayfly.ops.secrets_commands import register, secrets

pytestmark = [pytest.mark.D5, pytest.mark.D7]

PROGRAM = [sys.executable, "-c", "from mayfly.ops.secrets_commands import secrets; secrets()"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment's secrets."""
    made = tmp_path_factory.mktemp("secrets")
    create(made, Wanted())
    return made


@pytest.mark.parametrize("role", ["api", "gateway", "worker", "admin", "nats-1"])
def test_a_bundle_brings_back_the_files(directory: Path, tmp_path: Path, role: str) -> None:
    """What `unpack` writes is what `bundle` read, directories included, 0400; it fits into a variable, on one line."""
    text = bundle(directory / role)
    unpack(text, tmp_path / "to")

    there = {path.relative_to(directory / role): path for path in (directory / role).rglob("*") if path.is_file()}
    here = {path.relative_to(tmp_path / "to"): path for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in here.items()} == {n: p.read_bytes() for n, p in there.items()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in here.values()} == {0o400}
    assert stat.S_IMODE((tmp_path / "to").stat().st_mode) == 0o700
    assert "\n" not in text
    assert len(text) < 16 * 1024


def test_the_authoritys_key_is_never_bundled(directory: Path) -> None:
    """DIR/ca is refused, whoever asks."""
    with pytest.raises(BundleUnusable, match="authority's key"):
        bundle(directory / "ca")


def test_a_directory_of_directories_is_no_role(directory: Path, tmp_path: Path) -> None:
    """The whole directory is refused, and so is an empty one: a bundle is of one role."""
    with pytest.raises(BundleUnusable):
        bundle(directory)
    with pytest.raises(BundleUnusable, match="no files"):
        bundle(tmp_path)


def packed(content: object) -> str:
    """Pack anything as a bundle is packed."""
    return base64.b64encode(zlib.compress(json.dumps(content).encode())).decode()


HOSTILE = [
    "../x",
    "/etc/x",
    "a/../../x",
    "a/b/c",
    "",
    ".",
    "..",
    "a/..",
    "a//b",
    "a\0b",
    "a\nb",
    ".hidden",
    "a/.b",
    "A",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_writes_nothing(tmp_path: Path, name: str) -> None:
    """No name leads out of the directory, and one bad name stops the good ones as well."""
    with pytest.raises(BundleUnusable, match="cannot be a file's name"):
        unpack(packed({"v": 1, "files": {"good": "x", name: "x"}}), tmp_path / "to")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense!", "not what"),
        (base64.b64encode(b"nonsense").decode(), "not what"),
        (packed({"v": 1})[:-8], "cut off|not what"),
        (packed({"v": 2, "files": {}}), "version 2"),
        (packed({"v": 1, "files": {"a": 1}}), "not what"),
        (packed({"v": 1, "files": {}, "more": 1}), "not what"),
        (packed([]), "not what"),
        (packed({"v": 1, "files": {"a": "x" * 300_000}}), "more than"),
    ],
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, text: str, why: str) -> None:
    """Damaged, foreign, of another version or too large: one sentence that names the variable, and nothing written."""
    with pytest.raises(BundleUnusable, match=why) as refusal:
        unpack(text, tmp_path / "to")
    assert VARIABLE in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_unpacked_through_a_link(tmp_path: Path) -> None:
    """A directory that somebody made a link of is refused."""
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "token-keys").symlink_to(tmp_path)
    with pytest.raises(BundleUnusable, match="symbolic link"):
        unpack(packed({"v": 1, "files": {"token-keys/a.pem": "x"}}), tmp_path / "to")
    assert not (tmp_path / "a.pem").exists()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `mayfly secrets`."""
    given = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run([*PROGRAM, *arguments], env=given, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_runs_with_its_files_and_without_the_variable(directory: Path, tmp_path: Path) -> None:
    """`unpack` becomes the command, which finds the files, and the bundle nowhere; options after `--` are its own."""
    shown = "import os, sys; print(open('/proc/self/environ').read()); print(sys.argv[1:], os.listdir(sys.argv[2]))"
    text = bundle(directory / "worker")

    done = run("unpack", "--to", str(tmp_path / "to"), "--", sys.executable, "-c", shown, "--to", str(tmp_path / "to"),
               **{VARIABLE: text, "KEPT": "1"})  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert VARIABLE not in done.stdout
    assert text not in done.stdout
    assert "KEPT=1" in done.stdout
    assert "'--to'" in done.stdout
    assert "nats.password" in done.stdout


def test_the_commands_status_is_its_own(directory: Path, tmp_path: Path) -> None:
    """The exit status is the command's; a command that is not there is said so."""
    text = bundle(directory / "worker")
    to = str(tmp_path / "to")

    assert run("unpack", "--to", to, "--", "sh", "-c", "exit 41", **{VARIABLE: text}).returncode == 41
    missing = run("unpack", "--to", to, "--", "no-such-command", **{VARIABLE: text})
    assert missing.returncode == 2
    assert "no-such-command cannot be run" in missing.stderr


def test_without_a_bundle_the_command_is_not_run(tmp_path: Path) -> None:
    """A variable that is missing is said, rather than a server started without secrets; no help page shows a secret."""
    refused = run("unpack", "--to", str(tmp_path / "to"), "--", "echo", "ran")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert VARIABLE in refused.stderr
    assert "s3cret" not in run("unpack", "--help", **{VARIABLE: "s3cret"}).stdout


def test_create_and_rotate_say_what_they_did(tmp_path: Path) -> None:
    """The commands tell each file, what to do next, and on bad input one sentence with status 2."""
    runner, app = CliRunner(), typer.Typer()
    register(app)
    made = runner.invoke(app, ["secrets", "create", str(tmp_path), "--host", "faas.example.org"])
    again = runner.invoke(app, ["secrets", "create", str(tmp_path), "--host", "faas.example.org"])
    rotated = runner.invoke(app, ["secrets", "rotate", str(tmp_path), "token-key"])
    unknown = runner.invoke(app, ["secrets", "rotate", str(tmp_path), "everything"])
    bad = runner.invoke(app, ["secrets", "create", str(tmp_path), "--host", "https://x"])

    assert made.exit_code == 0, made.output
    assert "gateway.crt" in made.output
    assert "nothing to do" in again.output
    assert "NEXT" in rotated.output
    assert (unknown.exit_code, bad.exit_code) == (2, 2)
    assert "token-key, nats-passwords, gateway-secret, certificates" in unknown.output
    assert "--host: 'https://x' is neither" in bad.output


def test_every_command_has_an_example() -> None:
    """Each command's help ends with one, as everywhere."""
    runner = CliRunner()
    for command in ("create", "rotate", "bundle", "unpack"):
        assert "Example: mayfly secrets" in runner.invoke(secrets, [command, "--help"]).output
