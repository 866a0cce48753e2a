"""What is shown of a function's sandbox is what its containers get."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mayfly.containers
from mayfly.api.sandbox import FunctionDetail, SandboxShape
from mayfly.containers.bundle import oci_config
from mayfly.containers.docker.config import container_config
from mayfly.containers.runtime import ContainerSpec
from mayfly.containers.seccomp import Machine, translate
from mayfly.domain.function import Function, Network
from mayfly.domain.ids import FunctionName, UserId, new_id
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import MIB, Limits

LIMITS = Limits(memory_mib=96, cpus=0.5, pids=20)
SHOWN = SandboxShape.of(LIMITS, Network.NONE)
SPEC = ContainerSpec(id="x" * 24, owner=UserId("u" * 24), rootfs=Path("/"), config=ProcessConfig(), limits=LIMITS)

pytestmark = pytest.mark.F9


def test_a_function_is_shown_with_its_sandbox() -> None:
    """All of the function, and the profile with its own limits."""
    function = Function(
        id=new_id(), user_id=UserId(new_id()), name=FunctionName("one"), image="x", limits=LIMITS,
        created_at=1.0, updated_at=1.0,
    )  # fmt: skip
    detail = FunctionDetail.of(function)
    assert (detail.name, detail.limits.pids, detail.sandbox) == ("one", 20, SHOWN)


def test_the_runtimes_configuration_is_what_is_shown() -> None:
    """Namespaces, ids, capabilities, paths, open files and core dumps: word for word."""
    config = oci_config(SPEC)
    process, linux = config["process"], config["linux"]
    limits = {limit["type"]: (limit["soft"], limit["hard"]) for limit in process["rlimits"]}
    options = {mount["destination"]: mount["options"] for mount in config["mounts"]}

    assert [each["type"] for each in linux["namespaces"]] == SHOWN.namespaces
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": SHOWN.first_host_id, "size": SHOWN.ids}]
    assert list(process["capabilities"].values()) == [SHOWN.capabilities] * 5
    assert process["noNewPrivileges"] is SHOWN.no_new_privileges
    assert (linux["maskedPaths"], linux["readonlyPaths"]) == (SHOWN.masked_paths, SHOWN.read_only_paths)
    assert limits["RLIMIT_NOFILE"] == (SHOWN.open_files, SHOWN.open_files_max)
    assert limits["RLIMIT_CORE"] == (SHOWN.core_bytes, SHOWN.core_bytes)
    assert f"size={SHOWN.shared_memory_bytes}" in options["/dev/shm"]
    assert "ro" in options["/sys"]


def test_the_filter_is_what_is_shown() -> None:
    """Each system call that is said to be denied is refused by a rule, and the families are those let through."""
    rules = translate({"syscalls": []}, Machine("amd64", (6, 1))).rules
    refused = {name for rule in rules if rule.errno_ret and not rule.args for name in rule.names}
    families = [rule.args[0].value for rule in rules if rule.names == ("socket",)]

    assert set(SHOWN.denied_system_calls) <= refused
    assert len(families) == len(SHOWN.socket_families)


def test_the_inits_numbers_are_those_shown() -> None:
    """It is a C program, and has constants of its own."""
    native = Path(mayfly.containers.__file__).parent / "native"
    source = "".join((native / name).read_text() for name in ("init.c", "hold.h"))
    numbers = dict(re.findall(r"(NOFILE_SOFT|NOFILE_HARD|SIGNALS_PENDING) = (\d+)", source))

    assert numbers == {
        "NOFILE_SOFT": str(SHOWN.open_files),
        "NOFILE_HARD": str(SHOWN.open_files_max),
        "SIGNALS_PENDING": str(SHOWN.signals_pending),
    }


def test_a_daemon_is_asked_for_what_is_shown() -> None:
    """As far as a daemon knows it; the rest is named as lost."""
    host = container_config(SPEC, image="x", owner="x", has_tmp=False)["HostConfig"]

    assert (host["Memory"], host["MemorySwap"]) == (SHOWN.memory_bytes, SHOWN.memory_bytes + SHOWN.swap_bytes)
    assert (host["CapDrop"], SHOWN.capabilities) == (["ALL"], [])
    assert (host["MaskedPaths"], host["ReadonlyPaths"]) == (SHOWN.masked_paths, SHOWN.read_only_paths)
    assert host["ShmSize"] == SHOWN.shared_memory_bytes
    assert {"user namespace", "scratch size", "pending signals", "shared cap", "fair shares"} == set(
        SHOWN.lost_with_docker
    )


def test_what_a_function_can_fill_is_within_its_memory() -> None:
    """The sizes shown are parts of the memory shown."""
    assert SHOWN.writable_bytes + SHOWN.shared_memory_bytes <= SHOWN.memory_bytes - 16 * MIB
