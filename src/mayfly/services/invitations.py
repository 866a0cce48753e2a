"""
Invitations: a code that an operator gives away, and with which one account is made. Rows: F2.

A registration that needs one takes four steps: it finds the name free, writes its claim into the invitation, makes the
account, removes the invitation. A claim says which account it makes: name, id, and the revision at which the name was
found free; the account is made at that revision or not at all.

Guarantees:
- one code makes one account. Of those who race one has the claim. A claim that was left, by a crash or an outage, is
  taken over only by a registration of the same name, which makes the very same account, or after its name was moved on
  to another revision, so that its account will never be made;
- nothing is lost by a crash: after it the same request makes the account at once, one with another name after `BUSY_S`;
- an invitation whose account is there is used, whether it has been removed by then or not; the account goes only after
  it (`services.users`), so that an account that came and went is not taken for one that was never made;
- of the secret there is only a digest. A code that is unknown, used, revoked, expired or in use is refused in the same
  words after the same work.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from msgspec.structs import replace

from mayfly.bus.store import Conflict, Entry
from mayfly.bus.stores import Stores
from mayfly.domain.errors import NotAllowed, NotFound, QueueUnavailable
from mayfly.domain.ids import ID, UserId, UserName, new_id, new_ulid
from mayfly.domain.invitation import CODE, SECRET_BITS, Claim, Invitation

log = structlog.get_logger()

BUSY_S = 30.0  # far longer than the account takes after the claim: by then whoever has it is gone, or waits for NATS
KEPT_LONGER_S = 3600.0  # than it is good: the server removes it after that
NOBODY = "0" * 26  # is asked for where a code cannot be one
NO_DIGEST = bytes(hashlib.sha256().digest_size)


@dataclass(frozen=True, slots=True)
class Issued:
    """A new invitation, and its code, which nobody can read again."""

    invitation: Invitation
    code: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """An invitation that one registration has."""

    entry: Entry[Invitation]
    claim: Claim

    @property
    def invitation_id(self) -> str:
        """Which one."""
        return self.entry.key

    @property
    def user_id(self) -> UserId:
        """The id of the account that is to be made."""
        return self.claim.user_id


class Invitations:
    """All of them."""

    def __init__(self, stores: Stores) -> None:
        """They are in a bucket of their own, beside the accounts that they make."""
        self._store = stores.invitations
        self._users = stores.users

    async def issue(self, by: str, *, expires_in_s: float, note: str) -> Issued:
        """
        Make an invitation that is good for so long; *by* is the name of an operator, or `BY_HOST`.

        Raises: QueueUnavailable.
        """
        secret = base64.b32encode(secrets.token_bytes(SECRET_BITS // 8)).decode().lower()
        now = self._store.now()
        made = Invitation(
            id=new_ulid(now),
            secret_digest=_digest(secret),
            note=note,
            created_by=by,
            created_at=now,
            expires_at=now + expires_in_s,
        )
        await self._store.create(made.id, made, ttl_s=self._kept_s(made))
        log.info("invitation.issued", invitation=made.id)
        return Issued(made, f"{made.id}-{secret}")

    async def list(self, *, limit: int, after: str | None = None) -> tuple[Sequence[Invitation], str | None]:
        """
        List those that can still be used, the newest first, *limit* at a time; the second value continues the list. A
        page can have fewer.

        Raises: QueueUnavailable.
        """
        ids = [each for each in reversed(await self._store.keys()) if after is None or each < after]
        entries = await asyncio.gather(*(self._store.get(each) for each in ids[:limit]))
        good = [entry.value for entry in entries if entry and not self._is_over(entry.value)]
        return good, ids[limit - 1] if len(ids) > limit else None

    async def revoke(self, invitation_id: str) -> None:
        """
        Remove an invitation, so that its code is good for nothing.

        Raises: NotFound; QueueUnavailable.
        """
        if not ID.fullmatch(invitation_id) or not await self.remove(invitation_id):
            raise NotFound("There is no such invitation: it was used, was revoked, or has expired.")
        log.info("invitation.revoked", invitation=invitation_id)

    async def check(self, code: str) -> Entry[Invitation]:
        """
        Read the invitation of a code that is good: right, in time, and without an account.

        Raises: NotAllowed; QueueUnavailable.
        """
        parts = CODE.fullmatch(code)
        entry = await self._store.get(parts[1] if parts else NOBODY)
        kept = entry.value.secret_digest if entry else NO_DIGEST
        is_right = hmac.compare_digest(kept, _digest(parts[2] if parts else ""))
        if entry is None or not is_right or self._is_over(entry.value):
            raise _not_good()
        if entry.value.claim and await self._has_account(entry.value.claim):
            await self.remove(entry.key)  # whoever made the account did not come to it
            raise _not_good()
        return entry

    async def claim(self, code: str, name: UserName, *, revision: int) -> Claimed:
        """
        Have the invitation of a code for the account *name*, which was free at that *revision*, and is to be made at
        this revision only.

        Raises: NotAllowed, also when somebody else has it; QueueUnavailable.
        """
        while True:
            entry = await self.check(code)
            former = entry.value.claim
            if former and (former.user_name, former.revision) == (name, revision):
                return Claimed(entry, former)
            try:
                if former:
                    await self._clear(former)
                mine = Claim(user_id=UserId(new_id()), user_name=name, revision=revision, at=self._store.now())
                return Claimed(await self._write(entry, mine), mine)
            except Conflict:
                continue  # somebody else was faster: at the claim, or at making the account

    async def release(self, claimed: Claimed) -> None:
        """
        Give up a claim whose account cannot be made, as somebody else has the name: the code is as good as before.

        Raises: NotAllowed when it is the account of this very claim, which another request with the same code has made;
        QueueUnavailable.
        """
        if await self._has_account(claimed.claim):
            raise _not_good()
        try:
            await self._write(claimed.entry, None)
        except Conflict:  # another registration has seen the same, or it was revoked
            log.info("invitation.not-released", invitation=claimed.invitation_id)

    async def use_up(self, claimed: Claimed) -> None:
        """Remove an invitation whose account was made. It is used in any case; what is left, the next look removes."""
        log.info("invitation.used", invitation=claimed.invitation_id)
        try:
            await self.remove(claimed.invitation_id)
        except QueueUnavailable as error:
            log.warning("invitation.not-removed", invitation=claimed.invitation_id, reason=error.detail)

    async def remove(self, invitation_id: str) -> bool:
        """
        Remove an invitation for good, whatever its state; False if it is gone already.

        Raises: QueueUnavailable.
        """
        while entry := await self._store.get(invitation_id):
            try:
                await self._store.delete(invitation_id, revision=entry.revision)
            except Conflict:
                continue
            return True
        return False

    async def _has_account(self, claim: Claim) -> bool:
        user = await self._users.get(claim.user_name)
        return user is not None and user.value.id == claim.user_id

    async def _clear(self, former: Claim) -> None:
        """
        See that the account of a claim will never be made.

        Raises: NotAllowed when it may be just being made; Conflict when it was made, or its name taken, meanwhile.
        """
        if former.revision != await self._users.vacancy(former.user_name):
            if await self._has_account(former):  # since it was looked for, just before
                raise Conflict(former.user_name)
            return
        if self._store.now() < former.at + BUSY_S:
            raise _not_good()
        await self._users.bury(former.user_name, revision=former.revision)

    async def _write(self, entry: Entry[Invitation], claim: Claim | None) -> Entry[Invitation]:
        changed = replace(entry.value, claim=claim)
        revision = await self._store.update(
            entry.key, changed, revision=entry.revision, ttl_s=self._kept_s(entry.value)
        )
        return Entry(entry.key, changed, revision)

    def _is_over(self, invitation: Invitation) -> bool:
        return invitation.expires_at <= self._store.now()

    def _kept_s(self, invitation: Invitation) -> float:
        return max(0.0, invitation.expires_at - self._store.now()) + KEPT_LONGER_S


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _not_good() -> NotAllowed:
    return NotAllowed(
        "This invitation is not good: no such code was given out, or it was used, is being used, was revoked, or has "
        "expired. If you have registered with it, log in; else ask the operator for another one.",
        field="invitation",
    )
