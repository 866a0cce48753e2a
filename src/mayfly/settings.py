"""
Every setting, and the only reader of the environment.

A setting's variable is `MAYFLY_` and the field's name in capitals. A variable that starts with `MAYFLY_` and is no
setting stops the start, with the nearest name: a mistyped limit must not be a silent default. A secret's setting
names a file that holds it. The prose after each field is the reference page.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from mayfly.domain.egress import RANGE_MAX_PREFIX, RANGE_MIN_PREFIX, RESOLVERS_MAX, EgressPolicy, Target
from mayfly.domain.function import FUNCTIONS_MAX_PER_USER
from mayfly.domain.lifetime import RECORDS_MAX_PER_USER

PREFIX = "MAYFLY_"
CORES = os.cpu_count() or 1

READ_ELSEWHERE = frozenset({"MAYFLY_E2E_URL", "MAYFLY_E2E_CA"})
"""Variables that are no role's settings but the test suites' own."""


def _commas(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _kinds(annotation: object) -> tuple[object, ...]:
    return get_args(annotation) or (annotation,)


HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")

Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_commas)]

S = TypeVar("S", bound="Settings")


def _is_host(text: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return HOST.fullmatch(text) is not None


def _is_host_and_port(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return HOST.fullmatch(host) is not None and port.isdecimal() and 0 < int(port) < 65_536


class SettingsError(Exception):
    """A setting is unknown or has a value that cannot be."""


class Settings(BaseSettings):
    """Base of each role's settings: frozen, from the environment only."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True, defer_build=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_empty_path(cls, value: object, info: ValidationInfo) -> object:
        """An empty path would be the current directory; and taking it for "none" could open a door."""
        if value == "" and Path in _kinds(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("must be a path; leave the variable away for the default")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read what the program passes, then the environment, and nothing else."""
        return init_settings, env_settings


class LogSettings(Settings):
    """What is logged, and how."""

    log_format: Literal["console", "json"] = "console"
    """`console` for people, `json` for machines: one object a line. Both on stderr."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe event that is logged."""


class MetricsSettings(Settings):
    """Where a role's metrics can be read."""

    metrics_listen: str = ""
    """Address and port of `/metrics`, in clear text and without a token: never one that callers can reach. Empty for
    none; 127.0.0.1:9464 is the usual one. `mayfly up` gives its API server this port and its worker the next one."""


class NatsSettings(Settings):
    """How a role reaches NATS."""

    nats_url: str = "nats://127.0.0.1:4222"
    """One or more servers of the cluster, separated by commas."""

    nats_user: str = ""
    """The role's NATS user. Each role has its own, with the permissions it needs and no others."""

    nats_password_file: Path | None = None
    """A file with the password of `nats_user`."""

    nats_ca_file: Path | None = None
    """The certificate authority of the NATS servers; when given, connections are TLS."""

    nats_replicas: Annotated[int, Field(ge=1, le=5)] = 1
    """Copies of each stream and bucket: 1 on one server, 3 on a cluster of three or more. Used by `bootstrap`."""


class AdmissionSettings(Settings):
    """How many activations may be in flight: admitted and not yet finished, waiting and running alike."""

    max_activations: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["none"] = 256
    """M, for the platform; `none` for no maximum. `mayfly up` takes the number of slots unless it is set."""

    max_activations_per_user: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["none"] = 32
    """U, for each user. It can be raised at any time, and lowered only while nothing is in flight."""

    admission_wait_ms: Annotated[int, Field(ge=0, le=5000)] = 150
    """How long a call waits, at each limit that it meets, for a slot that is just being given back, before it is
    refused; 0 refuses at once."""


class BackOffSettings(Settings):
    """How failed logins, and changes of a password with a wrong one, slow down those that follow."""

    login_failures_per_user_and_address: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """Wrong passwords for one user name from one address (IPv6: one /64) that cost nothing. After them the next has to
    wait (`login_back_off_s`), and each further one twice as long: 429 `too-many-attempts`. A right password begins the
    count anew."""

    login_failures_per_user: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Likewise for one user name from all addresses together. It does not hold where this user has logged in before:
    see `known_address_s`."""

    login_failures_per_address: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """Likewise from one address for all user names together, but for those who have logged in from there before."""

    login_back_off_s: Annotated[float, Field(ge=0.1, le=86_400)] = 1.0
    """How long the first attempt after the free ones has to wait, in seconds; each further one twice as long."""

    login_back_off_max_s: Annotated[float, Field(ge=1, le=86_400)] = 900.0
    """The longest that anybody has to wait, in seconds."""

    login_failures_kept_s: Annotated[int, Field(ge=60, le=30 * 86_400)] = 86_400
    """How long a failure counts, in seconds: all are forgotten so long after the last of them."""

    known_address_s: Annotated[int, Field(ge=60, le=366 * 86_400)] = 30 * 86_400
    """How long an address is known as one where a user has logged in, in seconds after his last login there. From it he
    cannot be kept out by who guesses at his password elsewhere."""

    registrations_per_address: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Users that may be registered from one address within `login_failures_kept_s`; then each has to wait likewise."""


class SealingSettings(Settings):
    """Which keys seal functions' secrets and registries' passwords, or open them."""

    sealing_keys_dir: Path = Path("/run/secrets/mayfly/sealing-keys")
    """A directory of sealing keys, X25519 in PEM: for an API server the public halves, `<kid>.pub.pem`, of which the
    last by name seals; for a worker the private ones, `<kid>.pem`, all of which open."""


class ApiSettings(LogSettings, NatsSettings, AdmissionSettings, MetricsSettings, BackOffSettings, SealingSettings):
    """An API server."""

    listen: str = "127.0.0.1:8443"
    """Address and port of the HTTPS listener."""

    tls_certificate_file: Path = Path("/run/secrets/mayfly/api.crt")
    """The server's certificate, with its chain."""

    tls_key_file: Path = Path("/run/secrets/mayfly/api.key")
    """The private key of that certificate."""

    gateway_secret_file: Path | None = None
    """A file with what the gateway sends in `X-Mayfly-Gateway`. When given, a request without it is refused, except for
    /healthz and /readyz: so nobody goes round the gateway."""

    token_keys_dir: Path = Path("/run/secrets/mayfly/token-keys")
    """A directory of ES256 private keys, `<kid>.pem`. All verify; the last one by name signs."""

    token_issuer: str = "mayfly"  # noqa: S105 - a name, not a secret
    """The `iss` of tokens."""

    token_audience: str = "mayfly-api"  # noqa: S105 - a name, not a secret
    """The `aud` of tokens. A token for another audience is refused."""

    access_token_s: Annotated[int, Field(ge=10, le=86_400)] = 900
    """How long an access token is good, in seconds."""

    refresh_token_s: Annotated[int, Field(ge=60, le=31_536_000)] = 30 * 86_400
    """How long a login lasts without being used, in seconds: each refresh begins it anew."""

    registration: Literal["open", "invitation", "closed"] = "open"
    """`open`: anybody may register. `invitation`: whoever has a code that an operator made (`mayfly admin invitations
    create`). `closed`: nobody new. Those who are registered stay in any case."""

    login_concurrency: Annotated[int, Field(ge=1, le=64)] = max(1, CORES // 2)
    """Password hashes computed at once. Each takes a core for some 50 ms; the bound keeps calls responsive."""

    record_keep_s: Annotated[int, Field(ge=600, le=30 * 86_400)] = 86_400
    """How long records, results and logs are kept after an activation ended, and Idempotency-Keys from its beginning,
    in seconds; of a user who has very many, shorter (`MAYFLY_RECORDS_MAX_PER_USER`)."""

    functions_max_per_user: Annotated[int, Field(ge=1, le=100_000)] = FUNCTIONS_MAX_PER_USER
    """Functions that one user may have, each with up to 64 KiB and 288 KiB of secrets. Ten times as many names he may
    use in turn: one that was used leaves some 200 bytes for ever."""

    records_max_per_user: Annotated[int, Field(ge=1000, le=100_000_000)] = RECORDS_MAX_PER_USER
    """Records that one user may have, of about 1 KiB each, and Idempotency-Keys. Beyond half of them what his new calls
    leave is kept the shorter the more he has, down to 600 s: of one who calls all the time, as many as this."""

    responses_max_bytes_per_user: Annotated[int, Field(ge=4 << 20)] = 64 << 20
    """Room for one user's results and logs, in bytes. His own oldest go first; a record whose result went stays."""

    drain_s: Annotated[float, Field(ge=0, le=600)] = 1.0
    """How long /readyz says 503 before an API server that was told to stop closes its listener, in seconds."""


class ImageSettings(Settings):
    """Where images come from, and how much room they take."""

    allowed_registries: Words = ("*",)
    """Patterns of registry hosts that functions may name, separated by commas; `*` matches any part."""

    private_registries: Words = ()
    """Registries at private or loopback addresses that functions may name, and registries lead to: hosts, host:port, or
    CIDRs."""

    plain_http_registries: Words = ()
    """Registries spoken to without TLS, also where another one leads there: host:port, separated by commas."""

    registry_auth_file: Path | None = None
    """Credentials for registries, in the format of docker's config.json."""

    pull_timeout_s: Annotated[float, Field(ge=1, le=3600)] = 120.0
    """How long one image may take to arrive and unpack, in seconds."""

    image_max_bytes: Annotated[int, Field(ge=1 << 20)] = 2 << 30
    """The largest image, unpacked, in bytes."""

    image_cache_bytes: Annotated[int, Field(ge=1 << 20)] = 20 << 30
    """Room for unpacked images on a worker, in bytes. The longest unused go first, never one in use."""


class EgressSettings(Settings):
    """What functions that were registered with `network: egress` may reach."""

    egress: Literal["off", "on"] = "off"
    """`on`: such functions reach the internet by IPv4, and nothing of this machine or of private networks. The worker
    needs CAP_NET_ADMIN, nftables and `net.ipv4.ip_forward=1`. `off`: they are refused."""

    egress_addresses: IPv4Network = IPv4Network("10.213.0.0/16")
    """Where functions have their addresses, seen by nobody but this machine: a range that nothing else uses, /20 or
    larger, up to a /8. Workers in one network namespace need one each."""

    egress_dns: Words = ()
    """Resolvers that functions ask for names, on port 53: up to three IPv4 addresses, separated by commas, wherever
    they are. Empty for those of this machine, as far as they are not on a loopback address (or systemd's own)."""

    egress_allow: Words = ()
    """What functions may reach although it is refused by default: addresses or CIDRs, each with `:port` behind it or
    for all ports, separated by commas. Not for addresses of the worker's own machine."""

    egress_deny: Words = ()
    """What functions may not reach although it is not refused by default, in the same form. `egress_allow` wins."""

    @field_validator("egress_addresses")
    @classmethod
    def _large_enough(cls, value: IPv4Network) -> IPv4Network:
        if value.prefixlen > RANGE_MAX_PREFIX:
            raise ValueError(f"must be a /{RANGE_MAX_PREFIX} or larger, as an address rests before it is used again")
        if value.prefixlen < RANGE_MIN_PREFIX:
            raise ValueError(f"must be a /{RANGE_MIN_PREFIX} or smaller: no range of private addresses is larger")
        return value

    @field_validator("egress_dns")
    @classmethod
    def _resolvers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > RESOLVERS_MAX or any(IPv4Address(each).is_loopback for each in value):
            raise ValueError(
                f"must be at most {RESOLVERS_MAX} addresses, and no loopback address: that answers itself only"
            )
        return value

    @field_validator("egress_allow", "egress_deny")
    @classmethod
    def _targets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            Target.parse(each)
        return value

    def egress_policy(self) -> EgressPolicy | None:
        """What it comes to; None when it is off."""
        if self.egress == "off":
            return None
        return EgressPolicy(
            addresses=self.egress_addresses,
            resolvers=tuple(map(IPv4Address, self.egress_dns)),
            allow=tuple(map(Target.parse, self.egress_allow)),
            deny=tuple(map(Target.parse, self.egress_deny)),
        )


class SlotSettings(Settings):
    """How much runs at once on one machine."""

    slots: Annotated[int, Field(ge=1, le=4096)] = 4 * CORES
    """Activations run at once."""

    worker_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that see to those slots, each with a share of them. One is busy with one core at the most, beside the
    functions themselves. They share the images, and have a directory each in the one for state, a port each after that
    for metrics, where those of all can be read, and for egress a part each of the addresses. Each takes some 60 MiB."""

    @field_validator("worker_processes")
    @classmethod
    def _a_slot_for_each(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("slots", value):
            raise ValueError("may not be more than there are slots")
        return value


class WorkerSettings(
    LogSettings, NatsSettings, SlotSettings, ImageSettings, EgressSettings, MetricsSettings, SealingSettings
):
    """A worker."""

    runtime: Literal["auto", "native", "crun", "runc", "docker", "confined"] = "auto"
    """What starts containers. `auto` takes native, Mayfly's own launcher, where it works (Linux 5.12), else crun, else
    runc; `docker` and `confined` are never taken unasked."""

    docker_host: str = "unix:///var/run/docker.sock"
    """The Docker daemon, when `runtime` is docker: `unix:///path` or, with `docker_tls_dir`, `tcp://host:2376`."""

    docker_tls_dir: Path | None = None
    """A directory with `ca.pem`, `cert.pem` and `key.pem` for a Docker daemon reached by tcp."""

    state_dir: Path = Path("/run/mayfly")
    """For what lives no longer than the worker: bundles, mounts, the runtime's own state."""

    image_dir: Path = Path("/var/lib/mayfly/images")
    """For unpacked images. Lasting; several workers of a machine may have the same one, and nobody else."""

    launcher_dir: Path | None = None
    """Where the C programs are, if not in the package."""

    record_keep_s: Annotated[int, Field(ge=600, le=30 * 86_400)] = 86_400
    """How long records, results and logs are kept after an activation ended, and Idempotency-Keys from its beginning,
    in seconds; of a user who has very many, shorter (`MAYFLY_RECORDS_MAX_PER_USER`)."""

    stop_grace_s: Annotated[float, Field(ge=0, le=3600)] = 310.0
    """How long a worker that was told to stop lets running activations finish, in seconds; then it kills them."""


class BootstrapSettings(LogSettings, NatsSettings, AdmissionSettings):
    """`mayfly bootstrap`: makes and migrates the streams and buckets."""

    record_keep_s: Annotated[int, Field(ge=600, le=30 * 86_400)] = 86_400
    """How long records, results and logs are kept after an activation ended, and Idempotency-Keys from its beginning,
    in seconds; of a user who has very many, shorter (`MAYFLY_RECORDS_MAX_PER_USER`)."""

    responses_max_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """Room for results and logs in all, in bytes; the oldest go first."""


class UpSettings(LogSettings, AdmissionSettings, SlotSettings, ImageSettings, EgressSettings, MetricsSettings):
    """`mayfly up`: the whole system on one machine, for development."""

    data_dir: Path = Path("/var/lib/mayfly")
    """Everything that outlives `up`: NATS's files, keys and certificates, unpacked images."""

    listen: str = "127.0.0.1:8443"
    """Address and port of the HTTPS listener. Anything but loopback needs `--listen-anywhere` as well."""

    runtime: Literal["auto", "native", "crun", "runc"] = "auto"
    """What starts containers. `auto` takes native, Mayfly's own launcher, where it works, else crun, else runc."""

    nats_server: Path | None = None
    """A nats-server (>= 2.15.1) to run instead of the one in the package."""

    registration: Literal["open", "invitation", "closed"] = "open"
    """As for an API server."""

    unprivileged_uid: Annotated[int, Field(ge=1, le=60_000)] = 59_801
    """nats-server runs as this user id and the API server as the next one; neither needs an account."""


class GatewaySettings(AdmissionSettings):
    """The gateway, as `mayfly gateway render` writes its files. APISIX itself reads those files only."""

    gateway_api: Words = ("api-1:8443", "api-2:8443")
    """The API servers, host:port each, separated by commas. The gateway balances over them by open calls."""

    gateway_api_discovery: Literal["names", "dns"] = "names"
    """`names`: each name of `gateway_api` is one API server. `dns`: its only name has the addresses of all of them, as
    that of a headless Service of Kubernetes. It is asked for again when the answer's TTL is over: 600 s on Docker."""

    gateway_api_name: str = ""
    """The name that every API server's certificate has, and that the gateway insists on. Empty for `api`, or with `dns`
    for the name that is asked for."""

    gateway_ca_file: Path = Path("/run/secrets/mayfly/ca.crt")
    """The internal certificate authority's certificate, where the gateway finds it. Only API servers with a certificate
    of this authority are spoken to."""

    gateway_hosts: Words = ()
    """Names by which clients reach the gateway, separated by commas. Empty for any; else a handshake for another name
    is refused, and one without a name counts as for the first."""

    gateway_clear_text: bool = False
    """Listen on port 9080 without TLS as well, for platforms that end TLS in front of the gateway. Nobody but they may
    reach that port; name them in `gateway_trusted_proxies`."""

    gateway_trusted_proxies: Words = ()
    """Load balancers in front of the gateway: addresses or CIDRs, separated by commas. From them, and nobody else, the
    caller's address is taken from X-Forwarded-For. Empty when callers connect to the gateway themselves."""

    gateway_private_address: str = "0.0.0.0"  # noqa: S104 - of a container, which publishes 9443 only
    """Where status (port 7085) and metrics (9091) listen, in clear text: never where callers can reach them. In a
    container all addresses, since only 9443 is published."""

    gateway_workers: Annotated[int, Field(ge=1, le=64)] = 2
    """APISIX's processes. Each takes a core for some 500 calls with a token a second, and balances for itself."""

    gateway_client_rate: Annotated[int, Field(ge=1, le=1_000_000)] = 300
    """Requests a second from one address, before anything else is looked at. Beyond it and its burst: 429
    `gateway-rate-limit`."""

    gateway_client_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 600
    """Requests from one address that may come at once on top of `gateway_client_rate`."""

    gateway_user_rate: Annotated[int, Field(ge=1, le=1_000_000)] = 600
    """Requests a second of one user, from wherever, with as many again at once. A flood guard: what a user may have in
    flight is `max_activations_per_user`, which the gateway never refuses for."""

    gateway_login_rate: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Registrations and logins a second from one address, with five times as many at once: each costs an API server
    some 50 ms of a core."""

    gateway_profile: Literal["production", "test"] = "production"
    """`test` lifts the four rates above out of reach of a test suite, and changes nothing else."""

    @field_validator("gateway_api")
    @classmethod
    def _hosts_and_ports(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value) or not all(_is_host_and_port(node) for node in value):
            raise ValueError("must be one or more of host:port, each once")
        return value

    @field_validator("gateway_api_discovery")
    @classmethod
    def _one_name_to_ask_for(cls, value: str, info: ValidationInfo) -> str:
        if value == "dns" and len(info.data.get("gateway_api", ())) != 1:
            raise ValueError("needs one name in MAYFLY_GATEWAY_API")
        return value

    @field_validator("gateway_hosts", "gateway_api_name", "gateway_private_address")
    @classmethod
    def _plain_names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (value,) if isinstance(value, str) else value
        if not all(name == "" or _is_host(name) for name in names):
            raise ValueError("must be host names or addresses, without a port")
        return value

    @field_validator("gateway_trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(ipaddress.ip_network(proxy).prefixlen == 0 for proxy in value):
            raise ValueError("may not be everybody: then each caller would choose the address that it has")
        return value

    @field_validator("gateway_ca_file")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if not re.fullmatch(r"/[A-Za-z0-9._/-]+", str(value)):
            raise ValueError("must be an absolute path of letters, digits and . _ - /")
        return value


class ClientSettings(Settings):
    """The user's commands."""

    url: str = "https://127.0.0.1:8443"
    """Where the API is."""

    ca_file: Path | None = None
    """The certificate authority to trust, if not the system's."""

    token: str | None = None
    """An access token or a key to use instead of what `mayfly login` keeps."""

    config_dir: Path = Path("~/.config/mayfly")
    """Where `mayfly login` keeps its token (0600)."""


ROLES: dict[str, type[Settings]] = {
    "up": UpSettings,
    "api": ApiSettings,
    "worker": WorkerSettings,
    "bootstrap": BootstrapSettings,
    "gateway": GatewaySettings,
    "client": ClientSettings,
}


def load(role: type[S], **given: Any) -> S:
    """
    Read a role's settings from the environment; *given* (options of the command line) go first, None means not given.

    Raises: SettingsError, naming the variable, what is wrong with it and the nearest right name.
    """
    refuse_unknown(os.environ)
    try:
        return role(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(dict(problem)) for problem in error.errors())) from None


def whole_environment() -> dict[str, str]:
    """Everything in the environment, for a child that has the same role."""
    return dict(os.environ)


def known_names() -> set[str]:
    """All settings' variables, of all roles."""
    return {PREFIX + field.upper() for role in ROLES.values() for field in role.model_fields}


def refuse_unknown(environ: Mapping[str, str]) -> None:
    """
    Refuse `MAYFLY_` variables that no role knows.

    Raises: SettingsError with the nearest name.
    """
    known = known_names()
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known | READ_ELSEWHERE:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else " `mayfly settings` lists them all."
            raise SettingsError(f"{name} is not a setting.{hint}")


def _sentence(problem: dict[str, object]) -> str:
    location = problem["loc"]
    field = str(location[0]) if isinstance(location, tuple) and location else "?"
    rule = str(problem["msg"]).removeprefix("Value error, ")  # pydantic's word for a rule of ours
    return f"{PREFIX}{field.upper()}: {rule} (got {problem.get('input')!r})."
