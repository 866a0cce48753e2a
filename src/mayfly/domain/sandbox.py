"""
What every function is held in: one profile, applied by `containers` and shown by `mayfly functions show`.

Here are the words and numbers; `containers.bundle`, `containers.cgroups`, `containers.seccomp` and the docker driver
make a container of them. What is said of the profile anywhere is read from here. Rows: F9.
"""

from __future__ import annotations

import msgspec

from mayfly.domain.function import Network
from mayfly.domain.limits import MIB, SCRATCH_INODES, Limits

NAMESPACES = ("user", "pid", "mount", "network", "ipc", "uts", "cgroup")
FIRST_HOST_ID, ID_COUNT = 100_000, 65_536
"""Whose the unpacked images are on the machine, and how many ids a container has."""

OWN_HOST_IDS = range(524_288, 1_879_048_192, ID_COUNT)
"""Where the ids of containers begin: where systemd's convention has them, clear of its own and of most users."""

SHARED_IDS = "worker.shared-ids"  # what a worker's log calls it

HOST_IDS = (
    f"{ID_COUNT} among {OWN_HOST_IDS.start} to {OWN_HOST_IDS.stop - 1}, which no other call has meanwhile; on a worker "
    f"that cannot shift images ({SHARED_IDS} in its log), {FIRST_HOST_ID} and up for all calls"
)

CAPABILITIES: tuple[str, ...] = ()
NO_NEW_PRIVILEGES = True
CORE_BYTES = 0
SWAP_BYTES = 0
NOFILE_SOFT, NOFILE_HARD = 1024, 65_536
SIGNALS_PENDING = 1024
"""Queued signals and timers; set by the held init. Where containers share their ids, and with runc, the kernel counts
those of all functions together, too, against a limit of some tens of thousands: without a limit of its own one function
could take them all."""

OOM_SCORE_ADJ = 1000  # when the machine itself has no memory left, functions go first
REACHED = {
    Network.NONE: "itself, by a loopback of its own",
    Network.EGRESS: "public addresses by TCP, UDP and ICMP, but port 25, resolvers other than the operator's and what "
    "the operator denies; private ones that the operator allows; never the worker's machine or other functions",
}

MOUNTED_DIRECTORIES = ("/proc", "/dev", "/sys")
MOUNTED_FILES = ("/etc/hosts", "/etc/resolv.conf")  # the latter where there is a network

MASKED = (
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
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# fmt: off
DENIED_CALLS = frozenset(
    {
        # namespaces and mounts
        "unshare", "setns", "mount", "umount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig",
        "fsmount", "fspick", "open_tree", "move_mount", "mount_setattr",
        # other processes
        "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise",
        # the kernel's key rings are not namespaced
        "keyctl", "add_key", "request_key",
        # files by handle reach beyond the root
        "name_to_handle_at", "open_by_handle_at",
        # large kernel surfaces that functions can do without
        "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
        "memfd_secret",
        # the machine itself
        "reboot", "syslog", "quotactl", "quotactl_fd", "vhangup", "lookup_dcookie", "sethostname",
        "setdomainname", "acct", "swapon", "swapoff", "nfsservctl", "kexec_load", "kexec_file_load",
        "init_module", "finit_module", "delete_module",
    }
)
# fmt: on
SOCKET_FAMILIES = {"unix": 1, "inet": 2, "inet6": 10, "netlink": 16}
"""All others are refused: vsock, for one, would reach the machine's own hypervisor."""

LOST_WITH_DOCKER = {
    "user namespace": "Root in a container is root outside, without capabilities: ids are shifted only where the whole "
    "daemon runs with `userns-remap`.",
    "scratch size": "The writable root has no size: only /tmp (where the image brings no files there) and /dev/shm are "
    "limited. A function can fill the disk of the daemon until it ends, and calls that start meanwhile are refused.",
    "pending signals": "They have the daemon's own limit, for all containers together.",
    "shared cap": "There is no common limit for all functions together: each has its own, and a low CPU weight.",
    "fair shares": "Processor time is shared out by call, not by user: a user with four calls that compute has four "
    "times the share of a user with one.",
}
"""Of what is shown of the profile; all that a daemon cannot do is in docs/howto/run-on-docker.md."""

# fmt: off
CONFINED_DENIED_CALLS = frozenset(
    {
        # shared by all calls, where they have no ipc namespace
        "shmget", "shmat", "shmctl", "shmdt", "semget", "semop", "semtimedop", "semctl",
        "msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink", "mq_notify", "mq_getsetattr",
        "mq_timedsend", "mq_timedreceive",
        # nodes; and marks on those files of an image that anybody may write to
        "mknod", "mknodat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr",
        "fremovexattr", "removexattrat",
        # memory that no limit of a process counts
        "memfd_create",
    }
)
# fmt: on
CONFINED_SOCKET_FAMILIES = {"unix": SOCKET_FAMILIES["unix"]}
"""There is no network namespace, so a function has no network at all."""

LOST_WITH_CONFINED = {
    "namespaces": "A call shares the worker's namespaces: it has no process ids, host name, mounts or loopback of its "
    "own, and no /proc and /sys. Users, Landlock and the filter of system calls keep calls apart.",
    "writable root": "A call writes to one directory of its own, which HOME and TMPDIR name; the rest of the image, "
    "/tmp and /dev/shm too, is read-only.",
    "user of the image": "A call runs as a user of its own instead: what only the image's user or group may read, it "
    "cannot.",
    "memory": "The limit holds for each process by itself, and more is refused rather than killed: there is no "
    "out-of-memory ending, and the peak is that of the largest process.",
    "cpu": "There is no quota and no fair share: a call may use every core, behind the worker's own work, for its time "
    "limit times its cpus in each process.",
    "disk": "Each file is limited, all together are not: a function can fill the disk of the images until it ends.",
    "network": "There is none: no loopback, no egress.",
    "shared image": "Calls of one image see the same files: they can lock and watch them, and touch the times of those "
    "that anybody may write to.",
    "system calls": "Named pipes, memfds, System V and POSIX message queues, semaphores and shared memory are refused.",
    "secrets as files": "There are none: a secret is given in the environment.",
}
"""Of what is shown of the profile; how it is meant to be used is in docs/howto/run-without-privileges.md."""

INODE_BYTES = 2048  # kernel memory of a file in the scratch layer, measured: 35 MB for 16,384 empty ones
PLAIN_INODE_BYTES = 1024  # the same without an overlay above
DEV_BYTES, DEV_INODES = 64 * 1024, 128
SHM_MAX_BYTES, SHM_INODES = 64 * MIB, 1024


class Room(msgspec.Struct, frozen=True):
    """Sizes of what a function can fill: its writable layer and /dev/shm."""

    scratch_bytes: int
    scratch_inodes: int
    shm_bytes: int

    @classmethod
    def of(cls, limits: Limits) -> Room:
        """
        Share out the memory limit less 16 MiB, so that filling all of it, inodes too, is ENOSPC and not a kill.

        That matters beyond the function: memory held by a tmpfs is not freed by killing, so the kernel would go on to
        kill the runtime too. A large function has the full SCRATCH_BYTES and SCRATCH_INODES, a small one its share.
        """
        budget = limits.memory_bytes - 16 * MIB
        scratch = min(limits.scratch_bytes, budget * 4 // 7)
        inodes = min(SCRATCH_INODES, budget * 2 // 7 // INODE_BYTES)
        left = budget - scratch - inodes * INODE_BYTES - DEV_BYTES - (DEV_INODES + SHM_INODES) * PLAIN_INODE_BYTES
        return cls(scratch, inodes, min(SHM_MAX_BYTES, left) & ~4095)
