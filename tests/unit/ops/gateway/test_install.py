"""Putting the gateway's files into force: checked, whole, seen by APISIX; and the commands that do it."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from mayfly.ops.gateway.install import Clock, FilesRefused, install, put, read_files
from mayfly.ops.gateway.material import read_material
from mayfly.ops.gateway.render import Rendered, render
from mayfly.ops.gateway_commands import register
from mayfly.settings import GatewaySettings
from tests.support.need import need

pytestmark = [pytest.mark.D3, pytest.mark.D7]

NAMES = ("config.yaml", "apisix.yaml")


@dataclass
class Hands:
    """A clock that goes on only when it is waited for."""

    time: float = 1_800_000_000.25
    waited: list[float] = field(default_factory=list)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.waited.append(seconds)
        self.time += seconds

    @property
    def clock(self) -> Clock:
        """As `install` wants it."""
        return Clock(now=lambda: self.time, wait=self.wait)


@pytest.fixture
def files(secrets: Path) -> Rendered:
    """Files with secrets in them."""
    return render(GatewaySettings(), read_material(secrets / "gateway"))


def run(*arguments: str | Path, **environ: str) -> Result:
    """Run `mayfly gateway ...`."""
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, ["gateway", *map(str, arguments)], env=environ)


def test_files_are_written_for_the_gateway_only(files: Rendered, tmp_path: Path) -> None:
    """They have a private key in them: nobody else reads them, not even for a moment."""
    done = install(files, tmp_path / "new")

    assert [line.split(":")[0] for line in done] == [f"wrote {tmp_path / 'new' / name}" for name in reversed(NAMES)]
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    for name, text in zip(NAMES, (files.config, files.routes), strict=True):
        assert (tmp_path / "new" / name).read_text() == text
        assert stat.S_IMODE((tmp_path / "new" / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(NAMES)


def test_files_that_say_the_same_are_left_alone(files: Rendered, tmp_path: Path) -> None:
    """Starting again does not make APISIX read again."""
    install(files, tmp_path)
    before = [(tmp_path / name).stat().st_mtime_ns for name in NAMES]

    assert install(files, tmp_path) == []
    assert [(tmp_path / name).stat().st_mtime_ns for name in NAMES] == before


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("#END", "", "#END is missing"),
        ("retries: 0", "retries: 1", "retries"),
        ("claims_to_verify", "claims_to_verfy", "claims_to_verfy"),
        ("local core", "locl core", "functions"),
        ("algorithm: ES256", "algorithm: HS256", "algorithm"),
        ("global_rules:", "global_rules: [", "is not YAML"),
    ],
)
def test_a_bad_file_leaves_the_old_one_in_force(
    old: str, new: str, why: str, files: Rendered, tmp_path: Path, secrets: Path
) -> None:
    """It is refused with the reason, whatever else was changed, and the reason has no secret in it."""
    install(files, tmp_path / "in-force")
    before = {name: (tmp_path / "in-force" / name).read_bytes() for name in NAMES}
    assert old in files.routes

    with pytest.raises(FilesRefused, match=why) as caught:
        install(Rendered(files.config + "# another\n", files.routes.replace(old, new)), tmp_path / "in-force")

    assert {path.name: path.read_bytes() for path in (tmp_path / "in-force").iterdir()} == before
    material = read_material(secrets / "gateway")
    assert material.secret not in str(caught.value)
    assert material.key.splitlines()[1] not in str(caught.value)


def test_two_writes_are_never_of_the_same_second(tmp_path: Path) -> None:
    """APISIX compares whole seconds: of two changes in one, the second would be in force only after the next."""
    hands = Hands()
    seconds = []
    for content in (b"a", b"b", b"c"):
        assert put(tmp_path / "file", content, clock=hands.clock)
        seconds.append(int((tmp_path / "file").stat().st_mtime))

    assert len(set(seconds)) == 3
    assert hands.waited == [0.75, 1.0]


def test_a_clock_that_was_set_back_changes_nothing(tmp_path: Path) -> None:
    """The new file's time is another one all the same, and nobody waits for the old one's."""
    hands = Hands()
    put(tmp_path / "file", b"a", clock=hands.clock)
    hands.time -= 3600

    put(tmp_path / "file", b"b", clock=hands.clock)

    assert int((tmp_path / "file").stat().st_mtime) == 1_800_000_001
    assert hands.waited == [1.0]


def test_nobody_ever_reads_half_a_file(tmp_path: Path) -> None:
    """A reader that never rests sees the old content or the new one, and nothing between."""
    contents = [bytes([letter]) * 65536 for letter in b"abcdefgh"]
    path, hands, stop = tmp_path / "file", Hands(), threading.Event()
    put(path, contents[0], clock=hands.clock)
    seen: set[bytes] = set()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents * 5:
        put(path, content, clock=hands.clock)
    stop.set()
    reader.join()
    assert seen <= set(contents)


def test_two_installations_at_once_take_turns(files: Rendered, secrets: Path, tmp_path: Path) -> None:
    """Each is whole, and the files of one are together in the end."""
    settings = GatewaySettings(gateway_workers=3, gateway_api=("api-9:8443",))
    others = render(settings, read_material(secrets / "gateway"))
    first = threading.Thread(target=install, args=(files, tmp_path / "in-force"), kwargs={"clock": Hands().clock})
    second = threading.Thread(
        target=install, args=(others, tmp_path / "in-force"), kwargs={"settings": settings, "clock": Hands().clock}
    )
    for each in (first, second):
        each.start()
    for each in (first, second):
        each.join()

    assert (read_files(tmp_path / "in-force")) in (files, others)
    assert sorted(path.name for path in (tmp_path / "in-force").iterdir()) == sorted(NAMES)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """APISIX's own conf/apisix.yaml is a link into the directory of secrets; what it leads to is replaced."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")

    put(tmp_path / "link", b"one", clock=Hands().clock)
    put(tmp_path / "link", b"two", clock=Hands().clock)

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_bytes() == b"two"
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["file"]


@pytest.mark.root
@pytest.mark.parametrize("name", ["apisix.yaml", "config.yaml", "ca.crt"])
def test_a_link_of_the_gateways_own_is_not_written_through(secrets: Path, name: str) -> None:
    """The gateway owns its directory: its `ca.crt -> ../ca/ca.key` would have root overwrite the authority's key."""
    need(os.geteuid() == 0, "root")
    key = (secrets / "ca/ca.key").read_bytes()
    (secrets / "out").mkdir()
    (secrets / "out" / name).symlink_to(secrets / "ca/ca.key")
    os.lchown(secrets / "out" / name, 636, 636)

    ended = run("render", "--secrets", str(secrets / "gateway"), "--out", str(secrets / "out"))

    assert ended.exit_code == 2
    assert f"{name} is a symbolic link that another user made" in ended.stderr
    assert (secrets / "ca/ca.key").read_bytes() == key


@pytest.mark.root
def test_a_link_of_the_gateways_own_is_not_read_through(secrets: Path) -> None:
    """Its `gateway.crt` and `.key`, led to the API's, would have the API's key rendered for the gateway."""
    need(os.geteuid() == 0, "root")
    for kind in ("crt", "key"):
        (secrets / f"gateway/gateway.{kind}").unlink()
        (secrets / f"gateway/gateway.{kind}").symlink_to(secrets / f"api/api.{kind}")
        os.lchown(secrets / f"gateway/gateway.{kind}", 636, 636)

    ended = run("render", "--secrets", str(secrets / "gateway"), "--out", str(secrets / "out"))

    assert ended.exit_code == 2
    assert "gateway.crt is a symbolic link that another user made" in ended.stderr
    assert not (secrets / "out").exists()


def test_a_full_disk_is_said_with_the_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel names no file when there is no room for what is written; nothing is left behind."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space left") as raised:
        put(tmp_path / "config.yaml", b"x", clock=Hands().clock)
    assert raised.value.filename == str(tmp_path / "config.yaml")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_not_waited_for(secrets: Path) -> None:
    """Nor is a file of gigabytes read, by whichever command."""
    (secrets / "from").mkdir()
    for name in NAMES:
        os.mkfifo(secrets / "from" / name)
    (secrets / "gateway/gateway.key").unlink()
    with (secrets / "gateway/gateway.key").open("wb") as file:
        file.truncate(3 << 30)

    checked = run("check", str(secrets / "from"))
    installed = run("install", "--from", str(secrets / "from"), "--to", str(secrets / "out"))
    rendered = run("render", "--secrets", str(secrets / "gateway"), "--out", str(secrets / "out"))

    assert [each.exit_code for each in (checked, installed, rendered)] == [2, 2, 2]
    assert "no plain file" in installed.stderr
    assert "gateway.key has more than" in rendered.stderr


@pytest.mark.root
def test_a_file_that_is_mounted_by_itself_is_written_in_place(tmp_path: Path) -> None:
    """It cannot be replaced, and who has it mounted would not see another one."""
    need(os.geteuid() == 0, "root")
    for name in ("host", "mounted"):
        (tmp_path / name).write_bytes(b"the old content, which is longer")
    with mounted(tmp_path / "host", tmp_path / "mounted"):
        inode = (tmp_path / "mounted").stat().st_ino
        assert put(tmp_path / "mounted", b"new", clock=Hands().clock)
        assert (tmp_path / "mounted").stat().st_ino == inode
        assert (tmp_path / "host").read_bytes() == b"new"
        assert int((tmp_path / "host").stat().st_mtime) >= 1_800_000_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["host", "mounted"]


@contextmanager
def mounted(source: Path, target: Path) -> Iterator[None]:
    """Mount one file over another."""
    made = subprocess.run(["mount", "--bind", source, target], check=False, capture_output=True)
    need(made.returncode == 0, "the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.mark.root
def test_files_belong_to_whom_the_directory_belongs(tmp_path: Path) -> None:
    """What root renders, APISIX, which is not root, reads; at once, without a chown after it."""
    need(os.geteuid() == 0, "root")
    os.chown(tmp_path, 636, 636)
    put(tmp_path / "file", b"one", clock=Hands().clock)
    os.chown(tmp_path, 0, 0)
    put(tmp_path / "file", b"two", clock=Hands().clock)

    found = (tmp_path / "file").stat()
    assert (found.st_uid, found.st_gid) == (636, 636)


def test_render_check_and_install_as_commands(secrets: Path, tmp_path: Path) -> None:
    """From secrets to files in force, and each step says what it did."""
    rendered = run("render", "--secrets", secrets / "gateway", "--out", tmp_path / "new")
    assert (rendered.exit_code, rendered.output.count("wrote")) == (0, 3), rendered.output
    assert (tmp_path / "new/ca.crt").read_bytes() == (secrets / "gateway/ca.crt").read_bytes()

    assert run("check", tmp_path / "new").exit_code == 0
    assert run("check", *(tmp_path / "new" / name for name in NAMES)).exit_code == 0
    assert run("check", *(tmp_path / "new" / name for name in reversed(NAMES))).exit_code == 2
    assert run("check", *(tmp_path / "new" / name for name in (*NAMES, "ca.crt"))).exit_code == 2
    installed = run("install", "--from", tmp_path / "new", "--to", tmp_path / "in-force")
    assert (installed.exit_code, installed.output.count("wrote")) == (0, 2), installed.output
    again = run("install", "--from", tmp_path / "new", "--to", tmp_path / "in-force")
    assert "nothing to do" in again.output


def test_render_beside_the_secrets_can_be_run_before_every_start(secrets: Path) -> None:
    """As compose does it: in the gateway's own directory, where what is there already stays."""
    first = run("render", "--secrets", secrets / "gateway", "--out", secrets / "gateway")
    second = run("render", "--secrets", secrets / "gateway", "--out", secrets / "gateway")
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert "nothing to do" in second.output


def test_a_new_token_key_changes_only_what_is_read_again(secrets: Path, tmp_path: Path) -> None:
    """Keys are rotated without a restart: config.yaml, which needs one, stays as it is."""
    run("render", "--secrets", secrets / "gateway", "--out", tmp_path / "new")
    [key] = (secrets / "gateway/token-keys").glob("*.pem")
    key.with_name("another.pem").write_bytes(key.read_bytes())

    again = run("render", "--secrets", secrets / "gateway", "--out", tmp_path / "new")

    assert again.output.split() == ["wrote", str(tmp_path / "new/apisix.yaml")], again.output
    consumers = yaml.safe_load((tmp_path / "new/apisix.yaml").read_text())["consumers"]
    assert len(consumers) == 3


def test_without_secrets_placeholders_are_written(tmp_path: Path) -> None:
    """Such files pass the check as a template only, and everybody may read them."""
    assert run("render", "--out", tmp_path / "new").exit_code == 0
    assert run("check", "--template", tmp_path / "new").exit_code == 0

    refused = run("check", tmp_path / "new")
    assert refused.exit_code == 2
    assert "placeholder" in refused.output
    assert stat.S_IMODE((tmp_path / "new/apisix.yaml").stat().st_mode) == 0o644


def test_install_refuses_a_bad_file_and_says_why(files: Rendered, tmp_path: Path) -> None:
    """The command ends with a status other than 0, and what was in force still is."""
    install(files, tmp_path / "in-force")
    install(files, tmp_path / "new")
    (tmp_path / "new/apisix.yaml").write_text(files.routes.replace("retries: 0", "retries: 2"))

    refused = run("install", "--from", tmp_path / "new", "--to", tmp_path / "in-force")

    assert refused.exit_code == 2
    assert "nothing was written" in refused.output
    assert "retries" in refused.output
    assert (tmp_path / "in-force/apisix.yaml").read_text() == files.routes


def test_files_made_from_other_settings_are_refused(files: Rendered, tmp_path: Path) -> None:
    """Who raised U for the API servers and not for the gateway is told before a caller is."""
    install(files, tmp_path / "new")

    refused = run("check", tmp_path / "new", MAYFLY_MAX_ACTIVATIONS_PER_USER="5000")

    assert refused.exit_code == 2
    assert "limit-conn" in refused.output


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MAYFLY_GATEWAY_API", "api-1"),
        ("MAYFLY_GATEWAY_API", "api-1:99999"),
        ("MAYFLY_GATEWAY_API", "api-1:1,api-1:1"),
        ("MAYFLY_GATEWAY_API", ""),
        ("MAYFLY_GATEWAY_API_DISCOVERY", "dns"),
        ("MAYFLY_GATEWAY_API_NAME", "a;b"),
        ("MAYFLY_GATEWAY_HOSTS", "a b"),
        ("MAYFLY_GATEWAY_TRUSTED_PROXIES", "0.0.0.0/0"),
        ("MAYFLY_GATEWAY_TRUSTED_PROXIES", "::/0"),
        ("MAYFLY_GATEWAY_TRUSTED_PROXIES", "lb.example.org"),
        ("MAYFLY_GATEWAY_CA_FILE", "ca.crt"),
        ("MAYFLY_GATEWAY_CA_FILE", "/a;b"),
        ("MAYFLY_GATEWAY_CLIENT_RATE", "0"),
        ("MAYFLY_GATEWAY_RATE", "5"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(variable: str, value: str, tmp_path: Path) -> None:
    """Before anything is written: what is set here ends in nginx's language."""
    refused = run("render", "--out", tmp_path / "new", **{variable: value})

    assert refused.exit_code == 2
    assert variable in refused.output
    assert not (tmp_path / "new").exists()


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    """Neither a stack nor a half-made directory."""
    for arguments in (
        ("render", "--secrets", tmp_path / "none", "--out", tmp_path / "new"),
        ("check", tmp_path / "none"),
        ("install", "--from", tmp_path / "none", "--to", tmp_path / "new"),
    ):
        refused = run(*arguments)
        assert refused.exit_code == 2, refused.output
        assert "none" in refused.output
    assert not (tmp_path / "new").exists()
