"""What a call gets and gives: its command line, environment and parameter in; result, log and ending out."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import weakref
from dataclasses import replace

import pytest

from mayfly.containers.runtime import Call, EndReason
from mayfly.containers.stdio import TRUNCATION_MARK
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import ARGUMENT_MAX_BYTES, MIB, PARAMETER_MAX_BYTES, RESULT_MAX_BYTES, STDERR_MAX_BYTES
from tests.contract.exceptions import local_only
from tests.support.containers import SCALE, World, died, spoken
from tests.support.rounds import in_one_round

pytestmark = [pytest.mark.root, pytest.mark.F10]

# --- in -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameter", [b"", b"x", b"no newline", b"a\r\nb\n\n", bytes(range(256)), b"\xc3\xa9" * 32_768]
)
async def test_stdin_comes_back_byte_for_byte(world: World, parameter: bytes) -> None:
    """`cat` answers with its parameter, whatever bytes it has."""
    ending = await world.run("cat", stdin=parameter)
    assert (ending.reason, ending.exit_code, ending.stdout) == (EndReason.EXITED, 0, parameter)


async def test_the_largest_parameter_comes_back(world: World) -> None:
    """1 MiB goes in and out, though no pipe holds that much."""
    parameter = b"0123456789abcdef" * (PARAMETER_MAX_BYTES // 16)
    assert (await world.run("cat", stdin=parameter)).stdout == parameter


async def test_what_a_call_carried_goes_with_its_container(world: World) -> None:
    """A container that was removed is gone at once, with parameter and result, not when Python looks for circles."""
    container = await world.create()
    gone = weakref.ref(container)
    gc.disable()
    try:
        await container.run(Call(argv=("cat",), stdin=b"x" * PARAMETER_MAX_BYTES), timeout_s=20)
        await container.remove()
        del container
        for _ in range(10):  # the loop, and a thread that ends just now, let go of what they called last
            await asyncio.sleep(0.01)
        assert gone() is None
    finally:
        gc.enable()


async def test_a_function_need_not_read_its_parameter(world: World) -> None:
    """A command that ends, or goes on, without reading 1 MiB of stdin is not held up by it."""
    ending = await world.shell("exec 0<&-; sleep 0.1; echo done", stdin=b"x" * PARAMETER_MAX_BYTES)
    assert (ending.reason, ending.stdout) == (EndReason.EXITED, b"done\n")
    assert (await world.run("true", stdin=b"x" * PARAMETER_MAX_BYTES)).exit_code == 0


async def test_the_largest_argument_and_variable_arrive(world: World) -> None:
    """131,000 bytes fit one argument, and one variable."""
    large = "a" * ARGUMENT_MAX_BYTES
    assert (await world.run("printf", "%s", large)).stdout == large.encode()
    ending = await world.shell('printf %s "$MAYFLY_PARAMETER"', env=(("MAYFLY_PARAMETER", large),))
    assert ending.stdout == large.encode()


async def test_an_argument_too_large_for_the_kernel_is_said(world: World) -> None:
    """Beyond what the kernel takes, the function gets 126 and stderr says why."""
    ending = await world.run("printf", "%s", "a" * 140_000)
    assert (ending.exit_code, ending.stdout) == (126, b"")
    assert b"mayfly: cannot run 'printf': Argument list too long" in ending.stderr


async def test_nul_in_an_argument_is_refused_before_anything_runs(world: World) -> None:
    """No command line can carry NUL."""
    with pytest.raises(RuntimeFailed, match="NUL") as caught:
        await world.run("printf", "a\0b")
    assert caught.value.ran == "no"


async def test_the_environment_is_the_images_and_the_calls_and_nothing_else(world: World) -> None:
    """The call's variables win over the image's, the last of a name over the first; nothing of the host is there."""
    config = ProcessConfig(env=(("LANG", "C"), ("GREETING", "image"), ("HOME", "/opt")))
    env = (("GREETING", "first"), ("GREETING", "a=b"), ("EMPTY", ""))
    ending = await world.run("env", env=env, spec=world.spec(config))
    assert dict(line.split("=", 1) for line in ending.stdout.decode().splitlines()) == {
        "LANG": "C",
        "GREETING": "a=b",
        "EMPTY": "",
        "HOME": "/opt",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }


async def test_home_comes_from_the_images_accounts(world: World) -> None:
    """Where the image does not set HOME, the user's entry in its /etc/passwd does, as with docker."""
    assert (await world.shell("echo $HOME")).stdout == b"/root\n"
    config = ProcessConfig(uid=1234, gid=1234)
    assert (await world.shell("echo $HOME", spec=world.spec(config))).stdout == b"/home/app\n"


async def test_commands_are_looked_up_in_the_containers_path(world: World) -> None:
    """The image's PATH counts, the call's replaces it, and the host's never does."""
    config = ProcessConfig(env=(("PATH", "/nowhere:/opt"),))
    assert (await world.run("only-here", "echo", "x", spec=world.spec(config))).exit_code == 127
    ending = await world.run("echo", "found", env=(("PATH", "/etc/passwd:/bin"),), spec=world.spec(config))
    assert ending.stdout == b"found\n"
    assert (await world.run("python3", "-V")).exit_code == 127


async def test_the_images_user_groups_and_directory_hold(world: World) -> None:
    """USER, its groups and WORKDIR are as the image says; its rights are that user's."""
    config = ProcessConfig(uid=1234, gid=1234, groups=(777,), cwd="/home/app")
    script = "id -u; id -g; id -G; pwd; echo x > file && cat file; echo y > /etc/passwd; cat /etc/secret"
    ending = await world.shell(script, spec=world.spec(config))
    assert ending.stdout == b"1234\n1234\n1234 777\n/home/app\nx\n"
    assert ending.stderr.count(b"Permission denied") == 2


async def test_a_missing_working_directory_is_made(world: World) -> None:
    """As with docker, WORKDIR need not exist; and it is made in this container, not in the image."""
    ending = await world.run("pwd", spec=world.spec(ProcessConfig(cwd="/made/for/it", uid=1234)))
    assert ending.stdout == b"/made/for/it\n"
    assert not (world.rootfs / "made").exists()


@pytest.mark.parametrize("user", [0, 1234])
async def test_standard_files_can_be_opened_by_name(world: World, user: int) -> None:
    """/dev/stdin, /dev/stdout and /dev/stderr work, for a user other than root too."""
    ending = await world.shell(
        "cat /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr",
        stdin=b"in\n",
        spec=world.spec(ProcessConfig(uid=user, gid=user)),
    )
    assert (ending.stdout, ending.stderr) == (b"in\nout\n", b"err\n")


# --- endings ------------------------------------------------------------------------------------------------------


async def test_exit_code_and_log_are_kept_apart_from_the_result(world: World) -> None:
    """Exit 3 is EXITED with 3; stdout and stderr do not mix."""
    ending = await world.shell("echo result; echo log >&2; exit 3")
    assert (ending.reason, ending.exit_code) == (EndReason.EXITED, 3)
    assert (ending.stdout, ending.stderr, ending.stderr_truncated) == (b"result\n", b"log\n", False)


async def test_interleaved_log_never_reaches_the_result(world: World) -> None:
    """Lines written in turn to both end up each in its own, all of them, in order."""
    ending = await world.shell("for i in $(seq 1000); do echo o$i; echo e$i >&2; done")
    assert ending.stdout == b"".join(b"o%d\n" % i for i in range(1, 1001))
    assert ending.stderr == b"".join(b"e%d\n" % i for i in range(1, 1001))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
async def test_death_by_signal_is_128_and_its_number(world: World, number: signal.Signals) -> None:
    """A command killed by a signal EXITED; that it was SIGKILL proves no lack of memory."""
    ending = await world.shell(f"echo before; kill -{number.value} $$; sleep 9")
    assert (ending.reason, ending.exit_code, ending.stdout) == (EndReason.EXITED, 128 + number, b"before\n")


@pytest.mark.parametrize(
    ("command", "code", "why"),
    [
        ("nope", 127, "No such file or directory"),
        ("/bin/nope", 127, "No such file or directory"),
        ("/etc/passwd/nope", 127, "Not a directory"),
        ("/opt/not-executable", 126, "Permission denied"),
        ("/tmp", 126, "Permission denied"),
        ("/opt/no-format", 126, "Exec format error"),
        ("", 127, "No such file or directory"),
    ],
)
async def test_a_command_that_cannot_run_is_said_on_stderr(world: World, command: str, code: int, why: str) -> None:
    """127 when it is not there, 126 when it cannot be run; the log says which, the result is empty."""
    ending = await world.run(command)
    assert (ending.reason, ending.exit_code, ending.stdout) == (EndReason.EXITED, code, b"")
    assert ending.stderr == f"mayfly: cannot run '{command}': {why}\n".encode()


async def test_time_limit_kills(world: World) -> None:
    """A sleeping command ends as TIMED_OUT soon after its limit, with what it had written."""
    limit_s = 2.0 * SCALE

    async def late_s() -> float:
        async with world.held() as container:
            script = Call(argv=("sh", "-c", "echo so far; sleep 60; echo never"))
            ending = await container.run(script, timeout_s=limit_s)
        assert (ending.reason, ending.exit_code, ending.stdout) == (EndReason.TIMED_OUT, None, b"so far\n")
        assert limit_s <= ending.run_s
        return max(ending.run_s - limit_s, ending.start_s)

    await in_one_round(late_s, below_s=0.5 * SCALE)


async def test_time_limit_cannot_be_ignored(world: World) -> None:
    """A command that ignores every signal it can dies at its limit all the same."""
    assert (await world.run("escape_death", timeout_s=0.3)).reason is EndReason.TIMED_OUT


async def test_memory_limit_kills(world: World) -> None:
    """More memory than the limit is OUT_OF_MEMORY; the peak is the limit."""
    ending = await world.run("eat_memory", spec=world.spec(memory_mib=48))
    assert (ending.reason, ending.exit_code) == (EndReason.OUT_OF_MEMORY, None)
    assert 40 * MIB < ending.memory_peak_bytes <= 48 * MIB


async def test_memory_limit_counts_children_too(world: World) -> None:
    """A command that survives the killing of its child, and exits 0, ran out of memory all the same."""
    ending = await world.run("eat_memory", "child", spec=world.spec(memory_mib=48))
    assert ending.reason is EndReason.OUT_OF_MEMORY


async def test_a_result_of_the_largest_size_is_whole(world: World) -> None:
    """RESULT_MAX_BYTES is allowed."""
    ending = await world.shell(f"yes | head -c {RESULT_MAX_BYTES}")
    assert (ending.reason, len(ending.stdout)) == (EndReason.EXITED, RESULT_MAX_BYTES)


async def test_one_byte_more_is_too_large(world: World) -> None:
    """RESULT_MAX_BYTES and one byte is not, also when the command had ended by then."""
    ending = await world.shell(f"yes | head -c {RESULT_MAX_BYTES + 1}")
    assert (ending.reason, ending.exit_code) == (EndReason.RESULT_TOO_LARGE, None)


async def test_output_without_end_is_cut(world: World) -> None:
    """`yes` is killed when it has written too much, long before its time limit."""
    ending = await world.run("yes")
    assert ending.reason is EndReason.RESULT_TOO_LARGE
    assert ending.run_s < 5 * SCALE


async def test_a_flood_of_log_keeps_its_end(world: World) -> None:
    """Of a long log the last STDERR_MAX_BYTES are kept, behind a mark; the function is never held up."""
    ending = await world.shell("yes 0123456789 | head -c 3000000 >&2; echo THE END >&2; echo result")
    assert (ending.reason, ending.stdout, ending.stderr_truncated) == (EndReason.EXITED, b"result\n", True)
    assert ending.stderr.startswith(TRUNCATION_MARK)
    assert ending.stderr.endswith(b"0123456789\n012THE END\n")
    assert len(ending.stderr) == STDERR_MAX_BYTES


async def test_closing_stdout_is_not_the_end(world: World) -> None:
    """A command that closes stdout early runs on, and its exit code counts."""
    ending = await world.shell("echo early; exec 1>&-; sleep 0.3; echo late >&2; exit 5")
    assert (ending.exit_code, ending.stdout, ending.stderr) == (5, b"early\n", b"late\n")
    assert ending.run_s >= 0.3


async def test_children_that_hold_the_pipe_do_not_hold_the_call(world: World) -> None:
    """When the main command ends, children in the background die with the container, and the result is whole."""
    ending = await world.shell("(sleep 60; echo never) & (trap '' TERM HUP; sleep 60) & echo result")
    assert (ending.reason, ending.exit_code, ending.stdout) == (EndReason.EXITED, 0, b"result\n")
    assert ending.run_s < 5 * SCALE


async def test_everything_written_before_the_end_arrives(world: World, driver: str) -> None:
    """Of what a command writes in its last moment nothing is lost, sixty times out of sixty (twenty with docker)."""
    count = 20 if driver == "docker" else 60
    gate = asyncio.Semaphore(4)

    async def one(number: int) -> bytes:
        async with gate:
            return (await world.run("printf", "%d", str(number))).stdout

    answers = await asyncio.gather(*(one(number) for number in range(count)))
    assert answers == [b"%d" % number for number in range(count)]


async def test_figures_are_those_of_the_call(world: World) -> None:
    """CPU time grows with work done, start comes before the end, and an idle call used next to nothing."""
    idle = await world.shell("sleep 0.2")
    busy = await world.shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo x")
    assert idle.cpu_us < busy.cpu_us
    assert busy.cpu_us > 20_000
    assert busy.cpu_us <= (busy.run_s * 2 + 0.1) * 1e6
    assert 0 < busy.start_s <= busy.run_s
    assert idle.start_s == idle.run_s >= 0.2
    assert 0 < idle.memory_peak_bytes < 32 * MIB


# --- killing and misuse -------------------------------------------------------------------------------------------


async def test_kill_ends_a_running_call_as_cancelled(world: World) -> None:
    """`kill`, twice, while it runs: CANCELLED at once, with what it had written."""
    async with world.held() as container:
        call = Call(argv=("sh", "-c", "echo so far; sleep 60"))
        running = asyncio.create_task(container.run(call, timeout_s=60))
        await spoken(container)
        container.kill()
        container.kill()
        ending = await running
        assert (ending.reason, ending.exit_code, ending.stdout) == (EndReason.CANCELLED, None, b"so far\n")
        assert ending.run_s < 5 * SCALE


async def test_a_killed_held_container_runs_nothing(world: World) -> None:
    """After `kill` a held container is dead, and `run` says that nothing ran."""
    async with world.held() as container:
        container.kill()
        with pytest.raises(RuntimeFailed) as caught:
            await container.run(Call(argv=("true",)), timeout_s=1)
        assert caught.value.ran == "no"


async def test_a_container_serves_one_call(world: World) -> None:
    """A second `run` is refused, before anything runs."""
    async with world.held() as container:
        await container.run(Call(argv=("true",)), timeout_s=20 * SCALE)
        with pytest.raises(RuntimeFailed) as caught:
            await container.run(Call(argv=("true",)), timeout_s=20 * SCALE)
        assert caught.value.ran == "no"


@pytest.mark.parametrize("times", [1, 20])
async def test_a_cancelled_run_leaves_nothing_alive(world: World, times: int) -> None:
    """When the task that runs a call is cancelled, however often, the container is dead by the time it is over."""
    async with world.held() as container:
        running = asyncio.create_task(container.run(Call(argv=("escape_death",)), timeout_s=60))
        await spoken(container)
        for _ in range(times):
            running.cancel()
            await asyncio.sleep(0)  # a turn of the loop, in which it hears of that
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not world.living(container)
        with pytest.raises(RuntimeFailed):
            await container.run(Call(argv=("true",)), timeout_s=1)


async def test_a_call_after_the_init_died_did_not_run(world: World) -> None:
    """When somebody killed a held container's init, `run` says that nothing ran."""
    async with world.held() as container:
        await died(container)
        with pytest.raises(RuntimeFailed) as caught:
            await container.run(Call(argv=("true",)), timeout_s=1)
        assert caught.value.ran == "no"


async def test_a_container_that_cannot_start_says_why(world: World) -> None:
    """A root file system that is not there is RuntimeFailed, with nothing run and nothing left."""
    broken = replace(world.spec(), rootfs=world.rootfs / "nowhere")
    with pytest.raises(RuntimeFailed, match=r"nowhere|No such file") as caught:
        await world.runtime.create(broken)
    assert caught.value.ran == "no"
    assert not world.left()


async def test_the_runtimes_own_refusal_is_passed_on(world: World) -> None:
    """What crun or runc says on refusing a container is in the error."""
    with pytest.raises(RuntimeFailed, match=rf"{world.runtime.name} could not start the container: .*\w"):
        await world.runtime.create(world.spec(ProcessConfig(cwd="/etc/passwd")))
    assert not world.left()


async def test_an_id_is_one_containers_at_a_time(world: World) -> None:
    """A second container of the same id is refused, and the first is as it was."""
    spec = world.spec()
    async with world.held(spec) as first:
        with pytest.raises(RuntimeFailed):
            await world.runtime.create(spec)
        assert (await first.run(Call(argv=("echo", "here")), timeout_s=20 * SCALE)).stdout == b"here\n"


@local_only
async def test_containers_are_started_by_the_main_thread_only(world: World) -> None:
    """The death signal of a child is tied to the thread that started it, so another thread is refused."""
    with pytest.raises(RuntimeFailed, match="main thread"):
        await asyncio.to_thread(lambda: asyncio.run(world.runtime.create(world.spec())))


async def test_name_and_version_are_the_programs(world: World, driver: str) -> None:
    """A runtime says what it is."""
    assert world.runtime.name == driver
    assert re.match(r"\d+\.\d+", world.runtime.version)
