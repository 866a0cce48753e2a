"""
Write OCI images without docker, without a network and without root: a layout on disk, which skopeo pushes.

An image here is one layer of files beside a static busybox, with its configuration. It is what the examples and the
tests are built from on a machine that has neither a docker daemon nor the internet.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUSYBOX = Path("/bin/busybox")
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
USER_DATABASE = "".join(
    f"{line}\n"
    for line in (
        "root:x:0:0:root:/root:/bin/sh",
        "nobody:x:65534:65534:nobody:/:/bin/false",
        "app:x:1234:1234::/home/app:/bin/sh",
    )
)
ETC_GROUP = "root:x:0:\nnogroup:x:65534:\napp:x:1234:\nextra:x:777:app\n"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as a registry keeps it: gzipped, and the digest of the tar inside."""

    content: bytes
    diff_id: str

    @classmethod
    def of(cls, tar: bytes) -> Layer:
        """Make one of a tar."""
        return cls(gzip.compress(tar, compresslevel=1, mtime=0), _digest(tar))


@dataclass(frozen=True, kw_only=True)
class Image:
    """What to put into an image. *files* maps paths to contents, or to a path of this machine to copy."""

    files: Mapping[str, bytes | str | Path] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)
    members: Sequence[tarfile.TarInfo] = ()  # links, devices and the like, as they are
    entrypoint: Sequence[str] | None = None
    cmd: Sequence[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    busybox: bool = True
    architecture: str = ARCHITECTURE
    layer: Layer | None = None  # one that was made elsewhere, in place of all files above

    def config(self, diff_id: str) -> dict[str, Any]:
        """The image configuration, as the OCI image specification has it."""
        variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **self.env}
        own: dict[str, Any] = {"Env": [f"{name}={value}" for name, value in variables.items()]}
        given = {"Entrypoint": self.entrypoint, "Cmd": self.cmd, "User": self.user, "WorkingDir": self.workdir}
        own |= {name: value for name, value in given.items() if value}
        return {
            "architecture": self.architecture,
            "os": "linux",
            "config": own,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created_by": "mayfly examples"}],
        }


def push(image: Image, reference: str) -> str:
    """Build *image* and push it to a plain-http registry on the loopback; return its digest."""
    with tempfile.TemporaryDirectory(prefix="mayfly-image-") as directory:
        digest = write_layout(image, Path(directory))
        command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
        subprocess.run([*command, f"oci:{directory}:image", f"docker://{reference}"], check=True)
    return digest


def write_layout(image: Image, directory: Path) -> str:
    """Write *image* as an OCI layout with the name `image`; return the manifest's digest."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    made = image.layer or Layer.of(_tar(image))
    layer, config = made.content, _json(image.config(made.diff_id))
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)],
        }
    )
    for blob in (layer, config, manifest):
        (blobs / _digest(blob).removeprefix("sha256:")).write_bytes(blob)
    described = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    described["annotations"] = {"org.opencontainers.image.ref.name": "image"}
    (directory / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [described]}))
    (directory / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return _digest(manifest)


def _tar(image: Image) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory, mode in (("bin", 0o755), ("etc", 0o755), ("home", 0o755), ("tmp", 0o1777), ("root", 0o700)):
            _add_directory(tar, directory, mode)
        if image.busybox:
            _add_busybox(tar)
        _add_directory(tar, "home/app", 0o755, owner=1234)
        for path, content in image.files.items():
            data = content.read_bytes() if isinstance(content, Path) else content
            mode = image.modes.get(path, content.stat().st_mode & 0o777 if isinstance(content, Path) else 0o644)
            _add_file(tar, path.lstrip("/"), data.encode() if isinstance(data, str) else data, mode)
        for member in image.members:
            tar.addfile(member)
    return buffer.getvalue()


def _add_busybox(tar: tarfile.TarFile) -> None:
    _add_file(tar, "etc/passwd", USER_DATABASE.encode(), 0o644)
    _add_file(tar, "etc/group", ETC_GROUP.encode(), 0o644)
    _add_file(tar, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)


def _add_directory(tar: tarfile.TarFile, path: str, mode: int, *, owner: int = 0) -> None:
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.uid, member.gid = tarfile.DIRTYPE, mode, owner, owner
    tar.addfile(member)


def _add_file(tar: tarfile.TarFile, path: str, data: bytes, mode: int) -> None:
    member = tarfile.TarInfo(path)
    member.size, member.mode = len(data), mode
    tar.addfile(member, io.BytesIO(data))


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
