"""
Every attack of the suite: what is run, in which image, and how that must end.

An attack that lasts is given a second; the suite runs it again and again for as long as the neighbour is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.attacks import images

SMALL: Final[Mapping[str, Any]] = {"memory_mib": 64, "pids": 32, "timeout_s": 20}
A_SECOND: Final[Mapping[str, Any]] = {**SMALL, "timeout_s": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack, and how it must end. What is left empty is not looked at."""

    name: str
    """As its row in docs/explanation/security.md has it."""

    ended: str
    """What its ending means, in words, for that row."""

    status: int = 200
    code: str | None = None
    result: str | None = None
    """The whole result."""

    detail: str = ""
    """A regular expression for what the refusal says: an image that could not be had at all is no attack."""

    stderr: str = ""
    """What stderr, as far as it was kept, has in it."""

    exit_code: int | None = None
    registers: bool = True
    """False: the registration is the attack, and answers with *status* and *code*."""

    image: str | None = None
    """Which of the hostile images, if it is not a program of the one with all attackers."""

    command: tuple[str, ...] = ()
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the registration."""

    limits: Mapping[str, Any] = field(default_factory=lambda: SMALL)
    parameter: str = ""
    at_once: int = 1
    is_repeated: bool = True
    """Again and again while the neighbour calls. What takes long enough by itself is done once."""

    @property
    def slug(self) -> str:
        """Its name as one word."""
        return "-".join("".join(each if each.isalnum() else " " for each in self.name.lower()).split())

    def registration(self, image: str) -> dict[str, Any]:
        """What is sent to register it with this image."""
        command = {"command": list(self.command)} if self.command else {}
        return {"name": self.slug[:63].strip("-"), "image": image, "limits": dict(self.limits), **command, **self.spec}


def _shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


FILL_EVERYTHING = """
for place in / /tmp/ /dev/shm/ /dev/; do dd if=/dev/zero of=${place}fill bs=64k 2>/dev/null; done
dd if=/dev/zero of=/more bs=64k; echo alive
"""
WRITE_TO_THE_KERNEL = """
for f in /proc/sys/kernel/hostname /proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches /proc/sys/fs/file-max \
    /proc/sys/kernel/randomize_va_space /proc/sysrq-trigger /proc/irq/default_smp_affinity \
    /proc/self/attr/current /sys/kernel/mm/ksm/run /sys/kernel/uevent_helper /sys/power/state \
    /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do
    (echo 1 > $f) 2>/dev/null && echo "wrote $f"
done
for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts /proc/kmsg; do cat $f 2>/dev/null | head -c1; done
(touch /sys/x || mkdir /sys/fs/cgroup/x || mount -o remount,rw /sys) 2>/dev/null && echo "wrote /sys"
echo done
"""
READ_THROUGH_LINKS = """
for f in /shadow /root-of-one; do cat $f 2>/dev/null && echo "read $f"; done
grep -c localhost /etc/hosts; grep -c daemon /etc/hosts; true
"""
CALLS_THAT_WORK = "getpid ok\nsocket-inet ok\nsocket-unix ok\nsocket-netlink ok\n"
OVERLAY = """\
device Operation not permitted
block-device Operation not permitted
redirect Operation not permitted
opaque Operation not permitted
capability Operation not permitted
link-into-proc Invalid cross-device link
link-of-a-device Invalid cross-device link
move-a-device Invalid cross-device link
remove-hosts Device or resource busy
up-and-out No such file or directory
"""

ATTACKS: Final = (
    Attack(
        name="fork bomb",
        command=_shell("exec fork_bomb >&2"),
        limits=A_SECOND,
        status=504,
        code="timed-out",
        stderr="full",
        ended="no more processes than its limit, then its time",
    ),
    Attack(
        name="memory bomb",
        command=("eat_memory",),
        status=502,
        code="out-of-memory",
        ended="killed at its limit",
    ),
    Attack(
        name="memory bomb in a child",
        command=("eat_memory", "child"),
        status=502,
        code="out-of-memory",
        ended="the parent lives, and is not believed",
    ),
    Attack(
        name="tmpfs fill",
        command=_shell(FILL_EVERYTHING),
        result="alive\n",
        stderr="No space left on device",
        ended="ENOSPC, no kill",
    ),
    Attack(
        name="inode fill",
        command=_shell("i=0; while true > /tmp/$i; do i=$((i+1)); done; echo alive"),
        limits={**SMALL, "memory_mib": 32},
        result="alive\n",
        stderr="No space left on device",
        ended="ENOSPC, no kill",
    ),
    Attack(
        name="descriptor flood",
        command=("flood_descriptors",),
        result="Too many open files after its limit\n",
        ended="EMFILE",
    ),
    Attack(
        name="output flood on stdout",
        command=("yes",),
        status=502,
        code="result-too-large",
        ended="killed at 1 MiB",
    ),
    Attack(
        name="output flood on stderr",
        command=_shell("exec yes flood >&2"),
        limits={**SMALL, "timeout_s": 4},  # so that it has begun in time wherever the machine stands still for a while
        status=504,
        code="timed-out",
        stderr="flood\nflood\n",
        ended="256 KiB are kept",
    ),
    Attack(
        name="CPU spin on all cores",
        command=("spin",),
        limits={**SMALL, "timeout_s": 4, "cpus": 16},  # on a busy machine all four begin late: they have one share
        at_once=4,
        status=504,
        code="timed-out",
        stderr="spinning",
        ended="four at once; all functions together leave a quarter of a core",
    ),
    Attack(
        name="sleep past the limit, every signal ignored",
        command=_shell("exec escape_death >&2"),
        limits=A_SECOND,
        status=504,
        code="timed-out",
        stderr="ready",
        ended="killed with its pid namespace",
    ),
    Attack(
        name="zombies and orphans",
        command=("make_zombies",),
        result="Resource temporarily unavailable\n",
        ended="EAGAIN at its limit",
    ),
    Attack(
        name="double fork, own death signal cleared",
        command=("escape_death", "once"),
        result="ready\n",
        ended="what it left dies before the answer leaves",
    ),
    Attack(
        name="writes to /proc and /sys",
        command=_shell(WRITE_TO_THE_KERNEL),
        result="done\n",
        ended="read-only or masked, all of them",
    ),
    Attack(
        name="mount, unshare, keyctl, ptrace, bpf, io_uring, userfaultfd and 27 more",
        command=_shell("try_calls | grep ok"),
        result=CALLS_THAT_WORK,
        ended="EPERM, but for the four that programs need",
    ),
    Attack(
        name="tricks with the overlay",
        command=("trick_overlay",),
        result=OVERLAY,
        ended="EPERM, EXDEV or EBUSY",
    ),
    Attack(
        name="per-user quotas of the kernel",
        command=("hold_quotas",),
        stderr="in flight: Too many references: cannot splice; pages: Operation not permitted\n",
        limits={**SMALL, "timeout_s": 4},  # so that it has used them up in time wherever the machine stands still
        status=504,
        code="timed-out",
        ended="they are used up, its own and nobody else's",
    ),
    Attack(
        name="image: symbolic links out of it",
        image="links-out",
        command=_shell(READ_THROUGH_LINKS),
        result="2\n0\n",
        ended="they lead to the image's own root",
    ),
    Attack(
        name="image: /proc is a link",
        image="proc-is-a-link",
        registers=False,
        status=422,
        code="image-unavailable",
        detail="no directory at /proc",
        ended="refused",
    ),
    Attack(
        name="image: /dev is a link",
        image="dev-is-a-link",
        registers=False,
        status=422,
        code="image-unavailable",
        detail="no directory at /dev",
        ended="refused",
    ),
    Attack(
        name="image: hard link up and out",
        image="hard-link-up",
        registers=False,
        status=422,
        code="image-unavailable",
        detail="Could not unpack",
        ended="refused",
    ),
    Attack(
        name="image: hard link to an absolute path",
        image="hard-link-absolute",
        registers=False,
        status=422,
        code="image-unavailable",
        detail="Could not unpack",
        ended="refused",
    ),
    Attack(
        name="image: device nodes",
        image="devices",
        command=_shell("ls /etc/zero /etc/disk /etc/kmsg 2>/dev/null; echo none"),
        result="none\n",
        ended="taken out when it is unpacked",
    ),
    Attack(
        name="image: set-user-id files",
        image="set-user-id",
        command=_shell(
            "ln -s own-id /tmp/id; /bin/busybox id -u; cp /bin/own-id /tmp/x; grep Cap.ff /proc/self/status"
        ),
        result="1234\nCapEff:\t0000000000000000\n",
        ended="they are ordinary files",
    ),
    Attack(
        name="image: entries with absolute paths or `..`",
        image="entries-out",
        command=_shell("echo inside"),
        result="inside\n",
        ended="inside its tree, nothing outside",
    ),
    Attack(
        name="image: a million small files",
        image="many-files",
        registers=False,
        is_repeated=False,
        status=422,
        code="image-unavailable",
        detail="has more than|is larger than|did not arrive within",
        ended="stopped at the cap of its size, or of its time",
    ),
    Attack(
        name="image: decompression bomb",
        image="zeros",
        registers=False,
        is_repeated=False,
        status=422,
        code="image-unavailable",
        detail="has more than|is larger than|did not arrive within",
        ended="stopped at the cap of its size, or of its time",
    ),
    Attack(
        name="image: no such entrypoint",
        image="no-entrypoint",
        status=502,
        code="function-failed",
        exit_code=127,
        stderr="No such file or directory",
        ended="exit code 127",
    ),
    Attack(
        name="image: entrypoint that is not executable",
        image="entrypoint-not-executable",
        status=502,
        code="function-failed",
        exit_code=126,
        stderr="Permission denied",
        ended="exit code 126",
    ),
    Attack(
        name="image: a USER that does not exist",
        image="unknown-user",
        registers=False,
        status=422,
        code="image-unavailable",
        detail="user",
        ended="refused",
    ),
    Attack(
        name="image: huge environment",
        image="huge-environment",
        registers=False,
        status=422,
        code="image-unavailable",
        detail="are over 64 KiB",
        ended="over 64 KiB is refused",
    ),
    Attack(
        name="image: huge command",
        image="huge-command",
        registers=False,
        status=422,
        code="image-unavailable",
        detail="are over 64 KiB",
        ended="over 64 KiB is refused",
    ),
    Attack(
        name="API: huge command",
        command=("/bin/echo", *(["x" * 1024] * 40)),
        registers=False,
        status=400,
        code="invalid-request",
        ended="over 32 KiB is refused",
    ),
    Attack(
        name="API: huge environment",
        command=("/bin/env",),
        spec={"env": {"HUGE": "x" * 40_000}},
        registers=False,
        status=400,
        code="invalid-request",
        ended="over 32 KiB is refused",
    ),
    Attack(
        name="API: parameter too long for an argument",
        command=("/bin/echo",),
        spec={"parameter": "argument"},
        parameter="x" * 131_001,
        status=413,
        code="parameter-too-large",
        ended="over 131,000 bytes is refused",
    ),
)

assert all(attack.image is None or attack.image in images.HOSTILE for attack in ATTACKS)
