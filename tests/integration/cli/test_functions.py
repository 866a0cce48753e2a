"""Functions from the command line, against a real API server."""

from __future__ import annotations

from pathlib import Path

import pytest

from mayfly.domain.image import ImageAnswer, ProcessConfig
from mayfly.domain.limits import Limits
from mayfly.domain.sandbox import MASKED, Room
from tests.integration.cli.command import PASSWORD, Mayfly
from tests.support.answering import DIGEST, AnsweringWorker
from tests.support.api import ApiServer, bootstrapped
from tests.support.nats import NatsServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

IMAGE = "registry.example/tool:1"


@pytest.mark.F4
@pytest.mark.F6
async def test_create_says_everything_about_a_function(mayfly: Mayfly, worker: AnsweringWorker) -> None:
    """Each option ends up in the registration, and what follows -- is the command, options of its own included."""
    options = (
        "--env=A=1", "--env", "B=x=y", "--parameter", "argument", "--memory", "256", "--cpus", "0.5",
        "--pids", "9", "--timeout", "2.5", "--max-concurrency", "3",
        "--result-type", "application/json", "--network", "egress", "--arg", "one",
    )  # fmt: skip

    created = await mayfly("functions", "create", "tool", IMAGE, *options, "--json", "--", "tr", "-d", "--json", "é")
    shown = await mayfly("functions", "show", "tool", "--json")

    assert created.status == 0, created.stderr
    assert created.json == shown.json
    said = {name: shown.json[name] for name in ("name", "image", "digest", "state", "command", "args", "env")}
    assert said == {
        "name": "tool",
        "image": IMAGE,
        "digest": DIGEST,
        "state": "ready",
        "command": ["tr", "-d", "--json", "é"],
        "args": ["one"],
        "env": {"A": "1", "B": "x=y"},
    }
    limits = {"memory_mib": 256, "cpus": 0.5, "pids": 9, "timeout_s": 2.5, "max_concurrency": 3}
    assert shown.json["limits"] == limits
    ways = ("argument", "application/json", "egress")
    assert tuple(shown.json[name] for name in ("parameter", "result_type", "network")) == ways


@pytest.mark.F4
async def test_create_talks_on_stderr_only(mayfly: Mayfly, worker: AnsweringWorker) -> None:
    """Without --json there is no data: stdout stays empty, and stderr says what was registered."""
    ended = await mayfly("functions", "create", "tool", IMAGE)

    assert (ended.status, ended.stdout) == (0, b"")
    assert ended.stderr == f"tool is registered: {IMAGE} is sha256:aaaaaaaaaaaa.\n"


@pytest.mark.F4
async def test_show_and_list_are_for_people_too(mayfly: Mayfly, worker: AnsweringWorker) -> None:
    """`list` is a line for each function, never cut; `show` a line for each property, the command quoted."""
    long = "registry.example/" + "a-long-name/" * 12 + "x:1"
    await mayfly("functions", "create", "one", IMAGE, "--env", "A=1", "--", "sh", "-c", "echo hello")
    await mayfly("functions", "create", "two", long)

    shown = await mayfly("functions", "show", "one")
    listed = await mayfly("functions", "list")

    lines = listed.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "one", "two"]
    assert long in lines[2]
    said = [line.split(maxsplit=1) for line in shown.stdout.decode().splitlines()]
    assert ["command", "sh -c 'echo hello'"] in said
    assert ["env", "A=1"] in said


@pytest.mark.F4
@pytest.mark.F9
async def test_show_tells_of_the_sandbox(mayfly: Mayfly, worker: AnsweringWorker) -> None:
    """`show --sandbox` has what the function's calls are held in, by its own limits; `--json` too; `show` one line."""
    await mayfly("functions", "create", "one", IMAGE, "--memory", "64")

    brief = (await mayfly("functions", "show", "one")).stdout.decode()
    shown = (await mayfly("functions", "show", "one", "--sandbox")).stdout.decode()
    held_in = (await mayfly("functions", "show", "one", "--json")).json["sandbox"]

    assert brief.splitlines()[-1].split()[:3] == ["sandbox", "capabilities:", "none;"]
    assert len(brief.splitlines()) < 20
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "capabilities none" in lines
    assert "no_new_privs set" in lines
    assert "memory and swap 64.0 MiB, 0 bytes" in lines
    assert "core dumps none" in lines
    assert held_in["pids"] == 64
    assert held_in["writable_bytes"] == Room.of(Limits(memory_mib=64)).scratch_bytes
    assert held_in["masked_paths"] == list(MASKED)


@pytest.mark.F4
async def test_list_without_functions_is_empty(mayfly: Mayfly) -> None:
    """A user without functions gets an empty list, not an error."""
    assert (await mayfly("functions", "list", "--json")).json == []
    assert (await mayfly("functions", "list")).status == 0


@pytest.mark.F4
async def test_update_changes_what_is_named_and_nothing_else(mayfly: Mayfly, worker: AnsweringWorker) -> None:
    """What is not named stays: variables, command, limits. --unset-env and --own-command take something back."""
    first = ("--env", "A=1", "--env", "B=2", "--memory", "256", "--", "cat", "-v")
    before = (await mayfly("functions", "create", "tool", IMAGE, "--json", *first)).json

    one = await mayfly("functions", "update", "tool", "--timeout", "7", "--env", "B=3", "--env", "C=4", "--json")
    two = await mayfly("functions", "update", "tool", "--unset-env", "A", "--own-command", "--json")
    three = await mayfly("functions", "update", "tool", "--json", "--", "tr", "a", "b")

    assert [one.status, two.status, three.status] == [0, 0, 0], (one.stderr, two.stderr, three.stderr)
    assert one.json["id"] == before["id"]
    assert one.json["limits"] == before["limits"] | {"timeout_s": 7.0}
    assert (one.json["env"], one.json["command"]) == ({"A": "1", "B": "3", "C": "4"}, ["cat", "-v"])
    assert (two.json["env"], two.json["command"]) == ({"B": "3", "C": "4"}, None)
    assert (three.json["command"], three.json["limits"]["memory_mib"]) == (["tr", "a", "b"], 256)


@pytest.mark.F6
async def test_update_resolves_the_tag_anew_when_asked(mayfly: Mayfly, worker: AnsweringWorker) -> None:
    """A tag that moved is followed with --pull, and not without."""
    await mayfly("functions", "create", "tool", IMAGE)
    moved = f"sha256:{'b' * 64}"
    worker.image = lambda _: ImageAnswer(digest=moved, process=ProcessConfig(cmd=("cat",)))  # type: ignore[arg-type]

    stays = await mayfly("functions", "update", "tool", "--timeout", "9", "--json")
    follows = await mayfly("functions", "update", "tool", "--pull", "--json")

    assert (stays.json["digest"], follows.json["digest"]) == (DIGEST, moved)


@pytest.mark.F5
async def test_delete_deregisters(mayfly: Mayfly, worker: AnsweringWorker) -> None:
    """A deleted function is gone; deleting it again, and showing it, end with status 5."""
    await mayfly("functions", "create", "tool", IMAGE)

    deleted = await mayfly("functions", "delete", "tool", "--json")
    again = await mayfly("functions", "delete", "tool")
    shown = await mayfly("functions", "show", "tool")

    assert (deleted.status, deleted.json) == (0, {"deleted": "tool"})
    assert (again.status, shown.status) == (5, 5)
    assert "`mayfly functions list`" in shown.stderr


@pytest.mark.F13
async def test_a_limit_on_calls_at_once_can_be_taken_off_again(mayfly: Mayfly, worker: AnsweringWorker) -> None:
    """--max-concurrency sets it, `show` has it, another change leaves it alone, and `none` takes it off."""
    await mayfly("functions", "create", "tool", IMAGE, "--max-concurrency", "2")
    shown = await mayfly("functions", "show", "tool")
    await mayfly("functions", "update", "tool", "--max-concurrency", "5")
    await mayfly("functions", "update", "tool", "--timeout", "5")
    kept = await mayfly("functions", "show", "tool", "--json")
    await mayfly("functions", "update", "tool", "--max-concurrency", "none")
    without = await mayfly("functions", "show", "tool", "--json")

    assert ["max", "concurrency", "2"] in [line.split() for line in shown.stdout.decode().splitlines()]
    assert (kept.json["limits"]["max_concurrency"], kept.json["limits"]["timeout_s"]) == (5, 5.0)
    assert without.json["limits"]["max_concurrency"] is None


@pytest.mark.F6
async def test_an_image_that_cannot_be_had_is_told_in_the_registrys_words(
    mayfly: Mayfly, worker: AnsweringWorker
) -> None:
    """The status is 5, the registry's own words are on stderr, and nothing is registered."""
    words = "registry.example says: manifest unknown (tag 'nope')"
    worker.image = lambda _: ImageAnswer(code="image-unavailable", problem=words)

    ended = await mayfly("functions", "create", "tool", "registry.example/tool:nope")

    assert (ended.status, ended.stdout, ended.stderr) == (5, b"", f"mayfly: {words}\n")
    assert (await mayfly("functions", "list", "--json")).json == []


@pytest.mark.F4
async def test_a_taken_name_is_told(mayfly: Mayfly, worker: AnsweringWorker) -> None:
    """Registering a name twice ends with status 5."""
    await mayfly("functions", "create", "tool", IMAGE)

    assert (await mayfly("functions", "create", "tool", IMAGE)).status == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--memory", "1"), "`limits.memory_mib` must be at least 32"),
        (("--memory", "much"), "'--memory'"),
        (("--env", "NOVALUE"), "--env takes NAME=VALUE, and 'NOVALUE' is not that."),
        (("--env", "MAYFLY_X=1"), "Mayfly's own"),
        (("--parameter", "telepathy"), "'stdin', 'argument', 'environment'"),
        (("--max-concurrency", "0"), "`limits.max_concurrency` must be at least 1"),
        (("--max-concurrency", "many"), "--max-concurrency takes a number or none, and 'many' is neither."),
        (("--nonsense",), "--nonsense"),
    ],
)
async def test_what_cannot_be_registered_is_told(mayfly: Mayfly, arguments: tuple[str, ...], words: str) -> None:
    """A value that cannot be ends with status 2 and its rule, whether the command or the API found it."""
    ended = await mayfly("functions", "create", "tool", IMAGE, *arguments)

    assert ended.status == 2
    assert words in " ".join(ended.stderr.replace("│", " ").split())


async def test_a_variable_that_is_not_there_cannot_be_unset(mayfly: Mayfly, worker: AnsweringWorker) -> None:
    """A mistyped --unset-env is told, and the function stays as it was."""
    await mayfly("functions", "create", "tool", IMAGE, "--env", "A=1")

    ended = await mayfly("functions", "update", "tool", "--unset-env", "B")

    assert ended.status == 2
    assert (await mayfly("functions", "show", "tool", "--json")).json["env"] == {"A": "1"}


@pytest.mark.parametrize(
    "text", ["", "..", "../../users/me", "a/b", "%2e%2e", "nam\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
@pytest.mark.F4
async def test_a_name_stays_a_name(mayfly: Mayfly, text: str) -> None:
    """No name leads to another part of the API: it is refused here (2) or not found there (5)."""
    assert (await mayfly("functions", "delete", text)).status in {2, 5}
    assert (await mayfly("whoami")).status == 0


@pytest.mark.F6
async def test_a_registration_without_workers_is_pending_and_says_so(tmp_path: Path) -> None:
    """Where no worker can be asked the function is registered, and the user is told that it waits for one."""
    async with NatsServer() as nats:
        await bootstrapped(nats.url)
        async with ApiServer(nats.url, tmp_path) as api:
            mayfly = Mayfly(api.url, api.certificates.ca_file, tmp_path / "config")
            await mayfly("register", "ann", "--password-stdin", stdin=PASSWORD.encode())
            created = await mayfly("functions", "create", "tool", IMAGE)
            listed = await mayfly("functions", "list", "--json")
            status = await mayfly("status")

    assert created.status == 0
    assert "pending" in created.stderr
    assert [function["state"] for function in listed.json] == ["pending"]
    assert "No worker is connected" in status.stdout.decode()
