"""
What an image wants to run, resolved against its own tree.

umoci resolves user, groups, HOME and directory from the image's /etc/passwd and /etc/group. It opens them by their
path, though, through symbolic links that lead out of the tree: an image could read this machine's user database. So an
image is refused unless both files, as far as they are there, are ordinary ones inside.
"""

from __future__ import annotations

import posixpath
from pathlib import Path

import msgspec

from mayfly.domain.errors import ImageUnavailable
from mayfly.domain.image import ProcessConfig
from mayfly.images.manifest import Command, ImageConfig, read
from mayfly.images.programs import umoci

UID_SHIFT = 100_000
UID_COUNT = 65_536
MAX_BYTES = 64 << 10  # it travels in messages and records; the kernel's own limit is not far above


class _User(msgspec.Struct, frozen=True):
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] | None = msgspec.field(name="additionalGids", default=None)


class _Process(msgspec.Struct, frozen=True):
    user: _User = _User()
    env: tuple[str, ...] | None = None
    cwd: str = ""


class _Runtime(msgspec.Struct, frozen=True):
    process: _Process


def shift() -> list[str]:
    """umoci's options for whose the files on disk are."""
    mapping = f"0:{UID_SHIFT}:{UID_COUNT}"
    return ["--uid-map", mapping, "--gid-map", mapping]


async def resolve_process(layout: Path, rootfs: Path, image: ImageConfig) -> ProcessConfig:
    """
    Resolve what the image in *layout*, unpacked to *rootfs*, runs.

    Raises: ImageUnavailable for a user that it does not have, or for what no process can be given.
    """
    target = rootfs.parent / "config.json"
    if not _has_user_database(rootfs):
        raise ImageUnavailable("The image's /etc/passwd or /etc/group is a link that leads out of the image.")
    tree = ["--rootfs", str(rootfs)]
    await umoci("raw", "runtime-config", "--image", f"{layout}:image", *shift(), *tree, str(target))
    runtime = read(target.read_bytes(), _Runtime)
    target.unlink()
    return _checked(_process_config(runtime.process, image.config or Command()))


def _has_user_database(rootfs: Path) -> bool:
    """Whether both files, as far as they are there, are ordinary ones of the tree."""
    root = rootfs.resolve()
    for path in (rootfs / "etc/passwd", rootfs / "etc/group"):
        try:
            real = path.resolve(strict=True)
        except FileNotFoundError:
            real = path.resolve()
            if not real.is_relative_to(root):
                return False
        except (OSError, RuntimeError):  # a circle of links
            return False
        else:
            if not (real.is_relative_to(root) and real.is_file()):
                return False
    return True


def _process_config(process: _Process, own: Command) -> ProcessConfig:
    variables = [_pair(line) for line in process.env or () if "=" in line]
    if not any(line.startswith("TERM=") for line in own.env or ()):
        variables = [(name, value) for name, value in variables if name != "TERM"]  # umoci's idea, not the image's
    return ProcessConfig(
        entrypoint=own.entrypoint or (),
        cmd=own.cmd or (),
        env=tuple(variables),
        cwd=posixpath.normpath(posixpath.join("/", process.cwd)),
        uid=process.user.uid,
        gid=process.user.gid,
        groups=process.user.groups or (),
    )


def _checked(config: ProcessConfig) -> ProcessConfig:
    ids = (config.uid, config.gid, *config.groups)
    if not all(0 <= number < UID_COUNT for number in ids):
        raise ImageUnavailable(f"The image's user or a group of it is not below {UID_COUNT}: {max(ids)}.")
    words = (*config.entrypoint, *config.cmd, config.cwd, *(part for pair in config.env for part in pair))
    if any("\0" in word for word in words):
        raise ImageUnavailable("The image's command, directory or variables hold a NUL, which no process can be given.")
    if len(msgspec.json.encode(config)) > MAX_BYTES:
        raise ImageUnavailable(
            f"The image's command, variables and groups are over {MAX_BYTES >> 10} KiB, the most that is allowed."
        )
    return config


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    return name, value
