"""The gateway's files: made from one set of settings, never at odds with the API, secrets where they belong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mayfly.api.auth import PUBLIC
from mayfly.api.bodies import FORM_MAX_BYTES, JSON_MAX_BYTES
from mayfly.api.protocol import HEAD_MAX_BYTES
from mayfly.api.server import GRACE_S, KEEP_ALIVE_S
from mayfly.domain.limits import PARAMETER_MAX_BYTES, TIMEOUT_MAX_S
from mayfly.ops.certificates import new_token_key
from mayfly.ops.gateway.bounds import METRICS_PATH, bounds_of
from mayfly.ops.gateway.check import problems
from mayfly.ops.gateway.material import PLACEHOLDER_NAMES, MaterialUnusable, placeholder, read_material
from mayfly.ops.gateway.render import Rendered, render
from mayfly.ops.gateway.routes import OF_THE_CALLER
from mayfly.ops.secrets import Owners
from mayfly.ops.secrets_rotation import rotate
from mayfly.services.functions import PREPARE_TIMEOUT_S
from mayfly.settings import GatewaySettings
from tests.support import stand_in_gateway

pytestmark = [pytest.mark.D3, pytest.mark.A1]

ROOT = Path(__file__).resolve().parents[4]
COMMITTED = ROOT / "deploy" / "apisix"
ME = Owners(api=os.geteuid(), nats=os.geteuid(), gateway=os.geteuid(), worker=os.geteuid(), admin=os.geteuid())


def trees(files: Rendered) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both files, read."""
    return yaml.safe_load(files.config), yaml.safe_load(files.routes)


@pytest.mark.parametrize(
    ("name", "text"),
    [("config.yaml", render(GatewaySettings()).config), ("apisix.yaml", render(GatewaySettings()).routes)],
)
def test_the_committed_files_are_what_render_writes(name: str, text: str) -> None:
    """`mayfly gateway render --out deploy/apisix` makes them; whoever changes one changes where it comes from."""
    assert (COMMITTED / name).read_text(encoding="utf-8") == text


def test_the_committed_files_have_placeholders_for_all_that_is_secret_and_pass_the_check() -> None:
    """APISIX refuses a file with a placeholder that it has no variable for: nobody runs it by mistake."""
    config, routes = ((COMMITTED / name).read_text() for name in ("config.yaml", "apisix.yaml"))

    assert problems(config, routes, template=True) == []
    assert "${{" not in config
    assert all(placeholder(name) in routes for name in PLACEHOLDER_NAMES)
    assert "BEGIN" not in routes
    assert problems(config, routes), "but not as files for use"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gateway_api": ("10.0.0.7:443",), "gateway_api_name": "api.example.org"},
        {"gateway_api": ("api.mayfly.svc.cluster.local:8443",), "gateway_api_discovery": "dns"},
        {"gateway_hosts": ("faas.example.org", "127.0.0.1", "::1")},
        {"gateway_clear_text": True, "gateway_trusted_proxies": ("10.0.0.0/8", "192.168.1.4")},
        {"gateway_profile": "test", "gateway_workers": 8, "gateway_private_address": "127.0.0.1"},
        {"max_activations_per_user": "none", "max_activations": 4096},
        {"max_activations_per_user": "none", "max_activations": "none"},
        {"max_activations_per_user": 1_000_000},
        {"gateway_client_rate": 1, "gateway_client_burst": 1, "gateway_user_rate": 1, "gateway_login_rate": 1},
    ],
    ids=str,
)
def test_whatever_is_set_the_files_pass_the_check(settings: dict[str, Any], secrets: Path) -> None:
    """The check is stricter than APISIX, and knows the settings by itself: each file it passes is one that works."""
    given = GatewaySettings(**settings)
    files = render(given, read_material(secrets / "gateway"))
    assert problems(files.config, files.routes, settings=given) == []


def test_time_outs_never_cut_what_the_api_allows() -> None:
    """The API ends first, with words of its own; an idle connection ends at the gateway first, so none is sent into."""
    config, routes = trees(render(GatewaySettings()))
    [api] = routes["upstreams"]

    assert api["timeout"]["read"] > GRACE_S > max(TIMEOUT_MAX_S, PREPARE_TIMEOUT_S)
    assert api["keepalive_pool"]["idle_timeout"] < KEEP_ALIVE_S
    assert int(config["nginx_config"]["worker_shutdown_timeout"].removesuffix("s")) > api["timeout"]["read"]
    assert "timeout" not in next(route for route in routes["routes"] if route["id"] == "api")


def test_the_api_refuses_a_body_that_is_a_little_too_large_itself() -> None:
    """So callers nearly always read the API's words, with its limit in them."""
    config, routes = trees(render(GatewaySettings()))
    largest = {route["id"]: route["plugins"]["client-control"]["max_body_size"] for route in routes["routes"]}

    assert largest["api"] > max(PARAMETER_MAX_BYTES, JSON_MAX_BYTES)
    assert largest["public-write"] > max(JSON_MAX_BYTES, FORM_MAX_BYTES)
    assert max(largest.values()) < config["nginx_config"]["http"]["client_max_body_size"]
    snippet = config["nginx_config"]["http_configuration_snippet"]
    assert f"client_body_buffer_size {largest['api']};" in snippet
    assert f"large_client_header_buffers {HEAD_MAX_BYTES // 8192} 8192;" in snippet


@pytest.mark.parametrize(
    ("user", "platform", "most"),
    [(1, 256, 1), (32, 256, 32), (5000, 256, 5000), ("none", 256, 256), ("none", "none", 40_000)],
)
def test_who_is_over_the_limit_of_activations_is_told_so_by_the_api(user: Any, platform: Any, most: int) -> None:
    """A user may have U calls open, a question for each, and more, before the gateway refuses for it."""
    bounds = bounds_of(GatewaySettings(max_activations_per_user=user, max_activations=platform))
    assert bounds.user_open > 2 * most
    [route] = [
        r
        for r in trees(render(GatewaySettings(max_activations_per_user=user, max_activations=platform)))[1]["routes"]
        if r["id"] == "api"
    ]
    assert route["plugins"]["limit-conn"]["conn"] == bounds.user_open


def test_the_profile_for_tests_changes_rates_and_nothing_else() -> None:
    """What a test suite sees of the gateway is what callers see."""
    ours, tests = (trees(render(GatewaySettings(gateway_profile=profile))) for profile in ("production", "test"))
    different = [path for path, value in _leaves(ours) if dict(_leaves(tests)).get(path) != value]

    assert {path.rpartition(".")[2] for path in different} == {
        *("rate", "burst", "http_configuration_snippet", "http_server_location_configuration_snippet")
    }
    assert "rate=1000000r/s" in tests[0]["nginx_config"]["http_configuration_snippet"]
    assert "burst=1000000 nodelay" in tests[0]["nginx_config"]["http_server_location_configuration_snippet"]


def _leaves(tree: Any, path: str = "") -> list[tuple[str, object]]:
    if isinstance(tree, dict):
        return [leaf for key, inner in tree.items() for leaf in _leaves(inner, f"{path}.{key}")]
    if isinstance(tree, list | tuple):
        return [leaf for index, inner in enumerate(tree) for leaf in _leaves(inner, f"{path}[{index}]")]
    return [(path, tree)]


def test_only_what_the_api_answers_to_everybody_needs_no_token() -> None:
    """The public routes are the API's own list; everything else under /v1/, by any method, needs a token."""
    _, routes = trees(render(GatewaySettings()))
    without = [route for route in routes["routes"] if "jwt-auth" not in route["plugins"]]
    reached = {(method, uri) for route in without for method in route.get("methods", ["GET"]) for uri in route["uris"]}

    assert reached == PUBLIC
    assert all(
        route["plugins"]["jwt-auth"]["claims_to_verify"] == ["exp"]
        for route in routes["routes"]
        if route not in without
    )
    (behind,) = [route for route in routes["routes"] if route not in without]
    assert behind["uri"] == "/v1/*"
    assert "methods" not in behind


def test_nothing_is_sent_twice_and_only_to_verified_api_servers() -> None:
    """At most once needs both halves; and TLS to the API is checked for calls as for health checks."""
    config, routes = trees(render(GatewaySettings()))
    [api] = routes["upstreams"]
    lines = config["nginx_config"]["http_configuration_snippet"].splitlines()

    assert api["retries"] == 0
    assert {"proxy_next_upstream off;", "proxy_ssl_verify on;"} <= set(lines)
    assert (api["scheme"], api["type"], api["pass_host"], api["upstream_host"]) == (
        "https",
        "least_conn",
        "rewrite",
        "api",
    )
    assert api["checks"]["active"]["https_verify_certificate"] is True
    assert config["apisix"]["ssl"]["ssl_trusted_certificate"] == "/run/secrets/mayfly/ca.crt"


def test_the_stand_in_keeps_the_same_contract() -> None:
    """What stands in for APISIX in tests takes the same bodies, waits as long, and believes callers as little."""
    bounds = bounds_of(GatewaySettings())

    assert bounds.body_bytes == stand_in_gateway.BODY_MAX_BYTES
    assert bounds.read_s == stand_in_gateway.READ_S
    assert all(stand_in_gateway.OF_THE_CALLER.fullmatch(name.lower().encode()) for name in OF_THE_CALLER)


def test_api_servers_by_name_or_by_dns() -> None:
    """Compose names each; Kubernetes has one name for all, which is also the one in their certificates."""
    config, routes = trees(render(GatewaySettings(gateway_api=("a:1", "b:2", "c:3"))))
    assert [(node["host"], node["port"]) for node in routes["upstreams"][0]["nodes"]] == [("a", 1), ("b", 2), ("c", 3)]
    assert "discovery" not in config

    config, routes = trees(render(GatewaySettings(gateway_api=("api.svc:8443",), gateway_api_discovery="dns")))
    [api] = routes["upstreams"]
    assert (api["discovery_type"], api["service_name"], api["upstream_host"]) == ("dns", "api.svc:8443", "api.svc")
    assert "nodes" not in api
    assert config["discovery"]["dns"]["resolv_conf"] == "/etc/resolv.conf"


def test_a_callers_address_is_believed_from_named_proxies_only() -> None:
    """Else whoever is on loopback, or anybody, would choose the address that floods are counted by."""
    alone, behind = (
        trees(render(GatewaySettings(gateway_trusted_proxies=proxies)))[0]["nginx_config"]["http"]
        for proxies in ((), ("10.1.0.0/16", "10.2.0.1"))
    )
    assert alone["real_ip_from"] == ["unix:"]
    assert "real_ip_header" not in alone
    assert behind["real_ip_from"] == ["10.1.0.0/16", "10.2.0.1"]
    assert (behind["real_ip_header"], behind["real_ip_recursive"]) == ("X-Forwarded-For", "on")


def test_clear_text_is_heard_on_loopback_only_unless_it_is_asked_for() -> None:
    """A token must never cross a network readable."""
    for clear, address in ((False, "127.0.0.1"), (True, "0.0.0.0")):
        config, _ = trees(render(GatewaySettings(gateway_clear_text=clear)))
        assert config["apisix"]["node_listen"] == [{"ip": address, "port": 9080}]


def test_certificates_are_shown_for_the_names_that_are_set() -> None:
    """No list means any name; `*` in a list would mean none."""
    assert trees(render(GatewaySettings()))[1]["ssls"][0]["sni"] == "*"
    config, routes = trees(render(GatewaySettings(gateway_hosts=("faas.example.org", "10.0.0.1", "::1"))))
    assert routes["ssls"][0]["snis"] == ["faas.example.org"], "no address is ever said in a handshake"
    assert config["apisix"]["ssl"]["fallback_sni"] == "faas.example.org"


def test_prometheus_finds_the_gateway_where_compose_looks() -> None:
    """The path and port of its metrics are those of the scrape configuration."""
    scrape = yaml.safe_load((ROOT / "deploy/compose/monitoring/prometheus.yml").read_text())["scrape_configs"]
    [gateway] = [job for job in scrape if job["job_name"] == "gateway"]
    config, _ = trees(render(GatewaySettings()))
    export = config["plugin_attr"]["prometheus"]

    assert gateway["metrics_path"] == METRICS_PATH == export["export_uri"]
    assert gateway["static_configs"][0]["targets"] == [f"gateway:{export['export_addr']['port']}"]


def test_the_log_has_no_token() -> None:
    """Neither query nor any header of the caller's is logged; each line is JSON and has the id that the answer has."""
    http = trees(render(GatewaySettings()))[0]["nginx_config"]["http"]
    line = json.loads(http["access_log_format"])

    assert line["request_id"] == "$sent_http_x_request_id"
    assert not {"$request", "$request_uri", "$args", "$query_string"} & set(line.values())
    assert not [value for value in line.values() if value.startswith(("$http_", "$arg_", "$cookie_"))]


def test_each_token_key_is_a_credential_of_its_own(secrets: Path) -> None:
    """While a key is rotated two are good, by their ids; the private halves are nowhere."""
    before = _credentials(secrets)
    rotate(secrets, "token-key", ME)
    after = _credentials(secrets)

    assert len(before) == 1
    assert len(after) == 2
    assert before.items() <= after.items()
    assert set(after) == {path.stem for path in (secrets / "gateway/token-keys").glob("*.pem")}


def _credentials(secrets: Path) -> dict[str, str]:
    _, routes = trees(render(GatewaySettings(), read_material(secrets / "gateway")))
    found = {}
    for consumer in routes["consumers"]:
        if "credentials" in consumer["id"]:
            [(plugin, conf)] = consumer["plugins"].items()
            assert (plugin, conf["algorithm"], set(conf) & {"secret", "private_key"}) == ("jwt-auth", "ES256", set())
            assert consumer["id"].endswith(conf["key"])
            serialization.load_pem_public_key(conf["public_key"].encode())
            found[conf["key"]] = conf["public_key"]
    return found


def test_secrets_are_where_they_belong_and_nowhere_else(secrets: Path) -> None:
    """The one private key is that of the certificate; the secret for the API is in the guard only."""
    material = read_material(secrets / "gateway")
    files = render(GatewaySettings(), material)
    _, routes = trees(files)

    assert files.routes.count("PRIVATE KEY") == 2, "the first and the last line of one key"
    assert "PRIVATE KEY" in routes["ssls"][0]["key"]
    assert files.routes.count(material.secret) == 1
    assert "PRIVATE" not in files.config
    assert material.secret not in files.config
    assert "${{" not in files.config + files.routes
    assert material.secret not in repr(files) + repr(material)
    assert "PRIVATE" not in repr(files) + repr(material)
    for private in (secrets / "api/token-keys").glob("*.pem"):
        assert private.read_text().splitlines()[1] not in files.routes


@pytest.mark.parametrize(
    "secret",
    [
        b"",
        b"short",
        b"x" * 31,
        b"x" * 257,
        b'"' + b"x" * 40,
        b"x" * 40 + b'" os.execute("true") --',
        b"x" * 20 + b"\n" + b"x" * 20,
        b"x" * 40 + b"\0",
        b"x" * 40 + b"\xc3\xa4",
        b"x" * 40 + b"\xff",
        b"$" + b"{{OTHER}}" + b"x" * 40,
        b"x" * 40 + b"]]",
        b"x" * 40 + b"\\",
    ],
)
def test_a_secret_with_anything_odd_in_it_is_refused(secret: bytes, secrets: Path) -> None:
    """It stands in a Lua string, in YAML, and in a header; what could end one of them is no secret of ours."""
    _overwrite(secrets / "gateway/gateway.secret", secret)

    with pytest.raises(MaterialUnusable, match=r"gateway\.secret") as caught:
        read_material(secrets / "gateway")
    assert secret.decode("latin-1").strip() == "" or secret.decode("latin-1") not in str(caught.value)


def test_a_private_token_key_is_refused(secrets: Path) -> None:
    """Whoever copies the wrong half here is told, and it goes no further."""
    [private] = (secrets / "api/token-keys").glob("*.pem")
    _overwrite(secrets / "gateway/token-keys" / private.name, private.read_bytes())

    with pytest.raises(MaterialUnusable, match="public halves only"):
        read_material(secrets / "gateway")


def test_a_private_key_beside_a_public_one_goes_no_further(secrets: Path) -> None:
    """Keys are written anew, so what else a file has is left behind."""
    [public] = (secrets / "gateway/token-keys").glob("*.pem")
    _overwrite(public, public.read_bytes() + new_token_key())

    assert "PRIVATE" not in "".join(read_material(secrets / "gateway").token_keys.values())


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_a_key_of_another_kind_is_refused(key: Any, secrets: Path) -> None:
    """The gateway checks ES256 and nothing else: no key of another kind is ever offered to it."""
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (secrets / "gateway/token-keys/other.pem").write_bytes(public)

    with pytest.raises(MaterialUnusable, match=r"other\.pem is not an ES256 key"):
        read_material(secrets / "gateway")


@pytest.mark.parametrize("missing", ["gateway.crt", "gateway.key", "ca.crt", "gateway.secret", "token-keys"])
def test_what_is_missing_is_named(missing: str, secrets: Path) -> None:
    """With the command that makes it."""
    path = secrets / "gateway" / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()

    with pytest.raises(MaterialUnusable, match=f"{missing}.*mayfly secrets create"):
        read_material(secrets / "gateway")


def test_a_key_of_another_certificate_is_refused(secrets: Path) -> None:
    """APISIX would drop the certificate, print the key into its log, and speak TLS with nobody."""
    shutil.copy(secrets / "nats-1/nats.key", secrets / "gateway/gateway.key.new")
    (secrets / "gateway/gateway.key.new").replace(secrets / "gateway/gateway.key")

    with pytest.raises(MaterialUnusable, match=r"gateway\.key is not the private key"):
        read_material(secrets / "gateway")


def test_a_private_key_in_the_certificates_file_is_refused(secrets: Path) -> None:
    """Some tools write both into one file."""
    both = (secrets / "gateway/gateway.crt").read_bytes() + (secrets / "gateway/gateway.key").read_bytes()
    _overwrite(secrets / "gateway/gateway.crt", both)

    with pytest.raises(MaterialUnusable, match=r"gateway\.crt has a private key in it"):
        read_material(secrets / "gateway")


def test_a_kid_that_could_be_no_id_is_refused(secrets: Path) -> None:
    """A key's file name becomes the id of an object of APISIX."""
    [public] = (secrets / "gateway/token-keys").glob("*.pem")
    shutil.copy(public, public.with_name("a b.pem"))

    with pytest.raises(MaterialUnusable, match="a key's id has"):
        read_material(secrets / "gateway")


def _overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(content)
