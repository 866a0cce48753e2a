"""
What the fields of stored structs may hold, checked as they are read off the bus (`bus.codec`).

Whoever wrote a record may be mistaken, or no friend: a worker runs strangers' images, and what it writes is read by API
servers. What would become a token of a subject has no dot, no wildcard and no space; what would become a header, no
line break; what would become an argument, no NUL; what would become a moment is one. The bounds are those of what makes
sense at all, so that a rule which changes leaves no record unread. Encoding checks nothing.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mayfly.domain.ids import Digest, FunctionName, InstanceId, SessionId, UserId, UserName, WorkerId

_TOKEN = Meta(pattern=r"^[a-z0-9-]{1,64}\Z")
_TOKENS = Meta(pattern=r"^[a-z0-9-]{1,64}(\.[a-z0-9-]{1,64}){0,2}\Z")

StoredUserId = Annotated[UserId, _TOKEN]
StoredUserName = Annotated[UserName, _TOKEN]
StoredSessionId = Annotated[SessionId, _TOKEN]
StoredFunctionName = Annotated[FunctionName, _TOKEN]
StoredInstanceId = Annotated[InstanceId, _TOKEN]
StoredWorkerId = Annotated[WorkerId, _TOKEN]
StoredId = Annotated[str, _TOKEN]
StoredKey = Annotated[str, _TOKENS]
StoredDigest = Annotated[Digest, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]

StoredSecretKey = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}\Z")]

HeaderText = Annotated[str, Meta(pattern=r"^[ -~]{0,512}\Z")]
Word = Annotated[str, Meta(pattern=r"^[^\0]*\Z")]
"""Of a command line or an environment."""

Moment = Annotated[float, Meta(ge=0, le=2.5e11)]
"""Seconds since the epoch, up to some year before the last that can be written as a date."""
Seconds = Annotated[float, Meta(ge=-1e9, le=1e9)]
"""A time span; what is left of a budget may be below zero."""
KeepSeconds = Annotated[float, Meta(ge=1, le=1e9)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
