"""
What operators send and are shown. Everything here may be seen by them: no parameter or its hash, no result, no log, no
environment, no secret; an error's words are left out too, as they may have something of the function's in them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from mayfly.api.shapes import WHOLE, Page, Shape, WorkerShape, instant, maybe_instant
from mayfly.domain.activation import Activation, State
from mayfly.domain.errors import Ran
from mayfly.domain.invitation import (
    EXPIRES_DEFAULT_S,
    EXPIRES_MAX_S,
    EXPIRES_MIN_S,
    NOTE,
    NOTE_MAX_CHARACTERS,
    Invitation,
)
from mayfly.domain.limits import CONCURRENCY_MAX, CONCURRENCY_MIN
from mayfly.domain.user import Role, User
from mayfly.services.invitations import Issued
from mayfly.services.operators import Account, Ended


def _one_line(text: str) -> str:
    if not NOTE.fullmatch(text):
        raise ValueError("a note is one line, without control characters")
    return text


def _without_default(schema: dict[str, Any]) -> None:
    """What is left out is not null: it stays as it is."""
    schema.pop("default", None)


LEFT_OUT = Field(json_schema_extra=_without_default)


class UserChange(Shape):
    """What operators set about an account; what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    role: Annotated[Role | SkipJsonSchema[None], LEFT_OUT] = None
    """`operator`, or `user`."""

    max_activations: Annotated[
        Annotated[int, Field(ge=CONCURRENCY_MIN, le=CONCURRENCY_MAX), WHOLE] | None, LEFT_OUT
    ] = None
    """Activations that may be in flight, below the limit for every user; null for no limit of its own."""

    suspended: Annotated[bool | SkipJsonSchema[None], LEFT_OUT] = None
    """true: no login and no call of it is taken from now on, until it is false again."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give at least one of role, max_activations, suspended")
        if any(getattr(self, name) is None for name in self.model_fields_set & {"role", "suspended"}):
            raise ValueError("role and suspended cannot be null; leave out what is to stay")
        return self

    def changes(self) -> dict[str, object]:
        """Return what is to be changed."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class AdminUserShape(Shape):
    """An account, as operators see it."""

    id: str
    """Random and never used again, unlike the name."""

    username: str
    """The user name."""

    role: Role
    """`operator` or `user`."""

    created_at: datetime
    """When it was registered."""

    max_activations: int | None
    """Its own limit, below that for every user; null: it has none."""

    suspended: bool
    """Whether its logins and calls are refused."""

    invitation: str | None
    """The id of the invitation that it was made with."""

    @classmethod
    def of(cls, user: User) -> AdminUserShape:
        """Show an account."""
        return cls(
            id=user.id,
            username=user.name,
            role=user.role,
            created_at=instant(user.created_at),
            max_activations=user.max_activations,
            suspended=user.suspended,
            invitation=user.invitation,
        )


class AccountShape(AdminUserShape):
    """An account, and what it uses now."""

    in_flight: int
    """Activations, waiting and running."""

    @classmethod
    def of_account(cls, account: Account) -> AccountShape:
        """Show it."""
        return cls(**AdminUserShape.of(account.user).model_dump(), in_flight=account.in_flight)


class AdminUserPage(Shape):
    """Some of the accounts, by name. A page can have fewer than `limit`, or none."""

    users: list[AdminUserShape]
    """By name."""

    next: str | None
    """What to give as `after` for the next page; null at the end."""


class AdminActivationQuery(Page):
    """Which part of the list of somebody's activations."""

    state: State | None = None
    """Only those in this state."""


class AdminActivationShape(Shape):
    """Somebody's call, as operators see it: when, how long, how much, and nothing of what it was about."""

    id: str
    """Of the call."""

    function: str
    """The function's name."""

    image: str
    """The image reference, as it was registered."""

    state: State
    """queued, running, succeeded, failed, timed-out, cancelled, refused or worker-lost."""

    ran: Ran
    """Whether the container ran."""

    created_at: datetime
    """When the call arrived."""

    started_at: datetime | None
    """When the command was started."""

    ended_at: datetime | None
    """When the outcome was written down."""

    worker: str | None
    """The id of the worker process."""

    code: str | None
    """Of the error, if it ended with one."""

    run_s: float | None
    """How long its processes lived, in seconds."""

    cpu_s: float | None
    """Processor time used, in seconds."""

    memory_peak_bytes: int | None
    """The most memory that it had at once."""

    @classmethod
    def of(cls, record: Activation) -> AdminActivationShape:
        """Show of a record what operators may see."""
        return cls(
            id=record.id,
            function=record.function,
            image=record.image,
            state=record.state,
            ran=record.ran,
            created_at=instant(record.created_at),
            started_at=maybe_instant(record.started_at),
            ended_at=maybe_instant(record.ended_at),
            worker=record.worker,
            code=record.code,
            run_s=record.steps.run_s,
            cpu_s=None if record.cpu_us is None else record.cpu_us / 1_000_000,
            memory_peak_bytes=record.memory_peak_bytes,
        )


class AdminActivationPage(Shape):
    """Some of a user's activations, the newest first."""

    activations: list[AdminActivationShape]
    """The newest first."""

    next: str | None
    """What to give as `after` for the next page; null at the end."""


class EndedShape(Shape):
    """What became of the activations that were to be ended."""

    ended: int
    """How many have ended."""

    going_on: int
    """Their workers were told, and need longer."""

    @classmethod
    def of(cls, ended: Ended) -> EndedShape:
        """Show it."""
        return cls(ended=ended.ended, going_on=ended.going_on)


class NewInvitation(Shape):
    """An invitation to be made."""

    expires_in_s: Annotated[int, Field(ge=EXPIRES_MIN_S, le=EXPIRES_MAX_S), WHOLE] = EXPIRES_DEFAULT_S
    """How long it is good, in seconds."""

    note: Annotated[
        str,
        Field(max_length=NOTE_MAX_CHARACTERS, json_schema_extra={"pattern": f"^{NOTE.pattern}$"}),
        AfterValidator(_one_line),
    ] = ""
    """For operators to remember for whom it is; nobody else sees it."""


class InvitationShape(Shape):
    """An invitation that can still be used."""

    id: str
    """The first half of its code."""

    note: str
    """What an operator wrote beside it."""

    created_by: str
    """The name of the operator; `(host)` for one that was made by `mayfly users invite`."""

    created_at: datetime
    """When it was made."""

    expires_at: datetime
    """Until when it is good."""

    @classmethod
    def of(cls, invitation: Invitation) -> InvitationShape:
        """Show an invitation. Nobody can show its code."""
        return cls(
            id=invitation.id,
            note=invitation.note,
            created_by=invitation.created_by,
            created_at=instant(invitation.created_at),
            expires_at=instant(invitation.expires_at),
        )


class IssuedShape(InvitationShape):
    """A new invitation."""

    code: str
    """For `invitation` of POST /v1/users, once. It is shown here and never again."""

    @classmethod
    def of_issued(cls, issued: Issued) -> IssuedShape:
        """Show it, with its code."""
        return cls(**InvitationShape.of(issued.invitation).model_dump(), code=issued.code)


class InvitationPage(Shape):
    """Some of the invitations, the newest first. A page can have fewer than `limit`, or none."""

    invitations: list[InvitationShape]
    """The newest first."""

    next: str | None
    """What to give as `after` for the next page; null at the end."""


class WorkersShape(Shape):
    """All workers that live."""

    workers: list[WorkerShape]
    """Each that lives."""
