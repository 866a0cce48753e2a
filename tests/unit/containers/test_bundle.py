"""The configuration given to the runtime, literally, and how room is shared out."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mayfly.containers.bundle import hosts_file, oci_config
from mayfly.containers.ids import IdRange
from mayfly.containers.runtime import ContainerSpec
from mayfly.domain.ids import UserId
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import MEMORY_MAX_MIB, MEMORY_MIN_MIB, MIB, SCRATCH_BYTES, SCRATCH_INODES, Limits
from mayfly.domain.sandbox import DEV_BYTES, DEV_INODES, INODE_BYTES, PLAIN_INODE_BYTES, SHM_INODES, Room

SPEC = ContainerSpec(
    id="01aryz6s41tsv4rrffq69g5fav",
    owner=UserId("u" * 24),
    rootfs=Path("/images/one"),
    config=ProcessConfig(
        entrypoint=("/app",), env=(("LANG", "C"), ("A", "b=c")), cwd="/home/app", uid=1234, gid=1235, groups=(777,)
    ),
    limits=Limits(),
)


def test_the_configuration_is_this_and_nothing_else() -> None:
    """Compared literally: whoever changes what a container is changes this test."""
    mapping = {"containerID": 0, "hostID": 100_000, "size": 65_536}
    assert oci_config(SPEC) == {
        "ociVersion": "1.0.2",
        "root": {"path": "root"},
        "hostname": "01aryz6s41tsv4rrffq69g5fav",
        "process": {
            "args": ["/dev/mayfly-init"],
            "env": ["LANG=C", "A=b=c", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/home/app",
            "user": {"uid": 1234, "gid": 1235, "additionalGids": [777]},
            "noNewPrivileges": True,
            "oomScoreAdj": 1000,
            "capabilities": {"bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": []},
            "rlimits": [
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 65_536},
            ],
        },
        "mounts": [
            {
                "destination": "/proc",
                "type": "proc",
                "source": "proc",
                "options": ["nosuid", "noexec", "nodev"],
            },
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "noexec", "mode=755", "size=65536", "nr_inodes=128"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=15532032", "nr_inodes=1024"],
            },
            {
                "destination": "/sys",
                "type": "sysfs",
                "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"],
            },
            {
                "destination": "/dev/mayfly-init",
                "type": "bind",
                "source": "../mayfly-init",
                "options": ["bind", "ro", "nosuid", "nodev"],
            },
            {
                "destination": "/etc/hosts",
                "type": "bind",
                "source": "hosts",
                "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
            },
        ],
        "linux": {
            "uidMappings": [mapping],
            "gidMappings": [mapping],
            "namespaces": [
                {"type": "user"},
                {"type": "pid"},
                {"type": "mount"},
                {"type": "network"},
                {"type": "ipc"},
                {"type": "uts"},
                {"type": "cgroup"},
            ],
            "maskedPaths": [
                "/proc/acpi",
                "/proc/asound",
                "/proc/interrupts",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/sys/devices/virtual/powercap",
                "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def test_a_container_with_users_of_its_own_joins_their_namespace() -> None:
    """The maps are those that it has; without a namespace to join the runtime makes one of them."""
    mapping = [{"containerID": 0, "hostID": 524_288, "size": 65_536}]
    joined = oci_config(SPEC, ids=IdRange(first=524_288, user_namespace=7))["linux"]
    made = oci_config(SPEC, ids=IdRange(first=524_288))["linux"]
    assert joined["uidMappings"] == joined["gidMappings"] == made["uidMappings"] == made["gidMappings"] == mapping
    assert joined["namespaces"][0] == {"type": "user", "path": f"/proc/{os.getpid()}/fd/7"}
    assert made["namespaces"][0] == {"type": "user"}
    assert joined["namespaces"][1:] == made["namespaces"][1:]


def test_the_images_path_is_kept_and_open_files_never_exceed_ours() -> None:
    """A PATH of the image's own replaces the default; a worker with few descriptors passes on no more."""
    config = ProcessConfig(env=(("PATH", "/opt"),))
    spec = replace(SPEC, config=config)
    process = oci_config(spec, nofile_max=512)["process"]
    assert process["env"] == ["PATH=/opt"]
    assert process["rlimits"][1] == {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 512}


def test_hosts_name_the_container_and_nobody_else() -> None:
    """Its own name and localhost."""
    assert hosts_file(SPEC) == (
        "127.0.0.1\tlocalhost 01aryz6s41tsv4rrffq69g5fav\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    )


def test_a_function_of_the_default_size_has_all_the_room() -> None:
    """128 MiB hold the full scratch layer and its inodes."""
    room = Room.of(Limits())
    assert (room.scratch_bytes, room.scratch_inodes) == (SCRATCH_BYTES, SCRATCH_INODES)


@given(memory_mib=st.integers(MEMORY_MIN_MIB, MEMORY_MAX_MIB))
def test_all_that_can_be_filled_leaves_sixteen_mib(memory_mib: int) -> None:
    """At any memory limit: bytes and inodes of every writable file system together stay 16 MiB below it."""
    limits = Limits(memory_mib=memory_mib)
    room = Room.of(limits)
    inodes = room.scratch_inodes * INODE_BYTES + (DEV_INODES + SHM_INODES) * PLAIN_INODE_BYTES
    assert room.scratch_bytes + room.shm_bytes + DEV_BYTES + inodes <= limits.memory_bytes - 16 * MIB
    assert min(room.scratch_bytes, room.shm_bytes) >= MIB
    assert 2000 <= room.scratch_inodes <= SCRATCH_INODES
    assert room.scratch_bytes <= limits.scratch_bytes
