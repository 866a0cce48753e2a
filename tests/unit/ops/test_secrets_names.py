"""Names of a deployment that are not given again: they stay what they are, and nobody else chooses them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography import x509
from typer.testing import CliRunner

from mayfly.ops import certificates
from mayfly.ops.certificates import Authority, Issued
from mayfly.ops.folder import Folder, SecretsUnusable
from mayfly.ops.nats_config import Node, node_config, node_of
from mayfly.ops.secrets import Owners, Wanted, create, renew
from mayfly.ops.secrets_commands import register
from mayfly.ops.secrets_rotation import rotate

pytestmark = [pytest.mark.D4, pytest.mark.D7]

MYSELF = os.geteuid()
ME = Owners(api=MYSELF, nats=MYSELF, gateway=MYSELF, worker=MYSELF, admin=MYSELF)
BARE = Wanted(owners=ME)
DOMAIN = "nats.mayfly.svc.cluster.local"
KUBERNETES: dict[str, Any] = {
    "hosts": ("faas.example.org",),
    "api_hosts": ("api.mayfly.svc.cluster.local",),
    "nats": tuple(f"nats-{number}.{DOMAIN}" for number in range(3)),
    "nats_monitor": "0.0.0.0",
}
GIVEN: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a host": {"hosts": ("faas.example.org", "10.0.0.1", "::1")},
    "Kubernetes": KUBERNETES,
    "Kumori": {"hosts": ("faas.example.org",), "api_hosts": ("api", "0.api", "localhost")},
    "servers in no order": {"nats": ("q-2.x", "q-10.x", "q-1.y", "a.x", "q-3.x")},
    "two servers": {"nats": ("q-2", "q-1")},
    "one server": {"nats": ("nats.example.org",), "nats_monitor": "::1"},
}


def given(**names: Any) -> Wanted:
    """What is given, owned by whoever runs the tests."""
    return Wanted(owners=ME, **names)


def files(root: Path) -> dict[str, bytes]:
    """Everything in the directory."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def names(certificate: Path) -> tuple[str, ...]:
    """The names in a certificate, in order."""
    read = x509.load_pem_x509_certificate(certificate.read_bytes())
    return tuple(str(name.value) for name in certificates.names_of(read))


@pytest.mark.parametrize("wanted", GIVEN.values(), ids=GIVEN)
def test_a_second_create_without_names_changes_no_byte(tmp_path: Path, wanted: dict[str, Any]) -> None:
    """Whatever names the directory was made with; unusual ones are said, as one would type them."""
    create(tmp_path, given(**wanted))
    before = files(tmp_path)

    done = create(tmp_path, BARE)

    assert files(tmp_path) == before
    assert all(line.startswith("kept --") and line.endswith(": none was given") for line in done)
    assert len(done) == len(wanted)


@pytest.mark.parametrize("wanted", [KUBERNETES, GIVEN["one server"]], ids=["Kubernetes", "one server"])
def test_what_is_renewed_is_for_the_names_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
) -> None:
    """Certificates that are about to end are made anew for the same names, without any being given."""
    with monkeypatch.context() as soon:
        soon.setattr(certificates, "SERVER_DAYS", 20)
        create(tmp_path, given(**wanted))
    every = [*tmp_path.glob("*/*.crt")]
    before = {path: (names(path), path.read_bytes()) for path in every if path.name != "ca.crt"}

    create(tmp_path, BARE)

    assert {path: names(path) for path in before} == {path: there for path, (there, _) in before.items()}
    assert not [path for path, (_, content) in before.items() if path.read_bytes() == content]


def test_a_platforms_own_names_of_a_nats_server_are_renewed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Kumori a server is reached by the name of a channel, which `make-secrets` has put into its certificate."""
    with monkeypatch.context() as soon:
        soon.setattr(certificates, "SERVER_DAYS", 20)
        create(tmp_path, BARE)
        channel = ("nats-1", "localhost", "127.0.0.1", "0.queue", "set.0.next")
        renew(Folder(tmp_path / "nats-1", MYSELF, []), Authority(tmp_path / "ca"), "nats", channel, peer=True)

    create(tmp_path, BARE)

    assert set(names(tmp_path / "nats-1/nats.crt")) == set(channel)


def test_a_stolen_token_key_goes_and_nothing_else_does(tmp_path: Path) -> None:
    """The commands of the page: another key, and no other file than the gateway's copy differs."""
    create(tmp_path, given(**KUBERNETES))
    before = files(tmp_path)
    (stolen,) = (tmp_path / "api/token-keys").iterdir()
    stolen.unlink()

    create(tmp_path, BARE)

    after = files(tmp_path)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert {Path(name).parent.as_posix() for name in changed} == {"api/token-keys", "gateway/token-keys"}
    assert f"gateway/token-keys/{stolen.name}" not in after


def test_names_that_are_given_win(tmp_path: Path) -> None:
    """One that is given replaces what is there; the others stay."""
    create(tmp_path, given(**KUBERNETES))
    api, nats = (tmp_path / "api/api.crt").read_bytes(), (tmp_path / "nats-0/nats.conf").read_bytes()

    done = create(tmp_path, given(hosts=("other.example.org",)))

    assert names(tmp_path / "gateway/gateway.crt") == ("other.example.org",)
    assert not [line for line in done if line.startswith("kept --host")]
    assert ((tmp_path / "api/api.crt").read_bytes(), (tmp_path / "nats-0/nats.conf").read_bytes()) == (api, nats)

    create(tmp_path, given(nats_monitor="127.0.0.1"))
    assert '"http": "127.0.0.1:8222"' in (tmp_path / "nats-2/nats.conf").read_text()


def test_the_command_says_what_it_kept(tmp_path: Path) -> None:
    """It can be typed without any option, and its words are those of the options."""
    runner, app = CliRunner(), typer.Typer()
    register(app)
    options = ["--host", "faas.example.org", "--nats", "q-1.x", "--nats", "q-2.x", "--nats-monitor", "0.0.0.0"]
    assert runner.invoke(app, ["secrets", "create", str(tmp_path), *options]).exit_code == 0
    before = files(tmp_path)

    said = runner.invoke(app, ["secrets", "create", str(tmp_path)])

    assert said.exit_code == 0, said.output
    assert said.stdout.splitlines() == [
        "kept --host faas.example.org: none was given",
        "kept --nats q-1.x --nats q-2.x: none was given",
        "kept --nats-monitor 0.0.0.0: none was given",
    ]
    assert files(tmp_path) == before


# --- what is not whole ----------------------------------------------------------------------------------------------


def test_a_certificate_that_is_gone_is_made_for_the_names_of_a_new_directory(tmp_path: Path) -> None:
    """There is nothing to take others from."""
    create(tmp_path, given(**KUBERNETES))
    (tmp_path / "api/api.crt").unlink()

    create(tmp_path, BARE)

    assert names(tmp_path / "api/api.crt") == ("api", "api-1", "api-2", "localhost", "127.0.0.1")


@pytest.mark.parametrize("role", ["api", "gateway"])
def test_a_certificate_without_its_key_is_asked_about(tmp_path: Path, role: str) -> None:
    """As after a crash between the two: for other names than a new directory's the operator is asked for them."""
    create(tmp_path, given(hosts=("faas.example.org",), api_hosts=("api.example.org",)))
    (tmp_path / role / f"{role}.key").unlink()
    before = files(tmp_path)
    option, parameter = ("--host", "hosts") if role == "gateway" else ("--api-host", "api_hosts")

    with pytest.raises(SecretsUnusable, match=rf"{role}\.crt.*not of the key beside it.*give them by {option}\."):
        create(tmp_path, BARE)
    assert files(tmp_path) == before

    create(tmp_path, given(**{parameter: ("faas.example.org",)}))
    assert names(tmp_path / role / f"{role}.crt") == ("faas.example.org",)


def test_servers_that_do_not_agree_are_asked_about(tmp_path: Path) -> None:
    """One that was taken out has a directory still; nobody is taken in again without being named."""
    create(tmp_path, given(nats=("q-1", "q-2", "q-3")))
    create(tmp_path, given(nats=("q-1", "q-2")))

    with pytest.raises(SecretsUnusable, match=r"q-3/nats\.conf do not name each other.*by --nats"):
        create(tmp_path, BARE)
    shutil.rmtree(tmp_path / "q-3")
    assert create(tmp_path, BARE) == ["kept --nats q-1 --nats q-2: none was given"]


def test_servers_that_listen_at_several_addresses_are_asked_about(tmp_path: Path) -> None:
    """`--nats-monitor` is one for all."""
    create(tmp_path, BARE)
    changed = (tmp_path / "nats-2/nats.conf").read_text().replace("127.0.0.1:8222", "0.0.0.0:8222")
    (tmp_path / "nats-2/nats.conf").chmod(0o600)
    (tmp_path / "nats-2/nats.conf").write_text(changed)

    with pytest.raises(SecretsUnusable, match="give it by --nats-monitor"):
        create(tmp_path, BARE)
    assert [line for line in create(tmp_path, given(nats_monitor="127.0.0.1")) if "nats-2/nats.conf" in line]


@pytest.mark.parametrize("host", ["::1", "0.0.0.0", "127.0.0.1"])
def test_a_configuration_is_read_back(host: str) -> None:
    """What `node_of` reads is what `node_config` was given, brackets and all."""
    passwords = dict.fromkeys(("admin", "api", "worker"), "secret")
    for node in (Node("a.x", ("c.x", "b.x"), monitor=host), Node("a", (), monitor=host)):
        assert node_of(node_config(node, passwords=passwords, route_password="secret")) == node
    assert node_of('{"server_name": "a"}') is None


# --- a role that chooses names itself -------------------------------------------------------------------------------


def put(root: Path, role: str, pair: Issued, *, key: bool) -> None:
    """Put a certificate into a role's directory, as who is in that role can."""
    for end, content in (("crt", pair.certificate), *([("key", pair.key)] if key else [])):
        path = root / role / f"{role}.{end}"
        path.unlink()
        path.write_bytes(content)


@pytest.mark.parametrize("what", ["create", "rotate"])
@pytest.mark.parametrize("how", ["forged", "copied"])
def test_a_role_gets_no_certificate_for_a_name_of_its_choice(tmp_path: Path, what: str, how: str) -> None:
    """Neither one that it made itself nor the gateway's, which whoever connects is shown, has its names taken over."""
    root = tmp_path / "secrets"
    create(root, given(hosts=("faas.example.org",)))
    if how == "forged":
        own = Authority(tmp_path / "own")
        own.ensure()
        put(root, "api", own.issue(("faas.example.org",)), key=True)
    else:
        put(root, "api", Issued((root / "gateway/gateway.crt").read_bytes(), b""), key=False)
    before = files(root)

    with pytest.raises(SecretsUnusable, match=r"api\.crt is not"):
        create(root, BARE) if what == "create" else rotate(root, "certificates", ME)
    assert files(root) == before


def test_a_nats_server_brings_nobody_into_the_cluster(tmp_path: Path) -> None:
    """Who writes another host into a server's own configuration gets no certificate for it."""
    create(tmp_path, given(nats=("nats",)))
    passwords = dict.fromkeys(("admin", "api", "worker"), "sixteen-or-more-characters")
    path = tmp_path / "nats/nats.conf"
    for node in (Node("nats", ("faas.example.org",)), Node("faas.example.org", ())):
        path.unlink()
        path.write_text(node_config(node, passwords=passwords, route_password="x" * 20))

        with pytest.raises(SecretsUnusable, match=r"nats/nats\.conf"):
            create(tmp_path, BARE)
    assert not (tmp_path / "faas").exists()
