"""Calls without a waiting caller, calls with a key, and their end by cancelling, through the API server."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import httpx
import pytest

from mayfly.domain.ids import new_id
from tests.integration.api.conftest import Someone
from tests.support.answering import AnsweringWorker

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F12]

CALL = "/v1/functions/echo/activations"
ASYNC = {"Prefer": "respond-async"}


@pytest.mark.parametrize("prefer", ["respond-async", "Respond-Async, wait=5", "handling=lenient;x=y , respond-async"])
async def test_an_asynchronous_call_is_accepted_and_its_result_kept(
    ann: Someone, worker: AnsweringWorker, prefer: str
) -> None:
    """202 names the record while it runs; the result comes from there, and it is the function's stdout."""
    await ann.has()
    worker.hold.clear()
    accepted = await ann.client.post(CALL, content=b"later", headers={"Prefer": prefer})
    worker.hold.set()

    assert (accepted.status_code, accepted.headers["Preference-Applied"]) == (202, "respond-async")
    shown = accepted.json()
    assert (shown["state"], shown["ran"], shown["ended_at"]) == ("queued", "no", None)
    assert accepted.headers["Location"] == f"/v1/activations/{shown['id']}"
    result = await ann.client.get(f"{accepted.headers['Location']}/result", params={"wait": 20})
    assert (result.status_code, result.content) == (200, b"later")


async def test_other_preferences_change_nothing(ann: Someone, worker: AnsweringWorker) -> None:
    """A preference that is not known is not followed, as RFC 7240 has it."""
    await ann.has()
    answer = await ann.client.post(CALL, content=b"now", headers={"Prefer": "return=minimal, respond-asynchronously"})

    assert (answer.status_code, answer.content) == (200, b"now")


async def test_a_header_on_two_lines_is_one_list_or_a_mistake(ann: Someone, worker: AnsweringWorker) -> None:
    """Preferences on two lines are all read; of two keys nobody could say which is meant, so nothing runs."""
    await ann.has()
    accepted = await ann.client.post(CALL, headers=[("Prefer", "handling=lenient"), ("Prefer", "respond-async")])
    await _result(ann, accepted)
    before = len(worker.claimed)
    refused = await ann.client.post(CALL, headers=[("Idempotency-Key", "one"), ("Idempotency-Key", "other")])

    assert accepted.status_code == 202
    assert (refused.status_code, refused.json()["field"]) == (400, "Idempotency-Key")
    assert len(worker.claimed) == before


@pytest.mark.F13
async def test_asynchronous_calls_count_as_any(ann: Someone, worker: AnsweringWorker) -> None:
    """Four of them are a user's four: the fifth call, of either kind, is refused, and queues nothing."""
    await ann.has()
    worker.hold.clear()
    made = [await ann.client.post(CALL, headers=ASYNC) for _ in range(4)]
    refused = [await ann.client.post(CALL, headers=ASYNC), await ann.client.post(CALL)]
    worker.hold.set()

    assert [answer.status_code for answer in made] == [202] * 4
    assert [(answer.status_code, answer.json()["scope"], answer.json()["ran"]) for answer in refused] == [
        (429, "user", "no")
    ] * 2
    for answer in made:
        await _result(ann, answer)


@pytest.mark.F13
async def test_a_function_can_have_a_limit_of_its_own(ann: Someone, worker: AnsweringWorker) -> None:
    """`max_concurrency` refuses the second call with scope `function`, and shows in the registration."""
    answer = await ann.has(limits={"max_concurrency": 1})
    assert answer.json()["limits"]["max_concurrency"] == 1
    worker.hold.clear()
    first = await ann.client.post(CALL, headers=ASYNC)
    refused = await ann.client.post(CALL)
    worker.hold.set()

    assert refused.status_code == 429
    assert {"scope": "function", "limit": 1, "in_use": 1, "ran": "no"}.items() <= refused.json().items()
    assert "Function 'echo' has 1 activation in flight" in refused.json()["detail"]
    await _result(ann, first)


async def test_a_repeated_call_with_its_key_gets_the_first_answer(ann: Someone, worker: AnsweringWorker) -> None:
    """Whichever way the two ask, the same activation answers, and it ran once."""
    await ann.has()
    key = {"Idempotency-Key": new_id()}
    before = len(worker.claimed)
    answers = [
        await ann.client.post(CALL, content=b"once", headers=key),
        await ann.client.post(CALL, content=b"once", headers=key),
        await ann.client.post(CALL, content=b"once", headers=key | ASYNC),
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 202]
    assert {answer.headers["Mayfly-Activation-Id"] for answer in answers} == {
        answers[0].headers["Mayfly-Activation-Id"]
    }
    assert answers[1].content == b"once"
    assert len(worker.claimed) == before + 1


async def test_a_used_key_with_another_parameter_is_a_conflict(ann: Someone, worker: AnsweringWorker) -> None:
    """409 with its own code names the header; nothing runs, and the first answer stands."""
    await ann.has()
    key = {"Idempotency-Key": new_id()}
    await ann.client.post(CALL, content=b"one", headers=key)
    before = len(worker.claimed)
    for headers in (key, key | ASYNC):
        conflict = await ann.client.post(CALL, content=b"two", headers=headers)
        assert conflict.status_code == 409
        assert {"code": "idempotency-conflict", "ran": "no", "field": "Idempotency-Key"}.items() <= (
            conflict.json().items()
        )

    assert (await ann.client.post(CALL, content=b"one", headers=key)).content == b"one"
    assert len(worker.claimed) == before


@pytest.mark.F4
async def test_a_key_says_nothing_about_another_users_calls(
    ann: Someone, bob: Someone, worker: AnsweringWorker
) -> None:
    """The same key of two users stands for two calls."""
    key = {"Idempotency-Key": "shared"}
    for user, text in ((ann, b"ann"), (bob, b"bob")):
        await user.has()
        assert (await user.client.post(CALL, content=text, headers=key)).content == text


@pytest.mark.F11
async def test_a_running_call_is_cancelled(ann: Someone, worker: AnsweringWorker) -> None:
    """DELETE ends it: the caller gets 499, the record says cancelled, and to cancel again changes nothing."""
    await ann.has()
    worker.hold.clear()
    waiting = asyncio.create_task(ann.client.post(CALL))
    path = await _path_of_a_running_one(ann)
    ended = await ann.client.delete(path)
    told = await waiting
    worker.hold.set()

    assert (ended.status_code, ended.json()["state"]) == (200, "cancelled")
    assert (told.status_code, told.json()["code"]) == (499, "cancelled")
    assert (await ann.client.get(f"{path}/result")).status_code == 499
    assert (await ann.client.delete(path)).json() == ended.json()


@pytest.mark.F4
@pytest.mark.F11
async def test_nobody_cancels_anothers_call(ann: Someone, bob: Someone, worker: AnsweringWorker) -> None:
    """To another user the activation is not there, and it goes on."""
    await ann.has()
    worker.hold.clear()
    made = await ann.client.post(CALL, content=b"mine", headers=ASYNC)
    refused = await bob.client.delete(made.headers["Location"])
    worker.hold.set()

    assert (refused.status_code, refused.json()["code"]) == (404, "not-found")
    assert (await _result(ann, made)).content == b"mine"


async def test_the_list_is_filtered_by_state_and_time(ann: Someone, worker: AnsweringWorker) -> None:
    """`state` and `since` leave out what does not fit; `since` takes any time zone."""
    await ann.has()
    first = await ann.client.post(CALL)
    worker.hold.clear()
    await ann.client.delete((await ann.client.post(CALL, headers=ASYNC)).headers["Location"])
    worker.hold.set()
    record = (await ann.client.get(first.headers["Location"])).json()
    after = datetime.fromisoformat(record["created_at"]) + timedelta(milliseconds=1)

    assert await _listed(ann, state="succeeded") == [record["id"]]
    assert len(await _listed(ann, state="cancelled")) == 1
    assert await _listed(ann, state="running") == []
    assert await _listed(ann, state="succeeded", since=record["created_at"]) == [record["id"]]
    assert await _listed(ann, state="succeeded", since=after.isoformat()) == []
    assert len(await _listed(ann, since="2020-01-01T00:00:00+05:30")) == 2


async def test_a_record_tells_the_time_of_each_step(ann: Someone, worker: AnsweringWorker) -> None:
    """Arrival, deadline and end are told in order, by one clock."""
    await ann.has()
    answer = await ann.client.post(CALL)
    record = (await ann.client.get(answer.headers["Location"])).json()

    assert record["created_at"] <= record["started_at"] <= record["ended_at"] <= record["deadline_at"]
    assert {"admitted_at", "claimed_at", "ready_at", "first_byte_at", "exited_at", "removed_at"} <= record.keys()


async def _result(user: Someone, accepted: httpx.Response) -> httpx.Response:
    return await user.client.get(f"{accepted.headers['Location']}/result", params={"wait": 20})


async def _listed(user: Someone, **query: str) -> list[str]:
    answer = await user.client.get("/v1/activations", params=query)
    assert answer.status_code == 200, answer.text
    return [record["id"] for record in answer.json()["activations"]]


async def _path_of_a_running_one(user: Someone) -> str:
    async with asyncio.timeout(10):
        while not (found := await _listed(user, state="running")):
            await asyncio.sleep(0.01)
    return f"/v1/activations/{found[0]}"
