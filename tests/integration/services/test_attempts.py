"""Back-off, counted in a real nats-server by several API servers at once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager

import pytest
import pytest_asyncio

from mayfly.bus.clock import Clock
from mayfly.bus.connection import Bus
from mayfly.bus.schema import BOUNDED_BUCKETS
from mayfly.bus.stores import Stores
from mayfly.bus.subjects import kv_stream
from mayfly.domain.errors import MayflyError, NotAuthenticated, QueueUnavailable, TooManyAttempts
from mayfly.domain.ids import new_id
from mayfly.services.attempts import Attempts
from mayfly.services.passwords import WAITING_PER_THREAD, Passwords
from mayfly.settings import BackOffSettings
from tests.support.bus import Installation, installation

pytestmark = [pytest.mark.F3, pytest.mark.asyncio(loop_scope="session")]

SETTINGS = BackOffSettings(
    login_failures_per_user_and_address=3,
    login_failures_per_user=5,
    login_failures_per_address=7,
    registrations_per_address=4,
    login_back_off_max_s=60,
)
HERE, THERE, ELSEWHERE = "192.0.2.1", "192.0.2.2", "2001:db8::/64"


class Still(Clock):
    """NATS's clock, which moves when it is told to: a test may take its time."""

    def now(self) -> float:
        """Return the same moment."""
        return self.moment

    moment = 1_900_000_000.0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared() -> AsyncIterator[Installation]:
    """A nats-server for all of these tests: each counts under names and addresses of its own."""
    async with installation() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def api(shared: Installation) -> AsyncIterator[Bus]:
    """One API server's connection, with that role's permissions."""
    async with shared.connect("api") as bus:
        yield bus


@pytest_asyncio.fixture(loop_scope="session")
async def admin(shared: Installation) -> AsyncIterator[Bus]:
    """A connection that sees everything."""
    async with shared.connect("admin") as bus:
        yield bus


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    """With one thread."""
    one = Passwords(1)
    yield one
    one.close()


class Door:
    """One API server's attempts, and what came of them."""

    def __init__(self, bus: Bus, passwords: Passwords, clock: Still | None = None) -> None:
        """It counts in that store, by that clock."""
        self.clock = bus.clock = clock or Still()
        self.stores = Stores.on(bus)
        self.refused: list[str] = []
        self.attempts = Attempts(self.stores, SETTINGS, passwords, on_refusal=self.refused.append)
        self.name = new_id()

    def guessing(self, name: str, network: str | None) -> AbstractAsyncContextManager[None]:
        """Guess inside, under a name and at an address that are this test's own."""
        return self.attempts.guess(f"{self.name}{name}", network and f"{self.name}{network}")

    async def guess(self, name: str, network: str | None, *, right: bool = False) -> str | float:
        """Guess: `right`, `wrong`, or how long one has to wait."""
        try:
            async with self.guessing(name, network):
                if not right:
                    raise NotAuthenticated  # noqa: TRY301 - as what is done inside does
        except NotAuthenticated:
            return "wrong"
        except TooManyAttempts as error:
            return error.retry_after_s or 0
        return "right"

    def as_if(self, other: Door) -> Door:
        """Serve the same callers as the other one."""
        self.name = other.name
        return self

    def later(self, seconds: float) -> None:
        """Let time go by, as NATS tells it."""
        self.clock.moment += seconds


@pytest.fixture
def door(api: Bus, passwords: Passwords) -> Door:
    """One API server."""
    return Door(api, passwords)


async def test_who_fails_too_often_waits_longer_and_longer(door: Door) -> None:
    """Three are free; then one waits 1 s, 2 s, 4 s ... and a right password waits as well, without being looked at."""
    assert [await door.guess("ann", HERE) for _ in range(4)] == ["wrong", "wrong", "wrong", 1]
    assert await door.guess("ann", HERE, right=True) == 1
    for wait_s in (2, 4, 8, 16, 32, 60, 60):
        door.later(60)
        assert await door.guess("ann", HERE) == "wrong"
        assert await door.guess("ann", HERE) == wait_s
    assert door.refused[0] == "user-and-address"


async def test_a_right_password_begins_the_count_anew(door: Door) -> None:
    """After a login the first failures are free again at this name from this address."""
    assert [await door.guess("ann", HERE) for _ in range(3)] == ["wrong"] * 3
    door.later(1)
    assert await door.guess("ann", HERE, right=True) == "right"
    assert [await door.guess("ann", HERE) for _ in range(4)] == ["wrong", "wrong", "wrong", 1]


async def test_one_name_is_guarded_against_many_addresses(door: Door) -> None:
    """Guesses from ever new addresses count at the name, whether there is such a user or not."""
    for name in ("ann", "nobody at all \0 \ud800"):
        outcomes = [await door.guess(name, f"192.0.2.{number}") for number in range(6)]
        assert outcomes == ["wrong"] * 5 + [1]
    assert door.refused == ["user", "user"]


async def test_one_address_is_slowed_over_many_names(door: Door) -> None:
    """Guessing at ever new names from one address ends, and own logins in between do not begin its count anew."""
    outcomes = []
    for number in range(8):
        outcomes.append(await door.guess(f"user-{number}", HERE))
        assert number > 6 or await door.guess("mallory", HERE, right=True) == "right"
    assert outcomes == ["wrong"] * 7 + [1]
    assert door.refused == ["address"]
    assert await door.guess("user-8", THERE) == "wrong"


async def test_an_owner_is_not_kept_out_where_he_has_logged_in_before(door: Door) -> None:
    """While strangers use up what is free at his name, he logs in from where he is known, and from nowhere else."""
    assert await door.guess("ann", HERE, right=True) == "right"
    for number in range(5):
        assert await door.guess("ann", f"203.0.113.{number}") == "wrong"
    assert await door.guess("ann", THERE, right=True) == 1
    assert await door.guess("ann", HERE, right=True) == "right"


async def test_strangers_at_the_same_address_do_not_keep_out_who_is_known_there(door: Door) -> None:
    """Whoever shares the address with a guesser, and has logged in from there before, does so again."""
    assert await door.guess("ann", HERE, right=True) == "right"
    for number in range(7):
        assert await door.guess(f"user-{number}", HERE) == "wrong"
    assert await door.guess("bob", HERE, right=True) == 1
    assert await door.guess("ann", HERE, right=True) == "right"


async def test_a_known_address_is_slowed_too(door: Door) -> None:
    """Being known somewhere frees nobody to guess there."""
    assert await door.guess("ann", HERE, right=True) == "right"
    assert [await door.guess("ann", HERE) for _ in range(4)] == ["wrong", "wrong", "wrong", 1]


async def test_without_an_address_the_name_counts_alone(door: Door) -> None:
    """Where nobody knows where callers are, they are not all taken for one."""
    assert [await door.guess("ann", None) for _ in range(6)] == ["wrong"] * 5 + [1]
    assert await door.guess("bob", None) == "wrong"


async def test_racing_guesses_at_several_servers_get_no_more_than_is_free(
    shared: Installation, door: Door, passwords: Passwords
) -> None:
    """Of 40 guesses at once at two API servers, exactly three are looked at; the last right ones are not."""
    looked_at = 0
    async with shared.connect("api") as other_bus:
        doors = [door, Door(other_bus, passwords, door.clock).as_if(door)]

        async def guess(number: int) -> None:
            nonlocal looked_at
            async with doors[number % 2].guessing("ann", HERE):
                looked_at += 1
                raise NotAuthenticated

        outcomes = await asyncio.gather(*map(guess, range(40)), return_exceptions=True)
    assert looked_at == 3
    assert sum(isinstance(outcome, NotAuthenticated) for outcome in outcomes) == 3
    assert sum(isinstance(outcome, TooManyAttempts) for outcome in outcomes) == 37
    assert await door.guess("bob", HERE) == "wrong", "those that were refused count nowhere"


async def test_failures_outlive_api_server_and_nats(passwords: Passwords) -> None:
    """After a crash of both, the count goes on."""
    async with installation() as nats:
        async with nats.connect("api") as bus:
            before = Door(bus, passwords)
            assert [await before.guess("ann", HERE) for _ in range(2)] == ["wrong", "wrong"]
        await nats.server.restart()
        async with nats.connect("api") as bus:
            after = Door(bus, passwords).as_if(before)
            assert [await after.guess("ann", HERE) for _ in range(2)] == ["wrong", 1]


async def test_a_guess_whose_caller_went_away_counts(door: Door) -> None:
    """Hanging up before the answer makes no guess free."""
    for _ in range(3):
        inside = asyncio.Event()

        async def guess(inside: asyncio.Event = inside) -> None:
            async with door.guessing("ann", HERE):
                inside.set()
                await asyncio.Event().wait()

        guessing = asyncio.create_task(guess())
        await inside.wait()
        guessing.cancel()
        await asyncio.gather(guessing, return_exceptions=True)
    assert await door.guess("ann", HERE, right=True) == 1


async def test_what_nobody_had_the_time_to_look_at_does_not_count(door: Door, passwords: Passwords) -> None:
    """A flood beyond the line of hashes writes nothing, and uses up nobody's free attempts."""
    for _ in range(4):
        with pytest.raises(TooManyAttempts, match="at once"):
            async with door.guessing("ann", HERE):
                raise TooManyAttempts("too many at once")  # the line filled up after it was looked at
    line = [asyncio.create_task(passwords.matches("x", None)) for _ in range(1 + WAITING_PER_THREAD)]
    await asyncio.sleep(0)
    before = await door.stores.attempts.count()
    with pytest.raises(TooManyAttempts, match="at once"):
        async with door.guessing("bob", HERE):
            raise AssertionError("it was looked at")
    assert await door.stores.attempts.count() == before
    await asyncio.gather(*line)
    assert [await door.guess("ann", HERE) for _ in range(4)] == ["wrong", "wrong", "wrong", 1]


async def test_a_right_password_that_nothing_came_of_does_not_count(door: Door) -> None:
    """Whoever tries again while a login cannot be written down is not slowed for it, from there or elsewhere."""
    for _ in range(4):
        with pytest.raises(QueueUnavailable):
            async with door.guessing("ann", HERE):
                raise QueueUnavailable
    assert await door.guess("ann", HERE, right=True) == "right"
    assert [await door.guess("ann", THERE) for _ in range(4)] == ["wrong", "wrong", "wrong", 1]


async def test_registrations_count_by_address(door: Door) -> None:
    """Four users from one address are free, taken names included; those of another are not touched."""

    async def register(network: str | None, refusal: MayflyError | None = None) -> None:
        async with door.attempts.registration(network and f"{door.name}{network}"):
            if refusal:
                raise refusal

    for _ in range(4):
        await register(HERE)
    with pytest.raises(TooManyAttempts, match="registered") as caught:
        await register(HERE)
    assert caught.value.retry_after_s == 1
    await register(THERE)
    await register(None)
    assert door.refused == ["registrations"]


async def test_what_lies_in_the_store_says_nothing_and_is_bounded(door: Door, admin: Bus) -> None:
    """No name and no address can be read there; both buckets have a bound, where the oldest goes; all ends by time."""
    await door.guess("secret-name", HERE)
    await door.guess("secret-name", HERE, right=True)
    for bucket, bound in BOUNDED_BUCKETS.items():
        info = await admin.js.stream_info(kv_stream(bucket))
        assert (info.config.max_bytes, str(info.config.discard)) == (bound, "old")
        message = await admin.js.get_msg(kv_stream(bucket), info.state.last_seq)
        assert b"secret" not in (message.data or b"")
        assert "secret" not in (message.subject or "")
        assert (message.headers or {}).get("Nats-TTL")


async def test_a_full_bucket_forgets_the_oldest_and_goes_on(door: Door, admin: Bus) -> None:
    """Ever new names push out what was counted first; nobody is refused for want of room."""
    config = (await admin.js.stream_info("KV_attempts")).config
    await admin.js.update_stream(dataclasses.replace(config, max_bytes=4096))
    for number in range(40):
        assert await door.guess(f"name-{number}", f"2001:db8:0:{number:x}::/64") == "wrong"
    state = (await admin.js.stream_info("KV_attempts")).state
    assert state.bytes <= 4096
    assert state.messages < 120
    await admin.js.update_stream(config)


@pytest.mark.long
async def test_in_an_outage_nothing_is_looked_at(passwords: Passwords) -> None:
    """Without NATS a guess is refused as everything is, however often it is tried."""
    async with installation() as nats, nats.connect("api") as bus:
        await nats.server.stop()
        with pytest.raises(QueueUnavailable):
            async with Door(bus, passwords).guessing("ann", HERE):
                raise AssertionError("it was looked at")
