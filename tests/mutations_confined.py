"""The safeguards of confined calls, each with a quick test that attacks it: docs/howto/run-without-privileges.md."""

from __future__ import annotations

from typing import Final

from tests.mutation import Mutation

TESTS = "tests/contract/test_confined.py"
LAUNCHER = "src/mayfly/containers/native/confine.c"
DRIVER = "src/mayfly/containers/confined"
ATTACK = f"{TESTS}::test_a_call_reaches_neither_worker_nor_launcher_nor_another_call[confined]"
TAKEN = f"{TESTS}::test_what_is_taken_from_a_function_is_taken[confined]"

CONFINED: Final = (
    Mutation(
        safeguard="a user for each confined call",
        file=f"{DRIVER}/users.py",
        old="uid = self._free.popleft()",
        new="uid = self._free[0]",
        tests=(f"{TESTS}::test_no_two_live_calls_have_a_user_in_common[confined]",),
    ),
    Mutation(
        safeguard="the look at who lives as a confined call's user",
        file=LAUNCHER,
        old="if (!is_unused(held.uid, SETTLE_MS)) {",
        new="if (0) {",
        tests=(f"{TESTS}::test_a_user_that_is_somebodys_is_given_to_no_call[confined]",),
    ),
    Mutation(
        safeguard="a confined call's own root",
        file=LAUNCHER,
        old='chroot(held.root) || chdir("/")',
        new="chdir(held.root)",
        tests=(f"{TESTS}::test_a_function_is_in_its_image_with_three_pipes_and_nothing_else[confined]",),
    ),
    Mutation(
        safeguard="a confined call's empty bounding set",
        file=LAUNCHER,
        old="if (prctl(PR_CAPBSET_DROP, i) && errno != EINVAL)",
        new="if (0)",
        tests=(TAKEN,),
    ),
    Mutation(
        safeguard="a confined call's no_new_privs",
        file=LAUNCHER,
        old="prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(RESTRICT_SELF",
        new="syscall(RESTRICT_SELF",
        tests=(TAKEN,),
    ),
    Mutation(
        safeguard="a confined call's filter",
        file=LAUNCHER,
        old="syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &frame->filter)",
        new="0",
        tests=(TAKEN, ATTACK),
    ),
    Mutation(
        safeguard="a confined call's Landlock",
        file=LAUNCHER,
        old="syscall(RESTRICT_SELF, rules, 0)",
        new="0",
        tests=(ATTACK,),
    ),
    Mutation(
        safeguard="a confined call's scope",
        file=LAUNCHER,
        old="{ALL_OF_FILES, ALL_OF_TCP, ABSTRACT_SOCKETS_AND_SIGNALS}",
        new="{ALL_OF_FILES, ALL_OF_TCP, 0}",
        tests=(ATTACK,),
    ),
    Mutation(
        safeguard="other confined calls' files",
        file=LAUNCHER,
        old=' && strcmp(entry->d_name, "dev"))',
        new=")",
        tests=(ATTACK,),
    ),
    Mutation(
        safeguard="what confined calls would share",
        file="src/mayfly/domain/sandbox.py",
        old='"shmget", "shmat",',
        new='"shmat",',
        tests=(ATTACK,),
    ),
    Mutation(
        safeguard="a confined call's families of sockets",
        file="src/mayfly/domain/sandbox.py",
        old='CONFINED_SOCKET_FAMILIES = {"unix": SOCKET_FAMILIES["unix"]}',
        new="CONFINED_SOCKET_FAMILIES = SOCKET_FAMILIES",
        tests=(ATTACK,),
    ),
    Mutation(
        safeguard="a confined process's memory",
        file=LAUNCHER,
        old="    limit(RLIMIT_AS, held.memory);\n",
        new="",
        tests=(f"{TESTS}::test_limits_of_a_process[confined]",),
    ),
    Mutation(
        safeguard="a confined call's processes",
        file=LAUNCHER,
        old="    limit(RLIMIT_NPROC, held.pids);\n",
        new="",
        tests=(f"{TESTS}::test_limits_of_a_process[confined]",),
    ),
    Mutation(
        safeguard="a confined file's size",
        file=LAUNCHER,
        old="    limit(RLIMIT_FSIZE, held.file);\n",
        new="",
        tests=(f"{TESTS}::test_limits_of_a_process[confined]",),
    ),
    Mutation(
        safeguard="a confined process's time",
        file=LAUNCHER,
        old="    limit(RLIMIT_CPU, cpu_s);\n",
        new="    (void)cpu_s;\n",
        tests=(f"{TESTS}::test_limits_of_a_process[confined]",),
    ),
    Mutation(
        safeguard="confined calls going first without memory",
        file=LAUNCHER,
        old="    umask(022);\n    volunteer();\n",
        new="    (void)volunteer;\n",
        tests=(TAKEN,),
    ),
    Mutation(
        safeguard="confined calls standing behind the worker",
        file=LAUNCHER,
        old="if (setpriority(PRIO_PROCESS, 0, NICE))",
        new="if (0)",
        tests=(TAKEN,),
    ),
    Mutation(
        safeguard="the end of all that a confined call forked",
        file=LAUNCHER,
        old="    kill_all_of(held.uid, held.killer);\n    reap(function, &how, 0);",
        new="    (void)0;",
        tests=(
            "tests/contract/test_runtime_removal.py::"
            "test_nothing_lives_when_run_returns_and_nothing_is_left_a_second_later[confined-exits]",
        ),
    ),
    Mutation(
        safeguard="the end of a confined function that is not its user yet",
        file=LAUNCHER,
        old="        kill(function, SIGKILL); /* it may not",
        new="        (void)0; /* it may not",
        tests=(f"{TESTS}::test_a_function_that_is_just_becoming_its_user_is_killed_too[confined]",),
    ),
    Mutation(
        safeguard="the room around a confined call's files",
        file=f"{DRIVER}/room.py",
        old="    room.chmod(0o710)\n",
        new="    room.chmod(0o711)\n",
        tests=(ATTACK,),
    ),
    Mutation(
        safeguard="a confined call's end with its launcher",
        file=f"{DRIVER}/runtime.py",
        old="            await self._runtime.beside(self._runtime.kill_all_of, self.user)\n",
        new="            pass\n",
        tests=(f"{TESTS}::test_a_launcher_that_is_killed_leaves_nobody[confined]",),
    ),
    Mutation(
        safeguard="a launcher that outlives the worker",
        file=LAUNCHER,
        old="        if (is_over || all[1].revents)",
        new="        if (all[1].revents)\n            _exit(0);\n        if (is_over)",
        tests=(
            "tests/contract/test_runtime_removal.py::"
            "test_kill_minus_nine_of_the_worker_kills_every_container[confined-plain]",
        ),
    ),
    Mutation(
        safeguard="the end of what a dead worker's confined calls left",
        file=f"{DRIVER}/runtime.py",
        old="            self.kill_all_of(self.users.of(uid))\n",
        new="            pass\n",
        tests=(f"{TESTS}::test_reap_kills_and_removes_what_a_dead_worker_left[confined]",),
    ),
    Mutation(
        safeguard="links in an image's /dev",
        file=f"{DRIVER}/room.py",
        old="_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        new="_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
        tests=(f"{TESTS}::test_a_link_as_dev_leads_nowhere[confined]",),
    ),
    Mutation(
        safeguard="the kernel that confined calls need",
        file=f"{DRIVER}/requirements.py",
        old="if (version := landlock_version()) < LANDLOCK_MIN:",
        new="if (version := landlock_version()) < 0:",
        tests=("tests/unit/containers/test_confined.py::test_an_old_landlock_is_refused",),
    ),
)
