"""
Registering, changing and deregistering functions.

A registration is its owner's alone: the key begins with the owner's id, so nobody else's request can name it. The
image is resolved by a worker before anything is written, so what cannot be had is not registered. Rows: F4, F5, F6.

Guarantees:
- a user has at most as many functions as are set: all are looked at once more after one was written, and what is too
  much is taken back; of those that race for the last place none may get it;
- what deregistered ones leave is bounded too: a name that was used is kept for ever, as a tombstone, so a user may have
  used `NAMES_FOR_EACH` times as many (those that come at once may be some more).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog
from msgspec.structs import asdict, replace

from mayfly.bus.codec import Undecodable
from mayfly.bus.connection import Bus
from mayfly.bus.requests import ask_for_image, tell_to_prefetch
from mayfly.bus.store import Conflict, Entry
from mayfly.bus.stores import Stores
from mayfly.domain.errors import (
    AlreadyExists,
    ImageUnavailable,
    InternalError,
    InvalidRequest,
    MayflyError,
    NotAllowed,
    NotFound,
    NoWorkers,
    PreconditionFailed,
    QueueUnavailable,
    RuntimeFailed,
)
from mayfly.domain.function import FUNCTIONS_MAX_PER_USER, Function, FunctionSpec, Network
from mayfly.domain.ids import Digest, FunctionName, UserId, new_id
from mayfly.domain.image import ImageAnswer, PrepareImage
from mayfly.images.reference import parse_reference
from mayfly.services.secret_values import SecretValues
from mayfly.services.status import read_workers

log = structlog.get_logger()

PREPARE_TIMEOUT_S = 125.0  # a worker gives up after its own pull time-out, and says so
NAMES_FOR_EACH = 10  # that a user may use in turn, for each function that he may have
READ_AT_ONCE = 100
CHANGE_ATTEMPTS = 8  # a change without If-Match that races others is repeated on what they left


class Functions:
    """The functions of all users; each method sees one owner's only."""

    def __init__(self, bus: Bus, stores: Stores, *, most: int = FUNCTIONS_MAX_PER_USER) -> None:
        """Work on an open bus; *most* is how many functions one user may have."""
        self._most = most
        self._bus = bus
        self._store = stores.functions
        self._stores = stores
        self._secret_values = SecretValues(stores.secrets)

    async def register(
        self, owner: UserId, name: FunctionName, spec: FunctionSpec, *, ask_again: Callable[[], Awaitable[None]]
    ) -> Entry[Function]:
        """
        Register a function under a free name.

        Its state is pending when no worker could be asked; the first call then resolves the image. That can take two
        minutes, so *ask_again* has to find that the owner may still do it before anything is written.

        Raises: AlreadyExists; NotAllowed beyond the limit; InvalidRequest (field image or network); ImageUnavailable;
        QueueUnavailable; what *ask_again* does.
        """
        parse_reference(spec.image)
        key = f"{owner}.{name}"
        if await self._store.get(key):
            raise _taken(name)
        await self._refuse_beyond(owner, name)
        await self._check_network(spec)
        now = time.time()
        digest = await self._resolve(owner, spec)
        await ask_again()
        function = Function(
            id=new_id(), user_id=owner, name=name, digest=digest, created_at=now, updated_at=now, **asdict(spec)
        )
        try:
            revision = await self._store.create(key, function)
        except Conflict:
            raise _taken(name) from None
        try:
            await self._refuse_beyond(owner, name)
        except NotAllowed:  # others were registered at the same time
            with suppress(NotFound):
                await self.deregister(owner, name)
            raise
        return Entry(key, function, revision)

    async def replace(
        self,
        owner: UserId,
        name: FunctionName,
        spec: FunctionSpec,
        *,
        if_match: int | None,
        pull: bool,
        ask_again: Callable[[], Awaitable[None]],
    ) -> Entry[Function]:
        """
        Replace what was said about a function; calls admitted before run as they were.

        The image is resolved anew when its reference changed or *pull* is set.

        Raises: NotFound; PreconditionFailed when it is not at *if_match*; else as `register`.
        """
        parse_reference(spec.image)
        present = await self.get(owner, name)
        _check_match(present, if_match)
        await self._check_network(spec)
        digest = present.value.digest
        if pull or digest is None or spec.image != present.value.image or spec.command != present.value.command:
            digest = await self._resolve(owner, spec)
            await ask_again()
        for _ in range(CHANGE_ATTEMPTS):
            changed = replace(present.value, digest=digest, updated_at=time.time(), **asdict(spec))
            try:
                revision = await self._store.update(present.key, changed, revision=present.revision)
            except Conflict:
                present = await self.get(owner, name)
                _check_match(present, if_match)
                continue
            return Entry(present.key, changed, revision)
        raise PreconditionFailed(f"Function {name!r} is being changed by somebody else all the time; try again.")

    async def get(self, owner: UserId, name: FunctionName) -> Entry[Function]:
        """
        Read one function.

        Raises: NotFound; QueueUnavailable.
        """
        entry = await self._store.get(f"{owner}.{name}")
        if entry is None:
            raise unknown_function(name)
        return entry

    async def list(
        self, owner: UserId, *, limit: int, after: str | None = None
    ) -> tuple[list[Entry[Function]], str | None]:
        """
        List an owner's functions by name, *limit* at a time; the second value continues the list.

        Raises: QueueUnavailable.
        """
        names = [key.partition(".")[2] for key in await self._store.keys(owner)]
        names = [name for name in names if after is None or name > after]
        page = names[:limit]
        entries = await asyncio.gather(*(self._if_readable(f"{owner}.{name}") for name in page))
        more = page[-1] if len(names) > limit else None
        return [entry for entry in entries if entry], more

    async def _if_readable(self, key: str) -> Entry[Function] | None:
        """Read one for a list; one that cannot be read is left out, and no reason to show nothing."""
        try:
            return await self._store.get(key)
        except Undecodable as error:
            log.error("functions.undecodable", function=key, error=str(error))
            return None

    async def deregister(self, owner: UserId, name: FunctionName, *, if_match: int | None = None) -> None:
        """
        Remove a function with its secrets: new calls and queued ones are refused from now on, running ones finish.

        Raises: NotFound; PreconditionFailed; QueueUnavailable.
        """
        for _ in range(CHANGE_ATTEMPTS):
            entry = await self.get(owner, name)
            _check_match(entry, if_match)
            try:
                await self._store.delete(entry.key, revision=entry.revision)
            except Conflict:
                continue
            await self._secret_values.forget(owner, entry.value.id)
            return
        raise PreconditionFailed(f"Function {name!r} is being changed by somebody else all the time; try again.")

    async def _refuse_beyond(self, owner: UserId, name: FunctionName) -> None:
        """
        Refuse a function of this *name*, beside the others that there are.

        Raises: NotAllowed; QueueUnavailable.
        """
        used = await self._store.keys(owner)
        others = [key for key in used if key != f"{owner}.{name}"]
        if len(others) == len(used) and len(used) >= self._most * NAMES_FOR_EACH:
            raise NotAllowed(
                f"You have used {len(used)} names of functions, those that you have deregistered included: the most "
                "that are kept count of. Use one of them again, or ask the operator for more "
                "(MAYFLY_FUNCTIONS_MAX_PER_USER).",
                field="name",
                limit=self._most * NAMES_FOR_EACH,
            )
        if len(others) >= self._most and await self._present(others) >= self._most:
            raise NotAllowed(
                f"You have {self._most} functions, which is the limit. Deregister one, or ask the operator for more "
                "(MAYFLY_FUNCTIONS_MAX_PER_USER).",
                limit=self._most,
            )

    async def _present(self, keys: Sequence[str]) -> int:
        """Count those that were not deregistered, up to the limit, whether or not they can be read."""
        count = 0
        for start in range(0, len(keys), READ_AT_ONCE):
            vacant = await asyncio.gather(*map(self._store.vacancy, keys[start : start + READ_AT_ONCE]))
            count += vacant.count(None)
            if count >= self._most:
                break
        return count

    async def _check_network(self, spec: FunctionSpec) -> None:
        """Refuse what no worker offers; where none is there to be asked, the first call finds out."""
        if spec.network is Network.NONE:
            return
        beats = (await read_workers(self._stores)).alive
        if beats and not any(beat.egress for beat in beats):
            raise InvalidRequest(
                "network: functions have none here but their own loopback. Leave `network` away, or ask the "
                "operator for MAYFLY_EGRESS=on.",
                field="network",
            )

    async def _resolve(self, owner: UserId, spec: FunctionSpec) -> Digest | None:
        """Have a worker resolve the image; None when there is none to ask."""
        request = PrepareImage(reference=spec.image, owner=owner)
        try:
            answer = await ask_for_image(self._bus, request, timeout_s=PREPARE_TIMEOUT_S)
        except NoWorkers:
            log.warning("function.pending", image=spec.image)
            return None
        if answer.digest is None:
            raise _refusal(answer)
        if not answer.process.command_line(spec.command, spec.args):
            raise ImageUnavailable(
                f"Image {spec.image!r} says neither ENTRYPOINT nor CMD, so there is nothing to run. "
                "Give the function a `command`."
            )
        await tell_to_prefetch(self._bus, replace(request, digest=answer.digest))
        return answer.digest


def unknown_function(name: str) -> NotFound:
    """Say that there is no such function; the same words whether or not somebody else has one of this name."""
    return NotFound(f"You have no function {name!r}. `GET /v1/functions` lists yours.")


def _refusal(answer: ImageAnswer) -> MayflyError:
    """Say why there is no image: the caller's mistake, the registry's word, or a fault of ours."""
    if answer.code == InvalidRequest.code:
        return InvalidRequest(answer.problem, field="image")
    if answer.code in (RuntimeFailed.code, InternalError.code):
        return InternalError(f"{answer.problem} Nothing was registered; the operator's log has more.", ran="no")
    if answer.code == QueueUnavailable.code:  # a worker could not look for the user's credentials
        return QueueUnavailable(retry_after_s=1)
    return ImageUnavailable(answer.problem)


def _taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        f"You have a function {name!r} already. PUT (`mayfly functions update {name}`) changes it, DELETE removes it."
    )


def _check_match(entry: Entry[Function], if_match: int | None) -> None:
    if if_match is not None and entry.revision != if_match:
        raise PreconditionFailed(
            f"Function {entry.value.name!r} is at revision {entry.revision}, not {if_match}: "
            "somebody changed it. Read it again and repeat the change.",
            revision=entry.revision,
        )
