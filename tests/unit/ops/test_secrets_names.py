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
from mayfly.ops.nats_config import Node, node_config
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


@pytest.mark.parametrize("lost", ["api.crt", "api.key", "token-keys"])
def test_what_is_gone_is_made_for_the_names_of_before(tmp_path: Path, lost: str) -> None:
    """Also a certificate, its key, or all that a role had: names do not go with them."""
    create(tmp_path, given(**KUBERNETES))
    shutil.rmtree(tmp_path / "nats-1")
    if lost == "token-keys":
        shutil.rmtree(tmp_path / "api")
    else:
        (tmp_path / "api" / lost).unlink()

    create(tmp_path, BARE)

    assert names(tmp_path / "api/api.crt") == KUBERNETES["api_hosts"]
    assert names(tmp_path / "nats-1/nats.crt") == ("nats-1", f"nats-1.{DOMAIN}", "localhost", "127.0.0.1")
    assert not (tmp_path / "nats-3").exists()


def test_a_server_that_is_taken_out_stays_out(tmp_path: Path) -> None:
    """Its directory is left to whoever removes it; nobody names it any more."""
    create(tmp_path, given(nats=("q-1", "q-2", "q-3")))
    create(tmp_path, given(nats=("q-1", "q-2")))

    assert create(tmp_path, BARE) == ["kept --nats q-1 --nats q-2: none was given"]
    assert "q-3" not in (tmp_path / "q-1/nats.conf").read_text()


@pytest.mark.parametrize("content", [b"", b"{", b'{"hosts": "a"}', b'{"host": ["a"]}', b"[" * 100_000], ids=range(5))
def test_names_that_cannot_be_read_are_asked_for(tmp_path: Path, content: bytes) -> None:
    """Nothing is made for names that nobody gave."""
    create(tmp_path, given(**KUBERNETES))
    kept = tmp_path / "ca/names.json"
    kept.unlink()
    kept.write_bytes(content)
    before = files(tmp_path)

    with pytest.raises(SecretsUnusable, match=r"names\.json is not what this program wrote .*give all names again"):
        create(tmp_path, BARE)
    assert files(tmp_path) == before


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

    create(root, BARE) if what == "create" else rotate(root, "certificates", ME)

    assert names(root / "api/api.crt") == ("api", "api-1", "api-2", "localhost", "127.0.0.1")


def test_a_nats_server_brings_nobody_into_the_cluster(tmp_path: Path) -> None:
    """Who writes another host into a server's own configuration gets no certificate for it, and loses the line."""
    create(tmp_path, given(nats=("nats",)))
    before = files(tmp_path / "nats")
    passwords = {role: (tmp_path / role / "nats.password").read_text() for role in ("admin", "api", "worker")}
    path = tmp_path / "nats/nats.conf"
    route = "x" * 20
    for node in (Node("nats", ("faas.example.org",)), Node("faas.example.org", ())):
        path.unlink()
        path.write_text(node_config(node, passwords=passwords, route_password=route))

        create(tmp_path, BARE)

        assert files(tmp_path / "nats") == before
    assert not (tmp_path / "faas").exists()


def test_without_the_names_nothing_is_rotated(tmp_path: Path) -> None:
    """A directory that does not say for which names its certificates are gets none for others."""
    create(tmp_path, given(**KUBERNETES))
    (tmp_path / "ca/names.json").unlink()
    before = files(tmp_path)

    with pytest.raises(SecretsUnusable, match="run `mayfly secrets create` with all of them first"):
        rotate(tmp_path, "certificates", ME)
    assert files(tmp_path) == before
