"""A registered user, and a session: the revocable thing behind every token. Rows: F2, F3."""

from __future__ import annotations

from typing import Literal

import msgspec

from mayfly.domain.stored import Count, Moment, StoredId, StoredSessionId, StoredUserId, StoredUserName

PASSWORD_MIN_CHARACTERS = 10
PASSWORD_MAX_CHARACTERS = 256
KEYS_MAX = 50  # of one user
KEY_IDS_MAX = 500  # of one user, ended ones included: the tombstone of a key is kept as long as the key would have been
KEY_LIVES_MIN_S, KEY_LIVES_DEFAULT_S, KEY_LIVES_MAX_S = 60, 90 * 86_400, 366 * 86_400

Role = Literal["user", "operator"]


class User(msgspec.Struct, frozen=True, kw_only=True):
    """An account. The id is random and never reused; the name may be, after the account was deleted."""

    v: int = 1
    id: StoredUserId
    name: StoredUserName
    password_hash: str
    created_at: Moment
    role: Role = "user"
    max_activations: Count | None = None  # in flight, below the limit for every user
    suspended: bool = False  # by an operator: neither a login nor any call is taken
    invitation: StoredId | None = None  # the id of the one that this account used up


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """
    One login, or one key. Its access tokens are good only while it exists, so deleting it logs out at once.

    `refresh_digest` is the SHA-256 of the one refresh token that is good now; showing an older one is proof that
    somebody copied a token, and ends the session. A key has none.
    """

    v: int = 1
    id: StoredSessionId
    user_id: StoredUserId
    user_name: StoredUserName
    role: Role = "user"
    max_activations: Count | None = None  # the user's, so that a call reads one entry less
    suspended: bool = False  # likewise
    refresh_digest: bytes
    created_at: Moment
    expires_at: Moment
    kind: Literal["login", "key"] = "login"
    key_name: str | None = None
    signed_by: str | None = None  # of a key: the id of the token key
    made_by: StoredSessionId | None = None  # of a key: the login, which takes it along when it turns out to be stolen
