"""The translation of a containers-common profile for a process without capabilities."""

from __future__ import annotations

import ctypes.util
import errno
import json
import platform
from pathlib import Path

import pytest

from mayfly.containers import seccomp
from mayfly.containers.seccomp import NEW_NAMESPACES, Comparison, Machine, Rule, translate
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.sandbox import DENIED_CALLS
from tests.support.need import need

HERE = Machine("amd64", (6, 1))
ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"


def translated(*entries: dict[str, object], machine: Machine = HERE) -> list[Rule]:
    """The rules of the profile's own, without those we add."""
    return list(translate({"syscalls": list(entries)}, machine).rules[: -len(ADDED)])


ADDED = translate({"syscalls": []}, HERE).rules


def test_plain_rules_are_taken_over() -> None:
    """Allowed names, refused names with their errno, conditions on arguments."""
    arg = {"index": 0, "value": 8, "valueTwo": 0, "op": "SCMP_CMP_EQ"}
    assert translated(
        {"names": ["read", "write"], "action": ALLOW, "args": None},
        {"names": ["stime"], "action": ERRNO, "errnoRet": 38},
        {"names": ["personality"], "action": ALLOW, "args": [arg]},
    ) == [
        Rule(("read", "write"), None),
        Rule(("stime",), 38),
        Rule(("personality",), None, (Comparison(0, "SCMP_CMP_EQ", 8),)),
    ]


@pytest.mark.parametrize(
    ("condition", "applies"),
    [
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, True),
        ({"includes": {"arches": ["amd64", "x32"]}}, True),
        ({"includes": {"arches": ["arm64"]}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"includes": {"minKernel": "4.8"}}, True),
        ({"includes": {"minKernel": "6.2"}}, False),
        ({"excludes": {"minKernel": "6.0"}}, False),
    ],
)
def test_conditions_are_judged_without_capabilities_and_for_this_machine(
    condition: dict[str, object], applies: bool
) -> None:
    """Each condition of the format."""
    assert bool(translated({"names": ["read"], "action": ALLOW, **condition})) is applies


def test_what_we_deny_cannot_be_allowed_by_a_profile() -> None:
    """Denied names and those with rules of our own fall out of the profile's."""
    assert translated({"names": ["unshare", "keyctl", "clone", "clone3", "socket", "read"], "action": ALLOW}) == [
        Rule(("read",), None)
    ]


def test_our_own_rules() -> None:
    """The deny list, clone without namespaces, clone3 as if unknown, four families of sockets."""
    assert (
        Rule(tuple(sorted(DENIED_CALLS)), errno.EPERM),
        Rule(("clone",), None, (Comparison(0, "SCMP_CMP_MASKED_EQ", NEW_NAMESPACES, 0),)),
        Rule(("clone3",), errno.ENOSYS),
        *(Rule(("socket",), None, (Comparison(0, "SCMP_CMP_EQ", family),)) for family in (1, 2, 10, 16)),
    ) == ADDED


def test_actions_that_neither_allow_nor_refuse_count_as_refusal() -> None:
    """Logging, tracing, notifying: not understood, so left to the default, which refuses."""
    assert translated({"names": ["read"], "action": "SCMP_ACT_LOG"}) == []


def test_the_program_is_whole_instructions_and_fits_the_kernel(tmp_path: Path) -> None:
    """Compiled, a profile is a multiple of eight bytes and at most 4,096 instructions, names unknown here skipped."""
    need(ctypes.util.find_library("seccomp"), "libseccomp2")
    profile = tmp_path / "seccomp.json"
    names = ["read", "write", "exit_group", "a_call_of_the_future"]
    profile.write_text(json.dumps({"defaultErrnoRet": 1, "syscalls": [{"names": names, "action": ALLOW}]}))
    program = seccomp.program((tmp_path / "none", profile))
    assert len(program) % 8 == 0
    assert 8 * 10 < len(program) <= 8 * 4096


def test_a_missing_profile_names_the_package(tmp_path: Path) -> None:
    """The remedy is in the sentence."""
    with pytest.raises(RuntimeFailed, match="golang-github-containers-common"):
        seccomp.program((tmp_path / "none",))


def test_other_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a filter for amd64 and arm64 only, and without one no function runs."""
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(RuntimeFailed, match="riscv64"):
        Machine.here()
