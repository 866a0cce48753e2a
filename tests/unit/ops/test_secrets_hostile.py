"""The secrets directory against roles that own a part of it, operators who mistype, and ends at the wrong moment."""

from __future__ import annotations

import datetime
import errno
import fcntl
import os
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mayfly.ops import certificates, folder
from mayfly.ops.bundle import bundle
from mayfly.ops.certificates import Authority, AuthorityUnusable, is_host, write_secret
from mayfly.ops.folder import SecretsUnusable
from mayfly.ops.secrets import Owners, Wanted, create, locked
from mayfly.ops.secrets_rotation import STEPS, rotate
from mayfly.settings import SettingsError

pytestmark = [pytest.mark.D4, pytest.mark.D7]

MYSELF = os.geteuid()
ME = Owners(api=MYSELF, nats=MYSELF, gateway=MYSELF, worker=MYSELF, admin=MYSELF)
WANTED = Wanted(owners=ME)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A secrets directory."""
    create(tmp_path / "secrets", WANTED)
    return tmp_path / "secrets"


def state(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every plain file, with its mode."""
    return {
        str(path.relative_to(root)): (path.stat().st_mode, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def every_command(root: Path) -> list[Callable[[], list[str]]]:
    """`create`, and each rotation."""
    return [partial(create, root, WANTED), *(partial(rotate, root, what, ME) for what in STEPS)]


# --- a role that owns its directory ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "link",
    [
        "gateway/gateway.secret",
        "api/nats.password",
        "api/gateway.secret",
        "api/token-keys/z.pem",
        "api/token-keys/z.pem.next",
        "gateway/token-keys/z.pem",
        "nats-1/nats.conf",
    ],
)
def test_a_link_to_anothers_key_hands_nothing_over(root: Path, link: str) -> None:
    """Root reads nothing through a link that a role has put into its directory: neither content nor modes change."""
    (root / link).unlink(missing_ok=True)
    (root / link).symlink_to(root / "ca/ca.key")
    secret, before = (root / "ca/ca.key").read_bytes(), state(root)

    for action in every_command(root):
        if link == "gateway/token-keys/z.pem":  # not read: it has no private key, so it is removed
            action()
            assert not (root / link).is_symlink()
        else:
            with pytest.raises(SecretsUnusable, match=f"{link}.*symbolic link.*Remove it"):
                action()
            assert state(root) == before
    assert sum(secret.strip() in content for _, content in state(root).values()) == 1


@pytest.mark.parametrize("link", ["gateway/gateway.key", "api/api.crt", "worker/ca.crt", "public/ca.crt"])
def test_create_reads_through_no_link_at_all(root: Path, link: str) -> None:
    """Nor where other rotations do not look at all."""
    (root / link).unlink()
    (root / link).symlink_to(root / "ca/ca.crt")
    mode = (root / "ca/ca.crt").stat().st_mode

    with pytest.raises(SecretsUnusable, match=f"{link}.*symbolic link"):
        create(root, WANTED)
    assert (root / "ca/ca.crt").stat().st_mode == mode


def test_what_is_no_plain_file_holds_nobody_up(root: Path) -> None:
    """A pipe that nobody writes to, or a file of a gigabyte, is refused at once."""
    os.mkfifo(root / "api/token-keys/z.pem")
    with pytest.raises(SecretsUnusable, match=r"z\.pem.*no plain file"):
        create(root, WANTED)
    (root / "api/token-keys/z.pem").unlink()

    with (root / "api/token-keys/z.pem").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(SecretsUnusable, match=rf"z\.pem has more than {folder.FILE_MAX_BYTES} bytes"):
        create(root, WANTED)


def test_a_planted_configuration_gets_no_passwords(root: Path) -> None:
    """A nats.conf in the directory of a role that is no nats-server is not filled with everybody's passwords."""
    planted = '{"accounts": {"x": {"users": [{"user": "admin", "password": "?"}]}}}'
    (root / "worker/nats.conf").write_text(planted)

    rotate(root, "nats-passwords", ME)

    assert (root / "worker/nats.conf").read_text() == planted


def test_a_link_is_not_bundled(root: Path) -> None:
    """What a link leads to is not the role's."""
    (root / "api/extra.pem").symlink_to(root / "ca/ca.key")

    with pytest.raises(SecretsUnusable, match=r"extra\.pem.*symbolic link"):
        bundle(root / "api")


@pytest.mark.parametrize(("content", "why"), [(b"\xff\xfe", "not text"), (b"x" * (1 << 20), "more than")])
def test_what_no_bundle_can_hold_is_named(root: Path, content: bytes, why: str) -> None:
    """Bytes that are no text, or too many, are refused with the file's name."""
    (root / "api/extra.pem").write_bytes(content)

    with pytest.raises(SettingsError, match=rf"extra\.pem.*{why}"):
        bundle(root / "api")


# --- somebody who mistypes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "a-b.c_d", "xn--mnchen-3ya.de", "*.example.org", "::1", "10.0.0.1", "1.example"])
def test_a_host_is_taken(name: str) -> None:
    """Names and addresses as they stand in certificates."""
    assert is_host(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "a b", "a\nb", "a\x01", "a\x7f", "ä.de", "..", ".a", "a.", "a..b", "-a", "a-", "*", "a.*", "*a.b"),
        *("[::1]", "fe80::1%eth0", "10.0.0.0/8", "256.1.1.1", "010.1.1.1", "$(id)", 'a"b', "a\\b", "a;b", "x:1"),
        *("a" * 64, ".".join(["a" * 60] * 5), "http://x", "a{b}"),
    ],
)
def test_what_no_certificate_can_match_is_no_host(name: str) -> None:
    """What would be in a certificate and never match is refused when it is typed."""
    assert not is_host(name)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        *(
            ({"nats": (name,)}, "--nats: ")
            for name in ("..", ".x", "10.1.2.3", "::1", "*.x", "API.x", "-x", "ca", "api.x")
        ),
        *(({"nats_monitor": name}, "--nats-monitor: ") for name in ("", "*.x", 'a"b')),
        ({"owners": Owners(api=-1)}, "--api-uid: -1 is no user id"),
        ({"owners": Owners(worker=2**32 - 1)}, "--worker-uid: 4294967295 is no user id.*from 0 to 4294967294"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path: Path, given: dict[str, object], why: str) -> None:
    """A server's name is a directory's: `..` would be that of the secrets itself."""
    with pytest.raises(SettingsError, match=why):
        create(tmp_path / "secrets", Wanted(**{"owners": ME, **given}))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """A project may have an `api` and a `public` of its own: their modes and owners stay what they were."""
    for name in ("api", "public", "web"):
        (tmp_path / name).mkdir(mode=0o775)
    before = {path: path.stat() for path in tmp_path.iterdir()}

    with pytest.raises(SecretsUnusable, match="has other things in it, such as 'web'"):
        create(tmp_path, WANTED)

    assert {path: path.stat() for path in tmp_path.iterdir()} == before


def test_nobody_else_may_write_into_the_directory(tmp_path: Path) -> None:
    """Whatever the umask, nobody else can put a directory in the place of a role's."""
    before = os.umask(0)
    try:
        create(tmp_path / "secrets", WANTED)
    finally:
        os.umask(before)

    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets", *(tmp_path / "secrets").rglob("*"))]
    assert not any(mode & 0o022 for mode in modes)


def other_key(curve: ec.EllipticCurve) -> bytes:
    """A private key, in PEM."""
    return certificates.private_pem(ec.generate_private_key(curve))


BROKEN = {
    "ca/ca.crt": (b"", b"garbage"),
    "ca/ca.key": (b"", b"garbage", other_key(ec.SECP256R1())),
    "api/token-keys/z.pem": (b"garbage", b"", other_key(ec.SECP384R1())),
    "api/token-keys/z.pem.next": (b"garbage",),
    "api/nats.password": (b"\xff" * 30, b"two\nlines" * 20, b"short", b"x" * 1000, b"with a space in between"),
    "gateway/gateway.secret": (b"short", b"\x00" * 40, b"x" * 40 + b"\n" + b"y" * 40),
    "api/gateway.secret": (b"short", b"x" * 40 + b"\nshort"),
    "nats-1/nats.conf": (
        b"garbage",
        b"\xff\xfe",
        b"{}",
        b"[]",
        b"1",
        b'{"accounts": {"A": {"users": [{"user": "eve"}]}}}',
    ),
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name, contents in BROKEN.items() for content in contents]
)
def test_what_is_damaged_is_named_and_nothing_else_changes(root: Path, name: str, content: bytes) -> None:
    """A damaged file is named, with what to do, before anything is written, whichever command meets it."""
    (root / name).unlink(missing_ok=True)
    (root / name).write_bytes(content)
    before = state(root)

    for action in every_command(root):
        with pytest.raises(SettingsError, match=f"{name}.*(emove it|ring it back)"):
            action()
        assert state(root) == before


@pytest.mark.parametrize("lost", [("api",), ("gateway",), ("api", "gateway")])
def test_a_secret_that_is_lost_is_not_rotated(root: Path, lost: tuple[str, ...]) -> None:
    """With the gateway's secret lost on one side, nobody knows which step is the next one."""
    for role in lost:
        (root / role / "gateway.secret").unlink()

    with pytest.raises(SecretsUnusable, match="secrets create"):
        rotate(root, "gateway-secret", ME)


def test_a_password_with_a_line_break_at_its_end_is_without_it(root: Path) -> None:
    """An editor adds one; who reads the file does not count it, so nats-server must not either."""
    (root / "api/nats.password").unlink()
    (root / "api/nats.password").write_bytes(b"chosen-by-a-person\n")

    create(root, WANTED)

    assert '"password": "chosen-by-a-person"' in (root / "nats-1/nats.conf").read_text()
    assert create(root, WANTED) == []


# --- the clock ------------------------------------------------------------------------------------------------------


class Clock(datetime.datetime):
    """The time, moved."""

    by = datetime.timedelta()

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        """Return the moved time."""
        return datetime.datetime.now(tz) + cls.by


def move_clock(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """Move the clock that certificates are made by."""
    monkeypatch.setattr(Clock, "by", datetime.timedelta(days=days))
    moved = SimpleNamespace(datetime=Clock, timedelta=datetime.timedelta, UTC=datetime.UTC)
    monkeypatch.setattr(certificates, "datetime", moved)


@pytest.mark.parametrize("days", [-30, 3700])
def test_an_authority_out_of_its_time_is_named(root: Path, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """A clock in the past, or an authority that has ended: nobody would take what it signs, so nothing is signed."""
    before = state(root)
    move_clock(monkeypatch, days)

    for action in every_command(root):
        with pytest.raises(AuthorityUnusable, match=r"ca\.crt is good from .* Set the clock"):
            action()
    assert state(root) == before


def test_an_authority_that_ends_soon_is_announced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A year before the authority ends, each run says so."""
    move_clock(monkeypatch, certificates.CA_DAYS - 300)

    assert [line for line in create(root, WANTED) if "NOTE the authority" in line]


def test_a_certificate_of_a_later_day_is_made_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made while the clock was ahead is good for nobody until then."""
    move_clock(monkeypatch, 10)
    rotate(root, "certificates", ME)
    monkeypatch.undo()

    assert [line for line in create(root, WANTED) if "api.crt" in line and "was the clock wrong?" in line]


# --- two at once, and ends at the wrong moment ----------------------------------------------------------------------


def test_a_second_rotation_at_once_takes_no_step(root: Path) -> None:
    """Who waited would go on to the next step before anybody was restarted; `create` waits, but not for ever."""
    descriptor = os.open(root / "ca", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    before = state(root)
    try:
        with pytest.raises(SecretsUnusable, match="Another program is at work on"):
            rotate(root, "token-key", ME)
        with pytest.raises(SecretsUnusable, match="Another program is at work on"), locked(root, within_s=0.1):
            pass
    finally:
        os.close(descriptor)
    assert state(root) == before


def test_a_full_disk_leaves_no_part_of_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written whole is removed, the error names the file, and the old one is as it was."""
    write_secret(tmp_path / "a.key", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space left") as raised:
        write_secret(tmp_path / "a.key", b"new")
    assert raised.value.filename == str(tmp_path / "a.key")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.key": b"old"}


KILLED = """
import os, sys
from pathlib import Path
from mayfly.ops import certificates, folder
from mayfly.ops.secrets import Owners, Wanted, create
from mayfly.ops.secrets_rotation import rotate
left, real = int(sys.argv[2]), certificates.write_secret
def write(*args, **kwargs):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    real(*args, **kwargs)
certificates.write_secret = folder.write_secret = write
me = os.geteuid()
owners = Owners(me, me, me, me, me)
root, what = Path(sys.argv[1]), sys.argv[3:]
rotate(root, what[0], owners) if what else create(root, Wanted(owners=owners))
"""


def killed_after(root: Path, writes: int, *what: str) -> bool:
    """Run `create`, or a rotation, killed before one write more; say whether it was."""
    ended = subprocess.run([sys.executable, "-c", KILLED, str(root), str(writes), *what], check=False)
    assert ended.returncode in {0, 9}
    return ended.returncode == 9


@pytest.mark.parametrize("writes", [0, 2, 3, 7, 12, 20])
def test_a_killed_create_goes_on(tmp_path: Path, writes: int) -> None:
    """Wherever it was killed, the next run completes the directory, and the one after has nothing to do."""
    assert killed_after(tmp_path / "secrets", writes)

    create(tmp_path / "secrets", WANTED)

    assert create(tmp_path / "secrets", WANTED) == []


def test_a_create_killed_within_the_authority_says_what_to_do(tmp_path: Path) -> None:
    """A key without its certificate may have been lost by hand, so a person decides."""
    assert killed_after(tmp_path / "secrets", 1)

    with pytest.raises(AuthorityUnusable, match="remove the key to begin"):
        create(tmp_path / "secrets", WANTED)
    (tmp_path / "secrets/ca/ca.key").unlink()
    create(tmp_path / "secrets", WANTED)


@pytest.mark.parametrize("what", STEPS)
@pytest.mark.parametrize("writes", [0, 1, 2, 4])
def test_a_killed_rotation_heals(root: Path, what: str, writes: int) -> None:
    """Wherever it was killed, `create` makes everything fit again."""
    killed_after(root, writes, what)

    create(root, WANTED)

    assert create(root, WANTED) == []
    for path in root.glob("*/*.key"):
        certificate = path.with_suffix(".crt").read_bytes()
        assert certificates.key_belongs(certificates.Issued(certificate, path.read_bytes())), path
    signing = sorted((root / "api/token-keys").glob("*.pem*"))
    known = sorted(path.stem for path in (root / "gateway/token-keys").iterdir())
    assert known == sorted({path.name.partition(".")[0] for path in signing})
    for path in signing:
        serialization.load_pem_private_key(path.read_bytes(), password=None)


def test_a_certificate_that_cannot_be_read_is_made_anew(tmp_path: Path) -> None:
    """Whatever a role puts in the place of its own, such as one of version 7, `create` and `rotate` go on."""
    root, own = tmp_path / "secrets", Authority(tmp_path / "own")
    create(root, WANTED)
    own.ensure()
    issued = own.issue(("faas.example.org",))
    der = x509.load_pem_x509_certificate(issued.certificate).public_bytes(serialization.Encoding.DER)
    version = bytes.fromhex("a0030201")
    strange = ssl.DER_cert_to_PEM_cert(der.replace(version + b"\2", version + b"\6", 1)).encode()
    certificate, key = root / "api/api.crt", root / "api/api.key"

    for go_on in (partial(rotate, root, "certificates", ME), partial(create, root, WANTED)):
        for path, content in ((certificate, strange), (key, issued.key)):
            path.unlink()
            path.write_bytes(content)
        go_on()
        assert certificate.read_bytes() != strange
