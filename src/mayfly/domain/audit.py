"""
The audit trail: who did or tried what, when, from where, and what came of it.

An entry names things, and never holds what is in them: no password, token, parameter, result, environment or secret.
So a name is only written down once it was found to be one; what somebody typed as a user name may be his password.
Rows: F3.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from mayfly.domain.stored import Count, HeaderText, Moment, StoredId, StoredSessionId, StoredUserId, StoredUserName

Outcome = Literal["done", "refused", "unknown"]
"""`unknown`: it was answered with an error that leaves open whether it was done."""

By = Literal["user", "operator", "nobody"]
"""Who acted: the user himself, an operator, or somebody who was not let in."""

SUBJECT_MAX_CHARACTERS = 256


class Action(StrEnum):
    """
    All that is written down. Named for what is asked for, not for what came of it, since that may be a refusal.

    A new one needs its sentence in `MEANINGS`; the list of docs/howto/see-who-did-what.md is compared with that.
    """

    USER_REGISTER = "user.register"
    USER_DELETE = "user.delete"
    PASSWORD_CHANGE = "password.change"  # noqa: S105 - the name of an action
    SESSION_BEGIN = "session.begin"
    SESSION_END = "session.end"
    SESSION_REUSE = "session.reuse"
    KEY_MAKE = "key.make"
    KEY_DELETE = "key.delete"
    RIGHT_EXCEED = "right.exceed"
    FUNCTION_REGISTER = "function.register"
    FUNCTION_REPLACE = "function.replace"
    FUNCTION_DEREGISTER = "function.deregister"
    SECRET_SET = "secret.set"  # noqa: S105 - the name of an action
    SECRET_DELETE = "secret.delete"  # noqa: S105 - the name of an action
    REGISTRY_SET = "registry.set"
    REGISTRY_DELETE = "registry.delete"
    ACTIVATION_CANCEL = "activation.cancel"
    LIMIT_SET = "limit.set"
    ROLE_SET = "role.set"
    USER_SUSPEND = "user.suspend"
    USER_RESUME = "user.resume"
    INVITATION_CREATE = "invitation.create"
    INVITATION_REVOKE = "invitation.revoke"
    WORKER_DRAIN = "worker.drain"
    WORKER_UNDRAIN = "worker.undrain"


MEANINGS: dict[Action, str] = {
    Action.USER_REGISTER: "The account was made.",
    Action.USER_DELETE: "The account was deleted, with its logins, functions and records.",
    Action.PASSWORD_CHANGE: "A new password, which ends all other logins. Refused: the current one was wrong.",
    Action.SESSION_BEGIN: "A login. Refused: the password was wrong; `times` says how often within a minute.",
    Action.SESSION_END: "A logout.",
    Action.SESSION_REUSE: "A refresh token came that had been used before, so it was copied: the login was ended, and "
    "the keys that it had made.",
    Action.KEY_MAKE: "A key for a machine was made.",
    Action.KEY_DELETE: "A key was ended.",
    Action.RIGHT_EXCEED: "Refused: a key came where only a login may, or somebody else where only operators may.",
    Action.FUNCTION_REGISTER: "A function was registered.",
    Action.FUNCTION_REPLACE: "A function was replaced.",
    Action.FUNCTION_DEREGISTER: "A function was deregistered.",
    Action.SECRET_SET: "A secret of a function was set: the subject is `FUNCTION/KEY`.",
    Action.SECRET_DELETE: "A secret of a function was deleted.",
    Action.REGISTRY_SET: "The account at a registry was set: the subject is its host.",
    Action.REGISTRY_DELETE: "The account at a registry was deleted.",
    Action.ACTIVATION_CANCEL: "An activation was cancelled.",
    Action.LIMIT_SET: "An operator set or lifted the user's own limit on activations in flight.",
    Action.ROLE_SET: "The role was given or taken away.",
    Action.USER_SUSPEND: "An operator suspended the account: no login and no call of it is taken.",
    Action.USER_RESUME: "An operator takes logins and calls of the account again.",
    Action.INVITATION_CREATE: "An operator made an invitation.",
    Action.INVITATION_REVOKE: "An operator revoked an invitation.",
    Action.WORKER_DRAIN: "An operator drained a worker.",
    Action.WORKER_UNDRAIN: "An operator let a worker claim again.",
}
"""What each stands for, in words for the user whose trail it is in."""


OF_LOGINS = frozenset(
    {
        Action.USER_REGISTER,
        Action.USER_DELETE,
        Action.PASSWORD_CHANGE,
        Action.SESSION_BEGIN,
        Action.SESSION_END,
        Action.SESSION_REUSE,
    }
)
"""Those that nobody can do often without the password: they have room of their own, so that nobody else's doing, with a
stolen token, pushes them out."""


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who acted, and from where; None where that is not known, or not for the reader to know."""

    by: By
    user_id: StoredUserId | None = None
    user_name: StoredUserName | None = None
    session_id: StoredSessionId | None = None
    address: HeaderText | None = None
    request_id: HeaderText | None = None


OPERATOR = Actor(by="operator")
"""An operator: on the host, or, in the trail of a user, whichever it was."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the trail: some 300 bytes, as there are names and ids in it only."""

    v: int = 1
    id: StoredId  # a ULID
    at: Moment  # by NATS's clock
    action: HeaderText  # an Action, of this version of Mayfly or of another
    subject: str | None = None  # the name of what was acted on
    actor: Actor
    outcome: Outcome = "done"
    code: HeaderText | None = None  # of the error, unless it was done
    times: Count = 1  # of refused logins: how many this one entry stands for
    previous: Count = 0  # the sequence of the entry before it on the same subject; 0: it is the first
