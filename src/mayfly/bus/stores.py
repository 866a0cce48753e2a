"""The buckets, each as a typed store. Together they are the database. Rows: A4."""

from __future__ import annotations

from dataclasses import dataclass

from mayfly.bus import subjects
from mayfly.bus.connection import Bus
from mayfly.bus.store import Store
from mayfly.domain.activation import Activation
from mayfly.domain.attempts import KnownAddress, Tally
from mayfly.domain.function import Function
from mayfly.domain.idempotency import IdempotencyEntry
from mayfly.domain.invitation import Invitation
from mayfly.domain.registry import RegistryCredentials
from mayfly.domain.secret import Secret
from mayfly.domain.user import Session, User
from mayfly.domain.worker import WorkerBeat


@dataclass(frozen=True, slots=True)
class Stores:
    """The database: one store for each kind of thing."""

    users: Store[User]
    sessions: Store[Session]
    functions: Store[Function]
    activations: Store[Activation]
    idempotency: Store[IdempotencyEntry]
    workers: Store[WorkerBeat]
    attempts: Store[Tally]
    addresses: Store[KnownAddress]
    invitations: Store[Invitation]
    secrets: Store[Secret]
    registries: Store[RegistryCredentials]

    @classmethod
    def on(cls, bus: Bus) -> Stores:
        """Open all of them on one connection."""
        return cls(
            users=Store(bus, subjects.USERS, User),
            sessions=Store(bus, subjects.SESSIONS, Session),
            functions=Store(bus, subjects.FUNCTIONS, Function),
            activations=Store(bus, subjects.ACTIVATIONS, Activation),
            idempotency=Store(bus, subjects.IDEMPOTENCY, IdempotencyEntry),
            workers=Store(bus, subjects.WORKERS, WorkerBeat),
            attempts=Store(bus, subjects.ATTEMPTS, Tally),
            addresses=Store(bus, subjects.ADDRESSES, KnownAddress),
            invitations=Store(bus, subjects.INVITATIONS, Invitation),
            secrets=Store(bus, subjects.SECRETS, Secret),
            registries=Store(bus, subjects.REGISTRIES, RegistryCredentials),
        )
