"""What a worker must have for confined calls, and what is said where it has not; the rest is in the contract suite."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from mayfly.containers.choose import choose_runtime, explain_runtime
from mayfly.containers.confined import requirements
from mayfly.containers.confined.runtime import LastWords
from mayfly.containers.confined.users import BLOCKS, CALLS, FIRST, Users
from mayfly.containers.frame import EXITED, Report
from mayfly.containers.seccomp import CONFINED, Machine, translate
from mayfly.domain.egress import EgressPolicy
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.sandbox import CONFINED_DENIED_CALLS, DENIED_CALLS, LOST_WITH_CONFINED

pytestmark = pytest.mark.F9

DOCKERS_DEFAULT = "00000000a80425fb"


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A worker that has all that is needed; for tests that take away one thing."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(requirements, "landlock_version", lambda: 6)
    monkeypatch.setattr(requirements, "_status", lambda _: DOCKERS_DEFAULT)
    monkeypatch.setattr(requirements, "_require_users", lambda _: None)
    return monkeypatch


def test_dockers_default_will_do(fit: pytest.MonkeyPatch) -> None:
    """Nothing beyond what a container has that was given nothing."""
    requirements.check()


def test_a_worker_that_is_not_root_is_told_so(fit: pytest.MonkeyPatch) -> None:
    """It could give calls no users of their own; and the remedy is no privilege."""
    fit.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RuntimeFailed, match="runAsUser: 0"):
        requirements.check()


@pytest.mark.parametrize(("version", "found"), [(5, "finds 5"), (0, "finds none")])
def test_an_old_landlock_is_refused(fit: pytest.MonkeyPatch, version: int, found: str) -> None:
    """Before version 6 it does not keep abstract sockets apart."""
    fit.setattr(requirements, "landlock_version", lambda: version)
    with pytest.raises(RuntimeFailed, match=rf"version 6, and {found}: a kernel from 6\.12 on"):
        requirements.check()


def test_a_capability_that_is_missing_is_named(fit: pytest.MonkeyPatch) -> None:
    """As CRI-O leaves out two of Docker's."""
    fit.setattr(requirements, "_status", lambda _: f"{int(DOCKERS_DEFAULT, 16) & ~(1 << 18) & ~(1 << 27):016x}")
    with pytest.raises(RuntimeFailed, match="needs CAP_SYS_CHROOT, CAP_MKNOD, which Docker"):
        requirements.check()


def test_a_launcher_that_is_somebody_else_by_then_can_be_killed(fit: pytest.MonkeyPatch) -> None:
    """Which ends by becoming the user that it kills: one that hangs then is not root's own any more."""
    fit.setattr(requirements, "_status", lambda _: f"{int(DOCKERS_DEFAULT, 16) & ~(1 << 5):016x}")
    with pytest.raises(RuntimeFailed, match="needs CAP_KILL, which Docker"):
        requirements.check()


@pytest.mark.parametrize(
    ("uid_map", "is_enough"),
    [("0 0 4294967295\n", True), ("0 100000 65536\n", False), ("0 1000 1\n1 100000 2147383647\n", True)],
)
def test_users_must_be_there(uid_map: str, is_enough: bool) -> None:
    """A container in a user namespace with 65,536 of them has none for calls."""
    if is_enough:
        requirements._require_users(uid_map)
        return
    with pytest.raises(RuntimeFailed, match="hostUsers: true"):
        requirements._require_users(uid_map)


def test_users_are_used_in_turn() -> None:
    """One that was given back comes last, as the kernel may count its last process for a moment more."""
    users = Users.claim()
    first, second = users.take(), users.take()
    users.give_back(first)
    rest = [users.take().uid for _ in range(CALLS - 1)]
    assert (second.uid, rest[-1]) == (first.uid + 1, first.uid)
    assert {first.killer, second.killer}.isdisjoint({*rest, second.uid})
    with pytest.raises(RuntimeFailed, match=f"{CALLS} calls"):
        users.take()
    users.close()


def test_blocks_of_users_are_exclusive() -> None:
    """What is left of an earlier worker says which one is taken, if that is free."""
    one, two = Users.claim([FIRST + 5 * 2 * CALLS + 7]), Users.claim([FIRST + 5 * 2 * CALLS + 7])
    assert one.first == FIRST + 5 * 2 * CALLS
    assert two.first != one.first
    one.close()
    again = Users.claim([FIRST + 5 * 2 * CALLS])
    assert again.first == one.first
    again.close()
    two.close()


def test_blocks_are_chosen_by_chance() -> None:
    """Workers of two pods on one machine cannot see each other, and must not have the same users."""
    claimed = [Users.claim() for _ in range(8)]
    assert len({users.first for users in claimed}) == 8
    assert {users.first for users in claimed} != {FIRST + block * 2 * CALLS for block in range(8)}
    assert all(FIRST <= users.first < FIRST + BLOCKS * 2 * CALLS <= 2**31 for users in claimed)
    for users in claimed:
        users.close()


def test_where_no_block_is_free_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users that are left and are not ours do not lead anywhere else."""
    monkeypatch.setattr("secrets.randbelow", lambda _: 7)
    with socket.socket(socket.AF_UNIX) as name:
        name.bind("\0mayfly-confined-7")
        with pytest.raises(RuntimeFailed, match="No users can be had"):
            Users.claim([0, 1000, FIRST + BLOCKS * 2 * CALLS])


def test_the_filter_refuses_what_calls_would_share() -> None:
    """Each of those calls by a rule, besides all that is refused in a container; and only unix sockets are made."""
    rules = translate({"syscalls": []}, Machine("amd64", (6, 1)), CONFINED).rules
    refused = {name for rule in rules if rule.errno_ret and not rule.args for name in rule.names}
    assert refused >= DENIED_CALLS | CONFINED_DENIED_CALLS
    assert [rule.args[0].value for rule in rules if rule.names == ("socket",)] == [socket.AF_UNIX]


def test_what_is_lost_is_said_where_settings_are_shown() -> None:
    """All of it, and whom it is for."""
    explanation = explain_runtime("confined")
    assert explanation.version == os.uname().release
    assert "code of his own only" in explanation.reason
    for lost, instead in LOST_WITH_CONFINED.items():
        assert f"lost: {lost}: {instead}" in explanation.reason


def test_confined_has_no_egress(tmp_path: Path) -> None:
    """A worker that is to have both does not start."""
    with pytest.raises(RuntimeFailed, match="MAYFLY_EGRESS: the confined driver has no rules for it"):
        choose_runtime("confined", state_dir=tmp_path, egress=EgressPolicy(addresses=IPv4Network("10.88.0.0/16")))


def test_last_words_are_these() -> None:
    """Compared literally with what the C program writes; anything else is none."""
    message = bytes.fromhex("0100000003000000e8030000000000000010000000000000")
    assert LastWords.decode(message) == LastWords(Report(EXITED, 3), 1000, 4096)
    assert LastWords.decode(message[:-1]) is None
