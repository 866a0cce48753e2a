"""The call from the command line: bytes in, bytes out, endings, and what is said on stderr."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from mayfly.domain.activation import State
from tests.integration.cli.command import Mayfly
from tests.support.answering import AnsweringWorker, Ending
from tests.support.nats import free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1024 * 1024
TEXTS = ["", "x", "no newline at the end", "one\n", "a\r\nb\n\n", "snowman ☃ \U0001f600 e\u0301", "\t\x1b[0m\x07", "-n"]


@pytest.mark.F7
@pytest.mark.F8
@pytest.mark.parametrize("text", TEXTS)
async def test_result_is_written_exactly(with_echo: Mayfly, worker: AnsweringWorker, text: str, tmp_path: Path) -> None:
    """As an argument, from stdin and from a file, the parameter arrives as it is, and so does stdout; nothing else."""
    file = tmp_path / "parameter"
    file.write_bytes(text.encode())

    argument = await with_echo("invoke", "echo", "--", text)
    stdin = await with_echo("invoke", "echo", "-", stdin=text.encode())
    from_file = await with_echo("invoke", "echo", "--file", str(file))

    for ended in (argument, stdin, from_file):
        assert (ended.status, ended.stdout, ended.stderr) == (0, text.encode(), "")
    assert [work.parameter for work in worker.claimed[-3:]] == [text.encode()] * 3


@pytest.mark.F7
async def test_a_call_without_parameter_reads_nothing(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """Left out, the parameter is empty, though stdin has something: a call in a loop must not eat the loop's input."""
    assert (await with_echo("invoke", "echo", stdin=b"for somebody else")).stdout == b""


@pytest.mark.F7
async def test_the_largest_parameter_passes(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """1 MiB passes; a byte more is refused before anything is sent."""
    most = await with_echo("invoke", "echo", "-", stdin=b"y" * MIB)
    claimed = len(worker.claimed)
    more = await with_echo("invoke", "echo", "-", stdin=b"y" * (MIB + 1))

    assert (most.status, len(most.stdout)) == (0, MIB)
    assert (more.status, more.stderr) == (
        2, "mayfly: The parameter has more than 1,048,576 bytes, the most there can be.\n"
    )  # fmt: skip
    assert len(worker.claimed) == claimed


@pytest.mark.F8
async def test_json_has_result_id_and_times(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """--json wraps the result with the activation's id and the seconds of each step."""
    ended = await with_echo("invoke", "echo", "é\n", "--json")

    assert ended.json["result"] == "é\n"
    steps = {"admit": 0.0002, "queue": 0.0001, "image": 0.0004, "start": 0.0002, "run": 0.0003}
    timing = ended.json["timing_s"]
    assert timing == {**steps, "answer": timing["answer"], "total": timing["total"]}
    rest = timing["total"] - sum(seconds for name, seconds in timing.items() if name not in ("start", "total"))
    assert abs(rest) < 0.0001  # `start` is a part of `run`
    assert (await with_echo("activations", "show", ended.json["activation_id"], "--json")).json["state"] == "succeeded"


@pytest.mark.F12
async def test_verbose_shows_the_exchange_and_the_steps(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """With -v the HTTP and the times are on stderr; the token is not, and stdout is the same."""
    token = with_echo.login()["tokens"]["access_token"]

    ended = await with_echo("invoke", "echo", "hello", "-v")

    assert ended.stdout == b"hello"
    assert f"> POST {with_echo.url}/v1/functions/echo/activations" in ended.stderr
    assert "> authorization: Bearer ***" in ended.stderr
    assert "< HTTP/1.1 200" in ended.stderr
    assert "admit 0.2 ms, queue 0.1 ms, image 0.4 ms, start 0.2 ms, run 0.3 ms" in ended.stderr
    assert token not in ended.stderr


@pytest.mark.F10
async def test_a_function_that_fails_says_why(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """Status 1; what it logged last, then the sentence, on stderr; stdout stays empty though it wrote something."""
    worker.answer = lambda _: Ending(
        result=b"half a resu",
        state=State.FAILED,
        stderr=b"line 1\ncannot go on",
        changes={"code": "function-failed", "detail": "The function ended with exit code 3.", "exit_code": 3},
    )

    ended = await with_echo("invoke", "echo", "x")
    as_json = await with_echo("invoke", "echo", "x", "--json")

    assert (ended.status, ended.stdout) == (1, b"")
    assert ended.stderr.startswith("line 1\ncannot go on\nmayfly: The function ended with exit code 3.\n")
    assert "`mayfly activations show " in ended.stderr
    assert (as_json.status, as_json.stdout) == (1, b"")
    assert '"exit_code": 3' in as_json.stderr


@pytest.mark.F12
@pytest.mark.parametrize(
    ("state", "code", "status"),
    [
        (State.FAILED, "out-of-memory", 1),
        (State.FAILED, "result-too-large", 1),
        (State.TIMED_OUT, "timed-out", 1),
        (State.FAILED, "runtime-failed", 6),
        (State.WORKER_LOST, "worker-lost", 6),
    ],
)
async def test_endings_are_told_by_the_status(
    with_echo: Mayfly, worker: AnsweringWorker, state: State, code: str, status: int
) -> None:
    """The function's failures are 1 and the platform's 6, so that a script knows whom to blame."""
    ran = "unknown" if state is State.WORKER_LOST else "yes"
    worker.answer = lambda _: Ending(state=state, stderr=b"", changes={"code": code, "detail": "So it is.", "ran": ran})

    ended = await with_echo("invoke", "echo")

    assert (ended.status, ended.stdout) == (status, b"")
    assert ended.stderr.startswith("mayfly: So it is.\n")
    assert ("It is not known whether the function ran" in ended.stderr) == (ran == "unknown")


@pytest.mark.F13
async def test_a_call_over_the_limit_is_told_by_the_status(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """While four calls run, the fifth ends with status 3, the limit, and when to try again."""
    worker.hold.clear()
    before = len(worker.claimed)
    running = [asyncio.create_task(with_echo("invoke", "echo", str(number))) for number in range(4)]
    async with asyncio.timeout(20):
        while len(worker.claimed) < before + 4:
            await asyncio.sleep(0.02)

    refused = await with_echo("invoke", "echo", "5")
    worker.hold.set()
    ended = await asyncio.gather(*running)

    assert refused.status == 3
    assert "4 activations in flight, which is the limit" in refused.stderr
    assert "Try again in " in refused.stderr
    assert sorted(each.stdout for each in ended) == [b"0", b"1", b"2", b"3"]


@pytest.mark.F12
async def test_timeout_shortens_the_functions_own(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """--timeout is the call's budget: the deadline of its record is that much after its beginning."""
    answer = await with_echo("invoke", "echo", "--timeout", "2.5", "--json")

    budget_s = worker.claimed[-1].budget_s
    assert answer.status == 0
    assert 1.5 < budget_s <= 2.5


async def test_a_timeout_that_cannot_be_is_told(with_echo: Mayfly) -> None:
    """The API's rule for the time-out is what the user reads."""
    ended = await with_echo("invoke", "echo", "--timeout", "1000")

    assert ended.status == 2
    assert "from 0.1 to 300" in ended.stderr


@pytest.mark.F7
async def test_bytes_that_are_no_text_are_refused(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """An argument or a file that is not UTF-8 ends with status 2, says where, and never runs."""
    before = len(worker.claimed)

    argument = await with_echo("invoke", "echo", b"abc\xff")
    stdin = await with_echo("invoke", "echo", "-", stdin=b"abc\xff")

    assert (argument.status, stdin.status) == (2, 2)
    assert "character 3" in argument.stderr
    assert "byte 3" in stdin.stderr
    assert len(worker.claimed) == before


async def test_an_unknown_function_is_told(mayfly: Mayfly) -> None:
    """Invoking a name that is not there ends with status 5."""
    ended = await mayfly("invoke", "nobody", "x")

    assert ended.status == 5
    assert "You have no function 'nobody'." in ended.stderr


async def test_a_file_that_is_not_there_is_told(with_echo: Mayfly, tmp_path: Path) -> None:
    """A file that cannot be read ends with status 2 and the reason."""
    ended = await with_echo("invoke", "echo", "--file", str(tmp_path / "none"))

    assert ended.status == 2
    assert "No such file or directory" in ended.stderr


async def test_parameter_and_file_exclude_each_other(with_echo: Mayfly) -> None:
    """Two parameters are one too many."""
    assert (await with_echo("invoke", "echo", "x", "--file", "/etc/hostname")).status == 2


async def test_a_reader_that_went_away_is_no_traceback(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """When whoever reads stdout stops reading, the command ends with status 141 and says nothing."""
    read, write = os.pipe()
    os.close(read)
    process = await with_echo.start("invoke", "echo", "hello", stdout=write)
    os.close(write)
    _, stderr = await process.communicate()

    assert (process.returncode, stderr) == (141, b"")


async def test_an_output_that_cannot_be_written_is_told(with_echo: Mayfly, worker: AnsweringWorker) -> None:
    """A full disk behind stdout is an error with a reason, not a result that is silently cut."""
    full = os.open("/dev/full", os.O_WRONLY)
    process = await with_echo.start("invoke", "echo", "hello", stdout=full)
    os.close(full)
    _, stderr = await process.communicate()

    assert process.returncode == 6
    assert b"No space left on device" in stderr
    assert b"Traceback" not in stderr


@pytest.mark.F1
async def test_where_nobody_listens_the_remedy_is_named(with_echo: Mayfly) -> None:
    """A refused connection ends with status 6 and asks whether `mayfly up` is running."""
    url = f"https://127.0.0.1:{free_port()}"

    ended = await with_echo.with_(MAYFLY_TOKEN="t")("invoke", "echo", "--url", url)

    assert ended.status == 6
    assert ended.stderr == (
        f"mayfly: Nothing listens at {url}: the connection was refused.\n"
        "Is `mayfly up` running, and is --url (or MAYFLY_URL) right?\n"
    )


@pytest.mark.F1
async def test_a_certificate_that_is_not_trusted_names_the_remedy(with_echo: Mayfly) -> None:
    """Without the right authority nothing is sent, the status is 6, and --ca is named."""
    ended = await with_echo.with_(MAYFLY_CA_FILE="", MAYFLY_CONFIG_DIR="/nonexistent/x", MAYFLY_TOKEN="t")("whoami")

    assert ended.status == 6
    assert "is not trusted" in ended.stderr
    assert "--ca FILE" in ended.stderr


@pytest.mark.F1
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8443", "127.0.0.1:8443", "https://a b", "https://me:pw@host", "https://"]
)
async def test_an_address_that_cannot_be_is_told(anybody: Mayfly, url: str) -> None:
    """Clear text is not spoken, and a password in a URL is not sent: status 2, before anything is sent."""
    ended = await anybody("whoami", "--url", url)

    assert ended.status == 2
    assert ended.stderr.startswith("mayfly: ")


@pytest.mark.parametrize("content", [None, b"not a certificate"])
async def test_an_authority_that_cannot_be_read_is_told(anybody: Mayfly, tmp_path: Path, content: bytes | None) -> None:
    """A --ca that is not there or is no certificate ends with status 2 and names the file."""
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_bytes(content)

    ended = await anybody("whoami", "--ca", str(file))

    assert ended.status == 2
    assert str(file) in ended.stderr


async def test_a_mistyped_setting_is_told(anybody: Mayfly) -> None:
    """A MAYFLY_ variable that is none ends with status 2 and the nearest name."""
    ended = await anybody.with_(MAYFLY_ULR="https://x")("whoami")

    assert ended.status == 2
    assert "Did you mean MAYFLY_URL?" in ended.stderr
