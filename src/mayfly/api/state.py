"""What one API server holds while it runs: its settings, its connection, and the services the routes call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from mayfly.api.metrics import ApiMetrics
from mayfly.api.usage import Usage
from mayfly.bus.clock_reading import keeping_time
from mayfly.bus.connection import Bus, connect
from mayfly.bus.responses import Listener
from mayfly.bus.stores import Stores
from mayfly.domain.ids import new_id
from mayfly.services.activations import Activations
from mayfly.services.attempts import Attempts
from mayfly.services.audit import Audit, Refusals
from mayfly.services.cancel import Canceller
from mayfly.services.functions import Functions
from mayfly.services.invitations import Invitations
from mayfly.services.invoke import Invoker
from mayfly.services.janitor import Janitor
from mayfly.services.keys import Keys
from mayfly.services.lifetimes import Lifetimes
from mayfly.services.metrics_port import served
from mayfly.services.operators import Operators
from mayfly.services.orphans import Orphans
from mayfly.services.passwords import Passwords
from mayfly.services.registries import Registries
from mayfly.services.retention import Keeper
from mayfly.services.room import Guard
from mayfly.services.sealing import Sealer
from mayfly.services.secrets import Secrets
from mayfly.services.sessions import Sessions
from mayfly.services.tokens import TokenKeys
from mayfly.services.users import Users
from mayfly.settings import ApiSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiState:
    """Everything a route may need."""

    settings: ApiSettings
    bus: Bus
    stores: Stores
    users: Users
    invitations: Invitations
    operators: Operators
    sessions: Sessions
    attempts: Attempts
    keys: Keys
    functions: Functions
    secrets: Secrets
    registries: Registries
    activations: Activations
    canceller: Canceller
    invoker: Invoker
    janitor: Janitor
    keeper: Keeper
    guard: Guard
    lifetimes: Lifetimes
    audit: Audit
    refusals: Refusals
    orphans: Orphans
    metrics: ApiMetrics


@asynccontextmanager
async def opened(settings: ApiSettings) -> AsyncIterator[ApiState]:
    """
    Connect, build the services on the connection, and let the metrics be read.

    Raises: KeysMissing; SealingKeyUnusable; QueueUnavailable when NATS cannot be reached or is not fit; SettingsError
    when nothing can listen where the metrics are to be read.
    """
    keys = TokenKeys.load(settings.token_keys_dir, issuer=settings.token_issuer, audience=settings.token_audience)
    sealer = Sealer.load(settings.sealing_keys_dir)
    listener = Listener(new_id())
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(connect(settings, role="api"))
        await stack.enter_async_context(keeping_time(bus))
        await stack.enter_async_context(listener.listening(bus))
        passwords = Passwords(settings.login_concurrency)
        stack.callback(passwords.close)
        state = _build(settings, bus, listener, keys=keys, sealer=sealer, passwords=passwords)
        await stack.enter_async_context(state.keeper.listening())
        usage = Usage(bus, state.stores, state.metrics)
        await stack.enter_async_context(served(settings.metrics_listen, state.metrics, refresh=usage.refresh))
        stack.push_async_callback(state.invoker.close)
        stack.push_async_callback(state.refusals.close)
        yield state


def _build(
    settings: ApiSettings, bus: Bus, listener: Listener, *, keys: TokenKeys, sealer: Sealer, passwords: Passwords
) -> ApiState:
    stores = Stores.on(bus)
    metrics = ApiMetrics()
    metrics.follow(bus)
    guard = Guard(bus)
    lifetimes = Lifetimes(stores, keep_s=settings.record_keep_s, most=settings.records_max_per_user)
    audit = Audit(bus)
    keep_s, room = settings.record_keep_s, settings.responses_max_bytes_per_user
    sessions = Sessions(stores, keys, passwords, access_s=settings.access_token_s, refresh_s=settings.refresh_token_s)
    users = Users(bus, stores, sessions, passwords, registration=settings.registration)
    activations = Activations(bus, stores, listener, keep_s=keep_s)
    canceller = Canceller(bus, stores, listener, keep_s=keep_s)
    functions = Functions(bus, stores, most=settings.functions_max_per_user)
    return ApiState(
        settings=settings,
        bus=bus,
        stores=stores,
        users=users,
        invitations=Invitations(stores),
        operators=Operators(bus, stores, users, canceller),
        sessions=sessions,
        attempts=Attempts(stores, settings, passwords, on_refusal=metrics.attempt_refused),
        keys=Keys(stores, sessions, keys),
        functions=functions,
        secrets=Secrets(stores, functions, sealer),
        registries=Registries(stores, sealer),
        activations=activations,
        canceller=canceller,
        invoker=Invoker(
            bus,
            stores,
            listener,
            wait_ms=settings.admission_wait_ms,
            keep_s=keep_s,
            guard=guard,
            lifetimes=lifetimes,
        ),
        janitor=Janitor(bus, stores, keep_s=keep_s, on_action=metrics.janitor_acted),
        keeper=Keeper(bus, listener.instance, max_bytes=room, keep_s=keep_s),
        guard=guard,
        lifetimes=lifetimes,
        audit=audit,
        refusals=Refusals(audit),
        orphans=Orphans(stores),
        metrics=metrics,
    )


async def api_state(request: Request) -> ApiState:
    """Hand a route the server's state."""
    state: ApiState = request.app.state.mayfly
    return state


State = Annotated[ApiState, Depends(api_state)]
