"""The call through the API server: body in, body out, headers, endings. A worker without containers answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from mayfly.api.state import ApiState
from mayfly.domain.activation import State
from mayfly.domain.ids import new_id, new_ulid
from mayfly.services.lifetimes import SHORTEST_S
from tests.integration.api.conftest import FUNCTION, Someone
from tests.integration.api.test_keys import registered
from tests.support.answering import AnsweringWorker, Ending
from tests.support.api import in_process
from tests.support.poison import RECORD

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1024 * 1024


@pytest.mark.F7
@pytest.mark.F8
@pytest.mark.parametrize(
    "parameter",
    [b"", b"x", "snowman ☃ \U0001f600 e\u0301".encode(), b"a\r\nb\n\x00\x1b[0m", b'{"json": true}', b"y" * MIB],
    ids=["empty", "one-byte", "unicode", "control", "json", "1MiB"],
)
@pytest.mark.parametrize("content_type", [None, "application/json", "application/x-www-form-urlencoded", "image/png"])
async def test_parameter_and_result_pass_byte_for_byte(
    ann: Someone, worker: AnsweringWorker, parameter: bytes, content_type: str | None
) -> None:
    """Whatever the content type says, the worker gets the body as it is, and the caller gets stdout as it is."""
    await ann.has()
    headers = {"Content-Type": content_type} if content_type else {}
    answer = await ann.client.post("/v1/functions/echo/activations", content=parameter, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.content == parameter
    assert worker.claimed[-1].parameter == parameter


@pytest.mark.F12
async def test_answer_says_which_activation_and_how_long_each_step_took(ann: Someone, worker: AnsweringWorker) -> None:
    """
    A result carries the record's address, the id, and the steps in milliseconds, which with the rest add up to what the
    caller waited for; and no browser may run it. Read again, it tells the same steps.
    """
    await ann.has(result_type="text/html")
    answer = await ann.client.post("/v1/functions/echo/activations", content=b"<script>")
    activation_id = answer.headers["Mayfly-Activation-Id"]
    assert answer.headers["Location"] == f"/v1/activations/{activation_id}"
    steps = "admit;dur=0.20, queue;dur=0.10, image;dur=0.40, start;dur=0.20, run;dur=0.30"
    told = answer.headers["Server-Timing"]
    assert told.startswith(f"{steps}, ")
    assert "total;dur=" in told
    assert (await ann.client.get(f"{answer.headers['Location']}/result")).headers["Server-Timing"] == steps
    assert answer.headers["Content-Type"] == "text/html"
    assert answer.headers["Content-Security-Policy"] == "sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await ann.client.get(answer.headers["Location"])).json()["id"] == activation_id


@pytest.mark.F8
async def test_result_can_be_read_again_with_its_type(ann: Someone, worker: AnsweringWorker) -> None:
    """GET .../result gives the same bytes in the same media type as the call did."""
    await ann.has(result_type="application/json")
    call = await ann.client.post("/v1/functions/echo/activations", content=b"[1]")
    again = await ann.client.get(call.headers["Location"] + "/result")
    assert (again.status_code, again.content) == (200, b"[1]")
    assert again.headers["Content-Type"] == "application/json"
    assert again.headers["Mayfly-Activation-Id"] == call.headers["Mayfly-Activation-Id"]


@pytest.mark.F10
async def test_logs_are_what_the_function_wrote_to_stderr(ann: Someone, worker: AnsweringWorker) -> None:
    """GET .../logs gives stderr as it is, bytes that are no text included."""
    await ann.has()
    worker.answer = lambda _: Ending(result=b"r", stderr=b"line\n\xff")
    call = await ann.client.post("/v1/functions/echo/activations")
    logs = await ann.client.get(call.headers["Location"] + "/logs")
    assert (logs.status_code, logs.content) == (200, b"line\n\xff")
    assert logs.headers["Content-Type"].startswith("text/plain")
    assert "Mayfly-Logs-Truncated" not in logs.headers


@pytest.mark.parametrize(
    ("ending", "status", "members"),
    [
        (
            Ending(
                state=State.FAILED,
                stderr=b"boom\n",
                changes={"code": "function-failed", "detail": "It ended with exit code 3.", "exit_code": 3},
            ),
            502,
            {"code": "function-failed", "fault": "function", "ran": "yes", "exit_code": 3, "stderr": "boom\n"},
        ),
        (
            Ending(state=State.TIMED_OUT, changes={"code": "timed-out", "detail": "Out of time.", "clock": "run"}),
            504,
            {"code": "timed-out", "clock": "run", "ran": "yes"},
        ),
        (
            Ending(state=State.FAILED, changes={"code": "out-of-memory", "detail": "Over 128 MiB."}),
            502,
            {"code": "out-of-memory"},
        ),
        (Ending(state=State.FAILED, changes={"code": "result-too-large"}), 502, {"code": "result-too-large"}),
        (Ending(state=State.FAILED, changes={"code": "result-not-text"}), 502, {"code": "result-not-text"}),
        (
            Ending(state=State.WORKER_LOST, changes={"code": "worker-lost", "ran": "unknown"}),
            502,
            {"code": "worker-lost", "fault": "platform", "ran": "unknown"},
        ),
        (Ending(state=State.CANCELLED, changes={"code": "cancelled"}), 499, {"code": "cancelled"}),
    ],
    ids=lambda value: value.changes["code"] if isinstance(value, Ending) else None,
)
async def test_failure_is_told_alike_by_the_call_and_afterwards(
    ann: Someone, worker: AnsweringWorker, ending: Ending, status: int, members: dict[str, Any]
) -> None:
    """A call that fails and GET .../result answer with the same problem."""
    await ann.has()
    worker.answer = lambda _: ending
    call = await ann.client.post("/v1/functions/echo/activations")
    again = await ann.client.get(call.headers["Location"] + "/result")
    assert call.status_code == again.status_code == status
    assert call.headers["Content-Type"] == "application/problem+json"
    assert members.items() <= call.json().items()
    different = {"request_id"}
    assert {**call.json(), **dict.fromkeys(different)} == {**again.json(), **dict.fromkeys(different)}


@pytest.mark.F12
async def test_result_of_a_running_activation_is_202_until_it_ends(ann: Someone, worker: AnsweringWorker) -> None:
    """GET .../result says 202 and when to ask again; with `wait` it answers as soon as the activation ends."""
    await ann.has()
    worker.hold.clear()
    call = asyncio.create_task(ann.client.post("/v1/functions/echo/activations", content=b"late"))
    path = await _path_of_the_running_one(ann)
    early = await ann.client.get(f"{path}/result")
    assert (early.status_code, early.headers["Retry-After"]) == (202, "1")
    assert early.json()["state"] == "running"
    waiting = asyncio.create_task(ann.client.get(f"{path}/result", params={"wait": 20}))
    worker.hold.set()
    assert (await waiting).content == b"late"
    assert (await call).content == b"late"


async def _path_of_the_running_one(user: Someone) -> str:
    async with asyncio.timeout(10):
        while True:
            found = (await user.client.get("/v1/activations")).json()["activations"]
            if found and found[0]["state"] == "running":
                return f"/v1/activations/{found[0]['id']}"
            await asyncio.sleep(0.01)


@pytest.mark.F13
async def test_call_over_the_user_limit_is_told_the_limit(ann: Someone, worker: AnsweringWorker) -> None:
    """A user with four in flight gets 429 with scope, limit, usage and Retry-After; then four are admitted again."""
    await ann.has()
    worker.hold.clear()
    calls = [asyncio.create_task(ann.client.post("/v1/functions/echo/activations")) for _ in range(4)]
    async with asyncio.timeout(10):
        while (await ann.client.get("/v1/status")).json()["user"]["in_flight"] < 4:
            await asyncio.sleep(0.01)
    refused = await ann.client.post("/v1/functions/echo/activations")
    worker.hold.set()
    assert refused.status_code == 429
    expected = {"code": "concurrency-limit", "scope": "user", "limit": 4, "in_use": 4, "ran": "no", "fault": "caller"}
    assert expected.items() <= refused.json().items()
    assert int(refused.headers["Retry-After"]) >= 1
    assert [(await call).status_code for call in calls] == [200] * 4
    assert (await ann.client.post("/v1/functions/echo/activations")).status_code == 200


@pytest.mark.F12
async def test_timeout_header_shortens_and_never_lengthens(ann: Someone, worker: AnsweringWorker) -> None:
    """Mayfly-Timeout becomes the budget when it is shorter than the function's, and has no effect when longer."""
    await ann.has(limits={"timeout_s": 5})
    for header, at_most in (("2.5", 2.5), ("300", 5.0)):
        await ann.client.post("/v1/functions/echo/activations", headers={"Mayfly-Timeout": header})
        assert at_most - 1 < worker.claimed[-1].budget_s <= at_most


@pytest.mark.F12
@pytest.mark.parametrize("header", [".9999", "30.", "2.5000000000", str(1.1 + 2.2), f"3.{'3' * 20}"])
async def test_timeout_header_takes_what_programs_print(ann: Someone, worker: AnsweringWorker, header: str) -> None:
    """A dot may lead or trail, and a computed number has 16 decimals: the header means the same number."""
    await ann.has(limits={"timeout_s": 60})
    answer = await ann.client.post("/v1/functions/echo/activations", headers={"Mayfly-Timeout": header})
    assert answer.status_code == 200, answer.text
    assert 0 < worker.claimed[-1].budget_s <= float(header)


async def test_traceparent_reaches_the_worker_if_it_is_one(ann: Someone, worker: AnsweringWorker) -> None:
    """A W3C traceparent is passed on; anything else is dropped rather than handed to the function."""
    await ann.has()
    good = f"00-{'1' * 32}-{'2' * 16}-01"
    for sent, expected in ((good, good), ("00-nonsense", None)):
        await ann.client.post("/v1/functions/echo/activations", headers={"traceparent": sent})
        assert worker.claimed[-1].traceparent == expected


@pytest.mark.F7
@pytest.mark.parametrize("mode", ["argument", "environment"])
async def test_argument_limits_hold_at_the_byte(ann: Someone, worker: AnsweringWorker, mode: str) -> None:
    """131,000 bytes are taken as argument or variable, one more is 413 and queues nothing."""
    await ann.has(parameter=mode)
    exact = await ann.client.post("/v1/functions/echo/activations", content=b"z" * 131_000)
    assert (exact.status_code, len(exact.content)) == (200, 131_000)
    before = len(worker.claimed)
    over = await ann.client.post("/v1/functions/echo/activations", content=b"z" * 131_001)
    assert (over.status_code, over.json()["code"], over.json()["limit"]) == (413, "parameter-too-large", 131_000)
    assert len(worker.claimed) == before


@pytest.mark.F12
async def test_caller_who_goes_away_leaves_an_activation_that_ends(ann: Someone, worker: AnsweringWorker) -> None:
    """When the caller hangs up, the activation goes on and its result can be read."""
    await ann.has()
    worker.hold.clear()
    call = asyncio.create_task(ann.client.post("/v1/functions/echo/activations", content=b"kept"))
    path = await _path_of_the_running_one(ann)
    call.cancel()
    worker.hold.set()
    assert (await ann.client.get(f"{path}/result", params={"wait": 20})).content == b"kept"


async def test_lists_come_in_pages_newest_first(ann: Someone, worker: AnsweringWorker) -> None:
    """`next` leads through all of one's activations once each, and `function` filters them."""
    await ann.has()
    await ann.has(name="other")
    made = []
    for name in ("echo", "other", "echo", "echo"):
        answer = await ann.client.post(f"/v1/functions/{name}/activations")
        made.append(answer.headers["Mayfly-Activation-Id"])
    first = (await ann.client.get("/v1/activations", params={"limit": 3})).json()
    rest = (await ann.client.get("/v1/activations", params={"limit": 3, "after": first["next"]})).json()
    listed = [record["id"] for record in first["activations"] + rest["activations"]]
    assert listed == made[::-1]
    assert rest["next"] is None
    filtered = (await ann.client.get("/v1/activations", params={"function": "other"})).json()["activations"]
    assert [record["id"] for record in filtered] == [made[1]]


async def test_unknown_activation_is_404(ann: Someone) -> None:
    """An id that was never given, or cannot be one, is not found."""
    for activation_id in (f"{new_id()}-{'0' * 26}", "nonsense", "a.b.c"):
        for tail in ("", "/result", "/logs"):
            answer = await ann.client.get(f"/v1/activations/{activation_id}{tail}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


@pytest.mark.F4
async def test_calls_of_one_who_has_many_records_are_kept_shorter(
    nats_url: str, tmp_path: Path, worker: AnsweringWorker
) -> None:
    """The API server counts while it serves, and keeps to its setting: what he calls next is kept for ten minutes."""
    async with in_process(nats_url, tmp_path, records_max_per_user=1000) as (state, client):
        one = await registered(client)
        user_id = (await client.get("/v1/users/me", headers=one)).json()["id"]
        await client.post("/v1/functions", json=FUNCTION, headers=one)
        for _ in range(20):
            keys = [f"{user_id}.{new_id()}.{new_ulid()}" for _ in range(50)]
            await asyncio.gather(*(state.stores.activations.create(key, RECORD, ttl_s=3600) for key in keys))
        called = 0
        while await _keep_s_of_next(state, client, one) != SHORTEST_S:
            called += 1
            assert called < 100, "the records that there are were not counted; its own calls alone are too few"
            await asyncio.sleep(0.05)


async def _keep_s_of_next(state: ApiState, client: httpx.AsyncClient, one: dict[str, str]) -> float | None:
    """Call once: how long the record of that call is kept."""
    answer = await client.post("/v1/functions/echo/activations", content=b"x", headers=one)
    assert answer.status_code == 200
    instance, _, ulid = answer.headers["Mayfly-Activation-Id"].partition("-")
    user_id = (await client.get("/v1/users/me", headers=one)).json()["id"]
    entry = await state.stores.activations.get(f"{user_id}.{instance}.{ulid}")
    assert entry
    return entry.value.keep_s
