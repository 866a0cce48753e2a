"""
Makes this host fit for containers, in namespaces of the worker's own, or says in one sentence why it cannot be.

`enter_namespaces` splits the process in three, before anything else has started:

    outer      the watchdog; passes signals in and the exit status out; when it dies, so does everything inside
    process 1  of a new pid namespace, reaps; when the worker ends it ends, and the kernel kills whatever is left
    worker     goes on where the caller called

So whatever ends the worker ends every container, and its mounts are gone with its mount namespace; and what only keeps
the worker from going on ends it too (`containers.watchdog`). The same is done inside Docker, where it costs nothing and
makes up for a missing `--init`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mayfly.containers import cgroups, mounts
from mayfly.containers.watchdog import AWAITED, Feed, Watchdog, die_with_parent, flush, forward_until_end
from mayfly.domain.errors import RuntimeFailed

CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
PR_SET_NAME = 15
PROCESS_1 = "mayfly-pid1"
"""What process 1 calls itself: by this the worker knows that it is inside."""
INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # the kernel's constant for the inode of the machine's own
SYS = Path("/sys")
KERNELS_OWN = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
"""How the file systems that show the kernel's own things are mounted."""

_libc = ctypes.CDLL(None, use_errno=True)


def is_inside() -> bool:
    """Whether this process is in namespaces that `enter_namespaces` made."""
    try:
        return Path("/proc/1/comm").read_text(encoding="ascii").strip() == PROCESS_1
    except OSError:
        return False


def enter_namespaces(argv: Sequence[str] = ()) -> Feed:
    """
    Go on in a pid and mount namespace of our own: return inside, or run *argv* there when it is given.

    Must be called from a process with one thread. Does nothing when inside already. The calling process itself stays
    outside, forwards signals and exits with the status of what runs inside (128+n for signal n). It is the watchdog
    that the returned feed is for.

    Raises: RuntimeFailed when this host does not let us.
    """
    if is_inside():
        return Feed()
    _require_root()
    _settle_cgroups_outside()
    heartbeat, alive = os.pipe()  # open as long as the outer process lives
    feeds, feed = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    flush()
    _unshare(CLONE_NEWPID)
    init = os.fork()
    if init:
        os.close(feed)
        os._exit(forward_until_end(init, Watchdog(feeds)))
    os.close(alive)
    os.close(feeds)
    _become_process_1(heartbeat, feed)
    if argv:
        os.execvp(argv[0], list(argv))  # noqa: S606 - an argument list, no shell
    return Feed(feed)


def prepare_host() -> None:
    """
    Check what containers need and put right what can be: private mounts, a full view of /proc and /sys, a /sys that
    functions can have their own beside, cgroups.

    Raises: RuntimeFailed: one sentence, with the remedy.
    """
    _require_root()
    _require_kernel()
    try:
        if is_inside():
            mounts.make_private()
        else:  # somebody else may share our mounts, and would keep them when we are killed
            mounts.unshare_mounts()
        _show_all_of_proc_and_sys()
        _let_functions_have_their_own_sys()
        _prepare_cgroups()
    except OSError as error:
        raise RuntimeFailed(
            f"This host does not let the worker mount ({error}). In Docker it needs CAP_SYS_ADMIN, a seccomp profile "
            "that allows mount, and apparmor=unconfined. Where that cannot be had: MAYFLY_RUNTIME=docker, or, for "
            "functions of your own alone, MAYFLY_RUNTIME=confined."
        ) from error


# --- the three processes ------------------------------------------------------------------------------------------


def _become_process_1(heartbeat: int, feed: int) -> None:
    """Set up the namespaces as their first process; return in its child, which is the worker."""
    try:
        die_with_parent(heartbeat)
        os.setsid()  # a terminal's Ctrl-C reaches the outer process only, which forwards it once
        mounts.unshare_mounts()
        mounts.mount("proc", Path("/proc"), "proc", flags=KERNELS_OWN)
        _prctl(PR_SET_NAME, PROCESS_1.encode())
    except OSError as error:
        print(f"mayfly: the namespaces of the worker cannot be made: {error}", file=sys.stderr)  # noqa: T201
        os._exit(1)
    worker = os.fork()
    if worker:
        os.close(feed)
        os._exit(forward_until_end(worker))
    os.close(heartbeat)
    _prctl(PR_SET_NAME, b"mayfly")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)


def _unshare(flags: int) -> None:
    if _libc.unshare(flags):
        error = os.strerror(ctypes.get_errno())
        raise RuntimeFailed(
            f"A pid namespace cannot be made ({error}). In Docker the worker needs CAP_SYS_ADMIN; where that cannot be "
            "had: MAYFLY_RUNTIME=docker, or, for functions of your own alone, MAYFLY_RUNTIME=confined."
        )


def _prctl(option: int, value: int | bytes) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"prctl({option})")


# --- what a host must have ----------------------------------------------------------------------------------------


def _require_root() -> None:
    if os.geteuid() != 0:
        raise RuntimeFailed("A worker starts containers, which needs root: run it with sudo, or in its own container.")


def _require_kernel() -> None:
    limit = Path("/proc/sys/user/max_user_namespaces")
    if not Path("/proc/self/ns/user").exists() or (limit.exists() and not int(limit.read_text(encoding="ascii"))):
        raise RuntimeFailed("The kernel allows no user namespaces: sysctl user.max_user_namespaces=15000.")
    if not _has_overlay():
        raise RuntimeFailed("The kernel has no overlay file system: modprobe overlay (on the host).")


def _has_overlay() -> bool:
    """Whether there is one; asking for it loads the module, where it is one."""
    try:
        mounts.mount("none", Path("/"), "overlay")  # never succeeds: it names no layers
    except OSError as error:
        return error.errno != errno.ENODEV
    return True


def _show_all_of_proc_and_sys() -> None:
    """
    Uncover what Docker masks, for us alone.

    The kernel mounts a proc or sysfs in a user namespace only where one is visible as a whole.
    """
    covered = [each.point for each in mounts.mounts()]
    if any(point.is_relative_to("/proc/") and point != Path("/proc") for point in covered):
        mounts.mount("proc", Path("/proc"), "proc", flags=KERNELS_OWN)
    for point in reversed(covered):
        if point.is_relative_to(SYS) and len(point.parts) > 2 and point.parts[2] not in ("fs", "kernel"):
            mounts.unmount(point, detach=True)


def _let_functions_have_their_own_sys() -> None:
    """
    See that a container can mount a /sys of its own, and put ours right where that keeps it from doing so.

    Container engines mount /sys read-only, and some systems without times of access. Beside such a one the kernel lets
    nobody in a user namespace mount another that is not the same in this. crun then shows the function ours, without a
    word: our network interfaces, our cgroups. So before the first function we do what the runtime will do, and whatever
    reason the kernel has to refuse it, we refuse to start.

    Mounts elsewhere of the same file system (a pod has one for all its containers) stay as read-only as they are.

    Raises: RuntimeFailed.
    """
    try:
        _mount_sys_as_a_container()
    except OSError as first:
        try:
            mounts.mount("none", SYS, None, flags=mounts.MS_REMOUNT | mounts.MS_RELATIME | KERNELS_OWN)
            _mount_sys_as_a_container()
        except OSError as error:
            how = ", ".join(sorted(_options_of(SYS)))
            raise RuntimeFailed(
                "Functions would see the worker's own /sys, its network interfaces and cgroups: a container cannot "
                f"mount one of its own ({first}), and making ours fit for that ({how}) did not help ({error}). In "
                "Docker or a pod it needs CAP_SYS_ADMIN outside of user namespaces, a seccomp profile that allows "
                "mount, apparmor=unconfined, and nothing mounted over parts of /sys. Where that cannot be had: "
                "MAYFLY_RUNTIME=docker, or, for functions of your own alone, MAYFLY_RUNTIME=confined."
            ) from error


def _options_of(point: Path) -> frozenset[str]:
    return next((each.options for each in reversed(mounts.mounts()) if each.point == point), frozenset())


def _mount_sys_as_a_container() -> None:
    """
    Mount a sysfs in namespaces such as a container's, in a child that ends with them.

    Raises: OSError, naming what was refused.
    """
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    flush()
    child = os.fork()
    if not child:
        try:
            if _libc.unshare(CLONE_NEWUSER | mounts.CLONE_NEWNS | CLONE_NEWNET):
                os.write(theirs, b"%d user, mount and network namespaces" % ctypes.get_errno())
            else:
                mounts.mount("sysfs", SYS, "sysfs", flags=KERNELS_OWN)
                os.write(theirs, b"0 mounted")
        except OSError as error:
            os.write(theirs, b"%d sysfs in a user namespace" % (error.errno or errno.EIO))
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    number, _, what = said.partition(" ")
    if not said:  # a seccomp profile that kills, or no memory
        raise OSError(errno.EIO, f"the attempt ended by itself, with status {os.waitstatus_to_exitcode(status)}")
    if int(number):
        raise OSError(int(number), os.strerror(int(number)), what)


# --- cgroups ------------------------------------------------------------------------------------------------------


def _prepare_cgroups() -> None:
    mounted = mounts.mounts()
    unified = cgroups.unified_mount(mounted)
    if unified is not None:
        _make_writable(unified)
        settle_v2(unified)
        return
    for point in set(cgroups.hierarchies_v1(mounted).values()):
        _make_writable(point)
    for each in mounted:
        if each.kind == "cgroup2":  # hybrid: crun refuses to start where it sees one
            mounts.unmount(each.point, detach=True)


def _make_writable(point: Path) -> None:
    if not os.access(point, os.W_OK):
        mounts.mount("none", point, None, flags=mounts.MS_REMOUNT | mounts.MS_BIND)


def settle_v2(unified: Path) -> None:
    """
    Move the processes of our own group into a leaf below it, where that group is ours to divide.

    The kernel refuses to divide a group that has processes itself, so this comes before the first container.

    Raises: OSError.
    """
    own = cgroups.own_v2(unified)
    if own.name == cgroups.LEAF or not _is_ours(own, unified):
        return
    leaf = own / cgroups.LEAF
    leaf.mkdir(exist_ok=True)
    for _ in range(10):  # somebody may fork meanwhile
        pids = cgroups.pids_in((own,)) - {0}
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                cgroups.write(leaf / "cgroup.procs", pid)


def _is_ours(own: Path, unified: Path) -> bool:
    """Whether this group was given to us: by a container's cgroup namespace, by systemd, or with a pid namespace."""
    if own == unified:
        return (own / "cgroup.type").exists()  # the machine's own root group has no type
    if _is_delegated(own):
        return True
    in_container = Path("/proc/self/ns/pid").stat().st_ino != INITIAL_PID_NAMESPACE
    return in_container and 0 not in cgroups.pids_in((own,))


def _is_delegated(group: Path) -> bool:
    """Systemd marks what a unit with Delegate=yes may divide."""
    for attribute in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(group, attribute) == b"1":
                return True
    return False


def _settle_cgroups_outside() -> None:
    """
    Do `settle_v2` while all processes concerned are visible, in a child, so that our own mounts stay as they are.

    Raises: RuntimeFailed.
    """
    flush()
    child = os.fork()
    if not child:
        try:
            unified = cgroups.unified_mount(mounts.mounts())
            if unified is not None:
                mounts.unshare_mounts()
                _make_writable(unified)
                settle_v2(unified)
        except OSError as error:
            print(f"mayfly: cgroups cannot be divided: {error}", file=sys.stderr)  # noqa: T201
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeFailed("The worker's own cgroup cannot be divided. A systemd unit needs Delegate=yes.")
