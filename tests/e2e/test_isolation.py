"""What is one user's is nobody else's; what is deregistered does not run; nothing of a container is left."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.conftest import Shell
from tests.support.images import build_and_push
from tests.support.leftovers import function_processes, leftovers, seconds_until_nothing_is_left
from tests.support.registry import Registry
from tests.support.rounds import in_one_round
from tests.support.up import Up, running_up


@pytest.fixture
async def stranger(up: Up, image: str) -> AsyncIterator[Shell]:
    """Another user."""
    async with await up.user() as client:
        yield Shell(client, image)


@pytest.mark.F4
async def test_two_users_hold_the_same_name(shell: Shell, stranger: Shell) -> None:
    """Two users may use one name and one image, and each call runs the caller's own."""
    for owner, script in ((shell, "echo first"), (stranger, "echo second")):
        spec = {"name": "same", "image": owner.image, "command": ["/bin/sh", "-c", script]}
        assert (await owner.client.post("/v1/functions", json=spec)).status_code == 201

    assert (await shell.call("same")).text == "first\n"
    assert (await stranger.call("same")).text == "second\n"


@pytest.mark.F4
@pytest.mark.F5
async def test_a_strangers_requests_find_nothing(shell: Shell, stranger: Shell) -> None:
    """For every verb on another's function and activation the answer is 404, with a forged identity too."""
    name = await shell.make("cat")
    answer = await shell.call(name, "secret")
    record = answer.headers["location"]
    me = (await shell.client.get("/v1/users/me")).json()
    forged = {
        header: me.get("id") or me["username"] for header in ("X-Consumer-Username", "X-User-Id", "X-Mayfly-User")
    }
    spec = {"image": shell.image}

    for headers in ({}, forged):
        calls = [
            stranger.client.get(f"/v1/functions/{name}", headers=headers),
            stranger.client.put(f"/v1/functions/{name}", json=spec, headers=headers),
            stranger.client.delete(f"/v1/functions/{name}", headers=headers),
            stranger.client.post(f"/v1/functions/{name}/activations", content="x", headers=headers),
            stranger.client.get(record, headers=headers),
            stranger.client.get(f"{record}/result", headers=headers),
            stranger.client.get(f"{record}/logs", headers=headers),
        ]
        assert [(await call).status_code for call in calls] == [404] * len(calls)
        assert (await stranger.client.get("/v1/functions", headers=headers)).json()["functions"] == []
    assert (await shell.call(name, "still mine")).text == "still mine"


@pytest.mark.F4
async def test_a_private_image_is_not_run_from_the_cache(image: str) -> None:
    """
    An image that one user pulled is not run for another who cannot have it from its registry, though a worker has it.
    """
    async with Registry() as private:
        reference = await build_and_push(private.url, "private", "1", cmd=["/bin/echo", "secret"])
        settings: dict[str, Any] = {"private_registries": private.url, "plain_http_registries": private.url}
        with running_up(slots=2, **settings) as up:
            async with await up.user() as owner, await up.user() as thief:
                made = await owner.post("/v1/functions", json={"name": "mine", "image": reference})
                digest = made.json()["digest"]
                await private.stop()  # from now on the registry gives nothing to anybody

                cached = await owner.post("/v1/functions/mine/activations")
                stolen = [
                    await thief.post("/v1/functions", json={"name": f"theirs-{number}", "image": theirs})
                    for number, theirs in enumerate((reference, f"{private.url}/private@{digest}"))
                ]

    assert cached.text == "secret\n"
    assert [(one.status_code, one.json()["code"]) for one in stolen] == [(422, "image-unavailable")] * 2


@pytest.mark.F2
@pytest.mark.F4
async def test_nothing_of_a_deleted_user_is_left(registry: str, image: str) -> None:
    """Deleting an account takes its functions, records, results and logs along; its token is dead."""
    with running_up(registry, slots=1) as up:
        await nothing_is_left_of_a_user(up, image)


async def nothing_is_left_of_a_user(up: Up, image: str) -> None:
    """Make one, call, delete it, and look into the installation's NATS."""
    async with await up.user() as client:
        shell = Shell(client, image)
        answer = await shell.run("cat; echo logged >&2", "secret")
        user_id = answer.headers["mayfly-activation-id"] and (await client.get("/v1/users/me")).json()["id"]

        assert inspected(up, user_id) == ["RESPONSES", "activations", "functions", "sessions", "users"]
        deleted = await client.delete("/v1/users/me")
        after = await client.get("/v1/users/me")

    assert (deleted.status_code, after.status_code) == (204, 401)
    assert inspected(up, user_id) == []


def inspected(up: Up, user_id: str) -> list[str]:
    """Name the streams and buckets in which something of this user lies."""
    found = []
    for name in ("ACT", "RESPONSES", "activations", "functions", "sessions", "users"):
        command = [sys.executable, "-m", "mayfly", "inspect", name, "--json", "--data-dir", str(up.data_dir)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        if any(user_id in line and json.loads(line)["content"] for line in lines):
            found.append(name)
    return found


@pytest.mark.F5
async def test_a_deregistered_function_is_refused(shell: Shell) -> None:
    """New calls are 404 at once, running ones finish, and the name is free again."""
    name = await shell.make("sleep 5; echo finished")
    running = asyncio.create_task(shell.call(name))
    await _until_running(shell)

    gone = await shell.client.delete(f"/v1/functions/{name}")
    after = await shell.call(name)

    assert (gone.status_code, after.status_code, after.json()["ran"]) == (204, 404, "no")
    assert (await running).text == "finished\n"
    again = await shell.client.post("/v1/functions", json={"name": name, "image": shell.image})
    assert again.status_code == 201


@pytest.mark.F5
async def test_a_queued_call_of_a_deregistered_function_does_not_run(registry: str, image: str) -> None:
    """A call that waits while its function is deregistered is refused with `ran: no`."""
    with running_up(registry, slots=1, max_activations=4, max_activations_per_user=4) as up:
        async with await up.user() as client:
            shell = Shell(client, image)
            busy, waiting = await shell.make("sleep 60"), await shell.make("echo ran")
            first = asyncio.create_task(shell.call(busy))
            await _until_running(shell)
            activation = (await client.get("/v1/activations")).json()["activations"][0]["id"]
            second = asyncio.create_task(shell.call(waiting))
            await _until_in_flight(shell, 2)

            await client.delete(f"/v1/functions/{waiting}")
            await client.delete(f"/v1/activations/{activation}")

            assert (await first).status_code == 499
            refused = await second
    assert (refused.status_code, refused.json()["code"], refused.json()["ran"]) == (410, "gone", "no")


@pytest.mark.F11
async def test_nothing_of_300_calls_is_left(own_up: Up, own_shell: Shell) -> None:
    """
    After 300 calls at concurrency 8, failures and time-outs among them, no process, mount, cgroup or directory is left.
    """
    scripts = ["cat", "exit 3", "sleep 60 & echo x", "yes | head -c 2000000", "kill -9 $$"]
    names = [await own_shell.make(script, limits={"timeout_s": 5}) for script in scripts]
    names.append(await own_shell.make("sleep 60", limits={"timeout_s": 0.3}))
    before = leftovers(own_up)
    room = asyncio.Semaphore(8)

    async def call(number: int) -> int:
        async with room:
            return (await own_shell.call(names[number % len(names)], "x")).status_code

    async def all_of_them() -> float:
        codes = await asyncio.gather(*(call(number) for number in range(300)))
        assert set(codes) == {200, 502, 504}
        return await seconds_until_nothing_is_left(own_up)

    assert before == {}
    await in_one_round(all_of_them, below_s=1)  # the promise: within one second of the answer


@pytest.mark.F11
@pytest.mark.parametrize(
    ("runtime", "kinds"),
    [("native", {"processes", "cgroups"}), ("crun", {"processes", "mounts", "cgroups", "directories"})],
)
async def test_a_running_container_is_seen(registry: str, image: str, runtime: str, kinds: set[str]) -> None:
    """
    The look for leftovers sees all that there is of a container while it runs, so that finding nothing means something.
    By our own launcher no mount and no directory of it is the worker's.
    """
    with running_up(registry, slots=1, runtime=runtime) as up:
        async with await up.user() as client:
            shell = Shell(client, image)
            running = asyncio.create_task(shell.run("sleep 60"))
            await _until_running(shell)
            async with asyncio.timeout(10):
                while not leftovers(up).keys() >= kinds:
                    await asyncio.sleep(0.02)
            seen = leftovers(up).keys()
            activation = (await client.get("/v1/activations")).json()["activations"][0]["id"]
            await client.delete(f"/v1/activations/{activation}")
            assert (await running).status_code == 499
    assert seen == kinds


@pytest.mark.F11
async def test_no_process_lives_when_the_answer_arrives(own_up: Up, own_shell: Shell) -> None:
    """The moment the caller has its answer, every process of the container is dead, orphans among them."""
    name = await own_shell.make("(setsid sleep 60 &) ; (trap '' HUP TERM; sleep 60) & echo done")

    for _ in range(20):
        answer = await own_shell.call(name)
        assert answer.text == "done\n"
        assert function_processes(own_up) == []


async def _until_running(shell: Shell) -> None:
    async with asyncio.timeout(10):
        while (
            not (await shell.client.get("/v1/activations", params={"limit": 1})).json()["activations"]
            or (await shell.client.get("/v1/activations", params={"limit": 1})).json()["activations"][0]["state"]
            != "running"
        ):
            await asyncio.sleep(0.02)


async def _until_in_flight(shell: Shell, count: int) -> None:
    async with asyncio.timeout(10):
        while (await shell.client.get("/v1/status")).json()["platform"]["in_flight"] < count:
            await asyncio.sleep(0.02)
