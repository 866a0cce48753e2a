"""
Which system calls a function may make: the profile of containers-common, hardened, compiled once per worker.

The profile is read where the distribution installed it (package `golang-github-containers-common`), translated for a
process without capabilities, and tightened: it lets such a process make user namespaces, trace its siblings, use the
kernel's key rings and open AF_VSOCK sockets, none of which a function needs. libseccomp makes one program of it, for
this machine's 64-bit system calls only; a call through another ABI kills the process. The held init installs the
program just before it becomes the function, which costs nothing measurable; a runtime that compiles the same profile
at every start costs 5 to 25 ms.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.sandbox import CONFINED_DENIED_CALLS, CONFINED_SOCKET_FAMILIES, DENIED_CALLS, SOCKET_FAMILIES

PROFILES = (Path("/usr/share/containers/seccomp.json"), Path("/etc/containers/seccomp.json"))

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # uname's word: Go's word, which the profile uses

NARROWED = frozenset({"clone", "clone3", "socket"})  # allowed by rules of our own below, whatever the profile says

NEW_NAMESPACES = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}

_ACTIONS = {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_KILL_PROCESS": 0x80000000}
_ERRNO = 0x00050000
_COMPARISONS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
_OPTIMIZE, _BINARY_TREE = 8, 2  # SCMP_FLTATR_CTL_OPTIMIZE: look a call up in log(n) steps


@dataclass(frozen=True, slots=True)
class Comparison:
    """One condition on an argument of a system call."""

    index: int
    op: str
    value: int
    value_two: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to these system calls when all conditions hold; *errno_ret* None means the action allows."""

    names: tuple[str, ...]
    errno_ret: int | None
    args: tuple[Comparison, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """The translated profile: everything not ruled on fails with *default_errno*."""

    default_errno: int
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Hardening:
    """What is refused, whatever the profile says, and the families of sockets that are left."""

    denied: frozenset[str] = DENIED_CALLS
    families: tuple[int, ...] = tuple(SOCKET_FAMILIES.values())


CONFINED = Hardening(DENIED_CALLS | CONFINED_DENIED_CALLS, tuple(CONFINED_SOCKET_FAMILIES.values()))
"""For calls that share namespaces and an image with others."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a profile's conditions are about."""

    arch: str
    kernel: tuple[int, int]

    @classmethod
    def here(cls) -> Machine:
        """
        Describe this machine.

        Raises: RuntimeFailed on an architecture that there is no filter for.
        """
        try:
            arch = ARCHITECTURES[platform.machine()]
        except KeyError:
            raise RuntimeFailed(f"Functions run on amd64 and arm64; this machine is {platform.machine()}.") from None
        major, minor = os.uname().release.split(".")[:2]
        return cls(arch, (int(major), int("".join(filter(str.isdigit, minor.split("-")[0])))))


def program(paths: tuple[Path, ...] = PROFILES, *, hardening: Hardening = Hardening()) -> bytes:
    """
    Compile the profile that is installed here.

    Raises: RuntimeFailed when there is no profile or no libseccomp, with the package to install.
    """
    for path in paths:
        if path.exists():
            return compile_profile(translate(json.loads(path.read_bytes()), Machine.here(), hardening))
    raise RuntimeFailed(
        f"No seccomp profile at {' or '.join(map(str, paths))}: install golang-github-containers-common "
        "(Debian, Ubuntu) or containers-common (Fedora)."
    )


def translate(source: dict[str, Any], machine: Machine, hardening: Hardening = Hardening()) -> Profile:
    """Take from a containers-common profile what holds for a process without capabilities on *machine*, and harden."""
    ruled = hardening.denied | NARROWED
    rules = [rule for entry in source["syscalls"] if _applies(entry, machine) for rule in _rules(entry, ruled)]
    return Profile(source.get("defaultErrnoRet", errno.EPERM), (*rules, *_hardening(hardening)))


def _applies(entry: dict[str, Any], machine: Machine) -> bool:
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    return not (
        includes.get("caps")  # we have none, so whatever asks for one does not apply; and `excludes` of caps never hold
        or (includes.get("arches") and machine.arch not in includes["arches"])
        or machine.arch in (excludes.get("arches") or ())
        or (includes.get("minKernel") and machine.kernel < _version(includes["minKernel"]))
        or (excludes.get("minKernel") and machine.kernel >= _version(excludes["minKernel"]))
    )


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _rules(entry: dict[str, Any], ruled: frozenset[str]) -> list[Rule]:
    allows = entry["action"] == "SCMP_ACT_ALLOW"
    if not allows and entry["action"] != "SCMP_ACT_ERRNO":
        return []  # logging, tracing or killing: not allowed is what matters, and that is the default
    names = tuple(name for name in entry.get("names") or [entry["name"]] if name not in ruled)
    errno_ret = None if allows else entry.get("errnoRet") or errno.EPERM
    return [Rule(names, errno_ret, tuple(_comparison(arg) for arg in entry.get("args") or ()))] if names else []


def _comparison(arg: dict[str, Any]) -> Comparison:
    return Comparison(arg["index"], arg["op"], arg["value"], arg.get("valueTwo") or 0)


def _hardening(hardening: Hardening) -> list[Rule]:
    no_new_namespace = Comparison(0, "SCMP_CMP_MASKED_EQ", NEW_NAMESPACES, 0)
    return [
        Rule(tuple(sorted(hardening.denied)), errno.EPERM),
        Rule(("clone",), None, (no_new_namespace,)),
        # Its flags lie in memory, where a filter cannot look. C libraries fall back to clone.
        Rule(("clone3",), errno.ENOSYS),
        *(Rule(("socket",), None, (Comparison(0, "SCMP_CMP_EQ", family),)) for family in hardening.families),
    ]


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError as error:
        raise RuntimeFailed("libseccomp.so.2 is missing: install libseccomp2 (Debian, Ubuntu).") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    ]
    return library


def compile_profile(profile: Profile) -> bytes:
    """
    Make the kernel's program of a profile, for this machine's native ABI.

    Raises: RuntimeFailed when libseccomp refuses a rule.
    """
    library = _library()
    default = _ERRNO | profile.default_errno
    context = library.seccomp_init(default)
    try:
        library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE)
        for rule in profile.rules:
            action = _ACTIONS["SCMP_ACT_ALLOW"] if rule.errno_ret is None else _ERRNO | rule.errno_ret
            if action != default:  # libseccomp refuses rules that say what the default says
                _add(library, context, rule, action)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _add(library: ctypes.CDLL, context: int, rule: Rule, action: int) -> None:
    comparisons = (_Comparison * max(1, len(rule.args)))(
        *(_Comparison(arg.index, _COMPARISONS[arg.op], arg.value, arg.value_two) for arg in rule.args)
    )
    for name in rule.names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == -1:
            continue  # a call that this libseccomp does not know cannot be allowed by it: it fails, which is safe
        status = library.seccomp_rule_add_array(context, action, number, len(rule.args), comparisons)
        if status and -status not in (errno.EEXIST, errno.EDOM):  # ruled already; not a call of this architecture
            raise RuntimeFailed(f"libseccomp refuses the rule for {name}: {os.strerror(-status)}.")


def _export(library: ctypes.CDLL, context: int) -> bytes:
    descriptor = os.memfd_create("seccomp")
    try:
        status = library.seccomp_export_bpf(context, descriptor)
        if status:
            raise RuntimeFailed(f"libseccomp cannot compile the profile: {os.strerror(-status)}.")
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)
