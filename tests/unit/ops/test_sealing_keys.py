"""The sealing keys of a deployment: private with the workers, public with the API servers, and changed in two steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from mayfly.domain.errors import SecretUnavailable
from mayfly.ops.bundle import bundle, unpack
from mayfly.ops.folder import SecretsUnusable
from mayfly.ops.layout import Layout
from mayfly.ops.secrets import create
from mayfly.ops.secrets_rotation import rotate
from mayfly.services.sealing import Opener, Sealer
from tests.unit.ops.test_secrets import ME, files, wanted

pytestmark = [pytest.mark.F4, pytest.mark.D4, pytest.mark.D7]

PLACE = ("a", "place")


def kids(root: Path) -> tuple[list[str], list[str]]:
    """The keys that workers have, and those that API servers have."""
    private = sorted(path.stem for path in (root / "worker/sealing-keys").glob("*.pem"))
    return private, sorted(path.name.removesuffix(".pub.pem") for path in (root / "api/sealing-keys").iterdir())


def seal_and_open(root: Path) -> str:
    """Seal as an API server does, open as a worker does; return with which key."""
    sealed = Sealer.load(root / "api/sealing-keys").seal(b"x", PLACE)
    assert Opener.load(root / "worker/sealing-keys").open(sealed, PLACE, what="it") == b"x"
    return sealed.kid


def test_only_workers_have_the_private_half(tmp_path: Path) -> None:
    """The private key is in one file of the whole directory, the worker's, and its public half with the API servers."""
    create(tmp_path, wanted())

    [kid], [published] = kids(tmp_path)
    assert kid == published == seal_and_open(tmp_path)
    private = (tmp_path / f"worker/sealing-keys/{kid}.pem").read_bytes()
    assert [name for name, content in files(tmp_path).items() if private in content] == [
        f"worker/sealing-keys/{kid}.pem"
    ]
    assert (tmp_path / f"worker/sealing-keys/{kid}.pem").stat().st_mode & 0o777 == 0o400
    assert create(tmp_path, wanted()) == []


def test_a_directory_from_before_gets_a_key(tmp_path: Path) -> None:
    """What `create` made before there were sealing keys is completed by running it again; public halves come back."""
    create(tmp_path, wanted())
    for path in [*(tmp_path / "worker/sealing-keys").iterdir(), *(tmp_path / "api/sealing-keys").iterdir()]:
        path.unlink()
    create(tmp_path, wanted())
    kid = seal_and_open(tmp_path)

    next((tmp_path / "api/sealing-keys").iterdir()).unlink()
    create(tmp_path, wanted())

    assert seal_and_open(tmp_path) == kid


def test_workers_know_a_key_before_it_seals(tmp_path: Path) -> None:
    """The first step gives it to workers alone, also if `create` runs in between; the second lets it seal."""
    create(tmp_path, wanted())
    old = seal_and_open(tmp_path)

    first = rotate(tmp_path, "sealing-key", ME)
    assert create(tmp_path, wanted()) == []
    assert (len(kids(tmp_path)[0]), kids(tmp_path)[1]) == (2, [old])
    assert seal_and_open(tmp_path) == old
    assert "NEXT restart the workers" in first[-1]

    second = rotate(tmp_path, "sealing-key", ME)
    assert seal_and_open(tmp_path) == kids(tmp_path)[0][-1] != old
    assert "`mayfly secrets reseal`" in second[-1]


def test_without_a_key_in_use_none_is_rotated_in(tmp_path: Path) -> None:
    """In a directory from before there were any, each run would make one more, and let none of them seal."""
    create(tmp_path, wanted())
    for path in [*(tmp_path / "worker/sealing-keys").iterdir(), *(tmp_path / "api/sealing-keys").iterdir()]:
        path.unlink()

    with pytest.raises(SecretsUnusable, match="mayfly secrets create"):
        rotate(tmp_path, "sealing-key", ME)
    assert kids(tmp_path) == ([], [])


def test_no_rotation_loses_what_was_sealed(tmp_path: Path) -> None:
    """However often it is rotated, the oldest key still opens; removed by hand, its public half goes as well."""
    create(tmp_path, wanted())
    sealed = Sealer.load(tmp_path / "api/sealing-keys").seal(b"x", PLACE)
    for _ in range(6):
        rotate(tmp_path, "sealing-key", ME)
    assert len(kids(tmp_path)[0]) == 4
    assert Opener.load(tmp_path / "worker/sealing-keys").open(sealed, PLACE, what="it") == b"x"

    (tmp_path / f"worker/sealing-keys/{sealed.kid}.pem").unlink()
    create(tmp_path, wanted())

    assert kids(tmp_path)[0] == kids(tmp_path)[1]
    with pytest.raises(SecretUnavailable):
        Opener.load(tmp_path / "worker/sealing-keys").open(sealed, PLACE, what="it")


def test_names_that_somebody_chose_do_not_matter(tmp_path: Path) -> None:
    """A key whose name sorts after any that we make is followed by one that sorts after it."""
    create(tmp_path, wanted())
    [kid], _ = kids(tmp_path)
    (tmp_path / f"worker/sealing-keys/{kid}.pem").rename(tmp_path / "worker/sealing-keys/zz.pem")
    create(tmp_path, wanted())
    assert seal_and_open(tmp_path) == "zz"

    rotate(tmp_path, "sealing-key", ME)
    rotate(tmp_path, "sealing-key", ME)

    assert seal_and_open(tmp_path).startswith("zz-")


def test_a_damaged_key_is_never_replaced(tmp_path: Path) -> None:
    """Nothing is made in its stead, as that would hide that all that it sealed is lost."""
    create(tmp_path, wanted())
    [kid], _ = kids(tmp_path)
    path = tmp_path / f"worker/sealing-keys/{kid}.pem"
    path.unlink()
    path.write_bytes(b"half a k")
    before = files(tmp_path)

    with pytest.raises(SecretsUnusable, match="Bring it back"):
        create(tmp_path, wanted())
    assert files(tmp_path) == before


def test_a_bundle_has_them(tmp_path: Path) -> None:
    """On a platform of variables only, what `unpack` writes seals and opens as well."""
    create(tmp_path / "made", wanted())
    for role in ("api", "worker"):
        unpack(bundle(tmp_path / "made" / role), tmp_path / "unpacked" / role)

    assert seal_and_open(tmp_path / "unpacked") == seal_and_open(tmp_path / "made")


def test_up_makes_one_and_keeps_it(tmp_path: Path) -> None:
    """`mayfly up` has a key, whose private half its API server's directory has not, and has it at each start."""
    layout = Layout(tmp_path)
    for _ in range(2):
        layout.fill(("localhost",), nats_port=4222, nats_uid=ME.nats, api_uid=ME.api)
        sealed = Sealer.load(layout.api / "sealing-keys").seal(b"x", PLACE)
        assert Opener.load(layout.sealing_keys).open(sealed, PLACE, what="it") == b"x"
    [private] = layout.sealing_keys.iterdir()
    assert private.stat().st_mode & 0o777 == 0o600
    assert not [path for path in layout.api.rglob("*.pem") if path.read_bytes() == private.read_bytes()]
