"""An invitation: the right to register one account, where registration is by invitation. Rows: F2."""

from __future__ import annotations

import re

import msgspec

from mayfly.domain.stored import Count, HeaderText, Moment, StoredId, StoredUserId, StoredUserName

BY_HOST = "(host)"  # whoever has the machine, who need not be a user; nobody can be called so
SECRET_BITS = 160
CODE = re.compile(r"([a-z0-9]{20,32})-([a-z0-9]{32})")
"""The id of an invitation and its secret. The id is no secret: operators see it in the list."""

NOTE = re.compile(r"[^\x00-\x1f\x7f-\x9f]{0,200}")
NOTE_MAX_CHARACTERS = 200
EXPIRES_MIN_S, EXPIRES_MAX_S, EXPIRES_DEFAULT_S = 60, 30 * 86_400, 7 * 86_400


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """
    A registration that has the invitation and has not finished: which account it makes, and nothing else ever will.

    `revision` is that at which the name was found free. The account is made at this revision or not at all, so that
    whoever moves the name on knows that it will never be made.
    """

    user_id: StoredUserId
    user_name: StoredUserName
    revision: Count
    at: Moment


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """One code that makes one account. What is kept of the code is the SHA-256 digest of its secret."""

    v: int = 1
    id: StoredId
    secret_digest: bytes
    note: str = ""  # for operators: for whom it is
    created_by: HeaderText  # an operator's name, or `BY_HOST`
    created_at: Moment  # times by NATS's clock
    expires_at: Moment
    claim: Claim | None = None
