"""
What operators may do: about users, invitations, workers, and what others have in flight. Nobody's parameters or
results are here. Every route is on this router, which asks for the role. Rows: F2, F13, A5.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import Path, Query, Request
from starlette.responses import Response

from mayfly.api.admin_shapes import (
    AccountShape,
    AdminActivationPage,
    AdminActivationQuery,
    AdminActivationShape,
    AdminUserPage,
    AdminUserShape,
    EndedShape,
    InvitationPage,
    InvitationShape,
    IssuedShape,
    NewInvitation,
    UserChange,
    WorkersShape,
)
from mayfly.api.answers import LOCATION, heads, raises
from mayfly.api.auth import Operator, operator, private_router
from mayfly.api.bodies import read_json, takes_json
from mayfly.api.shapes import Page, WorkerShape
from mayfly.api.state import State
from mayfly.api.trail import CallersTrail
from mayfly.api.write import no_content, write
from mayfly.domain.audit import Action
from mayfly.domain.errors import NoWorkers
from mayfly.services.activations import Wanted
from mayfly.services.status import read_workers

private = private_router(operator, tags=["Operators"])

UserInPath = Annotated[str, Path(description="The user's name.")]
ActivationInPath = Annotated[str, Path(description="The activation's id.")]
InvitationInPath = Annotated[str, Path(description="The invitation's id, which is the first half of its code.")]
WorkerInPath = Annotated[str, Path(description="The worker's id.")]


@private.get("/v1/admin/users", response_model=AdminUserPage, openapi_extra=raises())
async def list_users(state: State, page: Annotated[Page, Query()]) -> Response:
    """List all accounts by name."""
    users, more = await state.operators.list(limit=page.limit, after=page.after)
    return write(AdminUserPage(users=[AdminUserShape.of(user) for user in users], next=more))


@private.get("/v1/admin/users/{name}", response_model=AccountShape, openapi_extra=raises())
async def show_user(name: UserInPath, state: State) -> Response:
    """Show an account, and how many activations it has in flight."""
    return write(AccountShape.of_account(await state.operators.show(name)))


@private.patch("/v1/admin/users/{name}", response_model=AdminUserShape, openapi_extra=takes_json(UserChange) | raises())
async def change_user(
    request: Request, name: UserInPath, state: State, caller: Operator, trail: CallersTrail
) -> Response:
    """
    Set an account's role or limit, or suspend it, from the next call on, in all logins. One's own role stays.
    """
    change = await read_json(request, UserChange)
    user = (await state.operators.show(name)).user
    async with AsyncExitStack() as trails:
        for action in _actions(change):
            await trails.enter_async_context(trail(action, user.name, about=user.id))
        user = await state.operators.change(name, caller, **change.changes())
    return write(AdminUserShape.of(user))


@private.delete("/v1/admin/users/{name}", status_code=204, response_class=Response, openapi_extra=raises())
async def delete_user(name: UserInPath, state: State, caller: Operator, trail: CallersTrail) -> Response:
    """Delete an account with its logins, functions and records, and end what it has in flight."""
    user = (await state.operators.show(name)).user
    async with trail(Action.USER_DELETE, user.name, about=user.id):
        await state.operators.delete(name, caller)
    return no_content()


@private.get("/v1/admin/users/{name}/activations", response_model=AdminActivationPage, openapi_extra=raises())
async def list_users_activations(
    name: UserInPath, state: State, page: Annotated[AdminActivationQuery, Query()]
) -> Response:
    """List a user's activations, the newest first: when, how long and how much. A page can have fewer than `limit`."""
    user = (await state.operators.show(name)).user
    records, more = await state.activations.list(user.id, Wanted(state=page.state), limit=page.limit, after=page.after)
    return write(AdminActivationPage(activations=[AdminActivationShape.of(each) for each in records], next=more))


@private.delete("/v1/admin/users/{name}/activations", response_model=EndedShape, openapi_extra=raises())
async def end_users_activations(name: UserInPath, state: State, trail: CallersTrail) -> Response:
    """End all that a user has in flight. Suspend the account first, or it goes on calling."""
    user = (await state.operators.show(name)).user
    async with trail(Action.ACTIVATION_CANCEL, user.name, about=user.id):
        ended = await state.operators.end_all(name)
    return write(EndedShape.of(ended))


@private.delete(
    "/v1/admin/users/{name}/activations/{activation_id}",
    response_model=AdminActivationShape,
    responses={202: {"model": AdminActivationShape, "description": "It is being ended, and has not ended yet."}},
    openapi_extra=raises(),
)
async def end_users_activation(
    name: UserInPath, activation_id: ActivationInPath, state: State, trail: CallersTrail
) -> Response:
    """End one activation of a user, and show how it ended. Its owner is told that an operator did it."""
    user = (await state.operators.show(name)).user
    record = await state.activations.get(user.id, activation_id)
    async with trail(Action.ACTIVATION_CANCEL, record.id, about=user.id) as change:
        ended = await state.operators.end(record)
        change.happened = not record.state.is_final
    return write(AdminActivationShape.of(ended), status=200 if ended.state.is_final else 202)


@private.post(
    "/v1/admin/invitations",
    status_code=201,
    response_model=IssuedShape,
    openapi_extra=takes_json(NewInvitation) | raises() | heads(LOCATION),
)
async def invite(request: Request, state: State, caller: Operator, trail: CallersTrail) -> Response:
    """Make an invitation. Its code is in this answer, and nowhere else."""
    new = await read_json(request, NewInvitation)
    async with trail(Action.INVITATION_CREATE) as change:
        issued = await state.invitations.issue(caller.user_name, expires_in_s=new.expires_in_s, note=new.note)
        change.subject = issued.invitation.id
    location = f"/v1/admin/invitations/{issued.invitation.id}"
    return write(IssuedShape.of_issued(issued), status=201, headers={"Location": location})


@private.get("/v1/admin/invitations", response_model=InvitationPage, openapi_extra=raises())
async def list_invitations(state: State, page: Annotated[Page, Query()]) -> Response:
    """List the invitations that can still be used, the newest first, without their codes."""
    found, more = await state.invitations.list(limit=page.limit, after=page.after)
    return write(InvitationPage(invitations=[InvitationShape.of(each) for each in found], next=more))


@private.delete(
    "/v1/admin/invitations/{invitation_id}", status_code=204, response_class=Response, openapi_extra=raises()
)
async def revoke_invitation(invitation_id: InvitationInPath, state: State, trail: CallersTrail) -> Response:
    """Revoke an invitation: its code is good for nothing from now on."""
    async with trail(Action.INVITATION_REVOKE) as change:
        await state.invitations.revoke(invitation_id)
        change.subject = invitation_id
    return no_content()


@private.get("/v1/admin/workers", response_model=WorkersShape, openapi_extra=raises())
async def list_workers(state: State) -> Response:
    """List the workers that live."""
    alive = (await read_workers(state.stores)).alive
    return write(WorkersShape(workers=[WorkerShape.of(beat) for beat in alive]))


@private.post("/v1/admin/workers/{worker_id}/drain", response_model=WorkerShape, openapi_extra=raises(NoWorkers))
async def drain_worker(worker_id: WorkerInPath, state: State, trail: CallersTrail) -> Response:
    """
    Drain a worker: it claims nothing more, gives back what it has not started, finishes what runs, and stays, idle,
    until the drain is taken back or it is started anew.
    """
    async with trail(Action.WORKER_DRAIN) as change:
        beat = await state.operators.drain(worker_id, drained=True)
        change.subject = beat.id
    return write(WorkerShape.of(beat))


@private.delete("/v1/admin/workers/{worker_id}/drain", response_model=WorkerShape, openapi_extra=raises(NoWorkers))
async def undrain_worker(worker_id: WorkerInPath, state: State, trail: CallersTrail) -> Response:
    """Let a drained worker claim again."""
    async with trail(Action.WORKER_UNDRAIN) as change:
        beat = await state.operators.drain(worker_id, drained=False)
        change.subject = beat.id
    return write(WorkerShape.of(beat))


def _actions(change: UserChange) -> list[Action]:
    """What a change is in the audit trail: an action for each thing that is set."""
    actions = {
        "role": Action.ROLE_SET,
        "max_activations": Action.LIMIT_SET,
        "suspended": Action.USER_SUSPEND if change.suspended else Action.USER_RESUME,
    }
    return [action for name, action in actions.items() if name in change.changes()]
