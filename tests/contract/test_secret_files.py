"""Secrets as files of a container, and as its variables: who can read them, where they are not, and that they go."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from mayfly.containers.held import HeldContainer
from mayfly.containers.runtime import Call, ContainerSpec, Ending, EndReason
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.image import ProcessConfig
from mayfly.domain.secret import FILES_MAX_BYTES, SECRETS_MAX
from tests.contract.exceptions import local_only
from tests.support.containers import SCALE, World, copy_rootfs, written

pytestmark = [pytest.mark.root, pytest.mark.F4]

VALUE = b"of-nobody-else-7c1f"
APP = ProcessConfig(uid=1234, gid=1234)


def with_files(world: World, config: ProcessConfig = APP, rootfs: Path | None = None) -> ContainerSpec:
    """A container that has room for secrets."""
    return replace(world.spec(config), has_secret_files=True, rootfs=rootfs or world.rootfs)


async def run(world: World, script: str, files: dict[str, bytes], spec: ContainerSpec | None = None) -> Ending:
    """Run a script that is given files."""
    call = Call(argv=("sh", "-c", script), files=tuple(files.items()))
    async with world.held(spec or with_files(world)) as container:
        return await container.run(call, timeout_s=20 * SCALE)


@local_only
async def test_only_the_images_user_reads_its_files(world: World) -> None:
    """Each is there with its bytes, 0400 and the image's user's, and /run/secrets has nothing else."""
    script = "cd /run/secrets; cat A; stat -c '%n %a %u %g' *; ls -a | wc -l"
    ending = await run(world, script, {"A": VALUE + b"\n", "B_2": b""})

    assert ending.stdout.decode().split("\n") == [VALUE.decode(), "A 400 1234 1234", "B_2 400 1234 1234", "4", ""]


@local_only
@pytest.mark.parametrize("config", [APP, ProcessConfig()], ids=["a user", "root"])
async def test_a_function_cannot_write_there(world: World, config: ProcessConfig) -> None:
    """Not even as its root: the directory is read-only, nosuid, nodev and noexec, and cannot be mounted anew."""
    script = (
        "cd /run/secrets; for try in 'echo x > A' 'rm -f A' 'echo x > B' 'mount -o remount,rw /run/secrets'; do "
        "sh -c \"$try\" 2>/dev/null && echo could $try; done; grep ' /run/secrets ' /proc/mounts"
    )
    ending = await run(world, script, {"A": VALUE}, with_files(world, config))

    [line] = ending.stdout.decode().splitlines()
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(line.split()[3].split(","))


@local_only
async def test_all_that_a_function_may_have_fits(world: World) -> None:
    """As many files, and as many bytes of them, as the API allows."""
    each = FILES_MAX_BYTES // SECRETS_MAX
    files = {f"S{number}": bytes([65 + number]) * each for number in range(SECRETS_MAX)}
    ending = await run(world, "cat /run/secrets/* | wc -c", files)

    assert int(ending.stdout) == FILES_MAX_BYTES


@local_only
async def test_a_link_in_the_image_leads_nowhere(world: World, rootfs: Path, tmp_path: Path) -> None:
    """
    An image's /run/secrets may be a link: within the image it is followed; to a directory of this machine that the
    image does not have, nothing is written there, whether the function is refused or runs.
    """
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    within, out = copy_rootfs(rootfs, tmp_path / "within"), copy_rootfs(rootfs, tmp_path / "out")
    for image, target in ((within, "/etc"), (out, str(outside))):
        (image / "run").mkdir()
        (image / "run/secrets").symlink_to(target)

    followed = await run(world, "cat /run/secrets/A; ls /etc", {"A": VALUE}, with_files(world, rootfs=within))
    with contextlib.suppress(RuntimeFailed):
        await run(world, "echo x > /run/secrets/B", {"A": VALUE}, with_files(world, rootfs=out))

    assert followed.stdout == VALUE + b"A\n"
    assert not list(outside.iterdir())
    assert not (Path("/etc") / "A").exists()
    assert (within / "etc/passwd").exists()


@local_only
async def test_an_image_with_a_file_there_cannot_run(world: World, rootfs: Path, tmp_path: Path) -> None:
    """It is refused before anything has run, and nothing is left."""
    image = copy_rootfs(rootfs, tmp_path / "image")
    (image / "run").mkdir()
    (image / "run/secrets").write_text("a file")

    with pytest.raises(RuntimeFailed) as refused:
        await world.create(with_files(world, rootfs=image))
    assert refused.value.ran == "no"
    assert not world.left()


@local_only
async def test_nothing_lies_in_the_bundle_or_on_a_command_line(world: World) -> None:
    """
    While the function runs, neither a file's value nor a variable's is in the bundle's own files, or on any command
    line of this machine.
    """
    call = Call(argv=("sh", "-c", "echo go; sleep 60"), files=(("A", VALUE),), env=(("TOKEN", VALUE.decode()),))
    async with world.held(with_files(world)) as container:
        assert isinstance(container, HeldContainer)
        running = asyncio.create_task(container.run(call, timeout_s=60 * SCALE))
        async with asyncio.timeout(20 * SCALE):
            while not written(container):
                await asyncio.sleep(0.01)
        for path in container._secrets.parent.iterdir():
            if path.is_file():
                assert VALUE not in path.read_bytes(), path
        commands = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                commands.append((process / "cmdline").read_bytes())
        assert any(
            command.endswith(b"sleep\0" + b"60\0") or b"echo go" in command for command in commands
        )  # the function's is among them
        assert not [command for command in commands if VALUE in command]
        container.kill()
        assert (await running).reason is EndReason.CANCELLED


@local_only
async def test_a_function_cannot_read_the_held_inits_memory(world: World) -> None:
    """The frame with all variables stays in the init's memory, which no process of the container may look into."""
    ending = await world.shell(
        "cat /proc/1/environ /proc/1/mem >/dev/null 2>&1 && echo could; echo done", env=(("TOKEN", VALUE.decode()),)
    )
    assert ending.stdout == b"done\n"


@local_only
async def test_they_go_with_the_container(world: World) -> None:
    """Removed, held or used, no mount and no directory of it is left; `world` looks at the end as well."""
    async with world.held(with_files(world)) as container:
        assert isinstance(container, HeldContainer)
        place = container._secrets
        await container.run(Call(argv=("true",), files=(("A", VALUE),)), timeout_s=20 * SCALE)
        assert os.path.ismount(place)
    assert not place.exists()
    assert not world.left()


@local_only
async def test_a_container_without_room_for_files_refuses_them(world: World) -> None:
    """What was made without does not run a call with them: they would be missing."""
    async with world.held() as container:
        with pytest.raises(RuntimeFailed, match="without room") as refused:
            await container.run(Call(argv=("true",), files=(("A", VALUE),)), timeout_s=20 * SCALE)
    assert refused.value.ran == "no"


async def test_what_cannot_give_files_says_so(world: World, driver: str) -> None:
    """Where nothing is mounted, a function with files is refused, with the remedy; every driver gives variables."""
    if driver in ("docker", "confined"):
        with pytest.raises(RuntimeFailed, match="as=environment") as refused:
            await world.create(with_files(world))
        assert refused.value.ran == "no"
    ending = await world.shell('printf %s "$TOKEN"', env=(("TOKEN", VALUE.decode()),))
    assert ending.stdout == VALUE
