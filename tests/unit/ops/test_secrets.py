"""The secrets directory: who gets what, what is kept, what is renewed, and how it is changed."""

from __future__ import annotations

import datetime
import json
import os
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from mayfly.ops import certificates
from mayfly.ops.certificates import AuthorityUnusable
from mayfly.ops.folder import SecretsUnusable
from mayfly.ops.secrets import Owners, Wanted, create
from mayfly.ops.secrets_rotation import rotate
from mayfly.settings import SettingsError
from tests.support.need import need

pytestmark = [pytest.mark.D4, pytest.mark.D7]

ME = Owners(api=os.geteuid(), nats=os.geteuid(), gateway=os.geteuid(), worker=os.geteuid(), admin=os.geteuid())


def wanted(**given: object) -> Wanted:
    """What is wanted, owned by whoever runs the tests."""
    return Wanted(owners=ME, **given)  # type: ignore[arg-type]


def files(root: Path) -> dict[str, bytes]:
    """Everything in the directory."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def keys(directory: Path) -> list[str]:
    """The key ids in a directory."""
    return sorted(path.stem for path in directory.glob("*.pem"))


def test_each_role_has_its_files_and_no_others(tmp_path: Path) -> None:
    """The directory is the table that all deployments are written against: nothing is missing, nothing is too much."""
    create(tmp_path, wanted())

    [kid], [sealing] = keys(tmp_path / "api/token-keys"), keys(tmp_path / "worker/sealing-keys")
    nats = ("nats.conf", "nats.crt", "nats.key", "ca.crt")
    assert set(files(tmp_path)) == {
        *("ca/ca.crt", "ca/ca.key", "ca/names.json", "public/ca.crt"),
        *(f"gateway/{name}" for name in ("gateway.crt", "gateway.key", "ca.crt", "gateway.secret")),
        f"gateway/token-keys/{kid}.pem",
        *(f"api/{name}" for name in ("api.crt", "api.key", "ca.crt", "nats.password", "gateway.secret")),
        f"api/token-keys/{kid}.pem",
        f"worker/sealing-keys/{sealing}.pem",
        f"api/sealing-keys/{sealing}.pub.pem",
        *("worker/ca.crt", "worker/nats.password", "admin/ca.crt", "admin/nats.password"),
        *(f"nats-{number}/{name}" for number in (1, 2, 3) for name in nats),
    }


def test_the_authoritys_key_and_the_signing_keys_are_in_one_place_only(tmp_path: Path) -> None:
    """The CA's private key is in `ca` and nowhere else, and the gateway has public token keys only."""
    create(tmp_path, wanted())

    made = files(tmp_path)
    ca_key = made.pop("ca/ca.key")
    assert not [name for name, content in made.items() if ca_key in content]
    [kid] = keys(tmp_path / "gateway/token-keys")
    assert b"PRIVATE" in made[f"api/token-keys/{kid}.pem"]
    assert made[f"gateway/token-keys/{kid}.pem"].startswith(b"-----BEGIN PUBLIC KEY-----")


def test_nobody_but_its_role_can_read_a_secret(tmp_path: Path) -> None:
    """Directories are 0700 and files 0400, but for the public certificate."""
    create(tmp_path, wanted())

    for path in tmp_path.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if "public" in path.parts:
            assert mode == (0o755 if path.is_dir() else 0o444), path
        else:
            assert mode in ((0o700,) if path.is_dir() else (0o400, 0o600)), path


@pytest.mark.root
def test_each_role_owns_its_directory(tmp_path: Path) -> None:
    """As root, `create` gives each directory with all in it to its role's user, the key directories too."""
    need(os.geteuid() == 0, "root")
    create(tmp_path, Wanted())

    owners = {"api": 59802, "gateway": 636, "worker": 0, "admin": 59802, "nats-1": 59801, "nats-3": 59801, "ca": 0}
    for role, uid in owners.items():
        for path in (tmp_path / role, *(tmp_path / role).rglob("*")):
            assert (path.stat().st_uid, path.stat().st_gid) == (uid, uid), path


def test_running_it_again_changes_nothing(tmp_path: Path) -> None:
    """A second run does nothing and says so, whatever the order of the names."""
    create(tmp_path, wanted())
    before = files(tmp_path)

    assert create(tmp_path, wanted(hosts=("::1", "localhost", "127.0.0.1"))) == []
    assert files(tmp_path) == before


def test_what_is_missing_comes_back_and_fits(tmp_path: Path) -> None:
    """A lost password file is made anew, and every nats-server's configuration has the new one."""
    create(tmp_path, wanted())
    (tmp_path / "worker/nats.password").unlink()
    (tmp_path / "gateway/gateway.secret").unlink()

    create(tmp_path, wanted())

    password = (tmp_path / "worker/nats.password").read_text()
    for number in (1, 2, 3):
        assert nats_users(tmp_path / f"nats-{number}")["worker"] == password
    assert (tmp_path / "gateway/gateway.secret").read_bytes() == (tmp_path / "api/gateway.secret").read_bytes()


def test_a_role_directory_is_never_replaced(tmp_path: Path) -> None:
    """A directory that is a mounted volume stays the same directory, with what else lies in it."""
    for role in ("ca", "public", "gateway", "api", "worker", "admin", "nats-1"):
        (tmp_path / role).mkdir()
        (tmp_path / role / "lost+found").mkdir()
    before = {path: path.stat().st_ino for path in tmp_path.glob("*/lost+found")}
    roots = {path: path.stat().st_ino for path in tmp_path.iterdir()}

    create(tmp_path, wanted())

    assert {path: path.stat().st_ino for path in before} == before
    assert {path: path.stat().st_ino for path in roots} == roots


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """A role's directory that is a symbolic link is refused, so root writes nowhere else."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/api").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(SecretsUnusable, match="symbolic link"):
        create(tmp_path / "secrets", wanted())
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("given", [{"hosts": ("a b",)}, {"api_hosts": ("api:8443",)}, {"nats": ("n-1.a", "n-1.b")}])
def test_a_name_that_cannot_be_is_refused_before_anything_is_made(tmp_path: Path, given: dict[str, object]) -> None:
    """A port, a space or two servers of one name are refused, and nothing is written."""
    with pytest.raises(SettingsError, match="--"):
        create(tmp_path / "secrets", wanted(**given))
    assert not (tmp_path / "secrets").exists()


def test_certificates_are_for_their_names(tmp_path: Path) -> None:
    """Each server's certificate has the names it is reached by, of the internal authority."""
    create(tmp_path, wanted(hosts=("faas.example.org", "10.0.0.1"), nats=("nats-1.nats.local", "nats-2.nats.local")))

    assert names(tmp_path / "gateway/gateway.crt") == {"faas.example.org", "10.0.0.1"}
    assert names(tmp_path / "api/api.crt") == {"api", "api-1", "api-2", "localhost", "127.0.0.1"}
    assert names(tmp_path / "nats-2/nats.crt") == {"nats-2", "nats-2.nats.local", "localhost", "127.0.0.1"}
    assert not (tmp_path / "nats-3").exists()


def names(certificate: Path) -> set[str]:
    """The names in a certificate."""
    return {str(name.value) for name in certificates.names_of(x509.load_pem_x509_certificate(certificate.read_bytes()))}


def test_a_new_name_renews_the_certificate_and_says_why(tmp_path: Path) -> None:
    """With a further name the certificate is made anew, the authority stays, and the reason is told."""
    create(tmp_path, wanted())
    ca = (tmp_path / "public/ca.crt").read_bytes()

    done = create(tmp_path, wanted(hosts=("localhost", "faas.example.org")))

    assert any("gateway.crt" in line and "lacks the name faas.example.org" in line for line in done)
    assert "faas.example.org" in names(tmp_path / "gateway/gateway.crt")
    assert (tmp_path / "public/ca.crt").read_bytes() == ca


def test_a_certificate_about_to_end_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate with fewer than 30 days left is made anew."""
    monkeypatch.setattr(certificates, "SERVER_DAYS", 20)
    create(tmp_path, wanted())
    monkeypatch.undo()

    done = create(tmp_path, wanted())

    assert sum("the old one ends on" in line for line in done) == 5
    assert create(tmp_path, wanted()) == []


def test_a_crash_between_key_and_certificate_heals(tmp_path: Path) -> None:
    """A key without its certificate, as after a crash, is replaced by a pair that fits."""
    create(tmp_path, wanted())
    other = tmp_path / "nats-1/nats.key"
    (tmp_path / "api/api.key").unlink()
    (tmp_path / "api/api.key").write_bytes(other.read_bytes())

    create(tmp_path, wanted())

    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "api/api.crt", tmp_path / "api/api.key")


def test_without_the_authoritys_key_what_is_good_is_kept_and_nothing_is_renewed(tmp_path: Path) -> None:
    """The CA's key may be kept elsewhere: then `create` works as long as nothing needs to be signed, and says so."""
    create(tmp_path, wanted())
    (tmp_path / "ca/ca.key").unlink()

    assert create(tmp_path, wanted()) == []
    with pytest.raises(AuthorityUnusable, match=r"ca\.key is missing"):
        create(tmp_path, wanted(api_hosts=("another",)))


def test_half_an_authority_is_never_replaced(tmp_path: Path) -> None:
    """With the CA's certificate lost, its key is not thrown away: clients trust it."""
    create(tmp_path, wanted())
    key = (tmp_path / "ca/ca.key").read_bytes()
    (tmp_path / "ca/ca.crt").unlink()

    with pytest.raises(AuthorityUnusable, match="Bring back"):
        create(tmp_path, wanted())
    assert (tmp_path / "ca/ca.key").read_bytes() == key


def an_operators_certificate(directory: Path, *, days: int = 90) -> None:
    """Put a certificate of another authority there, as an operator does by hand, with an RSA key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Some public CA")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    directory.mkdir(parents=True, exist_ok=True)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    for file, content in (("gateway.crt", certificate.public_bytes(pem)), ("gateway.key", private)):
        (directory / file).unlink(missing_ok=True)
        (directory / file).write_bytes(content)


def test_an_operators_own_certificate_is_kept(tmp_path: Path) -> None:
    """A gateway's certificate of another authority is never touched, but for mode and owner, and not rotated either."""
    create(tmp_path, wanted())
    an_operators_certificate(tmp_path / "gateway")
    before = (tmp_path / "gateway/gateway.crt").read_bytes()

    assert create(tmp_path, wanted(hosts=("unknown.example",))) == [f"changed {tmp_path}/ca/names.json"]
    rotate(tmp_path, "certificates", ME)

    assert (tmp_path / "gateway/gateway.crt").read_bytes() == before
    assert stat.S_IMODE((tmp_path / "gateway/gateway.key").stat().st_mode) == 0o400


def test_an_operators_certificate_that_ends_soon_is_announced(tmp_path: Path) -> None:
    """It is kept, and every run says that it ends."""
    an_operators_certificate(tmp_path / "gateway", days=10)

    assert any(line.startswith("NOTE") and "ends on" in line for line in create(tmp_path, wanted()))


def test_an_operators_key_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """A gateway that could not start is noticed here."""
    an_operators_certificate(tmp_path / "gateway")
    (tmp_path / "gateway/gateway.key").write_bytes(certificates.new_token_key())

    with pytest.raises(SecretsUnusable, match="is not the private key"):
        create(tmp_path, wanted())


@pytest.mark.A1
def test_a_token_key_is_known_to_the_gateway_before_it_signs(tmp_path: Path) -> None:
    """The first step publishes the new key and keeps it from signing, the second lets it sign beside the old one."""
    create(tmp_path, wanted())
    [old] = keys(tmp_path / "api/token-keys")

    done = rotate(tmp_path, "token-key", ME)
    first, new = keys(tmp_path / "gateway/token-keys")
    assert first == old
    assert keys(tmp_path / "api/token-keys") == [old]
    assert (tmp_path / f"api/token-keys/{new}.pem.next").exists()
    assert "does not sign yet" in done[-1]

    rotate(tmp_path, "token-key", ME)
    assert keys(tmp_path / "api/token-keys") == keys(tmp_path / "gateway/token-keys") == [old, new]
    assert not list((tmp_path / "api/token-keys").glob("*.next"))


@pytest.mark.A1
def test_a_third_token_key_drops_the_oldest(tmp_path: Path) -> None:
    """There are never more than two keys, the newest signs, and `create` leaves them all as they are."""
    create(tmp_path, wanted())
    seen = keys(tmp_path / "api/token-keys")
    for _ in range(3):
        rotate(tmp_path, "token-key", ME)
        assert len(keys(tmp_path / "gateway/token-keys")) == 2
        assert create(tmp_path, wanted()) == []
        rotate(tmp_path, "token-key", ME)
        seen.append(keys(tmp_path / "api/token-keys")[-1])
        assert keys(tmp_path / "gateway/token-keys") == keys(tmp_path / "api/token-keys") == seen[-2:]


@pytest.mark.A1
def test_the_gateways_secret_is_accepted_before_it_is_sent(tmp_path: Path) -> None:
    """At each of the three steps the API servers accept what the gateway sends, before and after their restart."""
    create(tmp_path, wanted())
    sent, accepted = tmp_path / "gateway/gateway.secret", tmp_path / "api/gateway.secret"
    old = sent.read_bytes()
    running = accepted.read_bytes().split()

    for _ in range(3):
        rotate(tmp_path, "gateway-secret", ME)
        assert create(tmp_path, wanted()) == []
        assert sent.read_bytes() in running
        running = accepted.read_bytes().split()
        assert sent.read_bytes() in running

    assert running == [sent.read_bytes()]
    assert sent.read_bytes() != old


def test_nats_passwords_change_everywhere_at_once(tmp_path: Path) -> None:
    """Each role has a new password, every server's configuration has it, and the routes keep theirs."""
    create(tmp_path, wanted())
    before, routes = nats_users(tmp_path / "nats-1"), route(tmp_path / "nats-2")

    rotate(tmp_path, "nats-passwords", ME)

    after = nats_users(tmp_path / "nats-1")
    assert after == nats_users(tmp_path / "nats-3")
    assert after == {role: (tmp_path / role / "nats.password").read_text() for role in ("admin", "api", "worker")}
    assert not set(before.values()) & set(after.values())
    assert route(tmp_path / "nats-2") == routes
    assert create(tmp_path, wanted()) == []


def nats_users(directory: Path) -> dict[str, str]:
    """The users of a server and their passwords."""
    accounts = json.loads((directory / "nats.conf").read_text())["accounts"].values()
    return {user["user"]: user["password"] for account in accounts for user in account.get("users", ())}


def route(directory: Path) -> str:
    """The password of a server's routes."""
    return str(json.loads((directory / "nats.conf").read_text())["cluster"]["authorization"]["password"])


def test_certificates_are_issued_again_for_the_same_names(tmp_path: Path) -> None:
    """Rotating them changes keys and certificates, not names and not the authority."""
    create(tmp_path, wanted(hosts=("faas.example.org",)))
    before = files(tmp_path)

    rotate(tmp_path, "certificates", ME)

    changed = {name for name, content in files(tmp_path).items() if before[name] != content}
    servers = [("api", "api"), ("gateway", "gateway"), *((f"nats-{number}", "nats") for number in (1, 2, 3))]
    assert changed == {f"{directory}/{name}.{end}" for directory, name in servers for end in ("crt", "key")}
    assert create(tmp_path, wanted(hosts=("faas.example.org",))) == []


def test_rotating_what_was_never_made_is_refused(tmp_path: Path) -> None:
    """A mistyped directory is not filled with half a deployment."""
    with pytest.raises(SecretsUnusable, match="secrets create"):
        rotate(tmp_path / "typo", "token-key", ME)
    assert not (tmp_path / "typo").exists()
