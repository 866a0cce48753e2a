"""
Compares the deployments with each other and with the code.

`disagreements` returns a sentence for whatever does not agree in what tests/support/platforms.py has read. What may
differ, and why, stands in `MAY_DIFFER`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from mayfly.api.door import OPEN_PATHS
from mayfly.domain.limits import Limits
from mayfly.ops import nats_config
from mayfly.settings import ROLES, GatewaySettings
from tests.support.platforms import (
    DIRECTORIES,
    METRICS_PORT,
    OURS,
    Code,
    Found,
    Part,
    exposed,
    parts,
    plain,
    stage,
    targets,
)

LAME_DUCK_S = 32.0
"""How long nats-server takes to go."""

MAY_DIFFER = {
    "nats_url": "each platform has names of its own",
    "runtime": "Kumori grants no privileges, so a Docker daemon elsewhere runs the containers",
    "docker_host": "the same",
    "docker_tls_dir": "the same",
    "stop_grace_s": "Kumori stops a container after 30 s",
    "image_cache_bytes": "as much as the platform has room for",
    "login_concurrency": "by default as the machine has cores; a pod has fewer than its node",
}
"""Settings whose values need not be the same everywhere."""


def disagreements(found: Found) -> list[str]:
    """Say what does not agree, a sentence each."""
    every = parts(found)
    return [sentence for check in CHECKS for sentence in check(found, every)]


def _images(found: Found, every: list[Part]) -> Iterator[str]:
    """One image for a role everywhere; ours are targets of the Dockerfile, of this version."""
    yield from _same((part.role, part, part.image) for part in every)
    for part in every:
        name, _, tag = part.image.partition(":")
        if name.startswith("mayfly/") and tag != found.code.version:
            yield f"{part} runs {part.image}, and this is {found.code.version}"
        if part.role != "gateway" and not stage(found, name.removeprefix("mayfly/")):
            yield f"{part} runs {part.image}, which is no target of the Dockerfile"
    if (ours := ".".join(map(str, found.kumori["artifact"]["ref"]["version"]))) != found.code.version:
        yield f"Kumori: the module is of version {ours}, and this is {found.code.version}"
    for target in ("api", "worker", "nats"):
        if f"ARG VERSION={found.code.version}\n" not in stage(found, target):
            yield f"Dockerfile: {target} is not of version {found.code.version}"


def _users(found: Found, every: list[Part]) -> Iterator[str]:
    """Everybody is who owns its secrets."""
    owners = found.code.owners
    wanted = {
        "gateway": owners.gateway,
        "api": owners.api,
        "worker": owners.worker,
        "nats": owners.nats,
        "bootstrap": owners.admin,
    }
    for part in every:
        if part.user != wanted[part.role]:
            yield f"{part} runs as {part.user}, and its secrets are those of {wanted[part.role]}"
    for target in ("api", "worker", "nats"):
        if f"\nUSER {wanted[target]}:{wanted[target]}\n" not in stage(found, target):
            yield f"Dockerfile: {target} is not {wanted[target]}"


def _ports(found: Found, every: list[Part]) -> Iterator[str]:
    """Ports are those of the code, of the images, and of the gateway's files."""
    code = found.code
    for part in every:
        wanted = code.ports(part.role)
        if part.platform == "Kumori" and part.role == "gateway":
            wanted = wanted - {code.gateway_ports[0]} | {code.clear_port}  # the inbound ends TLS
        if part.platform == "Kubernetes" and part.role == "nats":
            wanted = wanted | {code.nats_ports[2]}  # for probes and KEDA
        if part.ports != wanted:
            yield f"{part} has the ports {sorted(part.ports)}, and the code {sorted(wanted)}"
    for target in ("api", "worker", "nats"):
        if (open_ports := exposed(found, target)) != code.ports(target):
            yield f"Dockerfile: {target} exposes {sorted(open_ports)} instead of {sorted(code.ports(target))}"
    listening = found.config["apisix"]
    said = (
        listening["ssl"]["listen"][0]["port"],
        listening["status"]["port"],
        found.config["plugin_attr"]["prometheus"]["export_addr"]["port"],
    )
    if said != code.gateway_ports:
        yield f"config.yaml listens on {said} instead of {code.gateway_ports}"
    for role in ("api", "worker"):
        for port in {port for job in found.prometheus["scrape_configs"] for port in targets(job, role)}:
            if port != METRICS_PORT:
                yield f"Prometheus asks {role} on port {port}"


def _way_of_a_call(found: Found, every: list[Part]) -> Iterator[str]:
    """The gateway's API servers are those of compose, and everybody reaches NATS where it listens."""
    nodes = {f"{node['host']}:{node['port']}" for node in found.routes["upstreams"][0]["nodes"]}
    servers = {
        f"{part.name}:{found.code.api_port}" for part in every if (part.platform, part.role) == ("compose", "api")
    }
    if nodes != servers:
        yield f"apisix.yaml leads to {sorted(nodes)}, and compose has {sorted(servers)}"
    for part in every:
        if part.platform == "Kumori" or part.role not in OURS:
            continue  # there an address is a channel, which the graph checks
        hosts = {url.partition("://")[2] for url in part.environment["MAYFLY_NATS_URL"].split(",")}
        for host in hosts:
            if host.rpartition(":")[2] != str(found.code.nats_ports[0]):
                yield f"{part} looks for NATS at {host}"
        count = sum(other.count for other in every if (other.platform, other.role) == (part.platform, "nats"))
        if len(hosts) != count:
            yield f"{part} knows {len(hosts)} of {count} nats-servers"


def _settings(found: Found, every: list[Part]) -> Iterator[str]:
    """Variables are settings of their role, and what need not differ has one value everywhere, default or not."""
    for part in every:
        if part.role in OURS:
            for name in part.environment:
                if name.removeprefix("MAYFLY_").lower() not in ROLES[part.role].model_fields:
                    yield f"{part}: {name} is no setting of {part.role}"
    for role in OURS:
        own = [(part, part.settings()) for part in every if part.role == role]
        for name in ROLES[role].model_fields.keys() - MAY_DIFFER.keys():
            yield from _same((f"{role}: {name}", part, _shown(getattr(settings, name))) for part, settings in own)


def _apisix(_found: Found, every: list[Part]) -> Iterator[str]:
    """APISIX is told the same everywhere: what it has to know otherwise is in its files. Of ours it reads nothing."""
    read = [
        (part, {name: value for name, value in part.environment.items() if not name.startswith("MAYFLY_")})
        for part in every
        if part.role == "gateway"
    ]
    yield from _same(("gateway", part, json.dumps(told, sort_keys=True)) for part, told in read)


def _shown(value: object) -> str:
    """A value to compare: of a path only the last name, since each platform has a place of its own for secrets."""
    return value.name.removeprefix("mayfly-") if isinstance(value, Path) else str(value)


def _logins(_found: Found, every: list[Part]) -> Iterator[str]:
    """Each role is the user of NATS that has its permissions."""
    wanted = {"api": nats_config.API, "worker": nats_config.WORKER, "bootstrap": nats_config.ADMIN}
    for part in every:
        if part.role in wanted and part.environment.get("MAYFLY_NATS_USER") != wanted[part.role]:
            yield f"{part} is not {wanted[part.role]} to NATS"


def _limits(found: Found, every: list[Part]) -> Iterator[str]:
    """What an API server and the gateway's files say about the limits is what bootstrap puts in force."""
    for part in every:
        if part.role not in {"api", "bootstrap"}:
            continue
        settings, default = part.settings(), GatewaySettings.model_construct()
        for name in ("max_activations", "max_activations_per_user"):
            ours, theirs = getattr(settings, name), getattr(default, name)
            if ours != theirs:
                yield f"{part}: {name} is {ours}, and {theirs} in the gateway's files"
    counted = found.keda["spec"]["triggers"][0]["metadata"]["lagThreshold"]
    slots = {str(part.settings().slots) for part in every if part.role == "worker"}
    if slots != {counted}:
        yield f"KEDA counts {counted} slots a worker, and there are {sorted(slots)}"
    memory = found.compose["services"]["worker"]["mem_limit"]
    if int(plain(memory).removesuffix("g")) * 1024 <= int(min(slots)) * Limits().memory_mib:
        yield "compose: worker has less memory than its slots need by default"


def _rendering(found: Found, every: list[Part]) -> Iterator[str]:
    """What compose gives `mayfly gateway render` are settings of it, and M and U are those of the API servers."""
    given = {name: plain(value) for name, value in found.compose["services"]["secrets"]["environment"].items()}
    ours = {name.removeprefix("MAYFLY_").lower(): value for name, value in given.items() if name.startswith("MAYFLY_")}
    yield from (
        f"compose: secrets: {name} is no setting of gateway" for name in ours.keys() - GatewaySettings.model_fields
    )
    api = next(part.settings() for part in every if (part.platform, part.role) == ("compose", "api"))
    for name, whose in (("max_activations", "of everybody"), ("max_activations_per_user", "a user")):
        wanted = str(getattr(api, name))
        if ours.get(name) != wanted:
            yield f"compose: the gateway's files are made for {ours.get(name)} {whose}, not {wanted}"


def _times(found: Found, every: list[Part]) -> Iterator[str]:
    """Everybody waits longer than whom it waits for: the call, the API server, the gateway, who stops them."""
    upstream = found.routes["upstreams"][0]
    shutdown_s = float(found.config["nginx_config"]["worker_shutdown_timeout"].removesuffix("s"))
    chain = {
        "the longest call": found.code.call_s,
        "an API server's last calls": found.code.grace_s,
        "the gateway's read time-out": upstream["timeout"]["read"],
        "the gateway's last calls": shutdown_s,
    }
    for shorter, longer in pairwise(chain):
        if chain[shorter] >= chain[longer]:
            yield f"{longer} have {chain[longer]:g} s, and {shorter} {chain[shorter]:g} s"
    if upstream["keepalive_pool"]["idle_timeout"] >= found.code.keep_alive_s:
        yield "the gateway keeps connections for longer than an API server does"
    for part in every:
        yield from _stop(part, found.code, shutdown_s)


def _stop(part: Part, code: Code, shutdown_s: float) -> Iterator[str]:
    if part.role == "bootstrap":
        return
    if part.role == "api":
        needed = code.grace_s + part.settings().drain_s
    elif part.role == "worker":
        needed = part.settings().stop_grace_s
    else:
        needed = {"gateway": shutdown_s, "nats": LAME_DUCK_S}[part.role]
    if part.platform == "Kumori":  # which gives nobody longer: what matters is that workers know
        if part.role == "worker" and needed >= part.stop_s:
            yield f"{part} may need {needed:g} s to stop and has {part.stop_s:g}"
        return
    if part.role == "worker" and needed <= code.call_s:
        yield f"{part} lets calls run for {needed:g} s when it stops, and one may take {code.call_s:g} s"
    if part.stop_s <= needed:
        yield f"{part} may need {needed:g} s to stop and has {part.stop_s:g}"


def _secrets(found: Found, every: list[Part]) -> Iterator[str]:
    """Secrets are where the roles look for them, by the names that `mayfly secrets create` gives them."""
    for part in every:
        if not part.secrets:
            yield f"{part} has no secrets"
        if part.platform != "Kumori" and part.secrets[:1] != (found.code.secrets,):
            yield f"{part} has its secrets in {part.secrets[:1]} instead of {found.code.secrets}"
        if part.role in OURS:
            yield from _files(found, part)


def _files(found: Found, part: Part) -> Iterator[str]:
    for name, value in part.settings():
        if not isinstance(value, Path) or name in {"state_dir", "image_dir"}:
            continue
        if not any(value.is_relative_to(directory) for directory in part.secrets):
            yield f"{part}: {name} is {value}, which is not among its secrets"
        if name != "docker_tls_dir" and _shown(value) not in found.layout[part.role]:
            yield f"{part}: {name} is {value}, and no {DIRECTORIES[part.role]}/{_shown(value)} is ever made"


def _numbers(found: Found, every: list[Part]) -> Iterator[str]:
    """As many nats-servers as streams have copies; as many of the others as elsewhere; bounds that agree."""
    for platform in dict.fromkeys(part.platform for part in every):
        own = [part for part in every if part.platform == platform]
        servers = sum(part.count for part in own if part.role == "nats")
        for part in own:
            if part.role == "bootstrap":
                copies = part.settings().nats_replicas
                if copies != servers:
                    yield f"{part} makes streams of {copies} copies, and there are {servers} nats-servers"
    for role in ("api", "worker"):
        counts = {
            platform: sum(part.count for part in every if (part.platform, part.role) == (platform, role))
            for platform in ("compose", "Kumori", "Kubernetes")
        }
        if len(set(counts.values())) > 1:
            yield f"{role}: {counts}"
    scaler = next(made["spec"] for made in found.kubernetes if made["kind"] == "HorizontalPodAutoscaler")
    hpa = found.kumori["artifact"]["description"]["role"]["api"]["meta"]["hpa"]
    ours = (hpa["minReplicas"], hpa["maxReplicas"], hpa["metrics"][0]["resource"]["target"]["averageUtilization"])
    theirs = scaler["metrics"][0]["resource"]["target"]["averageUtilization"]
    if ours != (scaler["minReplicas"], scaler["maxReplicas"], theirs):
        yield "api: Kumori and Kubernetes scale it by other numbers"


def _health(found: Found, every: list[Part]) -> Iterator[str]:
    """What asks how a role does asks for what it answers."""
    for part in every:
        for port, path in sorted(part.asked - found.code.health(part.role)):
            yield f"{part} is asked for {path} on port {port}, where nobody answers that"
        if not part.asked and part.role != "bootstrap" and (part.platform, part.role) != ("Kumori", "nats"):
            yield f"{part} is never asked how it does"
    if (asked := found.routes["upstreams"][0]["checks"]["active"]["http_path"]) not in OPEN_PATHS:
        yield f"the gateway asks API servers for {asked}, which needs its secret"


def _commands(_found: Found, every: list[Part]) -> Iterator[str]:
    """Each part runs its role."""
    for part in every:
        wanted = {"gateway": "docker-start", "nats": "nats-server"}.get(part.role, f"mayfly {part.role}")
        if part.command and wanted not in part.command:  # none is the image's own
            yield f"{part} runs `{part.command}`, which is not {wanted}"


def _same(values: Iterable[tuple[str, Part, str]]) -> Iterator[str]:
    """Say what is not the same everywhere."""
    seen: dict[str, dict[str, list[str]]] = {}
    for what, part, value in values:
        seen.setdefault(what, {}).setdefault(value, []).append(str(part))
    for what, said in seen.items():
        if len(said) > 1:
            yield f"{what}: {json.dumps({value: names[0] for value, names in said.items()})}"


CHECKS = (
    _images,
    _users,
    _ports,
    _way_of_a_call,
    _settings,
    _apisix,
    _logins,
    _limits,
    _rendering,
    _times,
    _secrets,
    _numbers,
    _health,
    _commands,
)
