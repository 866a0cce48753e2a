"""A registered function: an image reference with a name, and what its owner says about running it. Rows: F4, F6, F7."""

from __future__ import annotations

import enum

import msgspec
from msgspec.structs import replace

from mayfly.domain.limits import ARGUMENT_MAX_BYTES, PARAMETER_MAX_BYTES, Limits
from mayfly.domain.secret import SecretRef
from mayfly.domain.stored import HeaderText, Moment, StoredDigest, StoredFunctionName, StoredId, StoredUserId, Word

FUNCTIONS_MAX_PER_USER = 100  # unless it is set
ENV_MAX_ENTRIES = 64
ENV_MAX_BYTES = 32 * 1024
COMMAND_MAX_ENTRIES = 64
COMMAND_MAX_BYTES = 32 * 1024
RESERVED_ENV_PREFIX = "MAYFLY_"
DEFAULT_RESULT_TYPE = "text/plain; charset=utf-8"

OWN_VARIABLES = {
    "MAYFLY_FUNCTION": "The function's name.",
    "MAYFLY_ACTIVATION_ID": "The activation's id, by which its record, result and logs are found.",
    "MAYFLY_DEADLINE": "When its time is over, in seconds since 1970, with three decimals, by NATS's clock.",
    "MAYFLY_TRACEPARENT": "The call's header `traceparent` (W3C Trace Context), if it had a valid one.",
    "MAYFLY_PARAMETER": "The parameter, if the function takes it from the environment.",
}
"""What is ours in a function's environment, and what it says."""


class ParameterMode(enum.StrEnum):
    """How the container gets the parameter."""

    STDIN = "stdin"  # the default: any size up to the limit, any text
    ARGUMENT = "argument"  # appended to the command line
    ENVIRONMENT = "environment"  # as MAYFLY_PARAMETER

    @property
    def max_bytes(self) -> int:
        """The longest parameter that can be given this way, in bytes of UTF-8."""
        return PARAMETER_MAX_BYTES if self is ParameterMode.STDIN else ARGUMENT_MAX_BYTES


class Network(enum.StrEnum):
    """What a function can reach."""

    NONE = "none"  # itself
    EGRESS = "egress"  # the internet, under the operator's rules


class FunctionState(enum.StrEnum):
    """Whether the image is known to run."""

    READY = "ready"  # a worker has it, by digest
    PENDING = "pending"  # nobody could be asked yet; the first worker that can prepares it


class FunctionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What an owner says about a function; everything but the image has a default."""

    image: str  # as the user wrote it
    command: tuple[Word, ...] | None = None  # replaces the image's ENTRYPOINT (and CMD)
    args: tuple[Word, ...] | None = None  # replaces the image's CMD
    env: tuple[tuple[Word, Word], ...] = ()
    parameter: ParameterMode = ParameterMode.STDIN
    limits: Limits = Limits()
    result_type: HeaderText = DEFAULT_RESULT_TYPE
    network: Network = Network.NONE


class Function(FunctionSpec, frozen=True, kw_only=True):
    """
    One registration. `id` is new with every registration, so a name that was deregistered and registered again
    is another function; `digest` is None only while the state is pending.
    """

    v: int = 1
    id: StoredId
    user_id: StoredUserId
    name: StoredFunctionName
    digest: StoredDigest | None = None
    secrets: tuple[SecretRef, ...] = ()  # kept when it is replaced
    created_at: Moment
    updated_at: Moment

    @property
    def state(self) -> FunctionState:
        """Ready as soon as the digest is known."""
        return FunctionState.READY if self.digest else FunctionState.PENDING

    def runs_as(self, before: Function) -> bool:
        """Whether nothing was replaced since it was *before*. An image that became known since is the same one."""
        known = replace(before, digest=before.digest or self.digest)
        return all(getattr(self, name) == getattr(known, name) for name in (*FunctionSpec.__struct_fields__, "digest"))

    @property
    def key(self) -> str:
        """Its key in the bucket."""
        return f"{self.user_id}.{self.name}"
