"""What the docker driver makes of settings, of a daemon's answers, and of an image's tree. No daemon runs here."""

from __future__ import annotations

import errno
import io
import os
import platform
import socket
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mayfly.containers import frame
from mayfly.containers.docker import rootfs, stream
from mayfly.containers.docker.config import container_config
from mayfly.containers.docker.engine import ARCHITECTURES, Address, choose_version, find_version, require_limits
from mayfly.containers.docker.rootfs import _label, _path, write_tar
from mayfly.containers.runtime import Call, ContainerSpec
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.ids import UserId
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import Limits
from mayfly.domain.sandbox import FIRST_HOST_ID

pytestmark = [pytest.mark.F9]

ARCH = ARCHITECTURES.get(platform.machine(), platform.machine())
SAID = {"Os": "linux", "Arch": ARCH, "Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}


# --- settings -----------------------------------------------------------------------------------------------------


def test_a_socket_is_an_address() -> None:
    """Its path counts."""
    assert Address.of("unix:///run/docker.sock", None).socket == "/run/docker.sock"


@pytest.mark.parametrize(
    "host", ["", "docker", "http://docker:2375", "ssh://docker", "unix://", "tcp://", "tcp://:2376"]
)
def test_what_is_no_address_names_the_setting(host: str, tmp_path: Path) -> None:
    """And says what it takes."""
    with pytest.raises(RuntimeFailed, match=r"MAYFLY_DOCKER_HOST is .*unix:///path, or tcp://host:2376"):
        Address.of(host, tmp_path)


def test_tcp_without_tls_is_refused() -> None:
    """A daemon without TLS is root for everybody; the setting that is missing is named."""
    with pytest.raises(
        RuntimeFailed, match=r"tcp address without MAYFLY_DOCKER_TLS_DIR.*ca\.pem, cert\.pem and key\.pem"
    ):
        Address.of("tcp://docker:2375", None)


def test_certificates_that_are_not_there_name_the_setting(tmp_path: Path) -> None:
    """Also when only one of the files is missing or no certificate."""
    for content in (None, "no certificate"):
        if content:
            (tmp_path / "ca.pem").write_text(content)
        with pytest.raises(RuntimeFailed, match=r"MAYFLY_DOCKER_TLS_DIR is .* cannot be used"):
            Address.of("tcp://docker", tmp_path)


def test_a_missing_socket_names_the_setting(tmp_path: Path) -> None:
    """Before anything is asked."""
    with pytest.raises(RuntimeFailed, match=r"no Docker socket at .*MAYFLY_DOCKER_HOST"):
        find_version(Address.of(f"unix://{tmp_path}/docker.sock", None))


def test_a_socket_where_nobody_listens_names_the_setting(tmp_path: Path) -> None:
    """A daemon that has ended leaves its socket behind."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "docker.sock"))
    with pytest.raises(RuntimeFailed, match=r"No Docker daemon answers at .*MAYFLY_DOCKER_HOST"):
        find_version(Address.of(f"unix://{tmp_path}/docker.sock", None))


def test_a_socket_that_may_not_be_used_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root or the socket's group."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "docker.sock"))

    def connect(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "connect", connect)  # root may use any
    with pytest.raises(
        RuntimeFailed, match=r"may not use the Docker socket .*MAYFLY_DOCKER_HOST.*root, or in the group"
    ):
        find_version(Address.of(f"unix://{tmp_path}/docker.sock", None))


# --- a daemon's answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("newest", "oldest", "chosen"), [("1.41", "1.12", "1.41"), ("1.43", "1.24", "1.43"), ("1.52", "1.44", "1.44")]
)
def test_the_newest_version_that_both_speak_is_taken(newest: str, oldest: str, chosen: str) -> None:
    """From 20.10 to 29."""
    assert choose_version({**SAID, "ApiVersion": newest, "MinAPIVersion": oldest}).api == chosen


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"ApiVersion": "1.40"}, "20.10 or newer"),
        ({"ApiVersion": "1.60", "MinAPIVersion": "1.50"}, "speaks API 1.60"),
        ({"Os": "windows"}, "runs on windows"),
        ({"Arch": "riscv64"}, "riscv64, this worker on linux/"),
    ],
)
def test_a_daemon_that_will_not_do_is_refused(said: dict[str, str], why: str) -> None:
    """With what it is."""
    with pytest.raises(RuntimeFailed, match=why):
        choose_version(SAID | said)


def test_a_daemon_that_cannot_limit_is_refused() -> None:
    """It would start containers all the same, with a warning: what it cannot do is named."""
    able = {"MemoryLimit": True, "CpuCfsQuota": True, "PidsLimit": True, "SwapLimit": False}
    require_limits(able)
    with pytest.raises(RuntimeFailed, match="cannot limit memory of"):
        require_limits(able | {"MemoryLimit": False})
    with pytest.raises(RuntimeFailed, match="cannot limit CPU time and processes of"):
        require_limits(able | {"CpuCfsQuota": False, "PidsLimit": False})


# --- what is asked of it ------------------------------------------------------------------------------------------


def config_of(**image: Any) -> dict[str, Any]:
    """The configuration for an image."""
    spec = ContainerSpec(
        id="a" * 26, owner=UserId("u" * 24), rootfs=Path("/r"), config=ProcessConfig(**image), limits=Limits()
    )
    return container_config(spec, image="mayfly/rootfs:x", owner="mayfly-1", has_tmp=False)


def test_nothing_is_granted() -> None:
    """No privilege, capability, device, network, port, volume, path of the host, log or restart: compared literally."""
    host = config_of()["HostConfig"]
    assert host["Privileged"] is False
    assert (host["CapDrop"], host["SecurityOpt"], host["NetworkMode"]) == (["ALL"], ["no-new-privileges"], "none")
    assert (host["LogConfig"], host["RestartPolicy"]) == ({"Type": "none"}, {"Name": "no"})
    assert (host["IpcMode"], host["CgroupnsMode"]) == ("private", "private")
    granting = {"Binds", "Mounts", "VolumesFrom", "Devices", "DeviceRequests", "CapAdd", "PortBindings", "PidMode"}
    granting |= {"UTSMode", "UsernsMode", "Sysctls", "Runtime", "PublishAllPorts", "CgroupParent", "Links"}
    assert not granting & host.keys()


def test_the_images_environment_does_not_go_to_the_daemon() -> None:
    """It would be seen by whoever lists containers; and the call's own never does. HOME decides about the user's."""
    config = config_of(env=(("TOKEN", "secret"), ("HOME", "/opt")))
    assert config["Env"] == ["HOME=/opt"]
    assert "secret" not in str(config)


def test_the_call_is_length_and_frame_and_input() -> None:
    """Compared literally with what the C program reads; what the daemon sets is nobody's environment."""
    call = Call(argv=("cat",), env=(("A", "b"),), stdin=b"input")
    message = stream.encode(call, b"12345678", image_env=(("I", "j"),), secret=b"s" * 16, limit_s=1.5)
    env = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("I", "j"), ("A", "b"))
    framed = frame.encode(Call(argv=("cat",), env=env), b"12345678")
    assert message == b"s" * 16 + (5).to_bytes(4, "little") + (1500).to_bytes(4, "little") + framed + b"input"


# --- last words ---------------------------------------------------------------------------------------------------

SECRET = b"0123456789abcdef"
WORDS = SECRET + b"".join(
    value.to_bytes(size, "little") for value, size in ((1, 4), (3, 4), (5000, 8), (1 << 20, 8), (0, 8))
)


@pytest.mark.parametrize("step", [1, 7, 48, 1000])
def test_last_words_are_found_however_the_stream_is_cut(step: int) -> None:
    """What is in front of them is the function's, all of it."""
    taken = bytearray()
    withheld = stream.Withheld(taken.extend)
    whole = b"x" * 100 + WORDS
    for start in range(0, len(whole), step):
        withheld(whole[start : start + step])
    words = withheld.end(SECRET)
    assert words is not None
    assert (words.report, words.cpu_us, words.oom_kills) == (frame.Report(frame.EXITED, 3), 5000, 0)
    assert taken == b"x" * 100


@pytest.mark.parametrize("end", [b"", b"log", WORDS[:-1], WORDS.replace(SECRET, b"f" * 16), WORDS + b"x"])
def test_what_is_not_behind_the_secret_is_the_functions(end: bytes) -> None:
    """None is lost, and none is believed."""
    taken = bytearray()
    withheld = stream.Withheld(taken.extend)
    withheld(end)
    assert withheld.end(SECRET) is None
    assert taken == end


# --- an image's tree ----------------------------------------------------------------------------------------------


@pytest.mark.root
def test_a_tree_goes_as_the_container_sees_it(tmp_path: Path) -> None:
    """Ids are shifted back, a stranger's become nobody's; no device; a file of the init's name is the init."""
    for name in ("mine", "strangers", "mayfly-init"):
        (tmp_path / name).write_text("image's")
    os.chown(tmp_path / "mine", FIRST_HOST_ID + 1234, FIRST_HOST_ID + 7)
    os.chown(tmp_path / "strangers", 0, 0)
    os.mknod(tmp_path / "zero", 0o020666, os.makedev(1, 5))
    (tmp_path / "out").symlink_to("/etc/passwd")
    with (tmp_path / "tar").open("w+b") as file:
        write_tar(tmp_path, b"init's", file)
        file.seek(0)
        tar = tarfile.open(fileobj=file)  # noqa: SIM115 - the file is closed
        members = {member.name.removeprefix("./"): member for member in tar}
        assert (members["mine"].uid, members["mine"].gid) == (1234, 7)
        assert (members["strangers"].uid, members["strangers"].gid) == (65_534, 65_534)
        assert "zero" not in members
        assert members["out"].issym()
        assert (members["mayfly-init"].uid, members["mayfly-init"].mode) == (0, 0o555)
        program = tar.extractfile("mayfly-init")
        assert program is not None
        assert program.read() == b"init's"


def test_a_directory_of_the_inits_name_does_not_go(tmp_path: Path) -> None:
    """Nor what is in it: nothing of an image may stand where the init goes."""
    (tmp_path / "mayfly-init").mkdir()
    (tmp_path / "mayfly-init" / "x").write_text("")
    to = io.BytesIO()
    write_tar(tmp_path, b"init", to)
    to.seek(0)
    assert [each.name for each in tarfile.open(fileobj=to)] == [".", "mayfly-init"]  # noqa: SIM115


@pytest.mark.parametrize(
    "path", ["/a b", '/"q"', "/$HOME/x", "/back\\slash", "/ümlaut", "/new\nline", os.fsdecode(b"/\xff")]
)
def test_a_label_means_nothing_to_a_dockerfile(path: str) -> None:
    """And the path comes back."""
    label = _label(Path(path))
    assert label.isascii()
    assert not set(label) & set(" \"'$\\\n")
    assert _path(label) == Path(path)


def test_a_tmp_with_files_is_not_covered(tmp_path: Path) -> None:
    """An image's own files in /tmp stay visible; an empty /tmp gets a limited one."""
    assert rootfs._has_tmp(tmp_path)
    (tmp_path / "tmp").mkdir()
    assert not rootfs._has_tmp(tmp_path)
    (tmp_path / "tmp" / "x").write_text("")
    assert rootfs._has_tmp(tmp_path)
