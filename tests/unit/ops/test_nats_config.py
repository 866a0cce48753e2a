"""nats-server's configuration as files: what is committed is what the code writes, and what it must never lack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mayfly.domain.limits import MIB
from mayfly.ops.nats_config import ENVIRONMENT, ROLES, Node, node_config, route_password, server_config, with_passwords
from mayfly.settings import BootstrapSettings

pytestmark = [pytest.mark.A3, pytest.mark.D4, pytest.mark.D7]

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "deploy/nats/nats.conf"
HOSTS = ("nats-1", "nats-2", "nats-3")
PASSWORDS = {role: f"<DIR/{role}/nats.password>" for role in ROLES}


def a_node(host: str = "nats-1", **other: Any) -> dict[str, Any]:
    """The configuration of one of three servers."""
    peers = tuple(peer for peer in HOSTS if peer != host)
    written = node_config(Node(host, peers, **other), passwords=PASSWORDS, route_password="<of the routes>")
    return dict(json.loads(written))


def test_the_example_is_what_is_written() -> None:
    """deploy/nats/nats.conf is the first server's configuration with placeholders for its secrets."""
    peers = HOSTS[1:]
    written = node_config(Node(HOSTS[0], peers), passwords=PASSWORDS, route_password="<of the routes>")
    assert EXAMPLE.read_text() == written, f"write it anew: {EXAMPLE}"


def test_the_image_has_the_same_environment() -> None:
    """What nats-server is started with by `up` is in the image of the role as well."""
    stage = (ROOT / "deploy/images/Dockerfile").read_text().partition("AS nats\n")[2].partition("\nFROM")[0]
    for name, value in ENVIRONMENT.items():
        assert f"\nENV {name}={value}\n" in stage


def test_monitoring_is_on_loopback_unless_told_otherwise() -> None:
    """No password guards it, so nobody else reaches it; Kubernetes names another address."""
    assert a_node()["http"] == "127.0.0.1:8222"
    assert a_node(monitor="::")["http"] == "[::]:8222"


def test_clients_and_routes_have_tls() -> None:
    """Clients speak TLS from the first byte, and a server proves itself to another with a certificate."""
    config = a_node()
    assert config["tls"]["handshake_first"] is True
    assert config["cluster"]["tls"]["verify"] is True
    assert {config["tls"]["min_version"], config["cluster"]["tls"]["min_version"]} == {"1.3"}
    assert all(route.startswith("tls://route:") for route in config["cluster"]["routes"])


def test_each_server_knows_the_other_two() -> None:
    """A server has a route to every other one and none to itself, by the name in its certificate."""
    for host in HOSTS:
        peers = [route.rpartition("@")[2] for route in a_node(host)["cluster"]["routes"]]
        assert sorted(peers) == sorted(f"{peer}:6222" for peer in HOSTS if peer != host)


def test_a_server_tells_the_others_its_name() -> None:
    """Not its address, which is in no certificate: they would try it for ever."""
    assert [a_node(host)["cluster"]["advertise"] for host in HOSTS] == [f"{host}:6222" for host in HOSTS]


def test_a_server_alone_is_no_cluster() -> None:
    """With one server there is nothing to listen for on the routes' port."""
    config = node_config(Node("nats-1", ()), passwords=PASSWORDS, route_password="x")
    assert "cluster" not in json.loads(config)
    assert route_password(config) is None


def test_up_and_a_cluster_have_the_same_accounts_and_limits() -> None:
    """What a role may do on a laptop is what it may do in production, and so are the sizes."""
    up = json.loads(server_config(port=1, store=Path("/store"), passwords=PASSWORDS))
    node = a_node()
    for config, servers in ((up, 1), (node, 3)):  # what the account may store is of all servers together
        room = config["accounts"]["MAYFLY"].pop("jetstream")["max_file"]
        assert room < servers * config["jetstream"]["max_file_store"]
    for key in ("accounts", "system_account", "max_payload", "ping_interval", "write_deadline"):
        assert up[key] == node[key], key
    assert "tls" not in up
    assert up["listen"] == "127.0.0.1:1"


@pytest.mark.parametrize("peers", [(), ("nats-2", "nats-3")])
def test_the_accounts_limit_comes_before_the_servers(peers: tuple[str, ...]) -> None:
    """Whatever a server may store, all of them together are refused a little earlier, in the account; and never so
    little that the streams could not be made."""
    config = json.loads(
        node_config(Node("nats-1", peers, store_bytes=2 << 30), passwords=PASSWORDS, route_password="x")
    )
    server, account = config["jetstream"]["max_file_store"], config["accounts"]["MAYFLY"]["jetstream"]["max_file"]
    assert server == 2 << 30
    assert 0.9 * server < account / (1 + len(peers)) < server
    reserved = BootstrapSettings().responses_max_bytes + 256 * MIB
    assert reserved < account / (1 + len(peers))


def test_the_system_account_has_no_users() -> None:
    """Nobody can log in to the servers themselves."""
    config = a_node()
    assert config["accounts"][config["system_account"]] == {}
    users = {name: [user["user"] for user in account.get("users", ())] for name, account in config["accounts"].items()}
    assert users == {"MAYFLY": ["admin", "api"], "WORKERS": ["worker"], "SYS": []}


def test_no_role_but_admin_has_a_wildcard_over_everything() -> None:
    """Neither role publishes or hears `>`, all of JetStream's API, or answers wherever it is asked to."""
    accounts = a_node()["accounts"]
    for user in (*accounts["MAYFLY"]["users"][1:], *accounts["WORKERS"]["users"]):
        permissions = user["permissions"]
        assert set(permissions) == {"publish", "subscribe"}
        for subject in (*permissions["publish"], *permissions["subscribe"]):
            assert not subject.startswith((">", "*", "$JS.API.>", "$JS.API.*", "$KV.>", "$KV.*", "$SYS")), subject
            assert not (subject.startswith("$JS.API.") and subject.endswith((".*", ".>"))), subject


def test_workers_are_in_an_account_without_streams() -> None:
    """What workers may ask of the streams is offered to their account by name, and nothing beyond it is imported."""
    accounts = a_node()["accounts"]
    assert "jetstream" not in accounts["WORKERS"]
    offered = {entry.get("service") or entry["stream"] for entry in accounts["MAYFLY"]["exports"]}
    taken = {(entry.get("service") or entry["stream"])["subject"] for entry in accounts["WORKERS"]["imports"]}
    assert taken == offered
    assert not [subject for subject in taken if "users" in subject or "sessions" in subject or "DELETE" in subject]
    assert all(entry["accounts"] == ["WORKERS"] for entry in accounts["MAYFLY"]["exports"])


def test_other_passwords_change_nothing_else() -> None:
    """Passwords can be put into a configuration whose other settings stay."""
    before = node_config(Node("nats-1", ("nats-2",)), passwords=PASSWORDS, route_password="x")
    changed = with_passwords(before, dict.fromkeys(ROLES, "new"))
    assert changed.count('"new"') == 3
    assert with_passwords(changed, PASSWORDS) == before
    assert route_password(changed) == "x"
