"""What the API says and takes, as values. Fields that a newer server adds are ignored."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec

from mayfly.domain.function import DEFAULT_RESULT_TYPE
from mayfly.domain.limits import Limits as Defaults

DEFAULTS = Defaults()

_STEP = re.compile(r"(admit|queue|image|start|run|answer|total);dur=(\d+(?:\.\d+)?)")


class User(msgspec.Struct, frozen=True, kw_only=True):
    """An account."""

    id: str
    username: str
    role: str
    created_at: datetime


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key for a machine; one that is not `usable` is refused, since the operator has rotated it away."""

    id: str
    name: str
    created_at: datetime
    expires_at: datetime
    usable: bool


class MadeKey(Key, frozen=True, kw_only=True):
    """A key that was just made, with its token, which nobody can read again."""

    token: str


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """All of one's keys."""

    keys: list[Key]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one activation may use, and how many may be in flight at once (None: as many as the user's limit allows)."""

    memory_mib: int = DEFAULTS.memory_mib
    cpus: float = DEFAULTS.cpus
    pids: int = DEFAULTS.pids
    timeout_s: float = DEFAULTS.timeout_s
    max_concurrency: int | None = DEFAULTS.max_concurrency


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """All of a function but its name: an image and how to run it."""

    image: str
    command: list[str] | None = None
    args: list[str] | None = None
    env: dict[str, str] = {}
    parameter: str = "stdin"
    limits: Limits = Limits()
    result_type: str = DEFAULT_RESULT_TYPE
    network: str = "none"


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """
    What each call of a function is held in. `lost_with_docker` is what does not hold at a Docker daemon, and
    `lost_with_confined` what does not on a worker without privileges.
    """

    namespaces: list[str]
    first_host_id: int
    ids: int
    capabilities: list[str]
    no_new_privileges: bool
    denied_system_calls: list[str]
    socket_families: list[str]
    masked_paths: list[str]
    read_only_paths: list[str]
    memory_bytes: int
    swap_bytes: int
    writable_bytes: int
    writable_inodes: int
    shared_memory_bytes: int
    cpus: float
    pids: int
    open_files: int
    open_files_max: int
    core_bytes: int
    signals_pending: int
    reaches: str
    lost_with_docker: dict[str, str]
    host_ids: str = ""  # servers before 0.2 do not tell
    lost_with_confined: dict[str, str] = {}  # nor this


class Function(Spec, frozen=True, kw_only=True):
    """A registered function. `etag`, for `if_match`, and `sandbox` are known of one function, not in a list."""

    name: str
    id: str
    digest: str | None
    state: str
    secrets: list[str] = []
    created_at: datetime
    updated_at: datetime
    etag: str | None = None
    sandbox: Sandbox | None = None

    @property
    def spec(self) -> Spec:
        """What its owner says about it, to be changed and given back."""
        return Spec(**{field: getattr(self, field) for field in Spec.__struct_fields__})


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """A secret of a function, without its value."""

    key: str
    deliver_as: str = msgspec.field(name="as")
    size_bytes: int
    updated_at: datetime


class SecretList(msgspec.Struct, frozen=True, kw_only=True):
    """A function's secrets."""

    secrets: list[Secret]


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """One's account at a registry, without the password."""

    host: str
    username: str
    updated_at: datetime


class RegistryList(msgspec.Struct, frozen=True, kw_only=True):
    """One's accounts at registries."""

    registries: list[Registry]


class FunctionPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of one's functions."""

    functions: list[Function]
    next: str | None


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """How long each step took, in seconds; None for a step that was not reached."""

    admit_s: float | None = None
    queue_s: float | None = None
    image_s: float | None = None
    start_s: float | None = None
    run_s: float | None = None


class Activation(msgspec.Struct, frozen=True, kw_only=True):
    """One call and what became of it."""

    id: str
    function: str
    state: str
    ran: str
    image: str
    digest: str | None
    parameter_bytes: int
    parameter_sha256: str
    created_at: datetime
    deadline_at: datetime
    admitted_at: datetime | None = None
    claimed_at: datetime | None = None
    ready_at: datetime | None = None
    started_at: datetime | None = None
    first_byte_at: datetime | None = None
    exited_at: datetime | None = None
    ended_at: datetime | None = None
    removed_at: datetime | None = None
    steps: Steps = Steps()
    worker: str | None = None
    code: str | None = None
    detail: str | None = None
    clock: str | None = None
    exit_code: int | None = None
    result_bytes: int | None = None
    stderr_bytes: int | None = None
    cpu_s: float | None = None
    memory_peak_bytes: int | None = None


class ActivationPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of one's activations, the newest first."""

    activations: list[Activation]
    next: str | None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of one's audit trail: who did or tried what, from where, and what came of it."""

    id: str
    at: datetime
    action: str
    subject: str | None
    outcome: str
    code: str | None
    times: int
    by: str
    session: str | None
    address: str | None
    request_id: str | None


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of one's audit trail, the newest first."""

    entries: list[AuditEntry]
    next: str | None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """A limit on activations in flight (None: there is none), and how many there are."""

    limit: int | None
    in_flight: int


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """One worker, as it said itself within the last 5 s."""

    id: str
    host: str
    version: str
    runtime: str
    slots: int
    running: int
    held: int
    images: int
    since: datetime
    draining: bool


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """One of NATS's streams; without a leader its numbers are 0. `behind` are servers whose copy is not current."""

    name: str
    leader: str | None
    replicas: int
    current: int
    behind: list[str]
    messages: int
    bytes: int
    max_bytes: int | None


class OperatorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What only a user of role `operator` is shown."""

    workers: list[Worker]
    streams: list[Stream]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How the platform and one's own share of it stand."""

    version: str
    workers: int
    slots: int
    running: int
    waiting: int
    platform: Usage
    user: Usage
    remark: str | None = None
    operator: OperatorStatus | None = None


class InvokeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a call answered. `timing` is how long each step took, in seconds."""

    result: bytes
    activation_id: str
    timing: dict[str, float]

    @property
    def text(self) -> str:
        """The result as the string that it is."""
        return self.result.decode()


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """What a function wrote to stderr; only the end of it if `truncated`."""

    stderr: bytes
    truncated: bool


def wire(value: msgspec.Struct) -> dict[str, Any]:
    """Turn a value into what goes over the wire as a JSON object."""
    made: dict[str, Any] = msgspec.to_builtins(value)
    return made


def timing(header: str) -> dict[str, float]:
    """Read our steps, in seconds, from a `Server-Timing` header; a proxy may have added others."""
    return {name: float(milliseconds) / 1000 for name, milliseconds in _STEP.findall(header)}
