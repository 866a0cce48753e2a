"""
What goes over the wire as JSON: requests, strict and closed, and answers.

A request with a field that is not listed here is refused, so that a mistyped limit is not a silent default. Every
limit of a registration is checked here, and nowhere behind. The two bodies that are not here are the parameter and
the result of an activation: they are strings, byte for byte, and no JSON. Rows: F2, F4, F6, F7.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from mayfly import __version__
from mayfly.bus.health import StreamHealth
from mayfly.domain import limits as ceilings
from mayfly.domain.activation import Activation, State
from mayfly.domain.audit import AuditEntry, By, Outcome
from mayfly.domain.errors import Fault, Ran
from mayfly.domain.function import (
    COMMAND_MAX_BYTES,
    COMMAND_MAX_ENTRIES,
    DEFAULT_RESULT_TYPE,
    ENV_MAX_BYTES,
    ENV_MAX_ENTRIES,
    RESERVED_ENV_PREFIX,
    Function,
    FunctionState,
    Network,
    ParameterMode,
)
from mayfly.domain.ids import FUNCTION_NAME, USER_NAME
from mayfly.domain.limits import Limits
from mayfly.domain.user import (
    KEY_LIVES_DEFAULT_S,
    KEY_LIVES_MAX_S,
    KEY_LIVES_MIN_S,
    PASSWORD_MAX_CHARACTERS,
    PASSWORD_MIN_CHARACTERS,
    User,
)
from mayfly.domain.worker import WorkerBeat
from mayfly.images.reference import PATTERN as IMAGE_PATTERN
from mayfly.services.keys import Key
from mayfly.services.status import Status

IMAGE_MAX_CHARACTERS = 512
PAGE_DEFAULT, PAGE_MAX = 50, 200
RESULT_WAIT_MAX_S = 60

USER_NAME_RULE = "3 to 32 characters: a-z, 0-9 and -, the first one a letter"
FUNCTION_NAME_RULE = "1 to 63 characters: a-z, 0-9 and -, the first and the last one no -"
ENV_NAME_RULE = "letters, digits and _, not beginning with a digit, at most 128 characters"
RESULT_TYPE_RULE = "a media type such as `application/json` or `text/csv; charset=utf-8`"

_IMAGE = re.compile(r"[A-Za-z0-9\[][!-~]{0,511}")
_NUMBER = re.compile(r"\s*[-+]?[0-9._]+([eE][-+]?[0-9]+)?\s*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_TOKEN = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,63}"  # noqa: S105 - of a media type (RFC 6838)
_NO_NUL = {"pattern": "^[^\\u0000]*$"}
_RESULT_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}(; ?{_TOKEN}=[A-Za-z0-9._+-]{{1,32}}){{0,3}}")


def _matching(pattern: re.Pattern[str], what: str, rule: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"{what} is {rule}")
        return text

    return check


def check_function_name(text: str) -> str:
    """
    Return *text* if it can be a function's name.

    Raises: ValueError with the rule.
    """
    return _matching(FUNCTION_NAME, "a function's name", FUNCTION_NAME_RULE)(text)


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("no NUL character is possible here: the kernel would cut the text there")
    return text


def _whole(number: object) -> object:
    """Take 64.0 for 64, as JSON Schema does."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _no_number(moment: object) -> object:
    """Refuse seconds since 1970, which pydantic would take: `since=2026` is meant as something else."""
    if isinstance(moment, str) and _NUMBER.fullmatch(moment):
        raise ValueError("no number is a time; write 2026-11-29T12:00:00Z, for example")
    return moment


def _command_fits(words: list[str]) -> list[str]:
    size = sum(len(word.encode()) + 1 for word in words)
    if size > COMMAND_MAX_BYTES:
        raise ValueError(f"at most {COMMAND_MAX_BYTES} bytes in all, and these are {size}")
    return words


def _program_named(words: list[str]) -> list[str]:
    if not words[0]:
        raise ValueError("the first word is the program, and it is empty")
    return words


def _env_fits(env: dict[str, str]) -> dict[str, str]:
    size = sum(len(name.encode()) + len(value.encode()) + 2 for name, value in env.items())
    if size > ENV_MAX_BYTES:
        raise ValueError(f"at most {ENV_MAX_BYTES} bytes in all, names included, and these are {size}")
    return env


def _env_name(name: str) -> str:
    if name.startswith(RESERVED_ENV_PREFIX):
        raise ValueError(f"names that begin with {RESERVED_ENV_PREFIX} are Mayfly's own; choose another")
    return _matching(_ENV_NAME, "a variable's name", ENV_NAME_RULE)(name)


Username = Annotated[
    str,
    AfterValidator(_matching(USER_NAME, "a user name", USER_NAME_RULE)),
    Field(description=f"{USER_NAME_RULE.capitalize()}.", json_schema_extra={"pattern": f"^{USER_NAME.pattern}$"}),
]
FunctionNameText = Annotated[
    str,
    AfterValidator(check_function_name),
    Field(
        description=f"{FUNCTION_NAME_RULE.capitalize()}.", json_schema_extra={"pattern": f"^{FUNCTION_NAME.pattern}$"}
    ),
]
NewPassword = Annotated[
    str,
    AfterValidator(_no_nul),
    Field(
        min_length=PASSWORD_MIN_CHARACTERS,
        max_length=PASSWORD_MAX_CHARACTERS,
        description="Any characters but NUL, in any mixture. Compared in Unicode's form NFC.",
        json_schema_extra={"format": "password", **_NO_NUL},
    ),
]
WHOLE = BeforeValidator(_whole)
Word = Annotated[str, AfterValidator(_no_nul), Field(json_schema_extra=_NO_NUL)]
Command = Annotated[
    list[Word],
    Field(
        min_length=1,
        max_length=COMMAND_MAX_ENTRIES,
        json_schema_extra={"prefixItems": [{"type": "string", "minLength": 1, **_NO_NUL}]},
    ),
    AfterValidator(_command_fits),
    AfterValidator(_program_named),
]
Args = Annotated[list[Word], Field(max_length=COMMAND_MAX_ENTRIES), AfterValidator(_command_fits)]
EnvName = Annotated[
    str,
    AfterValidator(_env_name),
    Field(json_schema_extra={"pattern": f"^(?!{RESERVED_ENV_PREFIX}){_ENV_NAME.pattern}$"}),
]


class Shape(BaseModel):
    """Base of all shapes: no unknown fields, no conversions."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )


class NewUser(Shape):
    """A registration."""

    username: Username
    password: NewPassword
    invitation: Annotated[str, Field(max_length=128)] | None = None
    """A code that an operator gave, where registration is by invitation; elsewhere it is not looked at."""


class PasswordChange(Shape):
    """A new password, and the proof that it is the owner who wants it."""

    current_password: Annotated[str, Field(max_length=1024, json_schema_extra={"format": "password"})]
    """The password until now."""

    new_password: NewPassword

    end_keys: bool = False
    """End all keys as well. Otherwise they go on, as they know no password."""


class UserShape(Shape):
    """A user."""

    id: str
    """Random and never used again, unlike the name."""

    username: str
    """The user name."""

    role: Literal["user", "operator"]
    """`operator` for a user who runs the installation through the API, else `user`."""

    created_at: datetime
    """When it was registered."""

    @classmethod
    def of(cls, user: User) -> UserShape:
        """Show a user, without the password's hash."""
        return cls(id=user.id, username=user.name, role=user.role, created_at=instant(user.created_at))


class Tokens(Shape):
    """What a login gives (RFC 6749, section 5.1)."""

    access_token: str
    """For the header `Authorization: Bearer ACCESS_TOKEN`."""

    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the name of a scheme
    """How the access token is sent (RFC 6750)."""

    expires_in: int
    """Seconds that the access token is good for."""

    refresh_token: str
    """Good for one `grant_type=refresh_token`, which answers with the next one. Using an old one ends the login."""


class NewKey(Shape):
    """A key to be made."""

    name: Annotated[
        str,
        AfterValidator(_matching(FUNCTION_NAME, "a key's name", FUNCTION_NAME_RULE)),
        Field(
            description=f"{FUNCTION_NAME_RULE.capitalize()}. What it is for, such as `ci` or `backup-host`.",
            json_schema_extra={"pattern": f"^{FUNCTION_NAME.pattern}$"},
        ),
    ]
    expires_in_s: Annotated[int, Field(ge=KEY_LIVES_MIN_S, le=KEY_LIVES_MAX_S), WHOLE] = KEY_LIVES_DEFAULT_S
    """Seconds that it is good for: 90 days by default, 366 days at most. Nothing renews it."""


class KeyShape(Shape):
    """A key: a long-lived token for a machine."""

    id: str
    """Random and never used again."""

    name: str
    """What its owner called it."""

    created_at: datetime
    """When it was made."""

    expires_at: datetime
    """When it ends."""

    usable: bool
    """false: the token key that signed it was removed by the operator, so it is refused. Make another."""

    @classmethod
    def of(cls, key: Key) -> KeyShape:
        """Show a key, without its token, which is kept nowhere."""
        session = key.session
        return cls(
            id=session.id,
            name=session.key_name or "",
            created_at=instant(session.created_at),
            expires_at=instant(session.expires_at),
            usable=key.usable,
        )


class MadeKey(KeyShape):
    """A key that was just made."""

    token: str
    """For the header `Authorization: Bearer TOKEN`. It is shown here and never again."""


class KeyList(Shape):
    """All of one's keys, by name."""

    keys: list[KeyShape]
    """Those that are good, and those that are not `usable`."""


class LimitsShape(Shape):
    """What one activation may use."""

    memory_mib: Annotated[int, Field(ge=ceilings.MEMORY_MIN_MIB, le=ceilings.MEMORY_MAX_MIB), WHOLE] = 128
    """Memory in MiB, its files included; there is no swap."""

    cpus: Annotated[float, Field(ge=ceilings.CPUS_MIN, le=ceilings.CPUS_MAX, allow_inf_nan=False)] = 1.0
    """Processor time per time."""

    pids: Annotated[int, Field(ge=ceilings.PIDS_MIN, le=ceilings.PIDS_MAX), WHOLE] = 64
    """Processes and threads at once."""

    timeout_s: Annotated[float, Field(ge=ceilings.TIMEOUT_MIN_S, le=ceilings.TIMEOUT_MAX_S, allow_inf_nan=False)] = 30.0
    """Seconds from the arrival of a call to its end; a call can shorten it with the header `Mayfly-Timeout`."""

    max_concurrency: Annotated[int, Field(ge=ceilings.CONCURRENCY_MIN, le=ceilings.CONCURRENCY_MAX), WHOLE] | None = (
        None
    )
    """Activations of this function in flight at once, waiting and running alike; null for no limit of its own."""

    def to_domain(self) -> Limits:
        """Make the domain's value."""
        return Limits(**self.model_dump())

    @classmethod
    def of(cls, limits: Limits) -> LimitsShape:
        """Show limits."""
        return cls(
            memory_mib=limits.memory_mib,
            cpus=float(limits.cpus),
            pids=limits.pids,
            timeout_s=float(limits.timeout_s),
            max_concurrency=limits.max_concurrency,
        )


class FunctionChange(Shape):
    """All of a function but its name. What is left out takes its default, also when it replaces something."""

    image: Annotated[
        str,
        Field(min_length=1, max_length=IMAGE_MAX_CHARACTERS, json_schema_extra={"pattern": IMAGE_PATTERN}),
        AfterValidator(_matching(_IMAGE, "an image reference", "printable ASCII without spaces, such as busybox:1.36")),
    ]
    """A reference as docker takes it: `busybox`, `user/image:tag`, `host:port/path@sha256:...`."""

    command: Command | None = None
    """Replaces the image's entrypoint and cmd."""

    args: Args | None = None
    """Replaces the image's cmd."""

    env: Annotated[
        dict[EnvName, Word],
        Field(max_length=ENV_MAX_ENTRIES, json_schema_extra={"additionalProperties": False}),
        AfterValidator(_env_fits),
    ] = Field(default_factory=dict)
    """Variables in addition to the image's. They are shown to you again: secrets have a call of their own."""

    parameter: ParameterMode = ParameterMode.STDIN
    """How the container gets the parameter: on stdin, as last argument, or in MAYFLY_PARAMETER."""

    limits: LimitsShape = LimitsShape()
    """What one activation may use."""

    result_type: Annotated[
        str,
        Field(max_length=127, json_schema_extra={"pattern": f"^{_RESULT_TYPE.pattern}$"}),
        AfterValidator(_matching(_RESULT_TYPE, "result_type", RESULT_TYPE_RULE)),
    ] = DEFAULT_RESULT_TYPE
    """The Content-Type of results. They are text in UTF-8 in any case."""

    network: Network = Network.NONE
    """`none`: nothing but its own loopback. `egress`: the internet by IPv4, as far as the operator allows."""


class NewFunction(FunctionChange):
    """A registration. A name and an image reference are enough."""

    name: FunctionNameText


class FunctionShape(Shape):
    """A function."""

    name: str
    """The name, among its owner's."""

    id: str
    """New with each registration, kept by a replacement."""

    image: str
    """As it was registered."""

    digest: str | None
    """What the reference meant then, and what runs; null while the state is `pending`."""

    state: FunctionState
    """`ready`, or `pending`: no worker could be asked yet, and the first one that can prepares the image."""

    command: list[str] | None
    """What replaces the image's entrypoint and cmd; null: nothing does."""

    args: list[str] | None
    """What replaces the image's cmd; null: nothing does."""

    env: dict[str, str]
    """Variables in addition to the image's."""

    parameter: ParameterMode
    """How the container gets the parameter."""

    limits: LimitsShape
    """What one activation may use."""

    result_type: str
    """The Content-Type of results."""

    network: Network
    """What its containers can reach."""

    secrets: list[str]
    """The names of its secrets."""

    created_at: datetime
    """When it was registered."""

    updated_at: datetime
    """When it was last replaced, or its secrets changed."""

    @classmethod
    def of(cls, function: Function) -> FunctionShape:
        """Show a function."""
        return cls(
            name=function.name,
            id=function.id,
            image=function.image,
            digest=function.digest,
            state=function.state,
            command=None if function.command is None else list(function.command),
            args=None if function.args is None else list(function.args),
            env=dict(function.env),
            parameter=function.parameter,
            limits=LimitsShape.of(function.limits),
            result_type=function.result_type,
            network=function.network,
            secrets=sorted(ref.key for ref in function.secrets),
            created_at=instant(function.created_at),
            updated_at=instant(function.updated_at),
        )


class Page(BaseModel):
    """Which part of a list."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT
    """How many at most."""

    after: Annotated[str | None, Field(max_length=128)] = None
    """The `next` of the page before."""


class ActivationQuery(Page):
    """Which part of the list of activations."""

    function: FunctionNameText | None = None
    """Only those of this function."""

    state: State | None = None
    """Only those in this state."""

    since: Annotated[AwareDatetime, BeforeValidator(_no_number)] | None = None
    """Only those that arrived at this moment or later, with its time zone, such as 2026-11-29T12:00:00Z."""


class FunctionPage(Shape):
    """Some of one's functions, by name."""

    functions: list[FunctionShape]
    """By name."""

    next: str | None
    """What to give as `after` for the next page; null at the end."""


class StepsShape(Shape):
    """How long each step took, in seconds; null for a step that was not reached."""

    admit_s: float | None
    """At the API server: from the arrival of the call until it was in the queue."""

    queue_s: float | None
    """In the queue, until a worker claimed it."""

    image_s: float | None
    """Making the image ready and creating the container."""

    start_s: float | None
    """From handing over the parameter to the first byte of output, or to the exit."""

    run_s: float | None
    """From handing over the parameter until no process was left."""


class ActivationShape(Shape):
    """One call and what became of it."""

    id: str
    """Of this call, for the paths below /v1/activations."""

    function: str
    """The function's name."""

    state: State
    """queued, running, succeeded, failed, timed-out, cancelled, refused or worker-lost."""

    ran: Ran
    """Whether the container ran: `no`, `yes`, or `unknown` when the worker was lost."""

    image: str
    """The image reference, as it was registered."""

    digest: str | None
    """What the reference meant, and what ran."""

    parameter_bytes: int
    """How long the parameter was."""

    parameter_sha256: str
    """Its SHA-256, in hex."""

    created_at: datetime
    """When the call arrived. All times are by NATS's clock."""

    deadline_at: datetime
    """When its time is over."""

    admitted_at: datetime | None
    """When it was in the queue; null until a worker has taken it out."""

    claimed_at: datetime | None
    """When a worker took it out of the queue."""

    ready_at: datetime | None
    """When image and container were ready."""

    started_at: datetime | None
    """When the command was started."""

    first_byte_at: datetime | None
    """When the first byte of output came, or the exit without any."""

    exited_at: datetime | None
    """When no process of the container was left."""

    ended_at: datetime | None
    """When the outcome was written down."""

    removed_at: datetime | None
    """When nothing of the container was left on its worker; null until then, or if nobody could say."""

    steps: StepsShape
    """How long each step took."""

    worker: str | None
    """The id of the worker process."""

    code: str | None
    """Of the error, if it ended with one."""

    detail: str | None
    """The error in words."""

    clock: str | None
    """Of a time-out: where the time ran out, in the `queue`, preparing the `image`, or in the `run`."""

    exit_code: int | None
    """Of the command, if it ended by itself."""

    result_bytes: int | None
    """How long the result is."""

    stderr_bytes: int | None
    """How much of stderr is kept."""

    cpu_s: float | None
    """Processor time used, in seconds."""

    memory_peak_bytes: int | None
    """The most memory that it had at once."""

    @classmethod
    def of(cls, record: Activation) -> ActivationShape:
        """Show a record."""
        steps = record.steps
        return cls(
            id=record.id,
            function=record.function,
            state=record.state,
            ran=record.ran,
            image=record.image,
            digest=record.digest,
            parameter_bytes=record.parameter_bytes,
            parameter_sha256=record.parameter_sha256,
            created_at=instant(record.created_at),
            deadline_at=instant(record.deadline_at),
            admitted_at=maybe_instant(record.admitted_at),
            claimed_at=maybe_instant(record.claimed_at),
            ready_at=maybe_instant(record.ready_at),
            started_at=maybe_instant(record.started_at),
            first_byte_at=maybe_instant(record.first_byte_at),
            exited_at=maybe_instant(record.exited_at),
            ended_at=maybe_instant(record.ended_at),
            removed_at=maybe_instant(record.removed_at),
            steps=StepsShape(
                admit_s=steps.admit_s,
                queue_s=steps.queue_s,
                image_s=steps.image_s,
                start_s=steps.start_s,
                run_s=steps.run_s,
            ),
            worker=record.worker,
            code=record.code,
            detail=record.detail,
            clock=record.clock,
            exit_code=record.exit_code,
            result_bytes=record.result_bytes,
            stderr_bytes=record.stderr_bytes,
            cpu_s=None if record.cpu_us is None else record.cpu_us / 1_000_000,
            memory_peak_bytes=record.memory_peak_bytes,
        )


class ActivationPage(Shape):
    """Some of one's activations, the newest first."""

    activations: list[ActivationShape]
    """The newest first."""

    next: str | None
    """What to give as `after` for the next page; null at the end."""


class AuditEntryShape(Shape):
    """One line of the audit trail."""

    id: str
    """Of this entry. Later ones are greater."""

    at: datetime
    """When, by NATS's clock."""

    action: str
    """What was asked for, such as `function.register`."""

    subject: str | None
    """The name of what was acted on."""

    outcome: Outcome
    """`done`, `refused`, or `unknown`: it was answered with an error that leaves open whether it was done."""

    code: str | None
    """Of the error, unless it was done."""

    times: int
    """Of refused logins: how many this entry stands for; else 1."""

    by: By
    """`user`: with this account's login or key. `operator`. `nobody`: somebody who was not let in."""

    session: str | None
    """The login with which it was done."""

    address: str | None
    """From where: an IP address, or `unknown`. null: by the operator, or from more addresses than are told apart."""

    request_id: str | None
    """The one that the answer had."""

    @classmethod
    def of(cls, entry: AuditEntry) -> AuditEntryShape:
        """Show an entry to the user in whose trail it is."""
        actor = entry.actor
        return cls(
            id=entry.id,
            at=instant(entry.at),
            action=entry.action,
            subject=entry.subject,
            outcome=entry.outcome,
            code=entry.code,
            times=entry.times,
            by=actor.by,
            session=actor.session_id,
            address=actor.address,
            request_id=actor.request_id,
        )


class AuditPage(Shape):
    """Some of one's audit trail, the newest first."""

    entries: list[AuditEntryShape]
    """The newest first."""

    next: str | None
    """What to give as `after` for the next page; null at the end."""


class UsageShape(Shape):
    """A limit on activations in flight (waiting and running), and how many there are now."""

    limit: int | None
    """null: there is none."""

    in_flight: int
    """Activations, waiting and running."""


class WorkerShape(Shape):
    """One worker, as it said itself within the last 5 s."""

    id: str
    """New with each start."""

    host: str
    """The name of its machine."""

    version: str
    """Of Mayfly."""

    runtime: str
    """What runs its containers."""

    slots: int
    """Activations that it may run at once."""

    running: int
    """Activations that it runs now."""

    held: int
    """Containers that are created and wait for a call."""

    images: int
    """Unpacked images that it has."""

    since: datetime
    """When it started."""

    draining: bool
    """It claims nothing more. Told to stop, it leaves when what runs has ended; drained by an operator, it stays."""

    @classmethod
    def of(cls, beat: WorkerBeat) -> WorkerShape:
        """Show a worker."""
        return cls(
            id=beat.id,
            host=beat.host,
            version=beat.version,
            runtime=beat.runtime,
            slots=beat.slots,
            running=beat.running,
            held=beat.held,
            images=beat.images,
            since=instant(beat.started_at),
            draining=beat.draining,
        )


class StreamShape(Shape):
    """One of NATS's streams; a bucket's is named `KV_` and the bucket."""

    name: str
    """Of the stream."""

    leader: str | None
    """The server that leads it; null: none does, so nothing is written or read, and the numbers are 0."""

    replicas: int
    """How many copies there are to be."""

    current: int
    """How many of them are up to date, the leader's included."""

    behind: list[str]
    """The servers whose copy is not: they are offline or lag."""

    messages: int
    """How many lie in it."""

    bytes: int
    """How much lies in it, of one copy."""

    max_bytes: int | None
    """null: there is no limit but the disk."""

    @classmethod
    def of(cls, stream: StreamHealth) -> StreamShape:
        """Show a stream."""
        return cls(
            name=stream.name,
            leader=stream.leader,
            replicas=stream.replicas,
            current=stream.current,
            behind=list(stream.behind),
            messages=stream.messages,
            bytes=stream.size_bytes,
            max_bytes=stream.max_bytes,
        )


class OperatorStatusShape(Shape):
    """What only a user of role `operator` is shown, as it names hosts and servers."""

    workers: list[WorkerShape]
    """Each that lives."""

    streams: list[StreamShape]
    """Each there is."""


class StatusShape(Shape):
    """How the platform and one's own share of it stand now."""

    version: str
    """Of the API server that answers."""

    workers: int
    """How many live."""

    slots: int
    """Activations that can run at once, all workers together."""

    running: int
    """Activations that run now."""

    waiting: int
    """Activations that are admitted and not handed to a worker yet."""

    platform: UsageShape
    """Of all users together."""

    user: UsageShape
    """Of the caller."""

    remark: str | None = None
    """What a caller ought to know about these numbers, if anything; for the operator, what there is to do."""

    operator: OperatorStatusShape | None = None
    """null unless the caller's role is `operator`."""

    @classmethod
    def of(cls, now: Status, role: Literal["user", "operator"]) -> StatusShape:
        """Show of the status what a caller of this role may see."""
        operator = role == "operator"
        return cls(
            version=__version__,
            workers=len(now.workers),
            slots=now.slots,
            running=now.running,
            waiting=now.waiting,
            platform=UsageShape(limit=now.max_activations, in_flight=now.in_flight),
            user=UsageShape(limit=now.max_activations_per_user, in_flight=now.own_in_flight),
            remark=now.operators_remark if operator else now.remark,
            operator=OperatorStatusShape(
                workers=[WorkerShape.of(beat) for beat in now.workers],
                streams=[StreamShape.of(stream) for stream in now.streams],
            )
            if operator
            else None,
        )


class HealthShape(Shape):
    """The process answers."""

    status: Literal["ok"] = "ok"
    """Always the same: an answer is all it says."""


class ReadyShape(Shape):
    """Whether this API server wants calls."""

    ready: bool
    """Whether all `checks` are `ok`."""

    checks: dict[str, str]
    """`ok`, or what is wrong, for each thing it needs."""


class FieldProblem(Shape):
    """What is wrong with one field."""

    field: str
    """Its path, such as `limits.memory_mib`; empty for the body as a whole."""

    problem: str
    """Its rule, in words."""


class Problem(BaseModel):
    """An error (RFC 9457). `code` is for programs, `detail` for people."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    type: str
    """Where the code is explained."""

    title: str
    """The status in words."""

    status: int
    """The HTTP status."""

    detail: str
    """What is wrong, and what to do about it."""

    code: str
    """Stable; docs/reference/errors.md lists them all."""

    fault: Fault
    """Who can do something about it."""

    ran: Ran
    """Whether the function's container ran. `no`: it is safe to call again."""

    request_id: str
    """Finds the request in the operator's log."""

    retry_after_s: float | None = None
    """When to try again, in seconds; also in the header Retry-After."""

    errors: list[FieldProblem] | None = None
    """For `invalid-request`: each field that is wrong."""

    activation_id: str | None = None
    """Of the activation that ended so."""

    scope: str | None = None
    """For `concurrency-limit`: platform, user or function."""

    limit: int | None = None
    """For `concurrency-limit`: how many may be in flight."""

    in_use: int | None = None
    """For `concurrency-limit`: how many are."""

    exit_code: int | None = None
    """For errors of the function: how its command ended."""

    stderr: str | None = None
    """For errors of the function: the last lines it logged."""

    clock: str | None = None
    """For `timed-out`: queue, image or run."""

    error: str | None = None
    """For POST /v1/tokens: the code of RFC 6749, section 5.2."""


def instant(seconds: float) -> datetime:
    """Turn seconds since the epoch into a moment in UTC."""
    return datetime.fromtimestamp(seconds, tz=UTC)


def maybe_instant(seconds: float | None) -> datetime | None:
    """Likewise, where there may be none."""
    return None if seconds is None else instant(seconds)
