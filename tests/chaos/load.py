"""
The load: clients that call, mixed kinds of calls on both API servers, and note what they were told.

A client fails over as the promise allows, and no further: a connection that was refused is tried at the other API
server; one that broke before the answer is tried again only with an Idempotency-Key.
"""

from __future__ import annotations

import asyncio
import datetime
import math
import random
import time
from collections.abc import AsyncIterator, Container, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final

import httpx

from mayfly.domain.ids import new_ulid
from tests.chaos.history import FINAL, FINAL_WITHIN_S, Call, Record
from tests.chaos.installation import APIS, Installation, User
from tests.chaos.witness import expected

TIMEOUT_S: Final = 8.0
FOLLOW_S: Final = 60.0
AGAIN: Final = 4  # requests with one key
UNWITNESSED: Final = 99
TRACK_EVERY_S: Final = 0.5
LOOKS_AT_ONCE: Final = 8  # a second load looks at every run of the first, and is not to be what the servers swell with


OK: Final = frozenset({"200"})
ACCEPTED: Final = frozenset({"202"})
LIMIT: Final = "429 concurrency-limit"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way to call."""

    name: str
    weight: int
    exit_code: int = 0
    ms: tuple[int, int] = (0, 20)
    length: int = 64
    timeout_s: float = TIMEOUT_S
    function: str = "witness"
    user: int | None = None  # whose it always is
    how: str = "wait"  # wait, submit, repeat or cancel
    answers: frozenset[str] = OK  # when nothing is struck; a refusal by a limit is always one
    results: frozenset[str] = OK  # fetched afterwards


KINDS: Final = (
    Kind(name="quick", weight=30),
    Kind(name="slow", weight=20, ms=(500, 3000)),
    Kind(name="failing", weight=8, exit_code=3, ms=(0, 200), answers=frozenset({"502 function-failed"})),
    Kind(name="large", weight=4, length=1 << 20),
    Kind(name="too large", weight=3, length=3 << 19, answers=frozenset({"502 result-too-large"})),
    Kind(name="out of time", weight=4, ms=(5000, 6000), timeout_s=1.0, answers=frozenset({"504 timed-out"})),
    Kind(name="asynchronous", weight=12, ms=(0, 2000), how="submit", answers=ACCEPTED),
    Kind(name="repeated", weight=15, ms=(0, 1500), how="repeat"),
    Kind(name="cancelled", weight=6, ms=(500, 3000), how="cancel", answers=ACCEPTED, results=OK | {"499 cancelled"}),
    Kind(name="long", weight=4, ms=(18_000, 22_000), timeout_s=25.0, function="long", user=0),
    Kind(name="narrow", weight=12, ms=(300, 2500), function="narrow"),
)


BRIEF: Final = tuple(kind for kind in KINDS if kind.name != "long")
"""For a run that has no time to wait for the end of a long one."""


@dataclass
class Shot:
    """One logical call."""

    kind: Kind
    user: User
    ms: int
    token: str = field(default_factory=new_ulid)
    key: str | None = None

    @property
    def parameter(self) -> str:
        """What the witness reads."""
        return f"{self.token} {self.kind.exit_code} {self.ms} {self.kind.length}"

    @property
    def headers(self) -> dict[str, str]:
        """Of the request."""
        headers = {**self.user.headers}
        if self.kind.timeout_s != TIMEOUT_S:
            headers["Mayfly-Timeout"] = f"{self.kind.timeout_s:g}"
        if self.key is not None:
            headers["Idempotency-Key"] = self.key
        if self.kind.how in ("submit", "cancel"):
            headers["Prefer"] = "respond-async"
        return headers

    def call(self, api: str, sent_at: float, answer: httpx.Response | None) -> Call:
        """What came of a request."""
        call = Call(
            token=self.token,
            kind=self.kind.name,
            user=self.user.name,
            function=self.kind.function,
            api=api,
            sent_at=sent_at,
            over_at=time.monotonic(),
            timeout_s=self.kind.timeout_s,
            key=self.key,
        )
        return call if answer is None else replace(call, **self._answered(answer))

    def _answered(self, answer: httpx.Response) -> dict[str, Any]:
        told: dict[str, Any] = {"status": answer.status_code, "activation": answer.headers.get("Mayfly-Activation-Id")}
        if answer.status_code == 200:
            told["is_complete"] = answer.content == expected(self.token, self.kind.length)
        elif answer.status_code != 202:
            problem = answer.json()
            told |= {name: problem.get(name) for name in ("code", "ran", "clock")}
            told["activation"] = told["activation"] or problem.get("activation_id")
            if problem.get("exit_code") == UNWITNESSED:
                raise AssertionError(f"a command could not reach the witness: {problem}")
        return told


def seeded(seed: str) -> random.Random:
    """Chance that can be had again."""
    return random.Random(seed)  # noqa: S311 - no secret


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is called, and how."""

    clients: int = 12
    think_s: float = 0.5  # on average, between two calls of a client
    kinds: tuple[Kind, ...] = KINDS
    keyed: bool = False  # give each call a key, and repeat it when its connection breaks
    at_most: float = math.inf  # calls


EVERYTHING: Final = Plan()
IN_SHORT: Final = Plan(kinds=BRIEF)


class Load:
    """Clients that call until they are stopped, and what they were told."""

    def __init__(self, made: Installation, seed: int, plan: Plan = EVERYTHING) -> None:
        """*seed* decides what is called, as far as time does not."""
        self.calls: list[Call] = []
        self.refused_connections = 0
        self.pending: set[str] = set()  # activations not seen final yet
        self.pending_at: dict[str, float] = {}
        self._looks = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._made = made
        self._seed = seed
        self._plan = plan
        self._known: set[str] = set()
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._stop = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Call until *stop* is set, or as often as planned; then wait until each call under way has its answer."""
        self._stop = stop
        async with AsyncExitStack() as stack:
            for api in APIS:
                self._clients[api] = await stack.enter_async_context(self._made.client(api))
            tracking = asyncio.create_task(self._track(), name="track")
            async with asyncio.TaskGroup() as group:
                for number in range(self._plan.clients):
                    group.create_task(self._client(seeded(f"{self._seed}/{number}")), name=f"client-{number}")
            tracking.cancel()
            await asyncio.gather(tracking, return_exceptions=True)

    async def _client(self, chance: random.Random) -> None:
        plan = self._plan
        while not self._stop.is_set() and len(self.calls) < plan.at_most:
            [kind] = chance.choices(plan.kinds, [kind.weight for kind in plan.kinds])
            user = chance.choice(self._made.users) if kind.user is None else self._made.users[kind.user]
            shot = Shot(kind, user, chance.randint(*kind.ms))
            await getattr(self, f"_{kind.how}")(shot, chance)
            if plan.think_s:
                await asyncio.sleep(chance.expovariate(1 / plan.think_s))

    # --- the ways to call ---------------------------------------------------------------------------------------

    async def _wait(self, shot: Shot, chance: random.Random) -> None:
        await self._call(shot, chance)

    async def _call(self, shot: Shot, chance: random.Random) -> Call | None:
        """Call once; with a key, again where the connection broke."""
        if self._plan.keyed:
            shot.key = shot.token
        apis = chance.sample(APIS, 2)
        for number in range(AGAIN):
            call = await self._send(shot, apis[number % 2])
            if shot.key is None or (call is not None and call.status is not None):
                break
        return call

    async def _repeat(self, shot: Shot, chance: random.Random) -> None:
        """Send one key again until it has an outcome; sometimes twice at once, and once more in the end."""
        shot.key = shot.token
        apis = chance.sample(APIS, 2)
        if chance.random() < 0.3:
            await asyncio.gather(*(self._send(shot, api) for api in apis))
        for number in range(AGAIN):
            call = await self._send(shot, apis[number % 2])
            if call is not None and call.status is not None and call.ran != "no" and chance.random() < 0.7:
                return
            await asyncio.sleep(chance.uniform(0.05, 1.0))

    async def _submit(self, shot: Shot, chance: random.Random) -> None:
        call = await self._call(shot, chance)
        if call is not None and call.status == 202 and call.activation:
            await self._follow(shot, call.activation, chance)

    async def _cancel(self, shot: Shot, chance: random.Random) -> None:
        call = await self._call(shot, chance)
        if call is None or call.status != 202 or not call.activation:
            return
        await asyncio.sleep(chance.uniform(0, 1.5))
        try:
            client = self._clients[chance.choice(APIS)]
            await client.delete(f"/v1/activations/{call.activation}", headers=shot.user.headers)
        except httpx.TransportError:
            self.refused_connections += 1
        await self._follow(shot, call.activation, chance)

    async def _follow(self, shot: Shot, activation: str, chance: random.Random) -> None:
        """Ask for the result, here and there, until it is said."""
        give_up_at = time.monotonic() + FOLLOW_S
        while time.monotonic() < give_up_at:
            api, sent_at = chance.choice(APIS), time.monotonic()
            try:
                answer = await self._clients[api].get(
                    f"/v1/activations/{activation}/result", params={"wait": 5}, headers=shot.user.headers
                )
            except httpx.TransportError:
                await asyncio.sleep(0.2)
                continue
            if answer.status_code in (202, 503):
                await asyncio.sleep(0.1)
                continue
            call = shot.call(api, sent_at, answer)
            told = replace(call, kind=f"{shot.kind.name}: result", activation=activation, timeout_s=0.0)
            self.calls.append(told)
            return

    async def _send(self, shot: Shot, api: str) -> Call | None:
        """Send one request; None if no server took the connection."""
        for each in (api, *(other for other in APIS if other != api)):
            sent_at, gave_up = time.monotonic(), False
            try:
                answer = await self._clients[each].post(
                    f"/v1/functions/{shot.kind.function}/activations", content=shot.parameter, headers=shot.headers
                )
            except (httpx.ConnectError, httpx.ConnectTimeout):
                self.refused_connections += 1
                continue
            except httpx.TransportError as error:
                answer = None
                gave_up = isinstance(error, httpx.TimeoutException)
            call = replace(shot.call(each, sent_at, answer), gave_up=gave_up)
            if shot.kind.how in ("submit", "cancel"):
                call = replace(call, waits=False)
            self.calls.append(call)
            if call.activation and (call.status == 202 or call.ran == "unknown"):
                self._expect(call.activation)
            return call
        await asyncio.sleep(0.2)
        return None

    # --- the records, as they change ------------------------------------------------------------------------------

    def _expect(self, activation: str) -> None:
        if activation not in self._known:
            self._known.add(activation)
            self.pending.add(activation)

    async def _track(self) -> None:
        """Look again and again at the records of what has begun and is not over."""
        known = 0
        chance = seeded(f"{self._seed}/track")
        while True:
            runs = self._made.witness.runs()
            for run in runs[known:]:
                self._expect(run.activation)
            known = len(runs)
            await asyncio.gather(*(self._look(activation, chance.choice(APIS)) for activation in list(self.pending)))
            await asyncio.sleep(TRACK_EVERY_S)

    async def _look(self, activation: str, api: str) -> None:
        async with self._looks:
            await self._ask_for(activation, api)

    async def _ask_for(self, activation: str, api: str) -> None:
        for user in self._made.users:  # whose it is, is not known for what the witness alone has seen
            asked_at = time.monotonic()
            try:
                answer = await self._clients[api].get(f"/v1/activations/{activation}", headers=user.headers, timeout=6)
            except httpx.TransportError:
                return
            if answer.status_code == 200:
                if answer.json()["state"] in FINAL:
                    self.pending.discard(activation)
                else:
                    self.pending_at[activation] = asked_at
                return


def unexpected(calls: Sequence[Call], *, also: Container[str] = ()) -> list[str]:
    """
    What callers were told beyond what their calls are for, in words: nothing, where nothing is struck.

    *also* may be told as well, if nothing was run. A connection that broke is nothing to speak of if the same key got
    its answer by another one.
    """
    answered = {call.key for call in calls if call.key is not None and call.status is not None}
    return [
        f"{call.kind} {call.token}: {answer}, ran={call.ran}"
        for call in calls
        if (answer := answer_of(call)) not in _expected(call.kind)
        and not (answer in also and call.ran == "no")
        and not (call.status is None and call.key in answered)
    ]


def answer_of(call: Call) -> str:
    """Status and code of an answer, as they are counted."""
    return "no answer" if call.status is None else f"{call.status} {call.code or ''}".strip()


def _expected(kind: str) -> frozenset[str]:
    name, _, fetched = kind.partition(": ")
    [found] = [each for each in KINDS if each.name == name]
    return found.results if fetched else found.answers | {LIMIT}


def on_our_clock(instant: str) -> float:
    """When something was or will be that a record dates by the time of day; nats-server has this machine's."""
    return datetime.datetime.fromisoformat(instant).timestamp() - (time.time() - time.monotonic())


async def records(made: Installation, load: Load) -> list[Record]:
    """Read every record that the API shows: in the list, and those that are not final there until they must be."""
    found: list[Record] = []
    async with made.client(APIS[0]) as client:
        for user in made.users:
            async for shown in _listed(client, user):
                state = await _when_due(client, user, shown)
                found.append(
                    Record(
                        activation=state["id"],
                        user=user.name,
                        function=state["function"],
                        state=state["state"],
                        ran=state["ran"],
                        code=state["code"],
                        pending_at=load.pending_at.get(state["id"]),
                        due_at=on_our_clock(state["deadline_at"]),
                    )
                )
    return found


async def _when_due(client: httpx.AsyncClient, user: User, shown: dict[str, Any]) -> dict[str, Any]:
    """Read a record once more, until it is final or too late to be: the API server of one may have died just now."""
    must_be_final_at = on_our_clock(shown["deadline_at"]) + FINAL_WITHIN_S
    while shown["state"] not in FINAL:
        asked_at = time.monotonic()
        answer = await client.get(f"/v1/activations/{shown['id']}", headers=user.headers)
        answer.raise_for_status()
        shown = dict(answer.json())
        if asked_at > must_be_final_at:
            break
        await asyncio.sleep(TRACK_EVERY_S)
    return shown


async def _listed(client: httpx.AsyncClient, user: User) -> AsyncIterator[dict[str, Any]]:
    query = {"limit": "100"}
    while True:
        answer = await client.get("/v1/activations", params=query, headers=user.headers)
        answer.raise_for_status()
        page = answer.json()
        for shown in page["activations"]:
            yield shown
        if page["next"] is None:
            return
        query["after"] = page["next"]
