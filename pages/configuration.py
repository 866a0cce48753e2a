"""
docs/reference/configuration.md: every point of configuration on one page. Each part is read from what it describes:
mayfly.settings, the files in deploy/, mayfly.ops.nats_config, mayfly.bus.schema. Rows: D7.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mayfly.bus.schema import all_streams, work_consumer
from mayfly.domain import limits
from mayfly.ops.nats_config import ROLES as NATS_ROLES
from mayfly.ops.nats_config import Node, node_config
from mayfly.settings import BootstrapSettings
from pages import functions, settings
from pages.page import ROOT, code, table

HEAD = """# Configuration

<!-- made by scripts/docs from src/mayfly/{settings,domain/limits,ops/nats_config,bus/schema}.py and deploy -->

Every point of configuration, on one page, read from the files themselves; a test fails when it is not what they say.

| part | where |
|---|---|
| [services](#the-services) | environment variables of each role |
| [fixed limits](#fixed-limits) | `src/mayfly/domain/limits.py`: ceilings that no setting moves |
| [gateway](#the-gateway) | `deploy/apisix/`, made by `mayfly gateway render` |
| [NATS](#nats) | `nats.conf`, made by `mayfly secrets create`; streams and buckets, made by `mayfly bootstrap` |
| [images](#images) | `deploy/images/` |
| [compose](#compose) | `deploy/compose/` |
| [Kumori](#kumori) | `deploy/kumori/` |
| [Kubernetes](#kubernetes) | `deploy/kubernetes/` |

Options of commands stand in [command line](cli.md). What Prometheus reads and Grafana shows is set in
`deploy/compose/monitoring/`. What each function may set for itself stands in
[functions](functions.md), and what to turn when the load changes in the
[write-up](../writeup.md#5-adapting-to-changes-in-load).
"""
SERVICES = """## The services

A role reads its own variables and no others. One that begins with `MAYFLY_` and is no role's stops the start, with the
nearest right name. `mayfly settings ROLE` prints the values in force. Secrets are files; where a platform has variables
only, `MAYFLY_SECRETS_BUNDLE` holds them, and `mayfly secrets unpack` makes files of it before the role starts."""
FIXED = """## Fixed limits

The same in every installation, so that a function that runs on one runs on all."""
GATEWAY = """## The gateway

APISIX reads two files, without a database beside it: `config.yaml` at its start, `apisix.yaml` also when it changes.
Both are made by `mayfly gateway render` and checked by `mayfly gateway check`: change the settings of `gateway` above,
not the files. What stands here is what the defaults make, as it is committed in `deploy/apisix/`; what stands as
`${{NAME}}` is filled in from the secrets."""
NATS = """## NATS

`nats.conf` of each server, as `mayfly secrets create` writes it for a cluster. What each user may do is in
`src/mayfly/ops/nats_config.py`, and in words in [deploy/nats](../../deploy/nats/README.md)."""
STREAMS = """### Streams and buckets

As `mayfly bootstrap` makes them. M, U and copies are its settings; a bucket `x` is the stream `KV_x`."""
IMAGES = """## Images

Arguments of `deploy/images/Dockerfile`. `scripts/build-images` gives them; what the images need at run time is set from
outside."""
COMPOSE = """## Compose

A variable is set in the environment or in `deploy/compose/.env`. Everything else is in the files."""
KUMORI = """## Kumori

`deployment/deployment.cue` has what differs from place to place; `service/service.cue` the roles and how they are
connected; each component its container."""
KUBERNETES = """## Kubernetes

Apply an overlay, or one of your own on top of it."""


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Return every value of a tree with its path, but for texts too long to be read in a table."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, inner in enumerate(value):
            yield from leaves(*_named(inner, index, path))
    elif isinstance(value, list) and any(map(_is_long, value)):
        yield path, ", ".join(map(_text, value))
    else:
        yield path, _text(value)


def _named(item: Any, index: int, path: str) -> tuple[Any, str]:
    """Return an item of a list and its path, by its id where it has one."""
    if not isinstance(item, dict) or "id" not in item:
        return item, f"{path}[{index}]"
    rest = {key: value for key, value in item.items() if key != "id" and (key, value) != ("name", item["id"])}
    return rest, f"{path}[{item['id']}]"


def _is_long(value: Any) -> bool:
    return isinstance(value, str) and (value.count("\n") > 1 or len(value) > 300)


def _text(value: Any) -> str:
    return "see the file" if _is_long(value) else code(value)


def services(root: Path) -> str:
    """Describe the settings of all roles."""
    return f"{SERVICES}\n\n{table(('variable', 'default', 'of', 'meaning'), settings.rows())}"


def fixed(root: Path) -> str:
    """Describe what no setting moves."""
    rows = [(f"`{name}`", code(value), words) for name, value, words in functions.fixed()]
    defaults = limits.Limits()
    rows += [
        (f"default of a function's `{name}`", code(getattr(defaults, name)), "Where the registration says nothing.")
        for name in defaults.__struct_fields__
    ]
    return f"{FIXED}\n\n{table(('limit', 'value', 'meaning'), rows)}"


def gateway(root: Path) -> str:
    """Describe the files of the gateway."""
    parts = [GATEWAY]
    for path in sorted((root / "deploy/apisix").glob("*.yaml"), reverse=True):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = ((f"`{where}`", value) for where, value in leaves(tree))
        parts += [f"### `{path.name}`", table(("key", "value"), rows)]
    return "\n\n".join(parts)


def nats(root: Path) -> str:
    """Describe the servers' configuration and what bootstrap makes."""
    passwords = dict.fromkeys(NATS_ROLES, "(password)")
    config = yaml.safe_load(node_config(Node("nats-1", ("nats-2", "nats-3")), passwords=passwords, route_password="-"))  # noqa: S106 - none
    users = {name: account.get("users", []) for name, account in config.pop("accounts").items()}
    for secret in ("routes", "authorization"):
        config["cluster"].pop(secret)
    bootstrap = BootstrapSettings()
    streams = table(
        ("stream", "subjects", "keeps", "at most", "one message", "lives", "when full"),
        map(_stream, all_streams(bootstrap)),
    )
    consumer = work_consumer()
    return "\n\n".join(
        [
            NATS,
            table(("key", "value"), ((f"`{path}`", value) for path, value in leaves(config))),
            " ".join(filter(None, (_users(account, found) for account, found in users.items())))
            + " `cluster.routes` names the other servers.",
            STREAMS,
            streams,
            f"Copies: {code(bootstrap.nats_replicas)} (`MAYFLY_NATS_REPLICAS`; deployments: `3`), all on disk.\n"
            f"The one consumer of `ACT` is {code(consumer.durable_name)}: explicit ack within {consumer.ack_wait:g} s, "
            f"`max_deliver` {code(consumer.max_deliver)},\n`max_ack_pending` {code(consumer.max_ack_pending)}, "
            f"`max_waiting` {code(consumer.max_waiting)}.",
        ]
    )


def _users(account: str, users: list[dict[str, Any]]) -> str:
    names = ", ".join(f"`{user['user']}`" for user in users)
    return f"Users of the account `{account}`: {names}." if names else ""


def _stream(config: Any) -> tuple[object, ...]:
    at_most = [
        f"{config.max_msgs:,} messages" if (config.max_msgs or -1) > 0 else "",
        f"{config.max_msgs_per_subject:,} a subject" if (config.max_msgs_per_subject or -1) > 0 else "",
        f"{config.max_bytes >> 20:,} MiB" if (config.max_bytes or -1) > 0 else "",
    ]
    lives = (
        f"{config.max_age:,.0f} s"
        if config.max_age
        else ("as each entry says, else for ever" if config.allow_msg_ttl else "for ever")
    )
    return (
        f"`{config.name}`",
        code(config.subjects),
        code(config.retention.value if config.retention else "limits"),
        ", ".join(filter(None, at_most)) or "no limit",
        f"{config.max_msg_size:,} bytes" if (config.max_msg_size or -1) > 0 else "no limit",
        lives,
        "refuses" if config.discard and config.discard.value == "new" else "drops the oldest",
    )


def compose_files(root: Path) -> list[Path]:
    """Return compose's files, the main one first."""
    return sorted(
        (root / "deploy/compose").glob("compose*.yaml"), key=lambda path: (path.name != "compose.yaml", path.name)
    )


def compose_variables(root: Path) -> dict[str, tuple[str, str, list[str]]]:
    """Return each variable of compose's files with its default, what stands beside it, and the files that use it."""
    found: dict[str, tuple[str, str, list[str]]] = {}
    for path in compose_files(root):
        for line in path.read_text(encoding="utf-8").splitlines():
            text, _, comment = line.partition(" #")
            for name, default in re.findall(r"(?<!\$)\$\{(\w+)(?::?[-?]([^}]*))?\}", text.partition("#")[0]):
                _, _, files = found.setdefault(name, (default, _beside(text, comment), []))
                if path.name not in files:
                    files.append(path.name)
    return dict(sorted(found.items()))


def _beside(text: str, comment: str) -> str:
    key = re.match(r"[\s-]*\"?([\w.]+)[:=]", text)
    return " ".join(filter(None, (f"`{key[1]}`" if key else "", f"({comment.strip()})" if comment else "")))


def images(root: Path) -> str:
    """Describe what the Dockerfile can be given."""
    text = (root / "deploy/images/Dockerfile").read_text(encoding="utf-8")
    arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", text, re.MULTILINE))
    rows = ((f"`{name}`", code(value)) for name, value in arguments.items())
    return f"{IMAGES}\n\n{table(('argument', 'default'), rows)}"


def compose(root: Path) -> str:
    """Describe the compose files."""
    variables = compose_variables(root)
    main = yaml.safe_load(compose_files(root)[0].read_text(encoding="utf-8"))
    return "\n\n".join(
        [
            COMPOSE,
            table(
                ("variable", "default", "sets", "in"),
                (
                    (f"`{name}`", code(default), sets, ", ".join(files))
                    for name, (default, sets, files) in variables.items()
                ),
            ),
            table(("file", "for"), ((f"`{path.name}`", first_comment(path)) for path in compose_files(root))),
            "### Services of `compose.yaml`",
            table(
                ("service", "instances", "profile", "image", "networks", "published", "memory", "stops within"),
                (_compose_service(name, service) for name, service in main["services"].items()),
            ),
            "### What `compose.yaml` sets",
            table(("service", "variable", "value"), _compose_environment(main["services"])),
            "### What the other files change",
            table(
                ("file", "service", "key", "value"), (row for path in compose_files(root)[1:] for row in _changes(path))
            ),
        ]
    )


def _compose_service(name: str, service: dict[str, Any]) -> tuple[object, ...]:
    return (
        name,
        service.get("scale", 1),
        code(service.get("profiles")) if service.get("profiles") else "always",
        code(service["image"]),
        ", ".join(service.get("networks", [service.get("network_mode", "default")])),
        ", ".join(code(port) for port in service.get("ports", [])) or "nothing",
        code(service.get("mem_limit")),
        code(service.get("stop_grace_period", "10s")),
    )


def _compose_environment(found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    sets: dict[tuple[str, str], list[str]] = {}
    for name, service in found.items():
        for variable, value in service.get("environment", {}).items():
            sets.setdefault((variable, str(value)), []).append(name)
    for (variable, value), names in sorted(sets.items()):
        yield ", ".join(names), f"`{variable}`", code(value)


def _changes(path: Path) -> Iterator[tuple[str, str, str, str]]:
    for name, service in yaml.safe_load(path.read_text(encoding="utf-8"))["services"].items():
        for key, value in leaves(service):
            yield path.name, name, f"`{key}`", value


def first_comment(path: Path) -> str:
    """Return the first sentence of a file's first comment, and the next when it is too short to say anything."""
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#!"))
    comment = []
    for line in lines:
        if not line.startswith(("#", "//")) or not line.strip("#/ "):
            break
        comment.append(line.lstrip("#/ "))
    sentences = re.split(r"(?<=\.) ", re.sub(r" ?Rows: .*", "", " ".join(comment)))
    enough = next((n for n in range(1, len(sentences)) if len(" ".join(sentences[:n])) > 25), len(sentences))
    return " ".join(sentences[:enough]).rstrip(":")


def block(text: str, opening: str) -> list[tuple[str, str]]:
    """Return the names and values of the first CUE block that begins with *opening*, up to its closing brace."""
    found = re.search(rf"^(\s*){re.escape(opening)} \{{\n(.*?)^\1\}}", text, re.MULTILINE | re.DOTALL)
    lines = found[2].splitlines() if found else []
    pairs = (re.match(r"\s*([\w.]+(?:: \w+)?):\s+(.+?)(?:\s+//\s.*)?$", line) for line in lines)
    return [(pair[1], pair[2]) for pair in pairs if pair]


def kumori(root: Path) -> str:
    """Describe the Kumori files."""
    place = root / "deploy/kumori"
    deployment = (place / "deployment/deployment.cue").read_text(encoding="utf-8")
    service = (place / "service/service.cue").read_text(encoding="utf-8")
    components = sorted(place.glob("*/component.cue"))
    scaled = re.findall(
        r"^\t{3}(\w+): \{(?:(?!^\t{3}\}).)*?meta: hpa: \{enabled: true, minReplicas: (\d+), maxReplicas: (\d+)",
        service,
        re.MULTILINE | re.DOTALL,
    )
    values = [
        (kind, name, value) for kind in ("parameter", "resource") for name, value in block(deployment, f"{kind}:")
    ]
    scale = [("instances", name.partition(":")[0], value) for name, value in block(deployment, "scale: detail:")]
    scale += [
        ("autoscaled (`meta: hpa`)", name, f"{least} to {most}, by processor time") for name, least, most in scaled
    ]
    return "\n\n".join(
        [
            KUMORI,
            table(
                ("of the deployment", "name", "value"),
                ((kind, f"`{name}`", code(value.strip('"'))) for kind, name, value in values),
            ),
            table(("of the deployment", "role", "value"), scale),
            "### Components",
            table(("component", "image", "parameters", "memory and processor"), map(_component, components)),
            "### What the components set",
            table(("component", "variable", "value"), (row for path in components for row in _cue_environment(path))),
        ]
    )


def _component(path: Path) -> tuple[object, ...]:
    text = path.read_text(encoding="utf-8")
    images = dict.fromkeys(re.findall(r'tag:\s+"([^"]+)"', text))
    sizes = re.findall(r"(memory|cpu):\s*\{size: (\d+), unit: \"(\w+)\"\}", text)
    parameters = ", ".join(f"`{name}` = {code(value)}" for name, value in block(text, "parameter:"))
    return (
        path.parent.name,
        ", ".join(map(code, images)),
        parameters or "none",
        ", ".join(f"{what} {size} {unit}" for what, size, unit in sizes),
    )


def _cue_environment(path: Path) -> Iterator[tuple[str, str, str]]:
    text = path.read_text(encoding="utf-8")
    ports = dict(re.findall(r"\b(\w+): \{[^{}\n]*\bport: (\d+)\}", text))
    for name, kind, value in re.findall(
        r"^\s*(?:env: )?([A-Z][A-Z0-9_]+): (value|parameter|secret):\s+(.+?)\s*$", text, re.MULTILINE
    ):
        shown = code(re.sub(r"\\\(srv\.server\.(\w+)\.port\)", lambda found: ports[found[1]], value.strip('"')))
        yield path.parent.name, f"`{name}`", shown if kind == "value" else f"{kind} {shown}"


def manifests(root: Path) -> list[dict[str, Any]]:
    """Return all objects of the Kubernetes files, patches left out."""
    files = sorted((root / "deploy/kubernetes").glob("**/*.yaml"))
    documents = (document for path in files for document in yaml.safe_load_all(path.read_text(encoding="utf-8")))
    return [each for each in documents if isinstance(each, dict) and "kind" in each]


def kubernetes(root: Path) -> str:
    """Describe the Kubernetes files."""
    place = root / "deploy/kubernetes"
    objects = manifests(root)
    workloads = [each for each in objects if each["kind"] in ("Deployment", "StatefulSet", "Job")]
    choices = sorted([*place.glob("overlays/*/kustomization.yaml"), *place.glob("components/*/kustomization.yaml")])
    return "\n\n".join(
        [
            KUBERNETES,
            table(
                ("folder", "what it is"),
                ((f"`{path.parent.relative_to(place).as_posix()}`", first_comment(path)) for path in choices),
            ),
            "### Workloads",
            table(
                ("workload", "replicas", "container", "image", "asks for", "at most", "stops within"),
                (row for each in workloads for row in _containers(each)),
            ),
            "### Autoscaling and disruption",
            table(("object", "key", "value"), (row for each in objects for row in _scaling(each))),
            "### What the manifests set",
            table(
                ("workload", "variable", "value"), (row for each in workloads for row in _manifest_environment(each))
            ),
            "### What the components change",
            table(("component", "key", "value"), (row for path in choices for row in _patches(path.parent, place))),
        ]
    )


def _pod(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def _containers(workload: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    pod = _pod(workload)
    for container in pod.get("containers", []):
        resources = container.get("resources", {})
        yield (
            f"{workload['kind']} {workload['metadata']['name']}",
            workload["spec"].get("replicas", "-"),
            container["name"],
            code(container.get("image")),
            ", ".join(f"{name} {value}" for name, value in resources.get("requests", {}).items()),
            ", ".join(f"{name} {value}" for name, value in resources.get("limits", {}).items()),
            f"{pod.get('terminationGracePeriodSeconds', 30)} s",
        )


def _scaling(each: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    if each["kind"] not in ("HorizontalPodAutoscaler", "ScaledObject", "PodDisruptionBudget"):
        return
    for path, value in leaves(each["spec"]):
        if not path.startswith(("selector", "scaleTargetRef")):
            yield f"{each['kind']} {each['metadata']['name']}", f"`{path}`", value


def _manifest_environment(workload: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for container in _pod(workload).get("containers", []):
        for variable in container.get("env", []):
            value = code(variable["value"]) if "value" in variable else "from " + ", ".join(variable["valueFrom"])
            yield workload["metadata"]["name"], f"`{variable['name']}`", value


def _patches(folder: Path, place: Path) -> Iterator[tuple[str, str, str]]:
    name = folder.relative_to(place).as_posix()
    for path in sorted(folder.glob("*.yaml")):
        for patch in yaml.safe_load(path.read_text(encoding="utf-8")) if is_patch(path) else []:
            value = patch.get("value", patch["op"])
            key = re.sub(r"^/(spec/template/)?spec/|/-$", "", patch["path"]).strip("/").replace("/", ".")
            if isinstance(value, dict) and {"name", "value"} == value.keys():
                yield name, f"`{value['name']}`", code(value["value"])
            else:
                for inner, shown in leaves(value):
                    yield name, f"`{'.'.join(filter(None, (key, inner)))}`", shown


def is_patch(path: Path) -> bool:
    """Say whether a file holds a list of changes instead of objects."""
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    return len(documents) == 1 and isinstance(documents[0], list)


PARTS = (services, fixed, gateway, nats, images, compose, kumori, kubernetes)


def page(root: Path = ROOT) -> str:
    """Write the whole page from the project in *root*."""
    return "\n\n".join([HEAD.rstrip(), *(part(root) for part in PARTS)]) + "\n\n<!-- Rows: D7. -->\n"
