"""What an image may have where Mayfly mounts its own file systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from mayfly.domain.errors import ImageUnavailable
from mayfly.images.mount_points import check_mount_points, check_secrets_place

pytestmark = pytest.mark.F6


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_an_image_leaves_mount_points_alone(tmp_path: Path, name: str, kind: str) -> None:
    """A link or a file in the place of a directory that is mounted on is refused, and named."""
    place = tmp_path / name
    if kind == "file":
        place.touch()
    else:
        place.symlink_to("." if kind == "link" else "/nowhere")
    with pytest.raises(ImageUnavailable, match=f"no directory at /{name} "):
        check_mount_points(tmp_path)


@pytest.mark.parametrize("name", ["run", "run/secrets"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_an_image_leaves_the_place_of_secrets_alone(tmp_path: Path, name: str, kind: str) -> None:
    """A link or a file there is refused, named, and told what to do; a link is not followed out of the image."""
    place = tmp_path / "image" / name
    place.parent.mkdir(parents=True)
    if kind == "file":
        place.touch()
    else:
        place.symlink_to(tmp_path if kind == "link" else "/nowhere")
    check_mount_points(tmp_path / "image")
    with pytest.raises(ImageUnavailable, match=f"no directory at /{name} .*as=environment"):
        check_secrets_place(tmp_path / "image")


@pytest.mark.parametrize("has", ["", "run", "run/secrets"])
def test_an_ordinary_image_has_room_for_secrets(tmp_path: Path, has: str) -> None:
    """With the directory and without."""
    (tmp_path / has).mkdir(parents=True, exist_ok=True)
    check_secrets_place(tmp_path)


def test_a_directory_is_no_hosts_file(tmp_path: Path) -> None:
    """Nor can a file be mounted on a directory."""
    (tmp_path / "etc" / "hosts").mkdir(parents=True)
    with pytest.raises(ImageUnavailable, match="a directory at /etc/hosts"):
        check_mount_points(tmp_path)


def test_a_file_is_no_etc(tmp_path: Path) -> None:
    """No file can be mounted in a file: each call would fail, as if by our fault."""
    (tmp_path / "etc").touch()
    with pytest.raises(ImageUnavailable, match="no directory at /etc, "):
        check_mount_points(tmp_path)


def test_a_link_tells_nothing_of_this_machine(tmp_path: Path) -> None:
    """An image whose /etc is a link, as some have it, is taken whatever this machine has there."""
    (tmp_path / "outside" / "hosts").mkdir(parents=True)
    image = tmp_path / "image"
    image.mkdir()
    (image / "etc").symlink_to(tmp_path / "outside")
    check_mount_points(image)


@pytest.mark.parametrize("filled", [False, True])
def test_ordinary_images_pass(tmp_path: Path, filled: bool) -> None:
    """With those directories, and without, as an image of one static program has them."""
    if filled:
        for name in ("proc", "dev", "sys", "etc"):
            (tmp_path / name).mkdir()
        (tmp_path / "etc" / "hosts").symlink_to("../../../../etc/hosts")
    check_mount_points(tmp_path)
