"""A user's own audit trail. Rows: F3."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from mayfly.api.answers import raises
from mayfly.api.auth import Caller, private_router
from mayfly.api.shapes import AuditEntryShape, AuditPage, Page
from mayfly.api.state import State
from mayfly.api.write import write

private = private_router(tags=["Audit"])


@private.get("/v1/audit", response_model=AuditPage, openapi_extra=raises())
async def list_audit(state: State, caller: Caller, page: Annotated[Page, Query()]) -> Response:
    """
    List who did or tried what with one's account, the newest first. Entries are kept for 90 days, at most 10,000 of
    logins, as many of other changes, and of wrong passwords.
    """
    entries, more = await state.audit.list(caller.user_id, limit=page.limit, after=page.after)
    return write(AuditPage(entries=[AuditEntryShape.of(entry) for entry in entries], next=more))
