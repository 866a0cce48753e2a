"""The compose files and the Dockerfile, read as they stand: what is published, granted, pinned and set."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from mayfly import __version__
from mayfly.api.server import GRACE_S
from mayfly.domain.limits import TIMEOUT_MAX_S
from mayfly.domain.sandbox import DENIED_CALLS
from mayfly.ops import nats_config
from mayfly.ops.gateway.render import render
from mayfly.settings import ROLES, GatewaySettings, WorkerSettings
from tests.support.need import need

pytestmark = pytest.mark.D4

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
COMPOSE = DEPLOY / "compose"
FILE = yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
ALWAYS = {name for name, service in SERVICES.items() if "profiles" not in service}
ONE_SHOTS = {"secrets", "bootstrap"}
VARIANTS = {path.name: yaml.safe_load(path.read_text()) for path in COMPOSE.glob("compose.*.yaml")}
README = (COMPOSE / "README.md").read_text(encoding="utf-8")
DOCKERFILE = (DEPLOY / "images" / "Dockerfile").read_text(encoding="utf-8")
STAGES = {
    re.match(r".* AS (\w+)", stage)[1]: stage  # type: ignore[index]
    for stage in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
}
ROLE_OF = {"api-1": "api", "api-2": "api", "worker": "worker", "bootstrap": "bootstrap"}
ONLY_WITH_CAPABILITIES = {"clock_settime", "fanotify_init", "ioperm", "iopl", "settimeofday", "stime"}


NOT_OF_COMPOSE = {
    "gateway_api_discovery": "API servers are services, each with a name",
    "gateway_api_name": "mayfly secrets create gives them one",
    "gateway_ca_file": "the volume is mounted where it says",
    "gateway_clear_text": "9080 is not published",
    "gateway_private_address": "nor are 7085 and 9091",
    "admission_wait_ms": "nothing in the gateway's files follows from it",
}
"""Settings of the gateway that compose need not pass on, and why."""
OTHER_VALUES = (64, "test", ("192.0.2.1",), ("api-9:8443",))
"""Of which each setting of the gateway takes one."""


def gateways() -> dict[str, str]:
    """The settings by which the gateway's files are made, with their defaults."""
    given = {name: plain(value) for name, value in SERVICES["secrets"]["environment"].items()}
    return {name.removeprefix("MAYFLY_").lower(): value for name, value in given.items() if name.startswith("MAYFLY_")}


def changed(name: str) -> GatewaySettings:
    """The default settings but for this one."""
    for value in OTHER_VALUES:
        with suppress(ValidationError):
            return GatewaySettings.model_validate({name: value})
    raise AssertionError(f"OTHER_VALUES has none for {name}")


def plain(value: object) -> str:
    """A value with its variables at their defaults."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def in_bytes(size: str) -> int:
    """A size as Go, compose, Kubernetes or Kumori writes it."""
    number, unit = re.fullmatch(r"(\d+) ?(\w+)", size).groups()  # type: ignore[union-attr]
    return int(number) * {"MiB": 1 << 20, "g": 1 << 30, "Gi": 1 << 30, "M": 10**6}[unit]


def seconds(duration: str) -> int:
    """A duration of compose, which is always in seconds here."""
    return int(duration.removesuffix("s"))


def test_the_services_are_those_that_were_agreed() -> None:
    """Names that the gateway's nodes, the certificates and NATS's routes contain, and the profiles' beside them."""
    assert {"gateway", "api-1", "api-2", "worker", "nats-1", "nats-2", "nats-3"} | ONE_SHOTS == ALWAYS
    assert {name: SERVICES[name]["profiles"] for name in SERVICES.keys() - ALWAYS} == {
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
        "registry": ["registry"],
    }
    assert SERVICES["worker"]["scale"] == 2


@pytest.mark.F1
def test_the_gateway_publishes_one_port_and_nobody_else_any() -> None:
    """What a profile publishes besides is on the loopback."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert [plain(port) for port in published.pop("gateway")] == ["0.0.0.0:8443:9443"]
    assert ALWAYS.isdisjoint(published)
    assert all(str(port).startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert not [name for name, service in SERVICES.items() if service.get("network_mode", "none") != "none"]
    for variant in VARIANTS.values():
        assert not [
            service for service in variant["services"].values() if "ports" in service or "network_mode" in service
        ]


@pytest.mark.F1
def test_the_networks() -> None:
    """Only the gateway is where callers come in, only workers have a way out, NATS is on one inner network."""
    members = {
        network: {name for name in ALWAYS if network in SERVICES[name].get("networks", ())}
        for network in FILE["networks"]
    }
    nats = {"nats-1", "nats-2", "nats-3"}
    assert members == {
        "edge": {"gateway"},
        "front": {"gateway", "api-1", "api-2"},
        "bus": {"api-1", "api-2", "worker", "bootstrap"} | nats,
        "outside": {"worker"},
        "monitoring": set(),
    }
    assert {name for name, network in FILE["networks"].items() if (network or {}).get("internal")} == {"front", "bus"}


@pytest.mark.parametrize("name", SERVICES)
def test_least_privilege(name: str) -> None:
    """Everybody drops all capabilities, has a read-only root, limits and a bounded log; few get something back."""
    service = SERVICES[name]
    granted = {
        "worker": {"SYS_ADMIN", "SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "KILL", "FOWNER", "SETFCAP"},
        "secrets": {"CHOWN", "DAC_OVERRIDE", "FOWNER"},
    }
    assert service["cap_drop"] == ["ALL"]
    assert set(service.get("cap_add", ())) == granted.get(name, set())
    assert service["read_only"] is True
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "devices", "pid", "ipc", "userns_mode"} & service.keys()
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert service["restart"] == {"secrets": "no", "bootstrap": "on-failure:10"}.get(name, "unless-stopped")


def test_users() -> None:
    """The numbers that own the secrets; the worker alone is root, beside the one-shot that gives the secrets away."""
    users = {name: service.get("user", "image's") for name, service in SERVICES.items() if name in ALWAYS}
    assert users == {
        "gateway": "636:636",
        "api-1": "59802:59802",
        "api-2": "59802:59802",
        "bootstrap": "59802:59802",
        "nats-1": "59801:59801",
        "nats-2": "59801:59801",
        "nats-3": "59801:59801",
        "worker": "image's",
        "secrets": "0:0",
    }
    assert "\nUSER 59801:59801\n" in STAGES["nats"]
    assert "\nUSER 59802:59802\n" in STAGES["api"]
    assert "\nUSER 0:0\n" in STAGES["worker"]


def test_each_role_mounts_its_own_secrets_read_only() -> None:
    """Only the one-shot `secrets` sees the others', and the key of the authority."""
    for name in ALWAYS - {"secrets"}:
        mounts = [volume for volume in SERVICES[name]["volumes"] if volume.startswith("secrets-")]
        role = {"bootstrap": "admin", "api-1": "api", "api-2": "api"}.get(name, name)
        assert mounts == [f"secrets-{role}:/run/secrets/mayfly:ro"], name
    everything = {volume.partition(":")[0] for volume in SERVICES["secrets"]["volumes"]}
    assert everything == {name for name in FILE["volumes"] if name.startswith("secrets-")}
    assert SERVICES["secrets"]["network_mode"] == "none"


def test_nothing_secret_is_in_the_environment() -> None:
    """A variable that is about a secret names a file below /run/secrets."""
    for file in (FILE, *VARIANTS.values()):
        for name, service in file["services"].items():
            for variable, value in service.get("environment", {}).items():
                if re.search("PASSWORD|SECRET|TOKEN|KEY|CREDENTIAL", variable):
                    assert variable.endswith("_FILE"), (name, variable)
                    assert value.startswith("/run/secrets/mayfly/"), (name, variable)


@pytest.mark.D3
def test_whatever_an_operator_may_turn_of_the_gateway_reaches_its_files() -> None:
    """Of the variables of `secrets`, those of ours are the gateway's settings, but those that compose decides."""
    assert gateways().keys() == GatewaySettings.model_fields.keys() - NOT_OF_COMPOSE.keys()


@pytest.mark.D3
@pytest.mark.parametrize("name", gateways())
def test_the_gateways_defaults_are_those_of_the_code(name: str) -> None:
    """What compose gives `mayfly gateway render` when nothing is set changes nothing; an empty text is no exception."""
    given = GatewaySettings.model_validate({name: gateways()[name]})
    assert getattr(given, name) == GatewaySettings.model_fields[name].default


@pytest.mark.D3
@pytest.mark.parametrize("name", gateways())
def test_a_changed_setting_of_the_gateway_changes_its_files(name: str) -> None:
    """Each is there for something; the maxima change them when the other one is `none`."""
    other = {"max_activations": {"max_activations_per_user": "none"}}.get(name, {})
    before, after = (
        render(GatewaySettings.model_validate({**other, **settings}))
        for settings in ({}, {name: getattr(changed(name), name)})
    )
    assert before != after


@pytest.mark.D3
def test_the_gateway_is_made_anew_when_its_first_file_changes() -> None:
    """APISIX reads config.yaml when it starts; compose starts it anew when its variables change. It reads none."""
    before = render(GatewaySettings.model_validate({}))
    at_start = {f"MAYFLY_{name.upper()}" for name in gateways() if render(changed(name)).config != before.config}
    assert "MAYFLY_GATEWAY_TRUSTED_PROXIES" in at_start
    environment, made_by = (SERVICES[service]["environment"] for service in ("gateway", "secrets"))
    assert {name for name in environment if name.startswith("MAYFLY_")} == at_start
    assert {name: environment[name] for name in at_start} == {name: made_by[name] for name in at_start}
    assert "${{" not in before.config
    assert "$env" not in (before.config + before.routes).lower()


@pytest.mark.parametrize(("service", "role"), ROLE_OF.items())
def test_every_variable_is_a_setting_of_its_role(service: str, role: str) -> None:
    """And its value, with the file's defaults, is one that the role takes."""
    variables = {name: plain(value) for name, value in SERVICES[service]["environment"].items()}
    fields = {name.removeprefix("MAYFLY_").lower(): value for name, value in variables.items()}
    assert set(fields) <= set(ROLES[role].model_fields)
    assert ROLES[role].model_validate(fields)


def test_limits_are_the_same_for_everybody() -> None:
    """The API says what the limits are; bootstrap puts them in force, and the gateway's must be above."""
    for name in ("MAYFLY_MAX_ACTIVATIONS", "MAYFLY_MAX_ACTIVATIONS_PER_USER"):
        who = ("api-1", "api-2", "bootstrap", "secrets")  # the gateway's flood limits come from them
        assert len({SERVICES[service]["environment"][name] for service in who}) == 1


@pytest.mark.F11
def test_whoever_may_have_a_call_gets_the_time_to_end_it() -> None:
    """The stop grace is above what worker and API server take, which is above the longest call."""
    worker_s = int(SERVICES["worker"]["environment"]["MAYFLY_STOP_GRACE_S"])
    drain_s = int(SERVICES["api-1"]["environment"]["MAYFLY_DRAIN_S"])
    assert worker_s > TIMEOUT_MAX_S
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > worker_s
    for name in ("api-1", "api-2"):
        assert seconds(SERVICES[name]["stop_grace_period"]) > GRACE_S + drain_s
    assert seconds(SERVICES["gateway"]["stop_grace_period"]) > 340  # its worker_shutdown_timeout


def test_the_order_follows_from_health() -> None:
    """Secrets, then NATS, then the streams, then API servers and workers, then the gateway."""
    done, healthy = {"condition": "service_completed_successfully"}, {"condition": "service_healthy"}
    for name in ("nats-1", "nats-2", "nats-3"):
        assert SERVICES[name]["depends_on"] == {"secrets": done}
    assert SERVICES["bootstrap"]["depends_on"] == {"nats-1": healthy, "nats-2": healthy, "nats-3": healthy}
    for name in ("api-1", "api-2", "worker"):
        assert SERVICES[name]["depends_on"] == {"bootstrap": done}
    assert SERVICES["gateway"]["depends_on"] == {"api-1": healthy, "api-2": healthy}


def test_images_are_pinned() -> None:
    """Ours by this version, others by a full version, the base by digest; and nothing is built or pulled unasked."""
    ours = {service["image"] for service in SERVICES.values() if service["image"].startswith("mayfly/")}
    assert ours == {f"mayfly/{role}:{__version__}" for role in ("api", "worker", "nats")}
    others = {service["image"] for service in SERVICES.values()} - ours
    assert all(re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+(-\w+)?", image) for image in others)
    assert SERVICES["gateway"]["image"] == "apache/apisix:3.18.0-debian"
    assert re.search(r"^ARG BASE=debian:bookworm-\d{8}-slim@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)


def test_volumes_of_workers_are_not_shared() -> None:
    """The image cache has no name, so each worker has one of its own; what lasts has a name."""
    assert "/var/lib/mayfly/images" in SERVICES["worker"]["volumes"]
    for number in (1, 2, 3):
        assert f"data-nats-{number}:/data" in SERVICES[f"nats-{number}"]["volumes"]


@pytest.mark.parametrize("target", ["nats", "api", "worker"])
def test_every_image_says_what_it_is_and_how_it_does(target: str) -> None:
    """Labels, a health check, a stop signal; version and revision from the build."""
    stage = STAGES[target]
    assert "HEALTHCHECK " in stage
    assert "STOPSIGNAL " in stage
    for label in ("title", "description", "version", "revision", "licenses"):
        assert f'org.opencontainers.image.{label}="' in stage
    assert f"ARG VERSION={__version__}" in stage


@pytest.mark.A3
def test_nats_server_has_the_same_environment_everywhere() -> None:
    """What `mayfly up` gives it is in the image, and nothing in compose, on Kubernetes or on Kumori says otherwise."""
    given = dict(re.findall(r"^ENV (\w+)=(\S+)$", STAGES["nats"], re.MULTILINE))
    assert given == nats_config.ENVIRONMENT
    for file in ("compose/compose.yaml", "kubernetes/base/nats.yaml", "kumori/nats/component.cue"):
        assert not [name for name in given if name in (DEPLOY / file).read_text(encoding="utf-8")], file


@pytest.mark.A3
def test_nats_server_is_told_of_its_containers_memory() -> None:
    """Go's limit is a little below the container's: it collects garbage before the kernel kills."""
    nats = yaml.safe_load_all((DEPLOY / "kubernetes/base/nats.yaml").read_text(encoding="utf-8"))
    (pod,) = (made["spec"]["template"]["spec"] for made in nats if made["kind"] == "StatefulSet")
    (server,) = pod["containers"]
    cue = (DEPLOY / "kumori/nats/component.cue").read_text(encoding="utf-8")
    told = {
        **{SERVICES[f"nats-{n}"]["environment"]["GOMEMLIMIT"]: SERVICES[f"nats-{n}"]["mem_limit"] for n in (1, 2, 3)},
        next(each["value"] for each in server["env"] if each["name"] == "GOMEMLIMIT"): server["resources"]["limits"][
            "memory"
        ],
        re.findall(r'GOMEMLIMIT: value: +"(\w+)"', cue)[0]: " ".join(
            re.findall(r"memory: \{size: (\d+), unit: \"(\w)\"", cue)[0]
        ),
    }
    assert len(told) == 3
    for limit, memory in told.items():
        assert 0.85 <= in_bytes(limit) / in_bytes(memory) <= 0.92, (limit, memory)


def test_only_the_first_stage_has_a_compiler() -> None:
    """And nobody copies anything from it but the environment and nats-server."""
    with_compiler = [
        name for name, stage in STAGES.items() if re.search(r"\b(gcc|libc6-dev|python3-venv|pip)\b", stage)
    ]
    assert with_compiler == ["build"]
    assert re.findall(r"COPY --from=build (\S+)", DOCKERFILE) == ["/nats-server", "/opt/mayfly"]


def test_every_gateway_but_the_stand_in_is_apisix() -> None:
    """The one variant that has another gateway says so, in its first words and on the container."""
    replaced = {name for name, file in VARIANTS.items() if "image" in file["services"].get("gateway", {})}
    assert replaced == {"compose.stand-in.yaml"}
    assert (COMPOSE / "compose.stand-in.yaml").read_text().startswith("# NOT APISIX.")
    assert "NOT APISIX" in str(VARIANTS["compose.stand-in.yaml"]["services"]["gateway"]["labels"])


@pytest.mark.A5
def test_the_workers_seccomp_profile_takes_nothing_from_functions() -> None:
    """What it forbids is forbidden to functions anyway, by their own filter or for want of a capability."""
    profile = json.loads((COMPOSE / "worker-seccomp.json").read_text(encoding="utf-8"))
    names = [name for rule in profile["syscalls"] for name in rule["names"]]
    assert profile["defaultAction"] == "SCMP_ACT_ALLOW"
    assert {rule["action"] for rule in profile["syscalls"]} == {"SCMP_ACT_ERRNO"}
    assert len(names) == len(set(names))
    assert set(names) <= DENIED_CALLS | ONLY_WITH_CAPABILITIES
    assert "seccomp=./worker-seccomp.json" in [plain(option) for option in SERVICES["worker"]["security_opt"]]


@pytest.mark.A5
def test_the_docker_variant_asks_the_daemon() -> None:
    """Its worker has the docker driver, and the socket where the driver is told it is; the other one is gone."""
    services = VARIANTS["compose.docker-socket.yaml"]["services"]
    assert services.keys() == {"worker", "worker-docker"}
    assert services["worker"] == {"scale": 0}
    environment = services["worker-docker"]["environment"]
    assert environment["MAYFLY_RUNTIME"] == "docker"
    socket = environment["MAYFLY_DOCKER_HOST"].removeprefix("unix://")
    assert plain(services["worker-docker"]["volumes"][-1]) == f"{socket}:{socket}"


@pytest.mark.A5
def test_the_docker_variant_may_only_unpack() -> None:
    """Four capabilities, Docker's own seccomp and AppArmor, the image's own entry point: nothing is mounted there."""
    worker = VARIANTS["compose.docker-socket.yaml"]["services"]["worker-docker"]
    assert worker["cap_drop"] == ["ALL"]
    assert worker["cap_add"] == ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETFCAP"]
    assert worker["security_opt"] == ["no-new-privileges:true"]
    assert worker["command"] == ["worker"]
    assert not {"entrypoint", "privileged", "devices", "pid", "ipc", "userns_mode", "user"} & worker.keys()


def test_the_docker_variants_worker_is_otherwise_the_worker() -> None:
    """Whatever is not about rights, socket and name is the same in both files."""
    about = {"cap_add", "security_opt", "entrypoint", "command"}
    ours = {key: value for key, value in SERVICES["worker"].items() if key not in about}
    theirs = dict(VARIANTS["compose.docker-socket.yaml"]["services"]["worker-docker"])
    theirs = {key: value for key, value in theirs.items() if key not in about}
    ours["environment"] = ours["environment"] | {
        name: theirs["environment"][name] for name in ("MAYFLY_RUNTIME", "MAYFLY_DOCKER_HOST")
    }
    ours["volumes"] = [*ours["volumes"], theirs["volumes"][-1]]
    ours["networks"] = {"bus": {"aliases": ["worker"]}, "outside": {}}
    assert theirs == ours


@pytest.mark.D6
def test_egress_takes_one_capability_and_one_sysctl() -> None:
    """Without its file no worker may touch a network; with it nothing else changes, and the settings are a worker's."""
    assert "NET_ADMIN" not in SERVICES["worker"]["cap_add"]
    assert "sysctls" not in SERVICES["worker"]
    assert not [name for name in SERVICES["worker"]["environment"] if "EGRESS" in name]
    assert VARIANTS["compose.egress.yaml"]["services"].keys() == {"worker"}
    worker = dict(VARIANTS["compose.egress.yaml"]["services"]["worker"])
    environment = worker.pop("environment")
    assert worker == {"cap_add": ["NET_ADMIN"], "sysctls": {"net.ipv4.ip_forward": "1"}}
    given = {name.removeprefix("MAYFLY_").lower(): plain(value) for name, value in environment.items()}
    assert WorkerSettings.model_validate(given).egress_policy() is not None


@pytest.mark.D6
def test_the_workers_image_has_what_egress_needs() -> None:
    """It makes the rules by nft, which the worker looks for where Debian puts it."""
    assert " nftables " in STAGES["worker"]


@pytest.mark.parametrize("profiles", ["", "monitoring,registry"])
@pytest.mark.parametrize("variant", [None, *VARIANTS])
def test_compose_takes_the_files(profiles: str, variant: str | None) -> None:
    """docker-compose reads them, with and without the profiles, alone and with each variant, and knows every key."""
    need(shutil.which("docker-compose"), "docker-compose")
    files = ["compose.yaml", *([variant] if variant else [])]
    done = subprocess.run(
        ["docker-compose", "config", "--quiet"],
        cwd=COMPOSE,
        env={"PATH": os.environ["PATH"], "COMPOSE_FILE": ":".join(files), "COMPOSE_PROFILES": profiles},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_readme_names_every_variable_and_its_default() -> None:
    """And no other: what `${...}` says in any of the files."""
    text = "".join(path.read_text(encoding="utf-8") for path in COMPOSE.glob("compose*.yaml"))
    in_files = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    table = README.split("## Settings\n", 1)[1].split("\n## ", 1)[0]
    in_table = dict(re.findall(r"^\| `(\w+)` \| (?:`([^`]*)`)? ?\|", table, re.MULTILINE))
    assert in_table == in_files
    assert not re.findall(r"\$\{\w+\}", text)  # each has a default


def test_the_readme_says_what_each_part_may_do() -> None:
    """Its table of users, capabilities and networks is the file's."""
    table = README.split("## What each part may do\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines() if row.startswith("| ")]
    assert len(rows) == 8  # the head and seven parts
    known = SERVICES | VARIANTS["compose.docker-socket.yaml"]["services"] | {"worker": SERVICES["worker"]}
    for part, user, capabilities, networks, _memory in rows[1:]:
        service = known[{"nats-1, -2, -3": "nats-1"}.get(part, part.partition(",")[0])]
        assert service.get("user", "0:0").partition(":")[0] == user, part
        assert service.get("cap_add", ["none"]) == capabilities.split(), part
        assert list(service.get("networks", ["none at all"])) == networks.split(", "), part


def test_the_readme_names_what_is_published() -> None:
    """Its ports are the files', and what it links to is there."""
    published = {plain(port).split(":")[-2] for service in SERVICES.values() for port in service.get("ports", ())}
    table = README.split("## What is published\n", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"^\| (\d+) on ", table, re.MULTILINE)) == published
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (COMPOSE / link).exists() or link.startswith("http"), link
