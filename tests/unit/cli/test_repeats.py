"""Which calls with an idempotency key the client repeats, and what it says when it gives up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mayfly.client import ApiError, ClientError, InvalidCall, NotMayfly, NotTrusted, Unreachable
from mayfly.client.repeats import ATTEMPTS, repeated


def answer(code: str, *, ran: str = "no", **members: object) -> ApiError:
    """An answer of the API's, or of the gateway's."""
    return ApiError({"code": code, "detail": "So it is.", "fault": "platform", "ran": ran, **members}, status=503)


class Api:
    """What answers: first the errors, one each time, then a result."""

    def __init__(self, *errors: ClientError) -> None:
        """Nobody has asked."""
        self.errors = list(errors)
        self.asked = 0

    async def send(self) -> str:
        """Answer."""
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return "the result"


class Clock:
    """Nobody waits really. `pauses` are the waits between attempts."""

    def __init__(self) -> None:
        """Nobody has waited."""
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        self.pauses.append(seconds)


@pytest.fixture
def clock() -> Clock:
    """One at its beginning."""
    return Clock()


@pytest.mark.parametrize(
    "error",
    [
        lambda: Unreachable("broke", ran="unknown"),
        lambda: Unreachable("refused"),
        lambda: answer("queue-unavailable", ran="unknown"),
        lambda: answer("bad-gateway", ran="unknown"),
        lambda: answer("gateway-timeout", ran="unknown"),
        lambda: answer("gateway-unavailable"),
        lambda: answer("no-workers"),
    ],
)
async def test_what_may_be_over_soon_is_repeated(error: Callable[[], ClientError], clock: Clock) -> None:
    """A lost connection, an unavailable queue, a gateway that lost its API server: the next answer is the answer."""
    api = Api(error(), error())

    assert await repeated(api.send, sleep=clock.sleep) == "the result"
    assert api.asked == 3


@pytest.mark.parametrize(
    "error",
    [
        lambda: answer("function-failed", ran="yes"),
        lambda: answer("timed-out", ran="yes"),
        lambda: answer("worker-lost", ran="unknown"),
        lambda: answer("cancelled", ran="yes"),
        lambda: answer("concurrency-limit"),
        lambda: answer("idempotency-conflict"),
        lambda: NotMayfly("a proxy", ran="unknown"),
        lambda: NotTrusted("who are you?"),
        lambda: InvalidCall("no"),
    ],
)
async def test_what_stays_so_is_not(error: Callable[[], ClientError], clock: Clock) -> None:
    """An outcome would only be given again, and a mistake would stay one: it is asked once."""
    api = Api(error())

    with pytest.raises(ClientError):
        await repeated(api.send, sleep=clock.sleep)
    assert api.asked == 1


async def test_it_ends(clock: Clock) -> None:
    """After a few attempts the last one's error is the caller's, within some ten seconds."""
    api = Api(*(Unreachable(f"number {number}") for number in range(20)))

    with pytest.raises(Unreachable, match=f"number {ATTEMPTS - 1}") as caught:
        await repeated(api.send, sleep=clock.sleep)

    assert (api.asked, caught.value.ran) == (ATTEMPTS, "no")
    assert len(clock.pauses) == ATTEMPTS - 1
    assert 7.75 <= sum(clock.pauses) <= 11


async def test_a_doubt_is_not_forgotten(clock: Clock) -> None:
    """If the first attempt may have run, a later one that was refused does not make that a no."""
    api = Api(Unreachable("broke", ran="unknown"), answer("concurrency-limit", ran="no"))

    with pytest.raises(ApiError) as caught:
        await repeated(api.send, sleep=clock.sleep)

    assert (caught.value.code, caught.value.ran) == ("concurrency-limit", "unknown")


async def test_the_answer_says_how_long_to_wait(clock: Clock) -> None:
    """Retry-After is kept to, within reason."""
    api = Api(answer("queue-unavailable", retry_after_s=7), answer("queue-unavailable", retry_after_s=9999))

    await repeated(api.send, sleep=clock.sleep)

    assert 7 <= clock.pauses[0] <= 8
    assert 30 <= clock.pauses[1] <= 31
